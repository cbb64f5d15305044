"""Timeframes: how they are spelled, and where their buckets open."""

from __future__ import annotations

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candlegraph import MINUTE, UTC, BadUserInput, Timeframe, zone
from tests.candlegraph import scalar_calendar as scalar
from tests.candlegraph.scalar_calendar import at, examples, instants, timeframes, zone_names

SPELLINGS = {
    "1m": "1m",
    "5min": "5m",
    "60min": "1h",
    "1mo": "1mon",
    "1M": "1mon",
    "3M": "3mon",
    "12M": "1y",
    "59m": "59m",
    "60m": "1h",
    "90m": "90m",
    "120m": "2h",
    "1440m": "24h",
    "24h": "24h",
    "48h": "48h",
    "168h": "168h",
    "6d": "6d",
    "7d": "1w",
    "14d": "2w",
    "30d": "30d",
    "4w": "4w",
    "52w": "52w",
    "12mon": "1y",
    "12mo": "1y",
    "13mon": "13mon",
    "24mon": "2y",
    "120mon": "10y",
    "10y": "10y",
    "3653d": "3653d",
    "521w": "521w",
    "87672h": "87672h",
    "5260320m": "87672h",
    "5260319m": "5260319m",
}
REFUSED = [
    *("", "m", "1", "0m", "00m", "01m", "-1m", "+1m", "1.5h", "1e3m", "0x1m", "1_0m", "1 m", " 1m", "1m ", "1m\n"),
    *("1H", "1D", "1W", "1Y", "1Min", "1MON", "1MO", "1minute", "1mth", "1months", "1q", "1s", "30s", "1S", "1ms"),
    *("\u0661m", "\uff11m", "1\uff4d", "\u00b2m", "1\u03bc", "1m\0", "1m1m", "1h30m", "P1D", "PT1M", "nan", "infm"),
    *(
        "99999999m",
        "100000000m",
        "1" + "0" * 400 + "m",
        "5260321m",
        "87673h",
        "3654d",
        "522w",
        "121mon",
        "11y",
        "132mon",
    ),
]


@pytest.mark.parametrize(("text", "canonical"), SPELLINGS.items())
def test_a_timeframe_is_printed_in_its_canonical_spelling(text: str, canonical: str) -> None:
    """Aliases are read, and only exact reductions made: 24h is not a day."""
    assert str(Timeframe.parse(text)) == canonical
    assert Timeframe.parse(canonical) == Timeframe.parse(text)
    assert hash(Timeframe.parse(canonical)) == hash(Timeframe.parse(text))


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:24]))
def test_other_spellings_are_refused(text: str) -> None:
    """A capital letter, a fraction, a sign, a space, a unit we do not have, or more than ten years."""
    with pytest.raises(BadUserInput) as caught:
        Timeframe.parse(text)
    assert len(caught.value.message) < 200


@given(timeframes())
@examples(100)
def test_every_timeframe_reads_back_what_it_prints(timeframe: Timeframe) -> None:
    """Printing and parsing are inverse."""
    assert Timeframe.parse(str(timeframe)) == timeframe
    assert str(Timeframe.parse(str(timeframe))) == str(timeframe)


@given(st.text(max_size=12) | st.from_regex(r"\A[0-9]{1,9}[a-zA-Z]{1,4}\Z"))
@examples(400)
def test_no_text_is_refused_in_any_other_way(text: str) -> None:
    """Whatever a client writes is a timeframe or BAD_USER_INPUT."""
    try:
        timeframe = Timeframe.parse(text)
    except BadUserInput:
        return
    assert Timeframe.parse(str(timeframe)) == timeframe


@pytest.mark.parametrize(("count", "unit"), [(0, "m"), (-60, "m"), (-7, "d"), (0, "y"), (3_654, "d"), (11, "y")])
def test_a_timeframe_cannot_be_made_too_short_or_too_long(count: int, unit: str) -> None:
    """The limits hold for the constructor too."""
    with pytest.raises(BadUserInput):
        Timeframe(count, unit)  # type: ignore[arg-type]


@given(timeframes())
@examples(100)
def test_exactly_one_of_width_days_and_months_is_set(timeframe: Timeframe) -> None:
    """The three kinds of buckets exclude each other, and the nominal length is never nothing."""
    assert [timeframe.width_ms > 0, timeframe.days > 0, timeframe.months > 0].count(True) == 1
    assert timeframe.nominal_ms >= 60_000


# --- where buckets open -------------------------------------------------------------------------------------------


@given(st.data())
@examples(300)
def test_buckets_open_where_the_scalar_calendar_says(data: st.DataObject) -> None:
    """Every function of one instant agrees with plain datetime and zoneinfo, in every zone."""
    timeframe, name = data.draw(timeframes()), data.draw(zone_names())
    instant = data.draw(instants(name, timeframe))
    where = zone(name)
    floor, following = scalar.floor(timeframe, instant, name), scalar.next_open(timeframe, instant, name)
    number = scalar.index(timeframe, instant, name)

    assert timeframe.floor(instant, where) == floor
    assert timeframe.next(instant, where) == following
    assert timeframe.ceil(instant, where) == (instant if floor == instant else following)
    assert timeframe.index(np.array([instant]), where).tolist() == [number]
    assert timeframe.open_at(np.array([number]), where).tolist() == [floor]
    assert timeframe.floor_all(np.array([instant]), where).tolist() == [floor]
    longest = max(1, 50 * 365 * scalar.DAY // timeframe.nominal_ms)
    buckets = data.draw(st.integers(-min(longest, 500), min(longest, 500)))
    shifted = scalar.open_at(timeframe, number + buckets, name)
    assert timeframe.shift(instant, buckets, where) == shifted or not at("1890-01-01") <= shifted < at(
        "2297-01-01"
    )  # as `Zone` documents


@given(st.data())
@examples(150)
def test_edges_are_those_of_the_scalar_calendar(data: st.DataObject) -> None:
    """``edges`` lists each opening of a half-open range once, in order."""
    timeframe, name = data.draw(timeframes()), data.draw(zone_names())
    since = data.draw(instants(name, timeframe))
    until = since + data.draw(st.integers(0, 12 * timeframe.nominal_ms))
    if data.draw(st.booleans()):
        until = timeframe.floor(until, zone(name)) + data.draw(st.integers(-1, 1))
    assert timeframe.edges(since, until, zone(name)).tolist() == list(scalar.edges(timeframe, since, until, name))


@given(st.data())
@examples(120)
def test_the_functions_agree_with_each_other(data: st.DataObject) -> None:
    """floor <= instant < next, edges partition time, and the vector forms repeat the scalar ones."""
    timeframe, name = data.draw(timeframes()), data.draw(zone_names())
    batch = data.draw(st.lists(instants(name, timeframe), min_size=1, max_size=6))
    where = zone(name)
    stamps = np.array(batch, np.int64)
    floors = timeframe.floor_all(stamps, where)
    numbers = timeframe.index(stamps, where)
    assert floors.dtype == numbers.dtype == np.int64
    assert floors.tolist() == [timeframe.floor(instant, where) for instant in batch]
    assert timeframe.open_at(numbers, where).tolist() == floors.tolist()
    assert timeframe.index(floors, where).tolist() == numbers.tolist()
    for instant, floor in zip(batch, floors.tolist(), strict=True):
        following, ceil = timeframe.next(instant, where), timeframe.ceil(instant, where)
        assert floor <= instant < following
        assert timeframe.floor(floor, where) == floor == timeframe.ceil(floor, where)
        assert ceil == (instant if instant == floor else following)
        assert timeframe.next(floor, where) == following == timeframe.next(following - 1, where)
        assert timeframe.floor(following, where) == following
        assert timeframe.shift(instant, 0, where) == floor
        assert timeframe.edges(floor, following, where).tolist() == [floor]
        assert timeframe.edges(floor + 1, following + 1, where).tolist() == [following]
        assert timeframe.edges(instant, instant, where).tolist() == []
        assert timeframe.edges(following, floor, where).tolist() == []
        assert timeframe.shift(timeframe.shift(instant, 5, where), -5, where) <= following


@given(timeframes(), zone_names())
@examples(30)
def test_empty_arrays_stay_empty(timeframe: Timeframe, name: str) -> None:
    """No instants have no buckets, and no error either."""
    nothing = np.empty(0, np.int64)
    for method in (timeframe.index, timeframe.open_at, timeframe.floor_all):
        found = method(nothing, zone(name))
        assert found.shape == (0,)
        assert found.dtype == np.int64


def test_a_date_that_a_zone_skipped_is_a_bucket_without_length() -> None:
    """Samoa had no 2011-12-30: the 29th is followed by the 31st, and no edge is named twice."""
    apia, day = zone("Pacific/Apia"), Timeframe(1, "d")
    eve, jump = at("2011-12-29T10:00"), at("2011-12-30T10:00")
    assert day.edges(eve, jump + scalar.DAY + 1, apia).tolist() == [eve, jump, jump + scalar.DAY]
    assert day.next(eve, apia) == jump
    assert day.shift(eve, 1, apia) == day.shift(eve, 2, apia) == jump
    assert day.floor(jump, apia) == jump


def test_a_midnight_that_happens_twice_opens_its_day_once() -> None:
    """Havana goes back from 01:00 to 00:00 on 2024-11-03: that day opens at the first midnight and has 25 hours."""
    havana, day = zone("America/Havana"), Timeframe(1, "d")
    opened = at("2024-11-03T04:00")
    assert day.floor(opened + scalar.HOUR, havana) == opened
    assert day.edges(opened, opened + 26 * scalar.HOUR, havana).tolist() == [opened, opened + 25 * scalar.HOUR]


def test_a_day_stays_open_when_the_clock_goes_back_over_midnight() -> None:
    """St. John's went from 00:01 back to 23:01 the day before on 2010-11-07: that day opened at the first 00:00."""
    st_johns, day = zone("America/St_Johns"), Timeframe(1, "d")
    opened = at("2010-11-07T02:30")
    for minutes in (0, 1, 30, 61, 62, 25 * 60 - 1):
        assert day.floor(opened + minutes * scalar.MINUTE, st_johns) == opened
    assert day.next(opened, st_johns) == opened + 25 * scalar.HOUR


def test_instants_far_outside_the_tables_do_not_fail() -> None:
    """The first and last Timestamp there is, and a little beyond, have a bucket in every zone."""
    for name in scalar.HARD_ZONES:
        for timeframe in map(Timeframe.parse, ("1m", "7h", "1d", "1w", "1mon", "10y")):
            for instant in (scalar.OLDEST, -scalar.DAY, -1, 0, 9_999_999_999_999, 10_100_000_000_000):
                floor = timeframe.floor(instant, zone(name))
                assert floor <= instant < timeframe.next(instant, zone(name))


# --- nesting ------------------------------------------------------------------------------------------------------


LAST = 10_000_000_000_000


@lru_cache(maxsize=256)
def _edges(timeframe: Timeframe, name: str, until: int) -> NDArray[np.int64]:
    """Every edge from the bucket of 1970-01-01 on; where they are a fixed width apart, the first 5,000 tell all."""
    days = zone(name)
    end = min(until, 5_000 * timeframe.nominal_ms) if timeframe.width_ms else until
    return timeframe.edges(timeframe.floor(0, days), end, days)


def _nests(inner: Timeframe, outer: Timeframe, name: str, until: int = LAST) -> bool:
    """Each edge of ``outer`` till 2286 looked up among those of ``inner``."""
    edges = _edges(outer, name, until)
    return all(bool((inner.floor_all(part, zone(name)) == part).all()) for part in (edges[:500], edges[500:]))


@pytest.mark.parametrize(
    ("inner", "outer", "name", "nests"),
    [
        ("1h", "1d", "UTC", True),
        ("1h", "1d", "America/New_York", True),
        ("1h", "1d", "Asia/Kolkata", False),
        ("30m", "1d", "Asia/Kolkata", True),
        ("15m", "1d", "Asia/Kathmandu", True),
        ("30m", "1d", "Asia/Kathmandu", False),  # +5:30 till 1986, +5:45 since
        ("1m", "1d", "Africa/Monrovia", True),
        ("783h", "783d", "Africa/Monrovia", False),  # the bucket of 1970-01-01 opened when its hours were not whole
        ("24h", "1d", "UTC", True),
        ("1d", "24h", "UTC", True),
        ("24h", "1d", "America/New_York", False),
        ("1d", "24h", "America/New_York", False),
        ("7h", "1w", "UTC", True),
        ("7h", "1d", "UTC", False),
        ("7h", "1mon", "UTC", False),
        ("7h", "1w", "Etc/GMT-7", True),  # its Mondays open seven hours before ours
        ("7h", "1w", "Etc/GMT-8", False),
        ("1d", "1w", "America/New_York", True),
        ("1d", "1mon", "America/New_York", True),
        ("2d", "1w", "UTC", False),
        ("1w", "1mon", "UTC", False),
        ("2d", "8y", "UTC", False),  # until 2104 it would
        ("1mon", "1y", "Pacific/Apia", True),
        ("2mon", "1y", "UTC", True),
        ("5mon", "1y", "UTC", False),
        ("1y", "12mon", "UTC", True),
        ("1mon", "1d", "UTC", False),
        ("1mon", "520w", "UTC", False),
        ("5m", "7m", "UTC", False),
        ("5m", "1h", "Asia/Kolkata", True),
        ("1h", "5m", "UTC", False),
    ],
)
def test_known_timeframes_nest_or_do_not(inner: str, outer: str, name: str, nests: bool) -> None:
    """Nesting follows the edges, not the lengths."""
    ours, theirs = Timeframe.parse(inner), Timeframe.parse(outer)
    assert ours.nests_in(theirs, zone(name)) is nests
    assert _nests(ours, theirs, name) is nests


_NEST_ZONES = ("UTC", "Etc/GMT-7", "Etc/GMT+5", "Asia/Bangkok", "Asia/Tokyo", "Asia/Kolkata", *scalar.HARD_ZONES)


@given(timeframes(), timeframes(), st.sampled_from(_NEST_ZONES), st.booleans())
@examples(250)
def test_one_nests_in_another_exactly_when_its_edges_hold_all_of_the_others(
    inner: Timeframe, outer: Timeframe, name: str, multiply: bool
) -> None:
    """Checked against the edges themselves; every second pair is likely to nest."""
    if multiply and outer.unit == inner.unit:
        outer = Timeframe(inner.count, inner.unit)
    assert inner.nests_in(outer, zone(name)) is _nests(inner, outer, name), (str(inner), str(outer), name)


def test_every_usual_pair_nests_exactly_when_its_edges_do() -> None:
    """The same over the pairs that a market meets, in zones of every kind."""
    usual = [
        *map(
            Timeframe.parse,
            ["1m", "7m", "15m", "45m", "1h", "90m", "4h", "7h", "24h", "168h", "1d", "2d", "1w", "1mon", "1y"],
        )
    ]
    counts: Counter[bool] = Counter()
    for name in ("UTC", "Etc/GMT-7", "Asia/Kolkata", "America/New_York", "Africa/Monrovia"):
        for inner in usual:
            for outer in usual:
                expected = _nests(inner, outer, name, scalar.END)
                counts[expected] += 1
                assert inner.nests_in(outer, zone(name)) is expected, (str(inner), str(outer), name)
    assert min(counts.values()) > 150


# --- what others publish ------------------------------------------------------------------------------------------


# width, start of the bucket that holds 2024-05-15T13:37Z: the second column of the table in facts/peers.md 4.2.
_AT_1337 = {
    "7m": "2024-05-15T13:36",
    "11m": "2024-05-15T13:34",
    "25m": "2024-05-15T13:35",
    "5h": "2024-05-15T09:00",
    "7h": "2024-05-15T08:00",
    "2d": "2024-05-14",
    "5d": "2024-05-11",
    "1w": "2024-05-13",
    "90m": "2024-05-15T13:30",
    "2h": "2024-05-15T12:00",
    "4h": "2024-05-15T12:00",
    "1mon": "2024-05-01",
    "1y": "2024-01-01",
    "10y": "2020-01-01",
}


@pytest.mark.parametrize(("text", "expected"), _AT_1337.items())
def test_the_grid_is_the_default_one_of_time_bucket(text: str, expected: str) -> None:
    """Not the epoch's (weeks would open on Thursdays) and not midnight's (7m would restart each day)."""
    assert Timeframe.parse(text).floor(at("2024-05-15T13:37")) == at(expected)


# TimescaleDB's answers for time_bucket(interval, instant, zone) without origin, put in our words.
_TIME_BUCKET = [
    ("1m", "2011-01-02T01:01:01.111", "UTC", "2011-01-02T01:01"),
    ("5m", "1970-01-01T00:59:59.999", "UTC", "1970-01-01T00:55"),
    ("5m", "2011-01-02T01:05", "UTC", "2011-01-02T01:05"),
    ("1h", "2017-11-05T05:05", "UTC", "2017-11-05T05:00"),
    ("2h", "2017-11-05T03:05", "UTC", "2017-11-05T02:00"),
    ("1d", "2011-01-02T01:01:01", "UTC", "2011-01-02"),
    ("2d", "1999-12-31T23:59", "UTC", "1999-12-30"),
    ("4d", "2000-01-02", "UTC", "1999-12-30"),
    ("1w", "2018-09-24", "UTC", "2018-09-24"),
    ("1w", "2018-09-23T23:59:59.999", "UTC", "2018-09-17"),
    ("1w", "1999-12-31", "UTC", "1999-12-27"),
    ("1mon", "1990-03-03", "UTC", "1990-03-01"),
    ("2mon", "1990-06-03", "UTC", "1990-05-01"),
    ("3mon", "1990-05-03", "UTC", "1990-04-01"),
    ("1d", "2000-01-01T04:59", "America/New_York", "1999-12-31T05:00"),
    ("1d", "2000-01-01T05:00", "America/New_York", "2000-01-01T05:00"),
    ("1d", "1999-12-31T23:00", "Europe/Berlin", "1999-12-31T23:00"),
    ("1d", "2000-01-01T07:59", "Etc/GMT+8", "1999-12-31T08:00"),
    ("1mon", "2000-01-01T04:59", "America/New_York", "1999-12-01T05:00"),
    ("2mon", "2000-05-01T04:00", "America/New_York", "2000-05-01T04:00"),
    ("2mon", "2000-08-09T04:00", "America/New_York", "2000-07-01T04:00"),
    ("2mon", "1999-12-28T05:00", "America/New_York", "1999-11-01T05:00"),
]


@pytest.mark.parametrize(("text", "instant", "name", "expected"), _TIME_BUCKET)
def test_buckets_are_those_of_time_bucket(text: str, instant: str, name: str, expected: str) -> None:
    """A small set of facts that is always at hand."""
    assert Timeframe.parse(text).floor(at(instant), zone(name)) == at(expected)


_UNITS = {"minute": "m", "hour": "h", "day": "d", "week": "w", "month": "mon", "year": "y"}


def test_every_case_of_timescaledb_that_we_can_express_is_reproduced(shared_data: Path | None) -> None:
    """TimescaleDB's own regression results, where the file is at hand; 526 of its 530 rows without origin or offset.

    Left out: four rows whose interval is finer than a minute (1 and 2 milliseconds, 1 and 2 seconds), which is no
    Timeframe. Rows with an origin or an offset ask for another grid than the one we have. Read otherwise: timestamps
    and dates without a zone ("naive") are taken as UTC, which is what their arithmetic amounts to, and microseconds
    are cut to milliseconds, for no edge lies between.
    """
    rows = []
    if shared_data is not None and (cases := shared_data / "time_bucket_cases.csv").exists():
        with cases.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if not row["origin"] and not row["offset"]]
    outcome: Counter[str] = Counter()
    for row in rows:
        count, unit = row["interval"].split()
        if unit not in _UNITS:
            outcome["too fine"] += 1
            continue
        where = UTC if row["bucket_tz"] == "naive" else zone(row["bucket_tz"])
        timeframe = Timeframe.parse(count + _UNITS[unit])
        instant, expected = int(row["timestamp_ms"].partition(".")[0]), int(row["expected_ms"])
        assert timeframe.floor(instant, where) == expected, row["case_id"]
        assert timeframe.floor_all(np.array([instant]), where).tolist() == [expected], row["case_id"]
        outcome["reproduced"] += 1
    assert outcome in ({}, {"reproduced": 526, "too fine": 4})


@example(0)
@example(-1)
@given(st.integers(-(10**13), 10**13))
@examples(100)
def test_a_minute_is_a_minute(instant: int) -> None:
    """The base of everything."""
    assert MINUTE.floor(instant) == instant // 60_000 * 60_000
    assert MINUTE.next(instant) == MINUTE.floor(instant) + 60_000
