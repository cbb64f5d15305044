"""Candles from a table: CSV (plain or gzipped) or Parquet, taken whole or refused with file, line and reason.

A text is read in blocks of whole lines and cell by cell as text, so that a bad cell is known by its line and a file of
any size needs little more memory than its columns. Polars is imported when the first table is read: a server that
reads none never pays for it.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC as UTC_TZ
from datetime import datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Bools, Candles, Floats
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.errors import BadUserInput, InvalidCandles
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Int64s, Zone

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".csv", ".csv.gz", ".parquet")

_BLOCK_BYTES = 16 << 20
_SHOWN = 10  # problems in a message
_ENOUGH = 10_000  # problems after which no more of the file is read
_TIMES = Span(0, 10_000_000_000_000)  # what a Timestamp can say

_NUMBERS = ("open", "high", "low", "close", "volume")
_TIME_NAMES = (
    *("timestamp_ms", "open_time", "opentime", "open_timestamp", "timestamp", "unix_timestamp", "unix_time"),
    *("unixtime", "unix", "epoch", "ts", "datetime", "date_time", "time", "date", "t", "index", "index_level_0"),
)
# Plain "close" only: whether "adj close" or "last" was meant is nothing to guess.
_NAMES = {
    "open": ("open", "o", "open_price", "price_open"),
    "high": ("high", "h", "high_price", "price_high"),
    "low": ("low", "l", "low_price", "price_low"),
    "close": ("close", "c", "close_price", "price_close"),
    "volume": ("volume", "vol", "v", "base_volume", "volume_base", "volumefrom", "tickvol", "tick_volume"),
}
_MONEY = {"usd", "usdt", "usdc", "busd", "eur", "gbp", "jpy", "krw", "currency", "quote", "quote_currency"}
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?|\d{4}|\d{6}")

_NUMBER, _LOCAL, _INSTANT, _UNREADABLE = range(4)  # what a stamp is: a number of some unit, or microseconds
_WORDS, _SECONDS, _MILLIS, _MICROS, _NANOS, _DATE, _NO_DATE = range(7)
_NEVER = "this local time does not exist in {}"
_SPELLINGS = (
    *("in words", "in seconds", "in milliseconds", "in microseconds", "in nanoseconds"),
    *("a date like 20240131", "no date of any calendar"),
)
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d")
# The formats without a fraction and with a literal zone are four times as fast as %.f and %#z.
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S%.f", " %H%M%S", " %H%M")
_ZONES = ("", "Z", "+00:00", " UTC", "%#z")


@dataclass(frozen=True, slots=True)
class Table:
    """Candles as a file holds them, ascending and unique; without a volume column their volume is 0."""

    candles: Candles
    timeframe: Timeframe
    has_volume: bool = True


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which columns hold what: one column of times, or a date and a clock; no volume is None."""

    time: tuple[int, ...]
    numbers: tuple[int | None, ...]

    @property
    def columns(self) -> list[int]:
        return sorted({*self.time, *(i for i in self.numbers if i is not None)})


@dataclass(frozen=True, slots=True)
class _Text:
    """How a CSV is written: its first data line, its separator, how many columns it has, and their layout."""

    first_line: int
    separator: str
    width: int
    layout: _Layout


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The readable rows of a file in its order, each known by its ``line``; why the others are none is in ``problems``.

    ``stamp`` is (n,) int64 and means what ``kind`` says, ``numbers`` is (5, n).
    """

    line: Int64s
    stamp: Int64s
    kind: NDArray[np.int8]
    numbers: Floats
    problems: dict[int, str]

    def without(self, bad: Bools, reason: str | Sequence[str]) -> _Sheet:
        """The other rows; those that are ``bad`` have become problems, for one reason or for one each."""
        if not bad.any():
            return self
        lines = self.line[bad].tolist()
        reasons = dict.fromkeys(lines, reason) if isinstance(reason, str) else dict(zip(lines, reason, strict=True))
        return replace(self.rows(~bad), problems=self.problems | reasons)

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
    sheet, skipped = _on_clock(sheet, zone)
    sheet = _sorted(sheet)
    told = timeframe or _told_timeframe(sheet, path, zone)
    if told.width_ms and len(skipped):
        sheet = sheet.without(np.isin(sheet.line, skipped), _NEVER.format(zone.name))
    if drop_last:
        sheet = sheet.rows(sheet.stamp < sheet.stamp.max(initial=0))
    candles = Candles.of(sheet.stamp, *sheet.numbers)
    wrong = {int(sheet.line[at]): reason for at, reason in candles.problems(told, _TIMES, zone).items()}
    if problems := {**_repeats(sheet), **wrong, **sheet.problems}:
        raise _refusal(path, problems, _hints(problems, told, zone, given=timeframe is not None))
    if not len(candles):
        raise InvalidCandles(f"{path.name}: it has no rows{' but the newest, which was to be dropped' * drop_last}")
    return Table(candles.sorted(), told, has_volume)


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
        return _timeframe_of(sheet.stamp, zone)
    except InvalidCandles as error:
        if sheet.problems:
            raise _refusal(path, sheet.problems) from None
        raise InvalidCandles(f"{path.name}: {error.message}") from None


def _timeframe_of(stamps: Int64s, zone: Zone) -> Timeframe:
    """The timeframe of the usual step; at least half of the (ascending) stamps must open its buckets."""
    steps = np.diff(stamps)
    steps = steps[steps > 0]
    if not len(steps):
        only = "one row does not show its timeframe: name it (1m, 1h, 1d ...)"
        raise InvalidCandles(only if len(stamps) else "it has no rows")
    whole = steps[steps % MINUTE_MS == 0]
    # A stamp that lies wrong breaks two steps: it is refused by its line, and not by the timeframe it seems to show.
    steps = _usual(whole if len(whole) * 3 >= len(steps) else steps)
    if steps[0] % MINUTE_MS:
        raise InvalidCandles(f"its rows are {steps[0] / 1000:g} seconds apart, and the shortest timeframe is 1m")
    try:
        found = list(_timeframes(steps, stamps, zone))
    except BadUserInput as error:
        raise InvalidCandles(f"the steps between its rows show no timeframe: {error.message}") from None
    fits = [float(np.mean(timeframe.floor_all(stamps, zone) == stamps)) for timeframe in found]
    told = found[fits.index(1) if 1 in fits else 0]
    if max(fits) < 0.5:
        remedy = "name its timeframe" if told.width_ms else f"name its time zone ({zone.name}?) or its timeframe"
        raise InvalidCandles(f"its rows are mostly {told} apart, but do not open {told} buckets: {remedy}")
    return told


def _timeframes(steps: Int64s, stamps: Int64s, zone: Zone) -> Iterator[Timeframe]:
    for step in steps.tolist():
        # A day lasts 23 to 25 hours where the clock is changed (22 to 26 in Troll).
        if step < 22 * HOUR_MS:
            yield Timeframe(step // MINUTE_MS, "m")
        else:
            yield from _timeframes_of_days(zone.day_of(stamps))


def _timeframes_of_days(days: Int64s) -> Iterator[Timeframe]:
    steps = _usual(np.diff(days))
    month = days.astype("datetime64[D]").astype("datetime64[M]")
    firsts = month.astype("datetime64[D]").astype(np.int64) == days
    in_months = steps[0] >= 28 and np.count_nonzero(firsts) * 2 >= len(days)
    index: Int64s = month.astype(np.int64)
    for step in (_usual(np.diff(index)) if in_months else steps).tolist():
        yield Timeframe(step, "mon" if in_months else "d")


def _usual(steps: Int64s) -> Int64s:
    """The step met most often, and the smallest one where it is no accident: in a file with holes they differ."""
    sizes, counts = np.unique(steps[steps > 0], return_counts=True)
    # One stamp that lies wrong can halve a step, which makes two of the half.
    often = sizes[(counts > 2) & (counts * 20 >= len(steps))][:1]
    return np.append(sizes[[np.argmax(counts)]] if len(sizes) else sizes, often)


def _on_clock(sheet: _Sheet, zone: Zone) -> tuple[_Sheet, Int64s]:
    """The sheet with stamps in milliseconds UTC, and the lines of the midnights among them that the clock skipped."""
    sheet = sheet.without(sheet.kind == _UNREADABLE, "the timestamp is not understood")
    sheet = _in_micros(sheet)
    sheet = sheet.without(sheet.stamp % 1000 != 0, "the timestamp is not a whole number of milliseconds")
    stamps, skipped = sheet.stamp // 1000, np.zeros(len(sheet.stamp), np.bool_)
    local = sheet.kind == _LOCAL
    midnight = local & (stamps % DAY_MS == 0)
    if not zone.is_utc and local.any():
        stamps[local], skipped[local] = _instants(stamps[local], zone)
    lines = sheet.line[skipped & midnight]
    outside = (stamps < _TIMES.since) | (stamps >= _TIMES.until)
    sheet = replace(sheet, stamp=stamps).without(skipped & ~midnight, _NEVER.format(zone.name))
    return sheet.without(outside[~skipped | midnight], "the timestamp is before 1970 or after 2286"), lines


def _instants(local: Int64s, zone: Zone) -> tuple[Int64s, Bools]:
    """The first instant (ms, UTC) at which a clock shows each ``local`` time, and whether it skips it instead.

    What is skipped becomes the instant of the jump: that is when a day opens whose midnight does not exist.
    """
    ends = np.append(zone.changes[1:], np.iinfo(np.int64).max // 2) + zone.offsets
    era = np.searchsorted(np.maximum.accumulate(ends), local, side="right")
    instants, jumps = local - zone.offsets[era], zone.changes[era]
    return np.maximum(instants, jumps), instants < jumps


def _in_micros(sheet: _Sheet) -> _Sheet:
    """Bring the numbers among the stamps to microseconds; a file has one unit, so rows in another are problems."""
    number = sheet.kind == _NUMBER
    if not number.any():
        return sheet
    days, is_date = _days_of_date_numbers(sheet.stamp)
    spelling = _spelling(sheet.stamp, number, is_date)
    usual = int(np.bincount(spelling).argmax())
    wrong = spelling != usual
    reasons = [
        f"the timestamp is {_SPELLINGS[its]}, that of most rows is {_SPELLINGS[usual]}"
        for its in spelling[wrong].tolist()
    ]
    if usual == _DATE:
        sheet = replace(sheet, stamp=days * (DAY_MS * 1000), kind=np.full(len(days), _LOCAL, np.int8))
    elif usual == _NANOS:
        # Rounded up, so that what is no whole number of microseconds is no whole one of milliseconds either.
        sheet = replace(sheet, stamp=-(-sheet.stamp // 1000))
    else:
        sheet = replace(sheet, stamp=sheet.stamp * {_SECONDS: 1_000_000, _MILLIS: 1_000}.get(usual, 1))
    return sheet.without(wrong, reasons)


def _spelling(stamps: Int64s, number: Bools, is_date: Bools) -> NDArray[np.int64]:
    """What each stamp is written in, numbers by their size: 1e11 seconds are in the year 5138."""
    sizes = np.abs(np.maximum(stamps, -np.iinfo(np.int64).max))
    spelling = np.searchsorted([10**11, 10**14, 10**17], sizes, side="right") + _SECONDS
    if np.count_nonzero(number & is_date) * 2 > np.count_nonzero(number):
        eight = (sizes >= 10**7) & (sizes < 10**8)
        spelling = np.where(eight, np.where(is_date, _DATE, _NO_DATE), spelling)
    return np.where(number, spelling, _WORDS)


def _days_of_date_numbers(numbers: Int64s) -> tuple[Int64s, Bools]:
    """What YYYYMMDD says as days since 1970, and whether it is a date at all."""
    if not ((numbers > 10**7) & (numbers < 10**8)).any():
        return numbers, np.zeros(len(numbers), np.bool_)
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    plausible = (year >= 1900) & (year < 2300) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(plausible, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1) * plausible
    return days.astype(np.int64), plausible & (days.astype("datetime64[M]") == months)


def _stamps(column: pl.Series) -> tuple[Int64s, NDArray[np.int8]]:
    """A column of times as (n,) int64, and what each of them is; InvalidCandles where its type is none of a time."""
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    if column.dtype == pl.String:
        return _stamps_of_text(column)
    kind = _NUMBER
    if isinstance(column.dtype, pl.Datetime):
        kind = _INSTANT if column.dtype.time_zone else _LOCAL
        column = column.dt.timestamp("us")
    elif column.dtype == pl.Date:
        kind = _LOCAL
        column = column.cast(pl.Int64) * (DAY_MS * 1000)
    elif not column.dtype.is_numeric():
        raise InvalidCandles(f"its times are of type {column.dtype}")
    stamps, seen = _whole(column)
    return stamps, np.where(seen, kind, _UNREADABLE).astype(np.int8)


def _whole(column: pl.Series) -> tuple[Int64s, Bools]:
    """Numbers, or their spelling (``1.64e9`` too), as int64, and which of them are whole numbers at all."""
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    whole, seen = np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
    if column.dtype == pl.String or column.dtype.is_integer():
        whole, seen = _filled(column.cast(pl.Int64, strict=False))
    if not seen.all() and not column.dtype.is_integer():
        number = column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        rounded = ~seen & (np.abs(number) < 2.0**63) & (np.floor(number) == number)
        whole[rounded], seen = number[rounded].astype(np.int64), seen | rounded
    return whole, seen


def _filled(column: pl.Series) -> tuple[Int64s, Bools]:
    return np.array(column.fill_null(0).to_numpy(), np.int64), np.array(column.is_not_null().to_numpy(), np.bool_)


def _stamps_of_text(text: pl.Series) -> tuple[Int64s, NDArray[np.int8]]:
    stamps, seen = _whole(text)
    kinds = np.where(seen, _NUMBER, _UNREADABLE).astype(np.int8)
    if text.str.contains(r"^\S{8,10}T").any():
        text = text.str.replace("T", " ", literal=True)
    while len(waiting := np.flatnonzero(kinds == _UNREADABLE)):
        rest = text.gather(waiting)
        fitting = [how for how in _formats() if _read_as(rest.head(100), *how).count()]
        if not fitting:
            # A hundred rows are no times: the file is refused, whatever the others are.
            break
        for how in fitting:
            micros, found = _filled(_read_as(rest, *how))
            stamps[waiting[found]] = micros[found]
            kinds[waiting[found]] = _INSTANT if how[2] else _LOCAL
            if found.all():
                break
    return stamps, kinds


@cache
def _formats() -> list[tuple[str, int, str]]:
    """Every spelling of a time that is read: its format, how long it must be where that matters, its zone."""
    found = []
    for date, clock, zone in product(_DATES, _CLOCKS, _ZONES):
        compact = date == "%Y%m%d" or clock in {" %H%M%S", " %H%M"}
        if (compact and (not clock or zone == "%#z")) or (zone and not clock):
            continue
        # Without separators a lost digit would give another time.
        length = len(datetime(2024, 11, 11, tzinfo=UTC_TZ).strftime((date + clock).replace("%.f", "")) + zone)
        found.append((date + clock, length if compact and "%.f" not in clock else 0, zone))
    return found


def _read_as(text: pl.Series, spelling: str, length: int, zone: str) -> pl.Series:
    """Microseconds, null where the text is not spelt so."""
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    if length:
        text = text.zip_with(text.str.len_bytes() == length, pl.Series([None], dtype=pl.String))
    tz = "UTC" if zone == "%#z" else None
    found = text.str.to_datetime(spelling + zone, strict=False, time_unit="us", time_zone=tz)
    return found.cast(pl.Int64)


def _layout(names: Sequence[str], first: Sequence[str]) -> _Layout:
    """Which of the named columns hold what; ``first`` are the cells of the first row."""
    plain = [_plain(name, position) for position, name in enumerate(names)]
    time = _position(plain, _TIME_NAMES)
    numbers = [_position(plain, _NAMES[name]) for name in _NUMBERS]
    if numbers[4] is None:
        numbers[4] = _position_of_volume(plain)
    missing = [name for name, at in zip(("time", *_NUMBERS[:4]), (time, *numbers), strict=False) if at is None]
    if missing or time is None:
        raise InvalidCandles(f"no column for {', '.join(missing)} among: {', '.join(map(repr, names))}"[:1000])
    apart = plain[time] == "time" and "date" in plain and _CLOCK.fullmatch(first[time].strip())
    return _Layout((plain.index("date"), time) if apart else (time,), tuple(numbers))


def _plain(name: str, position: int) -> str:
    """``<OPEN>``, ``1. open`` and ``Open`` are all ``open``; a first column without a name is a table's index."""
    plain = re.sub(r"^\d+_", "", re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"))
    return plain or ("index" if position == 0 else "")


def _position(plain: Sequence[str], aliases: Sequence[str]) -> int | None:
    for alias in aliases:
        if plain.count(alias) > 1:
            raise InvalidCandles(f"{plain.count(alias)} columns are called {alias}")
        if alias in plain:
            return plain.index(alias)
    return None


def _position_of_volume(plain: Sequence[str]) -> int | None:
    """``volume_btc`` where the volume is given in several currencies: the one that is not money, else the first."""
    found = [at for at, name in enumerate(plain) if name.startswith(("volume_", "vol_"))]
    return min(found, key=lambda at: plain[at].split("_", 1)[1] in _MONEY, default=None)


def _sheet_of(frame: pl.DataFrame, layout: _Layout, line: Int64s) -> _Sheet:
    """Rows of a frame whose columns are named by their positions."""
    problems: dict[int, str] = {}
    stamp, kind = _stamps(_time_column(frame, layout))
    numbers = np.zeros((5, len(line)))
    for row, (name, at) in enumerate(zip(_NUMBERS, layout.numbers, strict=True)):
        if at is not None:
            numbers[row] = _floats(frame.get_column(str(at)), name, line, problems)
    sheet = _Sheet(line, stamp, kind, numbers, problems)
    return sheet.rows(~np.isin(line, list(problems))) if problems else sheet


def _time_column(frame: pl.DataFrame, layout: _Layout) -> pl.Series:
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    columns = [frame.get_column(str(at)) for at in layout.time]
    if len(columns) == 1:
        return columns[0].str.strip_chars() if columns[0].dtype == pl.String else columns[0]
    date, clock = (column.cast(pl.String, strict=False).str.strip_chars() for column in columns)
    return date + " " + clock


def _floats(column: pl.Series, name: str, line: Int64s, problems: dict[int, str]) -> Floats:
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    if column.dtype != pl.String and not column.dtype.is_numeric():
        raise InvalidCandles(f"the column {name!r} is of type {column.dtype}, which is no number")
    found = column.cast(pl.Float64, strict=False)
    if column.dtype == pl.String and found.has_nulls():
        found = column.str.strip_chars().cast(pl.Float64, strict=False)
    if found.has_nulls():
        bad = found.is_null()
        for at, cell in zip(line[bad.to_numpy()].tolist(), column.filter(bad).to_list(), strict=True):
            given = str(cell).strip()[:40] if cell is not None else ""
            problems.setdefault(at, f"{name} is not a number: {given!r}" if given else f"{name} is missing")
    return cast(Floats, found.fill_null(0).to_numpy())


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
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise InvalidCandles("it is no Parquet file" if path.stat().st_size else "it is empty")
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        names = lazy.collect_schema().names()
        above = lazy.head(1).collect()
        layout = _layout(names, [str(cell) for cell in above.row(0)] if above.height else [""] * len(names))
        columns = [names[at] for at in layout.columns]
        frame = lazy.select(columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InvalidCandles(f"it is no Parquet file that can be read: {str(error).splitlines()[0][:200]}") from None
    frame = frame.rename({name: str(names.index(name)) for name in columns})
    return _sheet_of(frame, layout, np.arange(1, frame.height + 1)), layout.numbers[4] is not None


def _read_csv(path: Path) -> tuple[_Sheet, bool]:
    sheets: list[_Sheet] = []
    text: _Text | None = None
    line, problems = 1, 0
    with path.open("rb") as file:
        for block in _blocks(file):
            ahead = _utf8(block, line)
            if text is None:
                text = _written(ahead)
                ahead = b"\n".join(ahead.split(b"\n", text.first_line - 1)[text.first_line - 1 :])
                line = text.first_line
            sheets.append(_sheet_of_block(ahead, line, text))
            line += ahead.count(b"\n")
            problems += len(sheets[-1].problems)
            if problems >= _ENOUGH:
                break
    if text is None:
        raise InvalidCandles("it is empty")
    return _joined(sheets), text.layout.numbers[4] is not None


def _joined(sheets: Sequence[_Sheet]) -> _Sheet:
    if len(sheets) == 1:
        return sheets[0]
    problems: dict[int, str] = {}
    for sheet in sheets:
        problems |= sheet.problems
    return _Sheet(
        np.concatenate([sheet.line for sheet in sheets]),
        np.concatenate([sheet.stamp for sheet in sheets]),
        np.concatenate([sheet.kind for sheet in sheets]),
        np.concatenate([sheet.numbers for sheet in sheets], axis=1),
        problems,
    )


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The text of a plain or gzipped file in blocks of whole lines, the first of them without its byte order mark."""
    magic = file.read(4)
    file.seek(0)
    for start, what in ((b"PK", "a zip archive"), (b"\x28\xb5\x2f\xfd", "a zstd file"), (b"PAR1", "a Parquet file")):
        if magic.startswith(start):
            raise InvalidCandles(f"it is {what}, not a CSV: unpack or rename it first")
    source = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if magic.startswith(b"\x1f\x8b") else file
    rest = source.read(3).removeprefix(b"\xef\xbb\xbf")
    while chunk := source.read(_BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield rest + chunk[:cut]
        rest = chunk[cut:] if cut else rest + chunk
        if len(rest) > _BLOCK_BYTES:
            raise InvalidCandles("it is no table: one of its lines is longer than any row")
    if rest:
        yield rest


def _utf8(block: bytes, line: int) -> bytes:
    if block.isascii():
        return block
    try:
        block.decode()
    except UnicodeDecodeError as error:
        line += block.count(b"\n", 0, error.start)
        raise InvalidCandles(f"line {line} is not UTF-8 text") from None
    return block


def _written(block: bytes) -> _Text:
    """See from its first lines how a CSV is written."""
    lines = [line.rstrip("\r") for line in block[:65_536].decode(errors="replace").split("\n")]
    # A link or a remark may come before the header: CryptoDataDownload's files begin with one.
    for at, line in enumerate(lines[:10]):
        separator = max(",;\t", key=line.count)
        cells = _cells(line, separator)
        if len(cells) < 5:
            continue
        if layout := _layout_without_names(cells):
            return _Text(at + 1, separator, len(cells), layout)
        below = next((later for later in lines[at + 1 :] if later.strip()), "")
        first = _cells(below, separator)
        layout = _layout(cells, first + [""] * (len(cells) - len(first)))
        return _Text(at + 2, separator, len(cells), layout)
    shown = next((line.strip() for line in lines if line.strip()), "")
    raise InvalidCandles(f"it is no table of candles: it begins with {shown[:80]!r}" if shown else "it is empty")


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _layout_without_names(cells: Sequence[str]) -> _Layout | None:
    """A first row of numbers instead of names: time, open, high, low, close, volume, whatever (Binance's dumps)."""
    if not cells[0].strip()[:1].isdigit():
        return None
    if len(cells) >= 7 and ":" in cells[1] and _CLOCK.fullmatch(cells[1].strip()) and all(map(_is_number, cells[2:7])):
        return _Layout((0, 1), (2, 3, 4, 5, 6))
    return _Layout((0,), (1, 2, 3, 4, 5)) if len(cells) >= 6 and all(map(_is_number, cells[1:6])) else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _sheet_of_block(block: bytes, line: int, text: _Text) -> _Sheet:
    frame = _frame(block, line, text)
    lines = np.arange(line, line + frame.height)
    first, last, over = (frame.get_column(str(at)) for at in (text.layout.time[0], text.width - 1, text.width))
    # An empty line, a row cut short and a row that is too long all show in one of these cells.
    odd = np.flatnonzero((first.is_null() | last.is_null() | over.is_not_null()).to_numpy())
    if not len(odd):
        return _sheet_of(frame, text.layout, lines)
    problems = {line + at: reason for at, reason in _odd_rows(block, odd, text, frame).items()}
    kept = np.ones(frame.height, np.bool_)
    kept[[at - line for at in problems]] = False
    sheet = _sheet_of(frame.filter(kept), text.layout, lines[kept])
    return replace(sheet, problems=sheet.problems | {at: reason for at, reason in problems.items() if reason})


def _odd_rows(block: bytes, odd: Int64s, text: _Text, frame: pl.DataFrame) -> dict[int, str]:
    """Why some of the ``odd`` rows are none; an empty reason for an empty line."""
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    raw = pl.Series(block.decode().split("\n"), dtype=pl.String).gather(odd)
    empty = (raw.str.strip_chars(text.separator + ' \t\r"') == "").to_numpy()
    short = (raw.str.count_matches(text.separator, literal=True) < text.width - 1).to_numpy()
    long = frame.get_column(str(text.width)).gather(odd).is_not_null().to_numpy()
    found = dict.fromkeys(odd[short].tolist(), f"it has fewer than {text.width} fields")
    found |= dict.fromkeys(odd[long].tolist(), f"it has more than {text.width} fields")
    return found | dict.fromkeys(odd[empty].tolist(), "")


def _frame(block: bytes, line: int, text: _Text) -> pl.DataFrame:
    """The cells of a block as text: the columns of the layout, the last one, and one for what is too much."""
    import polars as pl  # noqa: PLC0415 - lazily, see the module's docstring

    header = text.separator.join(map(str, range(text.width + 1))).encode() + b"\n"
    columns = [str(at) for at in sorted({*text.layout.columns, text.width - 1, text.width})]
    rows = block.count(b"\n") + (block[-1:] not in {b"", b"\n"})
    try:
        frame = pl.read_csv(
            header + block, columns=columns, separator=text.separator, infer_schema=False, truncate_ragged_lines=True
        )
    except pl.exceptions.PolarsError:
        frame = pl.DataFrame()
    if frame.height != rows:
        quoted = [row.count(b'"') for row in block.split(b"\n")]
        at = next((at for at, marks in enumerate(quoted) if marks % 2), None)
        at = next((at for at, marks in enumerate(quoted) if marks), 0) if at is None else at
        raise InvalidCandles(f"line {line + at}: its quotation marks are not in pairs around whole cells")
    return frame
