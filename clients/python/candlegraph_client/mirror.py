"""A local copy of a series as a Parquet file, kept by the server's id, the series and its revision.

A warm copy takes one request: what changed since its revision, and what was added behind it. Nothing else is fetched.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from platformdirs import user_cache_path

from candlegraph_client.candles import METADATA_KEY, Batches, Candles, arrow_table, library
from candlegraph_client.loading import PAGE_ROWS, Loaded, candles_of, load, reached, spans_to_fetch
from candlegraph_client.operations import REFRESH, Gap, RefreshAnswer
from candlegraph_client.series import Series, Span, subtract, union
from candlegraph_client.session import Session

_LAYOUT = 1  # of the files: one of another layout counts as none
_GROUP_ROWS = 65_536  # written and read at once: beside the columns no second copy is in memory


class Mirror:
    """The local copies of one server's series."""

    def __init__(self, session: Session, folder: Path | None = None) -> None:
        """Copies go into ``folder``, or into the user's cache folder."""
        self._session = session
        self._folder = folder or user_cache_path("candlegraph")

    def load(self, series: Series, span: Span) -> Candles:
        """The candles of a span. MissingLibrary without pyarrow."""
        library("pyarrow.parquet")
        path = self._find(series)
        held = _read(path) if path else None
        fresh = None if held is None else self._refreshed(series, span, held)
        if fresh is None:
            fresh = load(self._session, series, span)
        if fresh is not held and fresh.candles.server_id is not None:
            self._keep(series, fresh)
        return fresh.candles.within(*span)

    def _refreshed(self, series: Series, span: Span, held: Loaded) -> Loaded | None:
        """The copy as the server has it now; None where it has to begin anew."""
        slack = series.longest_ms
        missing = union(subtract([span], held.known), slack=PAGE_ROWS * slack)
        asked = missing[-1] if missing else span  # in most cases only the newest candles are missing
        variables = {
            **series.names,
            "timezone": series.timezone,
            "after": held.candles.revision,
            "more": bool(missing),
            "since": asked[0],
            "until": asked[1],
            "limit": PAGE_ROWS,
        }
        answer: RefreshAnswer = self._session.execute(REFRESH, variables)
        changes = answer["changes"]
        if changes is None or answer["serverId"] != held.candles.server_id:
            return None
        # Changes are whole buckets of the symbol's own days; in other days a bucket of ours may begin earlier.
        touched = union((one["since"] - slack, one["until"] + slack) for one in (*changes["changed"], *changes["lost"]))
        candles, known, revision = held.candles, subtract(held.known, touched), changes["revision"]
        if missing:
            page = answer["candles"]
            part = candles_of(page, answer["serverId"])
            if page["revision"] != revision:
                revision = held.candles.revision  # a correction came between the two: read it again the next time
            if not touched and not len(part) and revision == held.candles.revision and part.gaps == _gaps(held, asked):
                return held
            asked = (asked[0], page["nextSince"] or asked[1]) if page["hasMore"] else asked
            candles = candles.patched(asked, part)
            end = asked[1] if page["hasMore"] else reached(answer["serverTime"], page, *asked)
            known = union([*known, *subtract([(asked[0], end)], spans_to_fetch(part.gaps))])
        elif not touched:
            return held
        left = subtract(subtract([span], known), [asked] if missing else [])
        for one in union(left, slack=PAGE_ROWS * slack):
            part, more = load(self._session, series, one)
            candles, known = candles.patched(one, part), union([*subtract(known, [one]), *more])
        return Loaded(replace(candles, revision=revision), known)

    def _find(self, series: Series) -> Path | None:
        """The file of a series, if the id of the server is known from an earlier time."""
        with contextlib.suppress(OSError):
            return self._path(series, self._pointer.read_text(encoding="utf-8").strip())
        return None

    @property
    def _pointer(self) -> Path:
        """The file with the id of the server that was last met at this address."""
        return self._folder / "servers" / quote(self._session.url, safe="")

    def _path(self, series: Series, server_id: str) -> Path:
        names = (server_id, series.market, series.provider, series.symbol, series.timeframe, series.timezone or "own")
        *folders, last = (quote(name, safe="").replace(".", "%2E") for name in names)
        return self._folder.joinpath("mirror", *folders, f"{last}.parquet")

    def _keep(self, series: Series, loaded: Loaded) -> None:
        candles = loaded.candles
        server_id = str(candles.server_id)
        about = {
            "layout": _LAYOUT,
            "known": loaded.known,
            "gaps": candles.gaps,
            "sources": candles.sources,
            "revision": candles.revision,
            "timezone": candles.timezone,
            "server_id": server_id,
        }
        table = arrow_table(candles, about)
        with _replacing(self._path(series, server_id)) as file:
            library("pyarrow.parquet").write_table(table, file, compression="zstd", row_group_size=_GROUP_ROWS)
        with _replacing(self._pointer) as file:
            file.write(server_id.encode())


def _gaps(loaded: Loaded, span: Span) -> tuple[Gap, ...]:
    """The gaps of a span."""
    return loaded.candles.within(*span).gaps


def _read(path: Path) -> Loaded | None:
    """A copy; None where there is none that can be read."""
    batches = Batches()
    try:
        with path.open("rb") as opened:
            file = library("pyarrow.parquet").ParquetFile(opened)
            about: dict[str, Any] = json.loads(file.schema_arrow.metadata[METADATA_KEY])
            if about["layout"] != _LAYOUT:
                return None
            for batch in file.iter_batches(_GROUP_ROWS):
                batches.add(batch)
        candles = replace(
            batches.candles(),
            gaps=tuple(about["gaps"]),
            sources=tuple(about["sources"]),
            revision=about["revision"],
            timezone=about["timezone"],
            server_id=about["server_id"],
        )
        return Loaded(candles, [(since, until) for since, until in about["known"]])
    except (OSError, ValueError, LookupError, TypeError):  # pyarrow's errors are ValueErrors
        return None


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes its place in one step, when it is whole: a reader sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(number, "wb") as file:
            yield file
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
