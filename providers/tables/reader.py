"""Candles from a table, read completely or refused with file, line, column and the option that decides.

A file goes through containers.py (what packs it), texts.py and delimited.py or frames.py (its cells), columns.py (their
meaning), timestamps.py (instants) and grid.py (openings). Polars is imported when the first table is read: a server that reads
no table does not spend that time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from candlegraph.candle import Candles
from candlegraph.clock import DAY_MS
from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Int64s, Zone
from candlegraph.zone import zone as zone_named
from providers.tables.columns import ColumnLayout, check_symbols
from providers.tables.containers import unpacked
from providers.tables.delimited import read_delimited
from providers.tables.frames import ARROW, FEATHER_1, PARQUET, read_frame
from providers.tables.grid import Grid, Stamps, grid_of
from providers.tables.hints import Hints
from providers.tables.problems import Place, extent, remedies_for, row_problems, settle, within_bounds
from providers.tables.records import read_records
from providers.tables.sheet import Sheet
from providers.tables.sheet_reader import SheetReader
from providers.tables.steps import check_steps
from providers.tables.texts import text_of
from providers.tables.timestamps import LOCAL, NEVER, SKIPPED, Instants, on_clock

_NO_HINTS = Hints()
_MILLIS_OF_DAY = "Lean minutes"  # the origin whose date is in the file name


@dataclass(frozen=True, slots=True)
class Table:
    """The candles of a file, ascending and unique; where no volume is known, ``has_volume`` is False and it is 0.

    ``rows`` is the number of rows read, including repeated ones. ``dropped`` is (n,) int64 ms UTC: the openings of the rows
    left out. ``facts`` are lines for the user: which columns were used, how the times were read, what was left out.
    ``symbols`` are those that the rows name, and ``origin`` the kind of file, if it was recognised.
    """

    candles: Candles
    timeframe: Timeframe
    has_volume: bool = True
    rows: int = 0
    dropped: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    facts: tuple[str, ...] = ()
    symbols: frozenset[str] = frozenset()
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class RawTable:
    """The cells of a file, with the meaning of its columns, before its times are instants.

    ``words`` is the zone that its times name.
    """

    path: Path
    hints: Hints
    sheet: Sheet
    layout: ColumnLayout
    words: Zone | None = None

    @property
    def symbols(self) -> list[str]:
        """The symbols that its rows or its header name; the user's, if it is to be the only one."""
        if self.hints.symbol is not None:
            return [self.hints.symbol]
        return sorted(self.sheet.symbols or self.layout.tickers)

    @property
    def place(self) -> Place:
        """The file in messages."""
        return Place(_name(self.path, self.hints), ": row " if is_typed(self.path) else ":")

    def by_symbol(self) -> Iterator[tuple[str, RawTable]]:
        """Each symbol that its rows or its header name, with a table of its own; reads the columns of other tickers."""
        if len(self.symbols) == 1:
            yield self.symbols[0], self
        elif len(self.layout.tickers) > 1:
            for ticker in self.symbols:
                yield ticker, read_raw(self.path, replace(self.hints, symbol=ticker))
        for symbol, sheet in self.sheet.by_symbol():
            yield symbol, replace(self, sheet=sheet)

    def table(self, timeframe: Timeframe | None, zone: Zone, *, drop_last: bool = False) -> Table:
        """As `read_table`."""
        facts: list[str] = []
        try:
            return _table(self, timeframe, zone, facts, drop_last=drop_last)
        except InvalidCandles as error:
            for fact in facts:
                error.add_note(fact)
            raise


def read_table(
    path: Path,
    timeframe: Timeframe | None = None,
    zone: Zone = UTC,
    *,
    drop_last: bool = False,
    hints: Hints = _NO_HINTS,
) -> Table:
    """Read the candles of ``path`` completely, or raise InvalidCandles, which names the fault.

    The days of ``timeframe`` are those of ``zone``; by default the timeframe is detected from the steps between the rows.
    ``drop_last`` leaves the newest row out, which in an exchange's dump is still forming. The notes of InvalidCandles are the
    facts known by then, as in `Table.facts`. BadUserInput if a hint is none.
    """
    return read_raw(path, hints).table(timeframe, zone, drop_last=drop_last)


def read_raw(path: Path, hints: Hints = _NO_HINTS) -> RawTable:
    """Read the cells of a file. InvalidCandles, BadUserInput."""
    with _named(path, hints):
        sheet, layout, words = _sheet(path, hints)
    return RawTable(path, hints, sheet, layout, words)


def _table(raw: RawTable, timeframe: Timeframe | None, zone: Zone, facts: list[str], *, drop_last: bool) -> Table:
    path, hints, layout, place = raw.path, raw.hints, raw.layout, raw.place
    facts += _facts(layout, raw.sheet)
    with _named(path, hints):
        check_symbols(layout, raw.sheet.symbols, hints.symbol)
        sheet, scaled = _scaled(raw.sheet, layout, hints)
    instants = _instants(raw, timeframe, zone)
    facts += [*scaled, f"Times: {instants.meaning}{_source(raw)}."]
    sheet = replace(sheet, stamp=instants.ms, kind=instants.kind).without(instants.reasons)
    sheet, raised = within_bounds(sheet.since(hints.since).in_order())
    grid = _grid(sheet, _stamps(sheet, layout, instants, zone, hints), timeframe, raw, instants.zone)
    facts += [*raised, *[grid.words] * bool(grid.words)]
    sheet, step = replace(sheet, stamp=grid.stamps), grid.timeframe
    sheet = sheet.without(_skipped(sheet, instants.zone) if step.width_ms else {})
    facts.append(extent(sheet.stamp, step))
    every, newest = sheet.stamp, int(sheet.stamp.max(initial=0))
    sheet = sheet.rows(sheet.stamp < newest) if drop_last else sheet
    dropped = len(every) - len(sheet.line)
    sheet = sheet.without(row_problems(sheet, step, zone))
    facts += settle(
        sheet.problems,
        place,
        hints.bad_rows,
        remedies_for(sheet.problems, step, instants.zone, zone, given=timeframe is not None),
    )
    if not len(sheet.line):
        raise InvalidCandles(f"{place.name}: it has no rows{' but the newest, which was to be dropped' * drop_last}")
    if not hints.thin:
        with _named(path, hints):
            check_steps(np.append(sheet.stamp, every[-dropped:]) if dropped else sheet.stamp, step, zone)
    return Table(
        Candles.of(sheet.stamp, *sheet.numbers).sorted(),
        step,
        sheet.has_volume,
        len(sheet.line) + dropped,
        np.full(int(drop_last), newest, np.int64),
        tuple(facts),
        sheet.symbols,
        layout.origin.name if layout.origin else None,
    )


def _skipped(sheet: Sheet, clock: Zone) -> dict[int, str]:
    """By position, the rows whose local time does not exist: a midnight may open its day nevertheless, but no minute."""
    return dict.fromkeys(np.flatnonzero(sheet.kind == SKIPPED).tolist(), NEVER.format(clock.name))


def _facts(layout: ColumnLayout, sheet: Sheet) -> list[str]:
    """What is known of a file once its cells are read, for the user."""
    columns = "Columns: " + ", ".join(f"{name} {column}" for name, column in layout.taken.items()) + "."
    recognised = [f"Recognised: {layout.origin.name}."] if layout.origin else []
    return [columns, *recognised, *layout.notes, *sheet.notes]


def _sheet(path: Path, hints: Hints) -> tuple[Sheet, ColumnLayout, Zone | None]:
    """The rows of a file, its columns, and the zone that its times name in words."""
    with path.open("rb") as file:
        magic = file.read(6)
    if not magic:
        raise InvalidCandles("it is empty")
    if magic.startswith((PARQUET, ARROW, FEATHER_1)):
        layout, frames = read_frame(path, magic, hints)
        reader = SheetReader(layout, hints)
        reader.add_frames(frames)
        return reader.sheet(), layout, reader.times.zone
    if path.suffix.lower() in {".parquet", ".pq", ".feather", ".arrow"}:
        raise InvalidCandles(f"it is no Parquet, Feather or Arrow file, though it is called {path.suffix}")
    with unpacked(path, hints.member) as source:
        text = text_of(source)
        if text.json == "records":
            layout, frames = read_records(text, path, hints)
            reader = SheetReader(layout, hints)
            reader.add_frames(frames)
        else:
            layout, blocks = read_delimited(text, _name(path, hints), hints)
            reader = SheetReader(layout, hints)
            reader.add_all(blocks)
        return reader.sheet(), layout, reader.times.zone


def is_typed(path: Path) -> bool:
    """Whether the name of a file is that of a Parquet, Feather or Arrow file, which has rows and no lines."""
    return path.suffix.lower() in {".parquet", ".pq", ".feather", ".arrow"}


def _scaled(sheet: Sheet, layout: ColumnLayout, hints: Hints) -> tuple[Sheet, list[str]]:
    """Prices in the unit that the user or the origin names, and a line for the user."""
    if hints.scale is not None:
        divisor = 1 / hints.scale
        exact = round(divisor) if abs(divisor - round(divisor)) < 1e-9 * divisor else 0
        prices = [column / exact if exact else column * hints.scale for column in sheet.numbers[:4]]
        return replace(sheet, numbers=(*prices, sheet.numbers[4])), [
            f"Prices: multiplied by {hints.scale:g} (--scale)."
        ]
    origin = layout.origin
    if (
        origin is None
        or not len(sheet.line)
        or not all((column == np.floor(column)).all() for column in sheet.numbers[:4])
    ):
        return sheet, []
    if origin.asks_scale and min(column.min() for column in sheet.numbers[:4]) >= 1_000:
        raise InvalidCandles(
            f"its prices are whole numbers, such as {sheet.numbers[0][0]:g}, as in {origin.name} of shares, which count "
            "1/10,000: name the unit with --scale 0.0001, or with --scale 1 if these are the prices"
        )
    if origin.divisor == 1 or sheet.numbers[0].min() < origin.divisor / 10_000:
        return sheet, []
    count = 5 if origin.divides_volume else 4
    numbers = tuple(column / origin.divisor if at < count else column for at, column in enumerate(sheet.numbers))
    return replace(sheet, numbers=numbers), [
        f"Prices: whole numbers in units of 1/{origin.divisor:,}; --scale 1 keeps them."
    ]


def _clock(layout: ColumnLayout, words: Zone | None, hints: Hints, zone: Zone) -> Zone:
    """The clock of times without an offset: the user's, the one that they name, the origin's, or the usual one."""
    origin = zone_named(layout.origin.clock) if layout.origin and layout.origin.clock else None
    return hints.clock or words or origin or hints.usual_clock or zone


def _source(raw: RawTable) -> str:
    """Where the clock comes from, behind its name."""
    origin = raw.layout.origin
    if raw.hints.clock is not None or raw.words is not None or origin is None:
        return ""
    if origin.clock:
        return f", the clock of {origin.name}"
    return f"; {origin.read}" if "--clock" in origin.read else ""


def _instants(raw: RawTable, timeframe: Timeframe | None, zone: Zone) -> Instants:
    sheet, clock = raw.sheet, _clock(raw.layout, raw.words, raw.hints, zone)
    dates = None if timeframe and timeframe.width_ms else raw.hints.dates or zone
    if raw.layout.origin and raw.layout.origin.name == _MILLIS_OF_DAY and (day := re.search(r"\d{8}", raw.place.name)):
        opened = int(np.datetime64(f"{day[0][:4]}-{day[0][4:6]}-{day[0][6:]}", "ms").astype(np.int64))
        if len(sheet.stamp) and sheet.stamp.min() >= 0 and sheet.stamp.max() < DAY_MS:
            return on_clock((opened + sheet.stamp) * 1_000, np.full_like(sheet.kind, LOCAL), clock, None)
    return on_clock(sheet.stamp, sheet.kind, clock, dates)


def _stamps(sheet: Sheet, layout: ColumnLayout, instants: Instants, zone: Zone, hints: Hints) -> Stamps:
    is_local = bool(len(sheet.kind)) and bool((sheet.kind == LOCAL).all())
    names = hints.stamps or layout.stamps
    return Stamps(sheet.stamp, zone, names, hints.stamps is not None, instants.are_days, is_local)


def _grid(sheet: Sheet, stamps: Stamps, timeframe: Timeframe | None, raw: RawTable, clock: Zone) -> Grid:
    """The grid of the rows; problems of single rows come first, if there are any."""
    remedies = list(remedies_for(sheet.problems, None, clock, stamps.zone, given=True))
    if not len(stamps.ms):
        settle(sheet.problems, raw.place, raw.hints.bad_rows, remedies)
        raise InvalidCandles(f"{raw.place.name}: it has no rows")
    try:
        return grid_of(stamps, timeframe)
    except InvalidCandles as error:
        settle(sheet.problems, raw.place, raw.hints.bad_rows, remedies)
        raise InvalidCandles(f"{raw.place.name}: {error.message}") from None


def _name(path: Path, hints: Hints) -> str:
    return path.name if hints.member is None else f"{path.name}/{hints.member}"


@contextmanager
def _named(path: Path, hints: Hints) -> Iterator[None]:
    """Turn every failure to read the file into InvalidCandles with its name."""
    if path.exists() and not path.is_file():
        # Opening a named pipe would wait for a writer.
        raise InvalidCandles(f"{path.name}: it is {'a folder' if path.is_dir() else 'no regular file'}")
    try:
        yield
    except FileNotFoundError:
        reason = "there is no such file"
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
    except InvalidCandles as error:
        reason = error.message
    else:
        return
    raise InvalidCandles(f"{_name(path, hints)}: {reason}")
