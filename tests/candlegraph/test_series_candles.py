"""Dates and ends of buckets, as columns: what the calendar of the zone says."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph import Candles, Timeframe, zone
from candlegraph.series_candles import SeriesCandles

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/London",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Australia/Lord_Howe",
]


def _series(stamps: list[int], timeframe: str, name: str) -> SeriesCandles:
    ones = np.ones(len(stamps))
    return SeriesCandles(Candles.of(stamps, *[ones] * 5), Timeframe.parse(timeframe), zone(name))


@given(
    st.lists(st.integers(631_152_000, 4_000_000_000).map(lambda s: s // 60 * 60_000), max_size=20),
    st.sampled_from(["1m", "7m", "1h", "4h", "1d", "1w", "1mon", "1y"]),
    st.sampled_from(ZONES),
)
def test_a_bucket_has_the_date_on_which_it_opens_and_ends_where_the_next_opens(
    instants: list[int], timeframe: str, name: str
) -> None:
    tf, days = Timeframe.parse(timeframe), zone(name)
    stamps = sorted({tf.floor(instant, days) for instant in instants})
    rows = list(_series(stamps, timeframe, name))
    assert [row.timestamp for row in rows] == stamps
    assert [row.end for row in rows] == [tf.next(stamp, days) for stamp in stamps]
    local = [datetime.fromtimestamp(stamp / 1000, UTC).astimezone(ZoneInfo(name)) for stamp in stamps]
    assert [row.date for row in rows] == [at.date().isoformat() for at in local]


@pytest.mark.parametrize(
    ("name", "stamp", "date"),
    [("Europe/London", "2024-07-01T23:00Z", "2024-07-02"), ("Asia/Tokyo", "2024-07-01T15:00Z", "2024-07-02")],
)
def test_a_daily_candle_has_the_date_of_its_day(name: str, stamp: str, date: str) -> None:
    """Its instant in UTC is of the day before, which is what charts and data frames would show."""
    opened = int(datetime.fromisoformat(stamp).timestamp() * 1000)
    (row,) = _series([opened], "1d", name)
    assert row.date == date
    assert row.end == opened + 86_400_000


def test_dates_of_a_thousand_minutes_are_made_without_an_object_each() -> None:
    stamps = [1_700_000_040_000 + 60_000 * n for n in range(5_000)]
    series = _series(stamps, "1m", "America/New_York")
    assert len(series.dates) == len(stamps)
    assert set(series.dates) == {"2023-11-14", "2023-11-15", "2023-11-16", "2023-11-17", "2023-11-18"}
