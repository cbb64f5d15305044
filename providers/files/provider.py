"""A folder of tables: ``<symbol>_<timeframe>.csv`` (or ``.tsv``, ``.txt``, each also gzipped), ``.parquet``, ``.pq``.

The folder is the upstream. It reads the present state of a file, so a file that grows or is replaced needs no restart. It looks
a symbol up among the files that it has found, and never makes a path of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import ParamSpec, TypeVar

from candlegraph import clock
from candlegraph.errors import (
    BadUserInput,
    ConfigurationError,
    InvalidCandles,
    ProviderRefused,
    ProviderUnavailable,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Market, Page, Provider, Revision
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, zone
from providers.files.folder import Catalog, Version, catalog, version_of
from providers.files.pages import MAX_ROWS, page_of
from providers.files.readings import read_head, shows
from providers.files.snapshots import STILL_MS, BeingWritten, Snapshot, Snapshots

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

MARKET = Market("files", "Files", "Candles from CSV and Parquet files in a folder of yours.")
WRITING = "it is being written: it is read once it has not changed for 2 s"

_BUDGET = Budget(weight=1_000, per_s=1, concurrent=8)  # there is no remote upstream
_SHOWN = 10  # the most problems in a status
_INSPECTION_TIME_S = 2.0  # how long an inspection may read files that no query has requested
_SCAN_AGAIN_MS = 5_000  # the shortest time between two scans for unknown symbols
_MISSED_MS = 3_600_000  # how long a missing file is remembered without a query for it


def create(environ: Mapping[str, str]) -> Iterable[Provider]:
    """The provider over ``FILES_DIR``; days, and times without an offset, are in ``FILES_TIMEZONE``."""
    yield Files(environ.get("FILES_DIR", ""), environ.get("FILES_TIMEZONE", ""))


@cache
def _own_version() -> str:
    return metadata.version("candlegraph")


class Files:
    """The provider over one folder."""

    api_version = 1
    market = MARKET
    id = "files"
    name = "Files"
    description = "Candles from the CSV and Parquet files in FILES_DIR."

    def __init__(self, folder: str, timezone: str) -> None:
        """Keep the settings; `start` checks them."""
        self._folder, self._timezone = folder, timezone
        self._root, self._zone = Path(), UTC
        self._snapshots, self._catalog, self._scanned_at = Snapshots(UTC, ""), Catalog(), 0
        self._held: dict[Path, tuple[Version, Timeframe]] = {}
        self._missed: dict[tuple[str, Timeframe], int] = {}  # since when a file is missing
        self._logged: dict[str, str] = {}
        self._reading = asyncio.Lock()

    @property
    def version(self) -> str:
        """The version of Candlegraph, which includes this provider."""
        return _own_version()

    @property
    def capabilities(self) -> Capabilities:
        """The found timeframes. No row of a file is dropped as a filler: a user has put it there."""
        return Capabilities(
            self._catalog.timeframes,
            LiveMode.NONE,
            has_volume=False,
            max_rows_per_call=MAX_ROWS,
            settle_ms=0,
            budget=_BUDGET,
            deadline_s=60.0,  # a large table takes a while to read
            revised=True,
            earliest_ms=clock.OLDEST_MS,
        )

    async def start(self) -> None:
        """Scan the folder. ConfigurationError if it is missing or unreadable."""
        if not self._folder:
            raise ConfigurationError("FILES_DIR is not set: name the folder that your CSV and Parquet files are in.")
        try:
            self._zone = zone(self._timezone) if self._timezone else UTC
        except BadUserInput as error:
            raise ConfigurationError(f"FILES_TIMEZONE: {error.message}") from None
        if not await asyncio.to_thread(os.path.isdir, self._folder):
            raise ConfigurationError(f"FILES_DIR is {self._folder!r}, which is no folder that can be read.")
        self._root = await asyncio.to_thread(Path(self._folder).resolve)
        self._snapshots = Snapshots(self._zone, self.version)
        await self._scan()

    async def close(self) -> None:
        """Drop the tables from memory."""
        self._snapshots.clear()
        self._catalog = Catalog()

    async def listings(self) -> Sequence[Listing]:
        """Every symbol with a file."""
        await self._scan()
        return [
            Listing(symbol, timezone=self._timezone or None, has_volume=self._has_volume(symbol))
            for symbol in self._catalog.symbols
        ]

    def _has_volume(self, symbol: str) -> bool:
        """Whether a symbol's files have volumes: True unless one that was read has none."""
        kept = map(self._snapshots.kept, self._catalog.files.get(symbol, {}).values())
        return all(snapshot.table.has_volume for snapshot in kept if snapshot)

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Candles of the symbol's file of this timeframe; the file proves the time from its first row to its last."""
        path = await self._file(instrument.symbol, timeframe)
        try:
            snapshot = await self._in_thread(self._look, path)
        except InvalidCandles as error:
            raise ProviderRefused(error.message) from error
        except BeingWritten:
            raise ProviderUnavailable(f"{path.name}: {WRITING}.", retry_after=STILL_MS / 1000) from None
        except OSError as error:
            # The text of the OSError would show the client the path.
            raise ProviderRefused(f"{path.name}: {error.strerror}") from error
        if snapshot.table.timeframe != timeframe:
            raise ProviderUnavailable(f"{path.name} has changed: it holds {snapshot.table.timeframe} candles now.")
        return page_of(snapshot, span, self._zone)

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """As `Revised.revision`: the present file continues the stored candles, or replaces them."""
        key = (instrument.symbol, timeframe)
        for _ in range(2):
            path = self._catalog.files.get(instrument.symbol, {}).get(timeframe)
            if path is not None:
                try:
                    found = await self._in_thread(self._revision_of, path, timeframe, stored)
                except FileNotFoundError:
                    found = None
                except OSError as error:
                    raise ProviderUnavailable(f"{path.name}: {error.strerror}") from error
                if found is not None:
                    self._missed.pop(key, None)
                    return found
                await self._scan()  # the file is gone, or has another timeframe now
            else:
                await self._scan_if_due()
        if self._catalog.why_suspended(instrument.symbol):
            return stored
        missed = self._missed.setdefault(key, clock.now_ms())
        # A file that is being replaced may be missing for a moment.
        if clock.now_ms() - missed < STILL_MS:
            return stored
        if self._scanned_at < missed + STILL_MS:  # it may be back since
            await self._scan()
            if timeframe in self._catalog.files.get(instrument.symbol, {}):
                return stored
        await self._in_thread(self._snapshots.forget_missing, states=True)
        return None

    async def inspect(self) -> str | None:
        """As `Inspected.inspect`: the files that cannot be served, with the reasons."""
        await self._scan_if_due()
        unread = await self._in_thread(self._check)
        self._log()
        problems = list(dict.fromkeys(problem.splitlines()[0] for problem in self._problems().values()))
        lines, more = problems[:_SHOWN], len(problems) - _SHOWN
        if more > 0:
            lines.append(f"and {more:,} more files that cannot be served")
        if unread:
            lines.append(f"{unread:,} files have not been read yet")
        return "\n".join(lines) or None

    async def _file(self, symbol: str, timeframe: Timeframe) -> Path:
        known = self._catalog.files.get(symbol, {})
        if timeframe not in known:
            await self._scan_if_due()
            known = self._catalog.files.get(symbol, {})
        if timeframe in known:
            return known[timeframe]
        if reason := self._catalog.why_suspended(symbol):
            raise ProviderRefused(reason)
        if not known:
            raise UnknownSymbol(f"There is no file of {symbol[:64]!r} in FILES_DIR.")
        have = ", ".join(sorted(map(str, known)))
        raise Unsupported(f"There is no file of {timeframe} candles of {symbol!r}, only of {have}.")

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run blocking work in a thread, one at a time: while it is read, a table needs several times its size in memory.

        If a caller is cancelled, its thread goes on, and the next work waits for it.
        """
        await self._reading.acquire()
        task = asyncio.create_task(asyncio.to_thread(work, *arguments, **named), name=f"files: {work}")

        def ended(done: asyncio.Task[T]) -> None:
            self._reading.release()
            _ = done.cancelled() or done.exception()  # retrieved here, because the caller may have been cancelled

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _scan_if_due(self) -> None:
        """Scan the folder, unless that was done a moment ago. ProviderUnavailable."""
        if not 0 <= clock.now_ms() - self._scanned_at < _SCAN_AGAIN_MS:
            await self._scan()

    async def _scan(self) -> None:
        """Scan the folder; ProviderUnavailable if that is not possible now."""
        try:
            self._catalog = await self._in_thread(self._found)
        except OSError as error:
            raise ProviderUnavailable(f"FILES_DIR cannot be read: {error.strerror}.") from error
        self._scanned_at = now = clock.now_ms()
        self._missed = {key: at for key, at in self._missed.items() if now - at < _MISSED_MS}
        self._log()

    def _found(self) -> Catalog:
        """The present catalog of the folder; drops the state of missing files. OSError."""
        found = catalog(self._root, self._timeframe_of, self._catalog.symbols)
        self._held = {path: held for path, held in self._held.items() if os.path.lexists(path)}
        self._snapshots.forget_missing(states=False)
        return found

    def _timeframe_of(self, path: Path, named: Timeframe | None) -> Timeframe:
        """The timeframe of a file: that of its name if the first rows confirm it, else it is read completely."""
        version = version_of(path)
        held = self._held.get(path)
        if held is None or held[0] != version:
            head = read_head(path, named, self._zone) if named and self._snapshots.kept(path) is None else None
            shown = head is not None and len(head.candles) > 1 and shows(head, self._zone)
            try:
                found = named if named and shown else self._look(path).table.timeframe
            except BeingWritten:
                raise InvalidCandles(f"{path.name}: {WRITING}") from None
            held = self._held[path] = (version, found)
        return held[1]

    def _look(self, path: Path) -> Snapshot:
        # Checked again: since the scan, the file may have become a link that leads out of the folder.
        if not path.resolve(strict=True).is_relative_to(self._root):
            raise InvalidCandles(f"{path.name}: it leads out of FILES_DIR")
        return self._snapshots.look(path)

    def _revision_of(self, path: Path, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """The revision of a file; None if it has another timeframe now. OSError, ProviderUnavailable."""
        snapshots = self._snapshots
        if stored and not snapshots.kept(path) and snapshots.is_state_of(path, stored.state):
            snapshots.adopt(path, stored.lineage)  # without reading the file
            return stored
        try:
            snapshot = self._look(path)
        except (InvalidCandles, BeingWritten):
            if stored is None:
                raise ProviderUnavailable(f"{path.name} cannot be read now.") from None
            return stored
        if snapshot.table.timeframe != timeframe:
            return None
        return snapshots.revision(path, snapshot, stored) if stored else snapshot.revision

    def _check(self) -> int:
        """Read files that were not read yet, for `_INSPECTION_TIME_S` at most; return the number of those left."""
        until = time.monotonic() + _INSPECTION_TIME_S
        unread = 0
        for path in [path for files in self._catalog.files.values() for path in files.values()]:
            try:
                if self._snapshots.looked_at(path, version_of(path)):
                    continue
                if time.monotonic() < until:
                    self._look(path)
                else:
                    unread += 1
            except (InvalidCandles, BeingWritten, OSError):
                continue  # the reason is remembered
        return unread

    def _problems(self) -> dict[str, str]:
        """By file name, why a file or its present version cannot be served."""
        served = [path for files in self._catalog.files.values() for path in files.values()]
        found = {path.relative_to(self._root).as_posix(): self._snapshots.problem(path) for path in served}
        problems = {name: problem for name, problem in found.items() if problem}
        return dict(sorted((dict(self._catalog.problems) | problems).items()))

    def _log(self) -> None:
        """Log each problem once for each version of a file."""
        problems = self._problems()
        for name, problem in problems.items():
            problem_line = f"{self._stamp(name)} {problem}"
            if self._logged.get(name) != problem_line and WRITING not in problem:
                log.warning("FILES_DIR: %s cannot be served: %s", name, problem)
            self._logged[name] = problem_line
        self._logged = {name: line for name, line in self._logged.items() if name in problems}

    def _stamp(self, name: str) -> str:
        try:
            return str(version_of(self._root / name))
        except OSError:
            return ""
