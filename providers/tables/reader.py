"""Candles from a table: CSV (plain or gzipped) or Parquet, read completely or refused with file, line and reason.

A text is read in blocks of whole lines, and its cells as text. So an error can name the line, and a file of any size needs
little more memory than its columns. Polars is imported when the first table is read: a server that reads no table does
not spend that time.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from candlegraph.candle import Bools, Candles, Floats
from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Int64s, Zone
from providers.tables.columns import VALUE_COLUMNS, ColumnLayout, check_symbols, column_layout_of, floats, times
from providers.tables.delimited import read_delimited
from providers.tables.size import check_size
from providers.tables.steps import check_steps
from providers.tables.timestamps import (
    NEVER,
    SKIPPED,
    TIMES,
    TWICE,
    UNREADABLE,
    Kinds,
    on_clock,
    timeframe_of,
    timestamps_of,
)

if TYPE_CHECKING:
    import polars as pl

CUT = "the file ends within this line: its last number may be cut. Leave it out with --drop-last, or end the line"

_SHOWN_PROBLEMS = 10  # the most problems in a message
_MAX_PROBLEMS = 10_000  # stop reading a file after this many problems


@dataclass(frozen=True, slots=True)
class Hints:
    """The user's hints about a file besides its timeframe and zone.

    Times without an offset are local to ``clock``, dates to ``dates``; either defaults to the zone of the days. ``thin``: the
    symbol seldom trades, so the steps between the rows prove nothing. ``symbol``: read only the rows of this symbol.
    """

    clock: Zone | None = None
    dates: Zone | None = None
    thin: bool = False
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The candles of a file, ascending and unique; without a volume column their volume is 0.

    ``rows`` is the number of rows read, including repeated ones. ``dropped`` is (n,) int64 ms UTC: the openings of the rows
    left out. ``facts`` are lines for the user: which columns were used, and how the times were read.
    """

    candles: Candles
    timeframe: Timeframe
    has_volume: bool = True
    rows: int = 0
    dropped: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The readable rows of a file in its order, each with its ``line``; ``problems`` has the reasons for the others.

    ``stamp`` is (n,) int64, and ``kind`` gives its meaning; ``numbers`` is (5, n). ``symbols`` are those that the rows name.
    ``cut`` is the last line if the file seems to end within its last number.
    """

    line: Int64s
    stamp: Int64s
    kind: Kinds
    numbers: Floats
    problems: dict[int, str]
    symbols: frozenset[str] = frozenset()
    cut: int | None = None

    def without(self, reasons: Mapping[int, str]) -> _Sheet:
        """The sheet without the rows at the positions in ``reasons``, which become problems."""
        if not reasons:
            return self
        kept = np.ones(len(self.line), np.bool_)
        kept[list(reasons)] = False
        problems = {int(self.line[at]): reason for at, reason in reasons.items()}
        return replace(self.rows(kept), problems=self.problems | problems)

    def rows(self, kept: Bools | Int64s | slice) -> _Sheet:
        """Some of the rows."""
        return replace(
            self, line=self.line[kept], stamp=self.stamp[kept], kind=self.kind[kept], numbers=self.numbers[:, kept]
        )


def read_table(
    path: Path,
    timeframe: Timeframe | None = None,
    zone: Zone = UTC,
    *,
    drop_last: bool = False,
    hints: Hints = Hints(),
) -> Table:
    """Read the candles of ``path`` completely, or raise InvalidCandles, which names the fault.

    The days of ``timeframe`` are those of ``zone``; by default the timeframe is detected from the steps between the rows.
    ``drop_last`` leaves the newest row out, which in an exchange's dump is still forming. The notes of InvalidCandles are the
    facts known by then, as in `Table.facts`.
    """
    facts: list[str] = []
    try:
        return _read(path, timeframe, zone, hints, facts, drop_last=drop_last)
    except InvalidCandles as error:
        for fact in facts:
            error.add_note(fact)
        raise


def _read(
    path: Path, timeframe: Timeframe | None, zone: Zone, hints: Hints, facts: list[str], *, drop_last: bool
) -> Table:
    with _named(path):
        check_size(path, parquet=is_parquet(path))
        sheet, layout = (_read_parquet if is_parquet(path) else _read_csv)(path, hints.symbol)
        facts.append("Columns: " + ", ".join(f"{name} {column}" for name, column in layout.taken.items()) + ".")
        check_symbols(layout, sheet.symbols, hints.symbol)
    dates = None if timeframe and timeframe.width_ms else hints.dates or zone
    read = on_clock(sheet.stamp, sheet.kind, hints.clock or zone, dates)
    facts.append(f"Times: {read.meaning}.")
    sheet = _sorted(replace(sheet, stamp=read.ms, kind=read.kind).without(read.reasons))
    step = timeframe or _detected_timeframe(sheet, path, zone)
    if step.width_ms:
        sheet = sheet.without(_each(sheet.kind == SKIPPED, NEVER.format(read.zone.name)))
    every, newest = sheet.stamp, sheet.stamp.max(initial=0)
    facts.append(_extent(every, step))
    sheet = sheet.rows(sheet.stamp < newest) if drop_last else sheet
    candles = Candles.of(sheet.stamp, *sheet.numbers)
    if problems := _problems(sheet, candles, step, zone):
        raise _refusal(path, problems, _hints(problems, step, read.zone, zone, given=timeframe is not None))
    if not len(candles):
        raise InvalidCandles(f"{path.name}: it has no rows{' but the newest, which was to be dropped' * drop_last}")
    if not hints.thin:
        with _named(path):
            check_steps(every, step, zone)
    dropped = np.full(int(drop_last), newest, np.int64)
    return Table(candles.sorted(), step, layout.has_volume, len(every), dropped, tuple(facts))


def _problems(sheet: _Sheet, candles: Candles, timeframe: Timeframe, zone: Zone) -> dict[int, str]:
    """The problems of rows, by their lines."""
    wrong = {int(sheet.line[at]): reason for at, reason in candles.problems(timeframe, TIMES, zone).items()}
    cut = {sheet.cut: CUT} if sheet.cut is not None and sheet.cut in sheet.line else {}
    return {**_repeats(sheet), **cut, **wrong, **sheet.problems}


def _extent(stamps: Int64s, timeframe: Timeframe) -> str:
    if not len(stamps):
        return "Rows: none."
    first, last = np.datetime_as_string(stamps[[0, -1]].astype("datetime64[ms]"), "s")
    return f"Rows: {len(stamps):,} of {timeframe}, from {first}Z to {last}Z."


def _each(bad: Bools, reason: str) -> dict[int, str]:
    return dict.fromkeys(np.flatnonzero(bad).tolist(), reason)


def _sorted(sheet: _Sheet) -> _Sheet:
    return sheet if (np.diff(sheet.stamp) >= 0).all() else sheet.rows(np.argsort(sheet.stamp, kind="stable"))


def _repeats(sheet: _Sheet) -> dict[int, str]:
    """The rows of a sorted sheet with the instant of the row before them but other values."""
    same = np.flatnonzero(np.diff(sheet.stamp) == 0) + 1
    differing = same[(sheet.numbers[:, same] != sheet.numbers[:, same - 1]).any(axis=0)]
    return {
        later: f"the same timestamp as {earlier}, with other values"
        for later, earlier in zip(sheet.line[differing].tolist(), sheet.line[differing - 1].tolist(), strict=True)
    }


def _refusal(path: Path, problems: Mapping[int, str], hints: Iterable[str] = ()) -> InvalidCandles:
    place = f"{path.name}: row " if is_parquet(path) else f"{path.name}:"
    shown = [f"{place}{line}: {problems[line]}" for line in sorted(problems)[:_SHOWN_PROBLEMS]]
    more = len(problems) - len(shown)
    if more > 0:
        shown.append(f"and {'at least ' if len(problems) >= _MAX_PROBLEMS else ''}{more:,} more")
    return InvalidCandles("\n".join([*shown, *hints]))


def _hints(problems: Mapping[int, str], timeframe: Timeframe, clock: Zone, zone: Zone, *, given: bool) -> Iterator[str]:
    if TWICE.format(clock.name) in problems.values():
        yield "If the clock of the file never changes, name it: --clock EST, or its offset, such as --clock -05:00."
    if not any(reason.startswith("the timestamp is not the opening") for reason in problems.values()):
        return
    if not given:
        yield f"The timeframe {timeframe} was detected from the steps between the rows: name it if it is another."
    if not timeframe.width_ms:
        yield f"The days are taken for those of {zone.name}: name the time zone if it is another."


def _detected_timeframe(sheet: _Sheet, path: Path, zone: Zone) -> Timeframe:
    """Detect the timeframe from the steps between the rows; problems of single rows come first, if there are any."""
    try:
        return timeframe_of(sheet.stamp, zone)
    except InvalidCandles as error:
        if sheet.problems:
            raise _refusal(path, sheet.problems) from None
        raise InvalidCandles(f"{path.name}: {error.message}") from None


def _sheet_of(
    frame: pl.DataFrame, layout: ColumnLayout, line: Int64s, problems: dict[int, str], symbol: str | None
) -> _Sheet:
    """The rows of a frame whose columns are named by their positions; only those of ``symbol`` if it is given."""
    symbols, chosen = _symbols(frame, layout, symbol)
    if chosen is not None:
        frame, line = frame.filter(chosen), line[chosen]
    stamp, kind = timestamps_of(times(frame, layout))
    numbers, reasons = np.zeros((5, len(line))), dict[int, str]()
    for row, (name, at) in enumerate(zip(VALUE_COLUMNS, layout.numbers, strict=True)):
        if at is not None:
            numbers[row], bad = floats(frame.get_column(str(at)), name)
            reasons = bad | reasons
    unread = _each(kind == UNREADABLE, "the timestamp is not understood")
    return _Sheet(line, stamp, kind, numbers, problems, symbols).without(unread | reasons)


def _symbols(frame: pl.DataFrame, layout: ColumnLayout, symbol: str | None) -> tuple[frozenset[str], Bools | None]:
    """The symbols that the rows name, and a mask of the rows of ``symbol``; None for all rows."""
    import polars as pl  # noqa: PLC0415 - lazily, see above

    if layout.symbol is None:
        return frozenset(), None
    cells = frame.get_column(str(layout.symbol)).cast(pl.String, strict=False).str.strip_chars().fill_null("")
    found = frozenset(cells.unique().to_list()) - {""}
    return found, None if symbol is None else (cells == symbol).to_numpy()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn every failure to read the file into InvalidCandles with its name."""
    if path.exists() and not path.is_file():
        # Opening a named pipe would wait for a writer.
        raise InvalidCandles(f"{path.name}: it is {'a folder' if path.is_dir() else 'no regular file'}")
    try:
        yield
    except FileNotFoundError:
        reason = "there is no such file"
    except EOFError:
        reason = "the gzip file is cut short"
    except (gzip.BadGzipFile, zlib.error):
        reason = "the gzip file is damaged"
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
    except InvalidCandles as error:
        reason = error.message
    else:
        return
    raise InvalidCandles(f"{path.name}: {reason}")


def is_parquet(path: Path) -> bool:
    """Whether the name of a file is that of a Parquet file."""
    return path.suffix.lower() in {".parquet", ".pq"}


def _read_parquet(path: Path, symbol: str | None) -> tuple[_Sheet, ColumnLayout]:
    import polars as pl  # noqa: PLC0415 - lazily, see above

    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise InvalidCandles("it is no Parquet file" if path.stat().st_size else "it is empty")
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        names = lazy.collect_schema().names()
        above = lazy.head(1).collect()
        layout = column_layout_of(names, [str(cell) for cell in above.row(0)] if above.height else [""] * len(names))
        columns = [names[at] for at in layout.columns]
        frame = lazy.select(columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InvalidCandles(f"it is no Parquet file that can be read: {str(error).splitlines()[0][:200]}") from None
    frame = frame.rename({name: str(names.index(name)) for name in columns})
    return _sheet_of(frame, layout, np.arange(1, frame.height + 1), {}, symbol), layout


def _read_csv(path: Path, symbol: str | None) -> tuple[_Sheet, ColumnLayout]:
    sheets, problems = list[_Sheet](), dict[int, str]()
    cut = None
    with path.open("rb") as file:
        layout, blocks = read_delimited(file)
        for rows in blocks:
            sheets.append(_sheet_of(rows.cells, layout, rows.line, rows.problems, symbol))
            problems, cut = problems | sheets[-1].problems, rows.cut
            if len(problems) >= _MAX_PROBLEMS:
                break
    return _Sheet(
        np.concatenate([sheet.line for sheet in sheets]),
        np.concatenate([sheet.stamp for sheet in sheets]),
        np.concatenate([sheet.kind for sheet in sheets]),
        np.concatenate([sheet.numbers for sheet in sheets], axis=1),
        problems,
        frozenset[str]().union(*(sheet.symbols for sheet in sheets)),
        cut,
    ), layout
