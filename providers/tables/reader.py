"""Candles from a table: CSV (plain or gzipped) or Parquet, taken whole or refused with file, line and reason.

A text is read in blocks of whole lines and cell by cell as text, so that a bad cell is known by its line and a file of
any size needs little more memory than its columns. Polars is imported when the first table is read: a server that
reads none never pays for it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from candlegraph.candle import Bools, Candles, Floats
from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Int64s, Zone
from providers.tables.columns import NUMBERS, Layout, floats, layout_of, times
from providers.tables.delimited import read_delimited
from providers.tables.timestamps import NEVER, SKIPPED, TIMES, UNREADABLE, Kinds, on_clock, stamps_of, timeframe_of

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".csv", ".csv.gz", ".parquet")

_SHOWN = 10  # problems in a message
_ENOUGH = 10_000  # problems after which no more of the file is read


@dataclass(frozen=True, slots=True)
class Table:
    """Candles as a file holds them, ascending and unique; without a volume column their volume is 0."""

    candles: Candles
    timeframe: Timeframe
    has_volume: bool = True


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The readable rows of a file in its order, each known by its ``line``; why the others are none is in ``problems``.

    ``stamp`` is (n,) int64 and means what ``kind`` says, ``numbers`` is (5, n).
    """

    line: Int64s
    stamp: Int64s
    kind: Kinds
    numbers: Floats
    problems: dict[int, str]

    def without(self, reasons: Mapping[int, str]) -> _Sheet:
        """The other rows; those at a place that has a reason have become problems."""
        if not reasons:
            return self
        kept = np.ones(len(self.line), np.bool_)
        kept[list(reasons)] = False
        problems = {int(self.line[at]): reason for at, reason in reasons.items()}
        return replace(self.rows(kept), problems=self.problems | problems)

    def rows(self, kept: Bools | Int64s | slice) -> _Sheet:
        """Some of the rows."""
        return _Sheet(self.line[kept], self.stamp[kept], self.kind[kept], self.numbers[:, kept], self.problems)


def read_table(path: Path, timeframe: Timeframe | None = None, zone: Zone = UTC, *, drop_last: bool = False) -> Table:
    """Read the candles of ``path``; InvalidCandles names what is wrong, and nothing is ever half-read.

    Times without an offset, and dates, are local to ``zone``; so are the days of ``timeframe``, which is told from the
    steps between the rows where it is not given. ``drop_last`` leaves the newest row out: in an exchange's dump it is
    still forming.
    """
    with _named(path):
        sheet, has_volume = _read_parquet(path) if _is_parquet(path) else _read_csv(path)
    stamp, kind, reasons = on_clock(sheet.stamp, sheet.kind, zone)
    sheet = _sorted(replace(sheet, stamp=stamp, kind=kind).without(reasons))
    told = timeframe or _told_timeframe(sheet, path, zone)
    if told.width_ms:
        sheet = sheet.without(_each(sheet.kind == SKIPPED, NEVER.format(zone.name)))
    if drop_last:
        sheet = sheet.rows(sheet.stamp < sheet.stamp.max(initial=0))
    candles = Candles.of(sheet.stamp, *sheet.numbers)
    wrong = {int(sheet.line[at]): reason for at, reason in candles.problems(told, TIMES, zone).items()}
    if problems := {**_repeats(sheet), **wrong, **sheet.problems}:
        raise _refusal(path, problems, _hints(problems, told, zone, given=timeframe is not None))
    if not len(candles):
        raise InvalidCandles(f"{path.name}: it has no rows{' but the newest, which was to be dropped' * drop_last}")
    return Table(candles.sorted(), told, has_volume)


def _each(bad: Bools, reason: str) -> dict[int, str]:
    return dict.fromkeys(np.flatnonzero(bad).tolist(), reason)


def _sorted(sheet: _Sheet) -> _Sheet:
    in_order = bool((np.diff(sheet.stamp) >= 0).all())
    return sheet if in_order else sheet.rows(np.argsort(sheet.stamp, kind="stable"))


def _repeats(sheet: _Sheet) -> dict[int, str]:
    """The rows of a sorted sheet that tell another candle than the row before them at the same instant."""
    same = np.flatnonzero(sheet.stamp[1:] == sheet.stamp[:-1]) + 1
    differing = same[(sheet.numbers[:, same] != sheet.numbers[:, same - 1]).any(axis=0)]
    return {
        later: f"the same timestamp as {earlier}, with other values"
        for later, earlier in zip(sheet.line[differing].tolist(), sheet.line[differing - 1].tolist(), strict=True)
    }


def _refusal(path: Path, problems: Mapping[int, str], hints: Iterable[str] = ()) -> InvalidCandles:
    place = f"{path.name}: row " if _is_parquet(path) else f"{path.name}:"
    shown = [f"{place}{line}: {problems[line]}" for line in sorted(problems)[:_SHOWN]]
    more = len(problems) - len(shown)
    if more > 0:
        shown.append(f"and {'at least ' if len(problems) >= _ENOUGH else ''}{more:,} more")
    return InvalidCandles("\n".join([*shown, *hints]))


def _hints(problems: Mapping[int, str], timeframe: Timeframe, zone: Zone, *, given: bool) -> Iterator[str]:
    if not any(reason.startswith("the timestamp is not the opening") for reason in problems.values()):
        return
    if not given:
        yield f"The timeframe {timeframe} was told from the steps between the rows: name it if it is another."
    if not timeframe.width_ms:
        yield f"The days are taken for those of {zone.name}: name the time zone if it is another."


def _told_timeframe(sheet: _Sheet, path: Path, zone: Zone) -> Timeframe:
    """What the steps between the rows tell; what is wrong with single rows comes first, where anything is."""
    try:
        return timeframe_of(sheet.stamp, zone)
    except InvalidCandles as error:
        if sheet.problems:
            raise _refusal(path, sheet.problems) from None
        raise InvalidCandles(f"{path.name}: {error.message}") from None


def _sheet_of(frame: pl.DataFrame, layout: Layout, line: Int64s, problems: dict[int, str]) -> _Sheet:
    """Rows of a frame whose columns are named by their positions."""
    stamp, kind = stamps_of(times(frame, layout))
    numbers = np.zeros((5, len(line)))
    reasons: dict[int, str] = {}
    for row, (name, at) in enumerate(zip(NUMBERS, layout.numbers, strict=True)):
        if at is not None:
            numbers[row], bad = floats(frame.get_column(str(at)), name)
            reasons = bad | reasons
    unread = _each(kind == UNREADABLE, "the timestamp is not understood")
    return _Sheet(line, stamp, kind, numbers, problems).without(unread | reasons)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever keeps a file from being read becomes InvalidCandles with its name."""
    if path.exists() and not path.is_file():
        # Opening a pipe would wait for a writer.
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


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in {".parquet", ".pq"}


def _read_parquet(path: Path) -> tuple[_Sheet, bool]:
    import polars as pl  # noqa: PLC0415 - lazily, see above

    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise InvalidCandles("it is no Parquet file" if path.stat().st_size else "it is empty")
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        names = lazy.collect_schema().names()
        above = lazy.head(1).collect()
        layout = layout_of(names, [str(cell) for cell in above.row(0)] if above.height else [""] * len(names))
        columns = [names[at] for at in layout.columns]
        frame = lazy.select(columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InvalidCandles(f"it is no Parquet file that can be read: {str(error).splitlines()[0][:200]}") from None
    frame = frame.rename({name: str(names.index(name)) for name in columns})
    return _sheet_of(frame, layout, np.arange(1, frame.height + 1), {}), layout.has_volume


def _read_csv(path: Path) -> tuple[_Sheet, bool]:
    sheets: list[_Sheet] = []
    problems: dict[int, str] = {}
    with path.open("rb") as file:
        layout, blocks = read_delimited(file)
        for rows in blocks:
            sheets.append(_sheet_of(rows.cells, layout, rows.line, rows.problems))
            problems |= sheets[-1].problems
            if len(problems) >= _ENOUGH:
                break
    joined = _Sheet(
        np.concatenate([sheet.line for sheet in sheets]),
        np.concatenate([sheet.stamp for sheet in sheets]),
        np.concatenate([sheet.kind for sheet in sheets]),
        np.concatenate([sheet.numbers for sheet in sheets], axis=1),
        problems,
    )
    return joined, layout.has_volume
