"""Imports many files in one process: folders, patterns and archives, each file all or nothing."""

from __future__ import annotations

import asyncio
import glob
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from candlegraph.errors import CandlegraphError, InvalidCandles
from candlegraph.identity import check_new_name
from candlegraph.series import Instrument
from candlegraph.span import Span
from providers.tables.containers import container_of, members_of
from providers.tables.names import SUFFIXES, FileName, name_of
from providers.tables.reader import RawTable, read_raw
from resolvers.names import instrument
from schema.scalars import print_datetime
from server.cli.import_options import ImportOptions
from server.cli.importing import PreparedImport, prepare, refusal_lines, store, target_of
from server.settings import Settings
from server.wiring import Runtime, open_runtime
from storage.batches import CandleRead

_PAIRS_MARKET = "crypto"  # its providers write pairs as BTC/USDT
_CHECKED_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class ImportFile:
    """A file to import, or a member of an archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.path.name if self.member is None else f"{self.path.name}/{self.member}"

    @property
    def file_name(self) -> FileName:
        """What its name says; a member alone in an archive is often called like the archive, which may say more."""
        inner = _named(Path(self.path.parent.name, Path(self.member or self.path.name).name))
        outer = inner if self.member is None else _named(Path(self.path.parent.name, self.path.name))
        return inner if inner.is_known or not outer.is_known else outer


@dataclass(frozen=True, slots=True)
class Into:
    """Where the candles of many files go: a market, a provider, and a symbol, or where symbols are named."""

    market: str
    provider: str
    symbol: str | None = None
    symbol_from: str | None = None  # "name" or "column"

    def target(self, source: ImportFile) -> Instrument:
        """The symbol of a whole file."""
        if self.symbol is not None:
            return instrument(self.market, self.provider, self.symbol)
        name = source.file_name
        symbol = name.pair if name.is_known and self.market == _PAIRS_MARKET else name.symbol
        return instrument(self.market, self.provider, symbol)


@dataclass(slots=True)
class Outcome:
    """What became of the files so far."""

    imported: int = 0
    unchanged: int = 0
    candles: int = 0
    symbols: set[Instrument] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    facts: set[tuple[str, ...]] = field(default_factory=set)

    def summary(self, *, dry_run: bool) -> str:
        """One line about all."""
        done, of = "Would import" if dry_run else "Imported", _counted(len(self.symbols), "symbol")
        parts = [f"{done} {_counted(self.imported, 'file')}: {_counted(self.candles, 'candle')} of {of}"]
        for count, what in ((self.unchanged, "imported before"), (len(self.refused), "refused")):
            parts += [f"{count:,} {'was' if count == 1 else 'were'} {what}"] * bool(count)
        return ", ".join(parts) + "."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _named(path: Path) -> FileName:
    """What a file name says; its folder is no part of the symbol, but may be the symbol, as in Lean's `aapl/20240102_trade.zip`."""
    found = name_of(path.as_posix())
    return replace(found, symbol=found.symbol.removeprefix(f"{path.parent.name}/"))


def sources_of(patterns: Sequence[str]) -> list[ImportFile]:
    """The files of paths, folders and patterns, in order. InvalidCandles if there are none, or an archive is damaged."""
    found: list[ImportFile] = []
    for pattern in patterns:
        matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207
        paths = [Path(pattern)] if Path(pattern).exists() else sorted(map(Path, matches))
        if not paths:
            raise InvalidCandles(f"{pattern}: there is no such file or folder, and no file of this pattern")
        for path in paths:
            found += _within(path) if path.is_dir() else _parts(path)
    if not found:
        raise InvalidCandles(f"{', '.join(patterns)[:200]}: no file in it ends in {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


def is_one_table(patterns: Sequence[str]) -> bool:
    """Whether paths are one file, which is no archive of several; also a file that does not exist, to be refused as one."""
    path = Path(patterns[0])
    if len(patterns) > 1 or path.is_dir() or (not path.exists() and glob.has_magic(patterns[0])):
        return False
    return not path.is_file() or len(list(_parts(path))) == 1


def _within(folder: Path) -> Iterator[ImportFile]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and path.name.lower().endswith(SUFFIXES):
            yield from _parts(path)


def _parts(path: Path) -> Iterator[ImportFile]:
    """A file, or the files of an archive; a damaged archive is refused when it is read."""
    try:
        every = members_of(path) if path.is_file() and container_of(path) == "zip" else []
        names = [name for name in every if name.lower().endswith(SUFFIXES)] or every
    except (InvalidCandles, OSError):
        names = []
    yield from (ImportFile(path, name) for name in names) if names else (ImportFile(path),)


async def import_many(
    settings: Settings,
    sources: Sequence[ImportFile],
    into: Into,
    options: ImportOptions,
    show: Callable[[str, bool], None],
) -> bool:
    """Import files one after the other; whether none was refused. ``show`` gets each line, and whether it is a refusal."""
    check_new_name("market", into.market)
    check_new_name("provider", into.provider)
    options.hints()  # refuses what is wrong in the options before any file is read
    outcome = Outcome()
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with open_runtime(settings, create=True) as running:
        console = Console(file=sys.stderr)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            for source in progress.track(sources):
                try:
                    for line in await _import(running, source, into, options, outcome):
                        show(line, False)
                except CandlegraphError as error:
                    outcome.refused[source.name] += 1
                    for line in _refusal(source, error):
                        show(line, True)
    show(outcome.summary(dry_run=options.dry_run), False)
    return not outcome.refused


def _refusal(source: ImportFile, error: CandlegraphError) -> list[str]:
    """At most ten lines about a refused file; each begins with its name."""
    return [line if line.startswith(source.name) else f"{source.name}: {line}" for line in refusal_lines(error)]


async def _import(
    running: Runtime, source: ImportFile, into: Into, options: ImportOptions, outcome: Outcome
) -> list[str]:
    """Import one file in one transaction; the lines about it. CandlegraphError."""
    prepared = []
    for target, part in await asyncio.to_thread(_tables, source, into, options):
        prepared.append(await _prepared(running, part, target, options, source))
    if not prepared:
        raise InvalidCandles(f"{source.name}: it has no column that names symbols: --symbol-from name, or --symbol")
    lines = _new_facts(source, prepared[0], outcome)
    new = [one for one in prepared if options.replace or not await _is_stored(running, one)]
    if new and not options.dry_run:
        await store(running, new, lambda _: None)
    outcome.imported += bool(new)
    outcome.unchanged += not new
    outcome.candles += sum(len(one.write.candles) for one in new)
    outcome.symbols |= {one.target for one in prepared}
    return lines + [_line(source, one, is_new=one in new) for one in prepared]


def _tables(source: ImportFile, into: Into, options: ImportOptions) -> list[tuple[Instrument, RawTable]]:
    """The table of a file, or one of each symbol that it names. InvalidCandles."""
    if into.symbol_from != "column":
        return [(into.target(source), read_raw(source.path, options.hints(source.member)))]
    raw = read_raw(source.path, replace(options.hints(source.member), every_symbol=True))
    return [(instrument(into.market, into.provider, symbol), part) for symbol, part in raw.by_symbol()]


async def _prepared(
    running: Runtime, raw: RawTable, target: Instrument, options: ImportOptions, source: ImportFile
) -> PreparedImport:
    """Prepare a table with the timeframe of the option, or of the file name where the rows confirm it."""
    existing, days = await target_of(running, target, options)
    named = options.asked or source.file_name.timeframe
    of = (target, existing, days)
    if named is not None and options.asked is None:
        try:
            return await prepare(running, raw, of, options, named)
        except InvalidCandles:
            named = None  # the name says otherwise than the rows: `AAPL_5y.csv` holds days
    return await prepare(running, raw, of, options, named)


def _new_facts(source: ImportFile, prepared: PreparedImport, outcome: Outcome) -> list[str]:
    """How a file was read, if none before was read so."""
    facts = tuple(fact for fact in prepared.table.facts if not fact.startswith(("Rows", "Left out")))
    left_out = [f"{source.name}: {fact}" for fact in prepared.table.facts if fact.startswith("Left out")]
    if facts in outcome.facts:
        return left_out
    outcome.facts.add(facts)
    return [f"{source.name}: {fact}" for fact in facts] + left_out


def _line(source: ImportFile, one: PreparedImport, *, is_new: bool) -> str:
    stamps = one.write.candles.timestamp
    span = f"{print_datetime(int(stamps[0]))} to {print_datetime(int(stamps[-1]))}"
    return f"{source.name}: {one.count} {'into' if is_new else 'were imported before into'} {one.target.symbol}, {span}"


async def _is_stored(running: Runtime, one: PreparedImport) -> bool:
    """Whether all candles and the coverage of an import are stored already, as in a run that was interrupted."""
    if one.existing is None:
        return False
    (coverage,) = await running.store.read_coverage([one.existing.id])
    known = coverage.spans.get(one.table.timeframe)
    if known is None or one.write.covered - known:
        return False
    candles = one.write.candles
    for start in range(0, len(candles), _CHECKED_ROWS):
        part = candles[start : start + _CHECKED_ROWS]
        span = Span(int(part.timestamp[0]), int(part.timestamp[-1]) + 1)
        (found,) = await running.store.read([CandleRead(one.existing.id, one.table.timeframe, span, len(part) + 1)])
        if not all(np.array_equal(a, b) for a, b in zip(found.columns[:6], part.columns[:6], strict=True)):
            return False
    return True
