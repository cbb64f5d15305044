"""The timestamps of a table: their formats, the instants that they mean, and the timeframe that their steps show.

Each stamp of a column is read as an int64 and a kind: a number whose unit only the whole file shows, or the microseconds of
a local time or of an instant. `on_clock` converts them to instants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC as UTC_TZ
from datetime import datetime
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Bools
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS, NEWEST_MS, OLDEST_MS
from candlegraph.errors import BadUserInput, InvalidCandles
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone

if TYPE_CHECKING:
    import polars as pl

Kinds = NDArray[np.int8]

TIMES = Span(OLDEST_MS, NEWEST_MS + 1)  # the range of a Timestamp
NEVER = "this local time does not exist in {}"
TWICE = "this local time happens twice in {}, and the order of the rows does not tell which one is meant"

_NUMBER, LOCAL, INSTANT, UNREADABLE, SKIPPED = range(5)
_WORDS, _SECONDS, _MILLIS, _MICROS, _NANOS, _DATE, _NO_DATE = range(7)
_SPELLINGS = (
    *("in words", "in seconds", "in milliseconds", "in microseconds", "in nanoseconds"),
    *("a date like 20240131", "no date of any calendar"),
)
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d")
# The formats without a fraction and with a literal zone are four times as fast as %.f and %#z.
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S%.f", " %H%M%S", " %H%M")
_ZONES = ("", "Z", "+00:00", " UTC", "%#z")


def timestamps_of(column: pl.Series) -> tuple[Int64s, Kinds]:
    """A column of times as (n,) int64, and the kind of each; InvalidCandles if its type cannot be a time."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

    if column.dtype == pl.String:
        return _stamps_of_text(column)
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
    return stamps, np.where(seen, kind, UNREADABLE).astype(np.int8)


def _whole(column: pl.Series) -> tuple[Int64s, Bools]:
    """Numbers, or text such as ``1.64e9``, as int64, and a mask of those that are whole numbers."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

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


def _stamps_of_text(text: pl.Series) -> tuple[Int64s, Kinds]:
    stamps, seen = _whole(text)
    kinds = np.where(seen, _NUMBER, UNREADABLE).astype(np.int8)
    if text.str.contains(r"^\S{8,10}T").any():
        text = text.str.replace("T", " ", literal=True)
    while len(waiting := np.flatnonzero(kinds == UNREADABLE)):
        rest = text.gather(waiting)
        fitting = [how for how in _formats() if _read_as(rest.head(100), *how).count()]
        if not fitting:
            # A hundred rows are not times: the file is refused anyway.
            break
        for how in fitting:
            micros, found = _filled(_read_as(rest, *how))
            stamps[waiting[found]] = micros[found]
            kinds[waiting[found]] = INSTANT if how[2] else LOCAL
            if found.all():
                break
    return stamps, kinds


@cache
def _formats() -> list[tuple[str, int, str]]:
    """Every accepted format of a time: the format, its required length if there is one, and its zone."""
    found = []
    for date, clock, zone in product(_DATES, _CLOCKS, _ZONES):
        compact = date == "%Y%m%d" or clock in {" %H%M%S", " %H%M"}
        if (compact and (not clock or zone == "%#z")) or (zone and not clock):
            continue
        # Without separators, a missing digit would give another time, so the length must match.
        length = len(datetime(2024, 11, 11, tzinfo=UTC_TZ).strftime((date + clock).replace("%.f", "")) + zone)
        found.append((date + clock, length if compact and "%.f" not in clock else 0, zone))
    return found


def _read_as(text: pl.Series, spelling: str, length: int, zone: str) -> pl.Series:
    """Microseconds; null if the text does not have this format."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

    if length:
        text = text.zip_with(text.str.len_bytes() == length, pl.Series([None], dtype=pl.String))
    tz = "UTC" if zone == "%#z" else None
    found = text.str.to_datetime(spelling + zone, strict=False, time_unit="us", time_zone=tz)
    return found.cast(pl.Int64)


@dataclass(frozen=True, slots=True)
class Instants:
    """The stamps of a table as instants: (n,) int64 ms UTC, their kinds, and by position why a stamp is invalid.

    ``zone`` is the zone of local times; ``meaning`` describes in words how the times were read.
    """

    ms: Int64s
    kind: Kinds
    reasons: dict[int, str]
    zone: Zone
    meaning: str


def on_clock(stamp: Int64s, kind: Kinds, clock: Zone, dates: Zone | None) -> Instants:
    """Convert stamps, in the order of their file, to instants.

    Local times are those of ``clock``; if nearly all are midnights, they are days of ``dates``, if that is given. A midnight
    that the clock skipped becomes the instant of the jump, with the kind ``SKIPPED``. For a local time that happens twice,
    the order of the rows decides which one is meant.
    """
    stamp, kind, reasons, unit = _in_micros(stamp, kind)
    ms, never, unclear = stamp // 1000, np.zeros(len(stamp), np.bool_), np.zeros(len(stamp), np.bool_)
    midnight, local = ms % DAY_MS == 0, kind == LOCAL
    are_days = dates is not None and np.count_nonzero(midnight & local) > 0.8 * np.count_nonzero(local)
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
    return Instants(ms, np.where(never, np.int8(SKIPPED), kind), reasons, zone, unit)


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
        return stamp, kind, {}, "with an offset"
    days, is_date = _days_of_date_numbers(stamp)
    spelling = _spelling(stamp, number, is_date)
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
    unit = f"{_SPELLINGS[usual]} since 1970, UTC" if usual else "with an offset"
    if usual == _NANOS:
        # Round up, so that a fraction of a microsecond does not become a whole number of milliseconds.
        return -(-stamp // 1000), kind, reasons, unit
    return stamp * {_SECONDS: 1_000_000, _MILLIS: 1_000}.get(usual, 1), kind, reasons, unit


def _spelling(stamps: Int64s, number: Bools, is_date: Bools) -> NDArray[np.int64]:
    """The format of each stamp; the unit of a number by its size: 1e11 seconds would be in the year 5138."""
    sizes = np.abs(np.maximum(stamps, -np.iinfo(np.int64).max))
    spelling = np.searchsorted([10**11, 10**14, 10**17], sizes, side="right") + _SECONDS
    if np.count_nonzero(number & is_date) * 2 > np.count_nonzero(number):
        eight = (sizes >= 10**7) & (sizes < 10**8)
        spelling = np.where(eight, np.where(is_date, _DATE, _NO_DATE), spelling)
    return np.where(number, spelling, _WORDS)


def _days_of_date_numbers(numbers: Int64s) -> tuple[Int64s, Bools]:
    """Numbers YYYYMMDD as days since 1970, and a mask of those that are dates."""
    if not ((numbers > 10**7) & (numbers < 10**8)).any():
        return numbers, np.zeros(len(numbers), np.bool_)
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    plausible = (year >= 1900) & (year < 2300) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(plausible, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1) * plausible
    return days.astype(np.int64), plausible & (days.astype("datetime64[M]") == months)


def timeframe_of(stamps: Int64s, zone: Zone) -> Timeframe:
    """The timeframe of the most frequent step between ascending stamps (ms, UTC); InvalidCandles if they show none.

    At least half of the stamps must open its buckets.
    """
    steps = np.diff(stamps)
    steps = steps[steps > 0]
    if not len(steps):
        only = "one row does not show its timeframe: name it (1m, 1h, 1d ...)"
        raise InvalidCandles(only if len(stamps) else "it has no rows")
    whole = steps[steps % MINUTE_MS == 0]
    # A wrong stamp makes two wrong steps: it should be refused by its line, not by the timeframe that these steps show.
    steps = _usual(whole if len(whole) * 3 >= len(steps) else steps)
    if steps[0] % MINUTE_MS:
        raise InvalidCandles(f"its rows are {steps[0] / 1000:g} seconds apart, and the shortest timeframe is 1m")
    try:
        found = list(_timeframes(steps, stamps, zone))
    except BadUserInput as error:
        raise InvalidCandles(f"the steps between its rows show no timeframe: {error.message}") from None
    fits = [float(np.mean(timeframe.floor_all(stamps, zone) == stamps)) for timeframe in found]
    detected = found[fits.index(1) if 1 in fits else 0]
    if max(fits) < 0.5:
        remedy = f"name its time zone ({zone.name}?) or its timeframe"
        if detected.width_ms:
            remedy = (
                f"name its timeframe if it is another; {detected} candles that open elsewhere in UTC cannot be imported"
            )
        raise InvalidCandles(f"its rows are mostly {detected} apart, but do not open {detected} buckets: {remedy}")
    return detected


def _timeframes(steps: Int64s, stamps: Int64s, zone: Zone) -> Iterator[Timeframe]:
    for step in steps.tolist():
        # With daylight saving time a day lasts 23 to 25 hours (22 to 26 in Troll).
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
    """The most frequent step, and the smallest one that is not an accident; in a file with gaps these may differ."""
    sizes, counts = np.unique(steps[steps > 0], return_counts=True)
    # One wrong stamp can split a step into two halves.
    often = sizes[(counts > 2) & (counts * 20 >= len(steps))][:1]
    return np.append(sizes[[np.argmax(counts)]] if len(sizes) else sizes, often)
