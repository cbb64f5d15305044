"""A folder of tables: ``<symbol>_<timeframe>.csv``, ``.csv.gz`` or ``.parquet``, or without a timeframe in the name.

The folder is the upstream: what is in it is read as it is now, so a file that grows or is replaced needs no restart. A
symbol is looked up among the files that were found and never made into a path.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import (
    BadUserInput,
    ConfigurationError,
    InvalidCandles,
    ProviderRefused,
    ProviderUnavailable,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Budget, Capabilities, Listing, Live, Market, Page, Provider
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone, zone
from providers.tables.reader import SUFFIXES, Table, read_table

MARKET = Market("files", "Files", "Candles from CSV and Parquet files in a folder of yours.")
MAX_ROWS = 10_000
CACHE_BYTES = 128 << 20  # two and a half million rows

_BUDGET = Budget(weight=1_000, per_s=1, concurrent=8)  # nobody else is asked
_SCAN_AGAIN_MS = 5_000  # an unknown symbol makes us look at the folder again, but no more often than this

_Version = tuple[Path, int, int]


def create(environ: Mapping[str, str]) -> Iterable[Provider]:
    """The one provider, over ``FILES_DIR``; days and times without an offset are those of ``FILES_TIMEZONE``."""
    yield Files(environ.get("FILES_DIR", ""), environ.get("FILES_TIMEZONE", ""))


@dataclass(slots=True)
class _Tables:
    """The tables read last, as many as fit into so many bytes (the newest one always does)."""

    max_bytes: int
    _kept: OrderedDict[tuple[_Version, Timeframe | None], Table] = field(default_factory=OrderedDict)

    def read(self, path: Path, timeframe: Timeframe | None, zone: Zone) -> Table:
        """Read a file, or remember it where it has not changed since. InvalidCandles, OSError."""
        key = version, _ = _version(path), timeframe
        if key not in self._kept:
            table = read_table(path, timeframe, zone)
            if _version(path) != version:
                raise InvalidCandles(f"{path.name}: it was changed while it was read")
            self._kept[key] = table
        self._kept.move_to_end(key)
        for old in [old for old in self._kept if old[0][0] == path and old[0] != version]:
            del self._kept[old]
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self.max_bytes:
            self._kept.popitem(last=False)
        return self._kept[key]


@cache
def _own_version() -> str:
    return metadata.version("candlegraph")


def _bytes(table: Table) -> int:
    # The flags are one value each, broadcast.
    return sum(column.nbytes for column in table.candles.columns[:6])


@dataclass(frozen=True, slots=True)
class _Shelf:
    """What a folder holds: each symbol's file of each timeframe, and what is wrong with those that cannot be used."""

    files: dict[str, dict[Timeframe, tuple[Path, Timeframe | None]]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def timeframes(self) -> tuple[Timeframe, ...]:
        found = {timeframe for files in self.files.values() for timeframe in files}
        return tuple(sorted(found, key=lambda timeframe: timeframe.nominal_ms))


class Files:
    """The provider over one folder."""

    api_version = 1
    market = MARKET
    id = "files"
    name = "Files"
    description = "Candles from the CSV and Parquet files in FILES_DIR."

    def __init__(self, folder: str, timezone: str) -> None:
        """Remember the settings; they are looked at when it starts."""
        self._folder, self._timezone = folder, timezone
        self._root, self._zone = Path(), UTC
        self._tables, self._shelf, self._scanned_at = _Tables(CACHE_BYTES), _Shelf(), 0
        self._told: dict[_Version, Timeframe | str] = {}
        self._reading = asyncio.Lock()

    @property
    def version(self) -> str:
        """The version of Candlegraph, which it comes with."""
        return _own_version()

    @property
    def capabilities(self) -> Capabilities:
        """The timeframes that were found. Nothing is dropped from files: what they hold is meant."""
        return Capabilities(
            self._shelf.timeframes,
            Live.NONE,
            has_volume=False,
            max_rows_per_call=MAX_ROWS,
            settle_ms=0,
            budget=_BUDGET,
            deadline_s=60.0,  # a large table takes a while to read
            earliest_ms=clock.OLDEST_MS,
        )

    async def start(self) -> None:
        """Look through the folder. ConfigurationError where there is none."""
        if not self._folder:
            raise ConfigurationError("FILES_DIR is not set: name the folder that your CSV and Parquet files are in.")
        try:
            self._zone = zone(self._timezone) if self._timezone else UTC
        except BadUserInput as error:
            raise ConfigurationError(f"FILES_TIMEZONE: {error.message}") from None
        if not await asyncio.to_thread(os.path.isdir, self._folder):
            raise ConfigurationError(f"FILES_DIR is {self._folder!r}, which is no folder that can be read.")
        self._root = await asyncio.to_thread(Path(self._folder).resolve)
        await self._scan()

    async def close(self) -> None:
        """Forget the tables."""
        self._tables, self._shelf = _Tables(CACHE_BYTES), _Shelf()

    async def listings(self) -> Sequence[Listing]:
        """Every symbol that a file was found for."""
        await self._scan()
        return [Listing(symbol, timezone=self._timezone or None) for symbol in sorted(self._shelf.files)]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Candles of the symbol's file of this timeframe, which vouches from its first row to its last."""
        path, told = await self._file(instrument.symbol, timeframe)
        try:
            # One file at a time: a table needs several times its size while it is read.
            async with self._reading:
                table = await asyncio.to_thread(self._read, path, told)
        except InvalidCandles as error:
            raise ProviderRefused(error.message) from error
        except OSError as error:
            # Its own text would tell the client where our files are.
            raise ProviderRefused(f"{path.name}: {error.strerror}") from error
        if table.timeframe != timeframe:
            raise ProviderUnavailable(f"{path.name} has changed: it holds {table.timeframe} candles now.")
        return _page(table, span, self._zone)

    async def _file(self, symbol: str, timeframe: Timeframe) -> tuple[Path, Timeframe | None]:
        known = self._shelf.files.get(symbol, {})
        if timeframe not in known and not 0 <= clock.now_ms() - self._scanned_at < _SCAN_AGAIN_MS:
            await self._scan()
            known = self._shelf.files.get(symbol, {})
        if timeframe in known:
            return known[timeframe]
        if symbol in self._shelf.broken:
            raise ProviderRefused(self._shelf.broken[symbol])
        if not known:
            raise UnknownSymbol(f"There is no file of {symbol!r} in FILES_DIR.")
        raise Unsupported(
            f"There is no file of {timeframe} candles of {symbol!r}, only of {', '.join(map(str, known))}."
        )

    async def _scan(self) -> None:
        self._scanned_at = clock.now_ms()
        async with self._reading:
            try:
                self._shelf = await asyncio.to_thread(self._look)
            except OSError as error:
                raise ProviderUnavailable(f"FILES_DIR cannot be read: {error.strerror}.") from error

    def _look(self) -> _Shelf:
        found: dict[tuple[str, Timeframe], list[tuple[Path, Timeframe | None]]] = {}
        shelf, told_before, self._told = _Shelf(), self._told, {}
        for path in sorted(_tables_under(self._root)):
            symbol, named = _name_of(path.relative_to(self._root).as_posix())
            told = named or self._tell(path, told_before)
            if isinstance(told, str):
                shelf.broken[symbol] = told
            else:
                found.setdefault((symbol, told), []).append((path, named))
        for (symbol, timeframe), files in found.items():
            if len(files) == 1:
                shelf.files.setdefault(symbol, {})[timeframe] = files[0]
            else:
                # Which of them is right is nothing to guess.
                names = " and ".join(path.name for path, _ in files)
                shelf.broken[symbol] = f"{names} hold {timeframe} candles of {symbol!r} both: keep one of them."
        return shelf

    def _tell(self, path: Path, told_before: Mapping[_Version, Timeframe | str]) -> Timeframe | str:
        """The timeframe of a file whose name has none, or why it cannot be told; each version of it is read once."""
        try:
            version = _version(path)
            told = told_before[version] if version in told_before else self._read_or_why_not(path)
        except OSError as error:
            # It may be gone by now, or readable the next time.
            return f"{path.name}: {error.strerror}"
        self._told[version] = told
        return told

    def _read_or_why_not(self, path: Path) -> Timeframe | str:
        try:
            return self._read(path, None).timeframe
        except InvalidCandles as error:
            return error.message

    def _read(self, path: Path, timeframe: Timeframe | None) -> Table:
        # Looked at again: since the scan it may have become a link that leads out of the folder.
        if not path.resolve(strict=True).is_relative_to(self._root):
            raise InvalidCandles(f"{path.name}: it leads out of FILES_DIR")
        return self._tables.read(path, timeframe, self._zone)


def _version(path: Path) -> _Version:
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size


def _tables_under(root: Path) -> Iterator[Path]:
    """Every table in a folder and those within it; links are followed to files inside of it only."""

    def refuse(error: OSError) -> None:
        # A folder that cannot be read must not look like one that lost its files.
        raise error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            is_table = name.lower().endswith(SUFFIXES) and not name.startswith(".")
            printable = path.relative_to(root).as_posix().isprintable()
            if is_table and printable and path.is_file() and path.resolve().is_relative_to(root):
                yield path


def _name_of(name: str) -> tuple[str, Timeframe | None]:
    """The symbol, and the timeframe where the name has one: ``binance/BTCUSDT_1m.csv.gz``."""
    stem = name[: -max(len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix))]
    symbol, _, tail = stem.rpartition("_")
    if not symbol or symbol.endswith("/"):
        return stem, None
    try:
        return symbol, Timeframe.parse(tail)
    except BadUserInput:
        return stem, None


def _page(table: Table, span: Span, zone: Zone) -> Page:
    """The rows within ``span``, and the part of it from the first row to the end of the last (or to the page's end).

    A file that is still being written may end with the bucket under way: that one nobody vouches for.
    """
    stamps = table.candles.timestamp
    asked = span & Span(int(stamps[0]), table.timeframe.next(int(stamps[-1]), zone))
    if not asked:
        return Page(Candles.empty(), span.since, span.since)
    rows = table.candles.between(asked)
    if len(rows) > MAX_ROWS:
        asked = Span(asked.since, int(rows.timestamp[MAX_ROWS]))
    forming = table.timeframe.floor(clock.now_ms(), zone)
    return Page(rows[:MAX_ROWS], asked.since, min(asked.until, forming))
