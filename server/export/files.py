"""Exports into files of this machine: one file, or a folder that is kept up to date.

A folder has `MARKET/PROVIDER/SYMBOL/TIMEFRAME/YEAR.FORMAT`, every name percent-encoded, and beside the years a
`candlegraph.json` that says what they hold. The next export reads it and writes only the years that changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from candlegraph.answer import Gap
from candlegraph.errors import BadUserInput, Unavailable
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Span, Spans
from history.export import SeriesExport, changed_since, read_pages
from history.orchestrator import History
from server.export.formats import FORMATS, CandleWriter, describe

SIDECAR = "candlegraph.json"

Progress = Callable[
    [SeriesExport, int, int], None
]  # a series, the instant it has come to (ms, UTC), and the rows of a page


@dataclass(frozen=True, slots=True)
class FileExport:
    """Writes planned series of one server in one format, and reports its progress."""

    history: History
    server_id: str
    kind: str
    progress: Progress

    async def write_file(self, exports: Sequence[SeriesExport], path: Path) -> int:
        """Write one file and its sidecar `FILE.json`; the number of rows."""
        about = [describe(one, self.server_id) for one in exports]
        rows = 0
        async with self._writer(path, about) as writer:
            for one in exports:
                rows += await self._write(writer, one)
        await asyncio.to_thread(_write_json, path.with_name(path.name + ".json"), about if len(about) > 1 else about[0])
        return rows

    async def write_folder(self, exports: Sequence[SeriesExport], folder: Path) -> tuple[int, int]:
        """Write the years that changed since the last time; the numbers of rows and of files."""
        rows = files = 0
        for one in exports:
            into = folder.joinpath(*map(encode_name, _path_of(one)))
            sidecar = into / SIDECAR
            about = describe(one, self.server_id)
            stale = await self._stale(one, about, sidecar)
            for year, part in _years(one):
                path = into / f"{year}.{self.kind}"
                if not Spans([part.span]) & stale:
                    continue
                if part.parts:
                    files += 1
                    async with self._writer(path, [describe(part, self.server_id)]) as writer:
                        rows += await self._write(writer, part)
                else:
                    path.unlink(missing_ok=True)
            await asyncio.to_thread(_write_json, sidecar, about)
        return rows, files

    async def _stale(self, one: SeriesExport, about: dict[str, Any], sidecar: Path) -> Spans:
        """Where the files beside a sidecar do not say what the store says now."""
        everything = Spans([one.span])
        try:
            old = orjson.loads(await asyncio.to_thread(sidecar.read_bytes))
            if old["serverId"] != self.server_id:
                raise BadUserInput(f"{sidecar.parent} holds an export of another server: choose another folder.")
            if len(old["gaps"]) != old["gapCount"] or len(about["gaps"]) != about["gapCount"]:
                return everything
            if old["timezone"] != about["timezone"] or not _has_files(sidecar.parent, self.kind):
                return everything
            known, revision = _covered(old), SeriesRevision.parse(old["revision"])
        except FileNotFoundError:
            return everything
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise BadUserInput(f"{sidecar} is no sidecar of an export: delete it, or choose another folder.") from error
        changed = await changed_since(self.history, one, revision)
        if changed is None:
            return everything
        now = _covered(about)
        return changed | (now - known) | (known - now)

    async def _write(self, writer: CandleWriter, one: SeriesExport) -> int:
        rows = 0
        async with aclosing(read_pages(self.history, one)) as pages:
            async for page in pages:
                await asyncio.to_thread(writer.write, one.record.instrument.symbol, page)
                rows += len(page)
                self.progress(one, int(page.timestamp[-1]), len(page))
        return rows

    @asynccontextmanager
    async def _writer(self, path: Path, about: Sequence[dict[str, Any]]) -> AsyncIterator[CandleWriter]:
        """A writer whose file takes its place when it is whole."""
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                writer = FORMATS[self.kind].writer(file, about)
                yield writer
                await asyncio.to_thread(writer.close)
            part.replace(path)
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror or error}.") from error
        finally:
            with suppress(OSError):
                part.unlink()


def encode_name(name: str) -> str:
    """A name as one part of a path: percent-encoded, and neither ``.`` nor ``..``."""
    encoded = quote(name, safe="")
    return encoded.replace(".", "%2E") if not encoded.strip(".") else encoded


def _path_of(one: SeriesExport) -> tuple[str, str, str, str]:
    name = one.record.instrument
    return name.market, name.provider, name.symbol, str(one.plan.timeframe)


def _years(one: SeriesExport) -> Iterator[tuple[int, SeriesExport]]:
    """The parts of a series by the year (UTC) in which their buckets open."""
    first, last = (datetime.fromtimestamp(at / 1000, UTC).year for at in (one.span.since, one.span.until - 1))
    timeframe, zone = one.plan.timeframe, one.plan.zone
    for year in range(first, last + 1):
        edges = (int(datetime(at, 1, 1, tzinfo=UTC).timestamp()) * 1000 for at in (year, year + 1))
        span = Span(*(timeframe.ceil(edge, zone) for edge in edges)) & one.span
        if span:
            parts = tuple(within for part in one.parts for within in part.within(Spans([span])))
            gaps = tuple(
                Gap(cut.since, cut.until, gap.reason, gap.detail)
                for gap in one.gaps
                for cut in Spans([Span(gap.since, gap.until)]) & Spans([span])
            )
            yield year, replace(one, span=span, parts=parts, gaps=gaps)


def _covered(about: dict[str, Any]) -> Spans:
    """The spans of which a sidecar says that nothing is missing."""
    gaps = Spans(Span(gap["since"], gap["until"]) for gap in about["gaps"])
    return Spans([Span(about["since"], about["until"])]) - gaps


def _has_files(folder: Path, kind: str) -> bool:
    return any(folder.glob(f"*.{kind}"))


def _write_json(path: Path, value: object) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
    part.replace(path)
