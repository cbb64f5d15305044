"""The timestamps of a table, and the instants that they mean.

Each stamp of a column is read as an int64 and a kind: a number whose unit only the whole file shows, or the microseconds of
a local time or of an instant. `on_clock` converts them to instants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Bools
from candlegraph.clock import DAY_MS, MINUTE_MS, NEWEST_MS, OLDEST_MS
from candlegraph.errors import InvalidCandles
from candlegraph.span import Span
from candlegraph.zone import Int64s, Zone
from providers.tables.spellings import TimeReader

if TYPE_CHECKING:
    import polars as pl

Kinds = NDArray[np.int8]

TIMES = Span(OLDEST_MS, NEWEST_MS + 1)  # the range of a Timestamp
NEVER = "this local time does not exist in {}"
TWICE = "this local time happens twice in {}, and the order of the rows does not tell which one is meant"

_NUMBER, LOCAL, INSTANT, UNREADABLE, SKIPPED = range(5)
_SHORTEST_MS = 10**11  # a smaller number is in seconds
_NO_CLOCK_MS = 23 * 10**10  # nor is a larger one a time like 202401310930
_WORDS, _SECONDS, _MILLIS, _MICROS, _NANOS, _DATE, _NO_DATE, _CLOCK = range(8)
_SPELLINGS = (
    *("in words", "in seconds", "in milliseconds", "in microseconds", "in nanoseconds"),
    *("a date like 20240131", "no date of any calendar", "a time like 20240131093000"),
)


def timestamps_of(column: pl.Series, reader: TimeReader) -> tuple[Int64s, Kinds]:
    """A column of times as (n,) int64, and the kind of each; InvalidCandles if its type cannot be a time."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    if column.dtype == pl.String:
        return _stamps_of_text(column, reader)
    kind = _NUMBER
    if isinstance(column.dtype, pl.Datetime):
        kind = INSTANT if column.dtype.time_zone else LOCAL
        column = column.dt.timestamp("us")
    elif column.dtype == pl.Date:
        kind = LOCAL
        column = column.cast(pl.Int64) * (DAY_MS * 1000)
    elif not column.dtype.is_numeric():
        raise InvalidCandles(f"its times are of type {column.dtype}")
    stamps, seen = _whole(column)
    return stamps, np.where(seen, np.int8(kind), np.int8(UNREADABLE))


def _whole(column: pl.Series) -> tuple[Int64s, Bools]:
    """Numbers, or text such as ``1.64e9``, as int64, and a mask of those that are whole numbers."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    if column.dtype == pl.Int64 and not column.has_nulls():
        return column.to_numpy(), np.ones(len(column), np.bool_)
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


def _stamps_of_text(text: pl.Series, reader: TimeReader) -> tuple[Int64s, Kinds]:
    if (again := reader.read_again(text)) is not None:
        return again[0], np.full(len(text), INSTANT if again[1] else LOCAL, np.int8)
    text = text.str.strip_chars()
    stamps, seen = (
        _whole(text) if reader.reads_numbers else (np.zeros(len(text), np.int64), np.zeros(len(text), np.bool_))
    )
    kinds = np.where(seen, np.int8(_NUMBER), np.int8(UNREADABLE))
    if len(waiting := np.flatnonzero(~seen)):
        micros, read, instant = reader.read(text.gather(waiting) if len(waiting) < len(text) else text)
        stamps[waiting[read]] = micros[read]
        kinds[waiting[read]] = np.where(instant[read], np.int8(INSTANT), np.int8(LOCAL))
    return stamps, kinds


@dataclass(frozen=True, slots=True)
class Instants:
    """The stamps of a table as instants: (n,) int64 ms UTC, their kinds, and by position why a stamp is invalid.

    ``zone`` is the zone of local times; ``meaning`` describes in words how the times were read. ``are_days``: they are dates.
    """

    ms: Int64s
    kind: Kinds
    reasons: dict[int, str]
    zone: Zone
    meaning: str
    are_days: bool = False


def on_clock(stamp: Int64s, kind: Kinds, clock: Zone, dates: Zone | None) -> Instants:
    """Convert stamps, in the order of their file, to instants.

    Local times are those of ``clock``; if nearly all are midnights, they are days of ``dates``, if that is given. A midnight
    that the clock skipped becomes the instant of the jump, with the kind ``SKIPPED``. For a local time that happens twice,
    the order of the rows decides which one is meant.
    """
    if (kind == _NUMBER).all() and len(stamp) and int(stamp.min()) >= _NO_CLOCK_MS and int(stamp.max()) < TIMES.until:
        return Instants(stamp, kind, {}, clock, _unit(_MILLIS))  # the usual case, in one pass
    stamp, kind, reasons, unit = _in_micros(stamp, kind)
    ms, never, unclear = stamp // 1000, np.zeros(len(stamp), np.bool_), np.zeros(len(stamp), np.bool_)
    midnight, local = ms % DAY_MS == 0, kind == LOCAL
    are_days = dates is not None and bool(np.count_nonzero(midnight & local) > 0.8 * np.count_nonzero(local))
    zone = dates if dates is not None and are_days else clock
    if not zone.is_utc and local.any():
        ms[local], never[local] = zone.instants(ms[local])
        if not are_days:
            ms[local], unclear[local] = _in_order(ms[local], zone)
    for bad, reason in (
        (stamp % 1000 != 0, "the timestamp is not a whole number of milliseconds"),
        (never & ~midnight, NEVER.format(zone.name)),
        (unclear, TWICE.format(zone.name)),
        ((ms < TIMES.since) | (ms >= TIMES.until), "the timestamp is before 1900 or after 2286"),
    ):
        reasons = dict.fromkeys(np.flatnonzero(bad).tolist(), reason) | reasons
    if local.any():
        unit = f"dates, days of {zone.name}" if are_days else f"without an offset, read as {zone.name}"
    return Instants(ms, np.where(never, np.int8(SKIPPED), kind), reasons, zone, unit, are_days)


def _in_order(first: Int64s, zone: Zone) -> tuple[Int64s, Bools]:
    """Correct local times that happen twice by the order of the rows; all were read as the first of the two.

    ``first`` is (n,) ms UTC in the order of the file. If the clock of consecutive rows goes back once, the rows after that
    belong to the second hour; the flags mark rows for which it does not go back, or more than once.
    """
    era = np.searchsorted(zone.changes, first, side="right") - 1
    following = np.minimum(era + 1, len(zone.changes) - 1)
    back = zone.offsets[era] - zone.offsets[following]
    twice = np.flatnonzero((back > 0) & (first + back >= zone.changes[following]))
    found, unclear = first.copy(), np.zeros(len(first), np.bool_)
    falls = len(first) > 0 and first[0] > first[-1]
    for number in np.unique(era[twice]):
        rows = twice[era[twice] == number]
        rows = rows[::-1] if falls else rows
        turns = np.flatnonzero(np.diff(first[rows]) <= 0)
        if len(turns) == 1:
            found[rows[turns[0] + 1 :]] += back[rows[0]]
        else:
            unclear[rows] = True
    return found, unclear


def _in_micros(stamp: Int64s, kind: Kinds) -> tuple[Int64s, Kinds, dict[int, str], str]:
    """Convert the numbers among the stamps to microseconds; a file has one unit, so rows in another are problems.

    The last item describes the unit for the user.
    """
    number = kind == _NUMBER
    if not number.any():
        return stamp, kind, {}, "with an offset" if len(stamp) else "none"
    days, is_date = _days_of_date_numbers(stamp)
    micros, is_clock = _micros_of_clock_numbers(stamp)
    spelling = _spelling(stamp, number, is_date, is_clock)
    usual = int(np.bincount(spelling).argmax())
    # Around 1970 the numbers are small in every unit; accept those that are a whole minute in the usual unit.
    minute = MINUTE_MS * {_MILLIS: 1, _MICROS: 10**3, _NANOS: 10**6}.get(usual, 0)
    spelling[number & (spelling < usual) & (minute > 0) & (stamp % max(minute, 1) == 0)] = usual
    reasons = {
        at: f"the timestamp is {_SPELLINGS[spelling[at]]}, that of most rows is {_SPELLINGS[usual]}"
        for at in np.flatnonzero(spelling != usual).tolist()
    }
    if usual == _DATE:
        return days * (DAY_MS * 1000), np.full_like(kind, LOCAL), reasons, _SPELLINGS[usual]
    if usual == _CLOCK:
        return micros, np.full_like(kind, LOCAL), reasons, _SPELLINGS[usual]
    if usual == _NANOS:
        # Round up, so that a fraction of a microsecond does not become a whole number of milliseconds.
        return -(-stamp // 1000), kind, reasons, _unit(usual)
    factor = {_SECONDS: 1_000_000, _MILLIS: 1_000}.get(usual, 1)
    return stamp * factor, kind, reasons, _unit(usual) if usual else "with an offset"


def _unit(spelling: int) -> str:
    return f"{_SPELLINGS[spelling]} since 1970, UTC"


def _spelling(stamps: Int64s, number: Bools, is_date: Bools, is_clock: Bools) -> NDArray[np.int64]:
    """The format of each stamp; the unit of a number by its size: 1e11 seconds would be in the year 5138."""
    sizes = np.abs(np.maximum(stamps, -np.iinfo(np.int64).max))
    spelling = np.searchsorted([_SHORTEST_MS, 10**14, 10**17], sizes, side="right") + _SECONDS
    if np.count_nonzero(number & is_date) * 2 > np.count_nonzero(number):
        eight = (sizes >= 10**7) & (sizes < 10**8)
        spelling = np.where(eight, np.where(is_date, _DATE, _NO_DATE), spelling)
    if np.count_nonzero(number & is_clock) * 2 > np.count_nonzero(number):
        spelling = np.where(is_clock, _CLOCK, spelling)
    return np.where(number, spelling, _WORDS)


def _micros_of_clock_numbers(numbers: Int64s) -> tuple[Int64s, Bools]:
    """Numbers YYYYMMDDHHMMSS and YYYYMMDDHHMM as microseconds of a local time, and a mask of those that are one.

    As milliseconds, 14 digits of this kind would be later than the last Timestamp, and 12 digits would be in 1976 to 1980: they
    are only read so if all of them are times of a calendar.
    """
    fourteen, twelve = (
        (numbers >= 19 * 10**12) & (numbers < 23 * 10**12),
        (numbers >= 19 * 10**10) & (numbers < 23 * 10**10),
    )
    if not fourteen.any() and not twelve.all():
        return numbers, np.zeros(len(numbers), np.bool_)
    digits = np.where(fourteen, numbers, numbers * 100)
    days, is_date = _days_of_date_numbers(digits // 10**6)
    hour, minute, second = digits // 10_000 % 100, digits // 100 % 100, digits % 100
    fits = (fourteen | twelve) & is_date & (hour < 24) & (minute < 60) & (second < 60)
    if not fourteen.any() and not fits.all():
        fits = np.zeros(len(numbers), np.bool_)
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + second
    return np.where(fits, seconds, 0) * 1_000_000, fits


def _days_of_date_numbers(numbers: Int64s) -> tuple[Int64s, Bools]:
    """Numbers YYYYMMDD as days since 1970, and a mask of those that are dates."""
    if not ((numbers > 10**7) & (numbers < 10**8)).any():
        return numbers, np.zeros(len(numbers), np.bool_)
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    plausible = (year >= 1900) & (year < 2300) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(plausible, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1) * plausible
    return days.astype(np.int64), plausible & (days.astype("datetime64[M]") == months)
