"""The bucket calculus once more, one instant at a time: `datetime` and `zoneinfo` only, no numpy and none of our code.

It is what the tests of this folder hold the product against. Slow on purpose, and as close to the words of the
design as it can be: a day opens at the first instant whose local date is at least its date, and stays open although
the clock goes back over midnight. Instants are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from candlegraph import Timeframe

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
OLDEST, NEWEST = -2_208_988_800_000, 9_999_999_999_999  # the first and the last Timestamp
END = 4_102_444_800_000  # 2100-01-01

HARD_ZONES = (
    "America/Havana",  # midnight happens twice, and in spring not at all
    "America/Sao_Paulo",  # till 2019 the day opened at 01:00 in spring
    "America/St_Johns",  # till 2011 the clock changed at 00:01
    "America/New_York",
    "Europe/London",
    "Europe/Dublin",  # offset -0:25:21 till 1916
    "Asia/Kolkata",  # +5:53:20 till 1941, and summer time in the war
    "Africa/Casablanca",  # leaves and comes back around each Ramadan
    "Africa/Monrovia",  # offset -0:44:30 till 1972
    "Africa/Freetown",  # kept an offset for four days in 1939
    "Asia/Gaza",
    "Asia/Kathmandu",  # +5:45
    "Australia/Lord_Howe",  # half an hour of summer time
    "Pacific/Apia",  # had no 2011-12-30
    "Pacific/Kwajalein",  # had no 1993-08-21
)
ALL_ZONES = tuple(sorted(available_timezones() - {"localtime"}))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = datetime(2000, 1, 3, tzinfo=UTC)


def at(text: str) -> int:
    """Read an ISO instant, UTC where it names no offset."""
    moment = datetime.fromisoformat(text)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // timedelta(milliseconds=1)


def utc(instant: int) -> datetime:
    """The instant as a datetime."""
    return _EPOCH + timedelta(milliseconds=instant)


@cache
def _tz(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def offset(name: str, instant: int) -> timedelta:
    """What to add to UTC: in whole minutes, one a minute, the one in force at the minute's end."""
    last_second = utc(instant).replace(second=59, microsecond=0)
    found = last_second.astimezone(_tz(name)).utcoffset()
    assert found is not None
    return found // timedelta(minutes=1) * timedelta(minutes=1)


def local_date(name: str, instant: int) -> date:
    """What the calendar on the wall says."""
    return (utc(instant) + offset(name, instant)).date()


@lru_cache(maxsize=200_000)
def open_of_day(name: str, day: date) -> int:
    """The first instant whose local date is at least ``day``."""
    midnight = (datetime(day.year, day.month, day.day, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
    offsets = [offset(name, midnight + hours * HOUR) // timedelta(milliseconds=1) for hours in range(-36, 37, 12)]
    instant = midnight - max(offsets)
    while local_date(name, instant) < day:
        instant += MINUTE
    return instant


def day_of(name: str, instant: int) -> date:
    """The last day that has opened."""
    day = local_date(name, instant) + timedelta(days=1)
    while open_of_day(name, day) > instant:
        day -= timedelta(days=1)
    return day


def index(timeframe: Timeframe, instant: int, name: str) -> int:
    """The number of the bucket that holds the instant."""
    count, unit = timeframe.count, timeframe.unit
    if unit in ("m", "h"):
        return (utc(instant) - _MONDAY) // (timedelta(minutes=count) if unit == "m" else timedelta(hours=count))
    day = day_of(name, instant)
    if unit in ("d", "w"):
        return (day - _MONDAY.date()) // timedelta(days=count * (7 if unit == "w" else 1))
    if unit == "mon":
        return ((day.year - 2000) * 12 + day.month - 1) // count
    return (day.year - 2000) // count


def open_at(timeframe: Timeframe, number: int, name: str) -> int:
    """The instant at which the numbered bucket opens."""
    count, unit = timeframe.count * number, timeframe.unit
    if unit in ("m", "h"):
        opened = _MONDAY + (timedelta(minutes=count) if unit == "m" else timedelta(hours=count))
        return (opened - _EPOCH) // timedelta(milliseconds=1)
    if unit in ("d", "w"):
        return open_of_day(name, _MONDAY.date() + timedelta(days=count * (7 if unit == "w" else 1)))
    years, months = divmod(count, 12) if unit == "mon" else (count, 0)
    return open_of_day(name, date(2000 + years, 1 + months, 1))


def floor(timeframe: Timeframe, instant: int, name: str) -> int:
    """The opening of the bucket that holds the instant."""
    return open_at(timeframe, index(timeframe, instant, name), name)


def next_open(timeframe: Timeframe, instant: int, name: str) -> int:
    """The first opening after the instant; a bucket without length opens where the one after it does."""
    number = index(timeframe, instant, name) + 1
    while open_at(timeframe, number, name) <= instant:
        number += 1
    return open_at(timeframe, number, name)


def edges(timeframe: Timeframe, since: int, until: int, name: str) -> Iterator[int]:
    """Every opening in ``[since, until)``."""
    opening = since if floor(timeframe, since, name) == since else next_open(timeframe, since, name)
    while opening < until:
        yield opening
        opening = next_open(timeframe, opening, name)


@cache
def clock_changes(name: str, year: int) -> tuple[int, ...]:
    """The instants of a year at which the offset changes, to the minute."""
    found = []
    start = (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
    for low in range(start, start + 366 * DAY, 3 * DAY):
        before, after = low, low + 3 * DAY
        if offset(name, before) == offset(name, after):
            continue
        while after - before > MINUTE:
            middle = (before + after) // 2 // MINUTE * MINUTE
            before, after = (before, middle) if offset(name, middle) == offset(name, after) else (middle, after)
        found.append(after)
    return tuple(found)


def examples(count: int) -> settings:
    """So many cases of a property, however slow the machine is."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


_LONGEST = {"m": 3_653 * 1_440, "h": 3_653 * 24, "d": 3_653, "w": 521, "mon": 120, "y": 10}
_USUAL = (1, 2, 3, 4, 5, 6, 7, 10, 12, 15, 24, 25, 30, 45, 60, 90)


@st.composite
def timeframes(draw: st.DrawFn, units: str = "m h d w mon y") -> Timeframe:
    """Any timeframe, with usual counts more often than odd ones."""
    unit = draw(st.sampled_from(units.split()))
    longest = _LONGEST[unit]
    usual = st.sampled_from([count for count in _USUAL if count <= longest])
    count = draw(usual | st.integers(1, min(longest, 400)) | st.integers(1, longest))
    return Timeframe.parse(f"{count}{unit}")


def zone_names() -> st.SearchStrategy[str]:
    """Hard zones and the rest of the world, half and half."""
    return st.sampled_from(HARD_ZONES) | st.sampled_from(ALL_ZONES)


@st.composite
def instants(draw: st.DrawFn, name: str, timeframe: Timeframe | None = None) -> int:
    """An instant of 1900 to 2286: anywhere, in the week of a clock change, or within a few ms of an edge."""
    anywhere = st.integers(OLDEST, NEWEST) | st.integers(0, END)
    kind = draw(st.sampled_from(["anywhere", "clock change", "clock change", "edge"]))
    instant = draw(anywhere)
    if kind == "clock change":
        changes = clock_changes(name, draw(st.integers(1900, 2285) | st.integers(1970, 2040))) or (instant,)
        near = st.integers(-4 * DAY, 4 * DAY) | st.integers(-3 * 60, 3 * 60).map(lambda n: n * MINUTE)
        instant = draw(st.sampled_from(changes)) + draw(near | st.integers(-1, 1))
    if timeframe is not None and (kind == "edge" or draw(st.booleans())):
        instant = next_open(timeframe, instant, name) if draw(st.booleans()) else floor(timeframe, instant, name)
        instant += draw(st.integers(-1, 1))
    return min(max(OLDEST, instant), NEWEST)
