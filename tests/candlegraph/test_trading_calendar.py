"""Trading calendars: sessions, and the buckets that are made of them, over real holidays, breaks and changes of clocks."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from candlegraph import MINUTE, BadUserInput, Candles, Instrument, InstrumentRecord, Span, Timeframe, fold
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.series_candles import SeriesCandles
from candlegraph.trading_calendar import SessionFilter, TradingCalendar, install, series_zone, topic_zone
from candlegraph.zone import UTC, zone
from tests.waiting import HANG_S

DAY, WEEK, HOUR = (Timeframe.parse(text) for text in ("1d", "1w", "1h"))


@cache
def calendar(name: str) -> TradingCalendar:
    command = [sys.executable, "-m", "storage.calendar_process", name, "1962-01-01", "2028-12-01"]
    columns = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=HANG_S).stdout)
    numbers = {key: np.array(columns[key]) for key in columns if key not in {"name", "timezone"}}
    return TradingCalendar(columns["name"], columns["timezone"], **numbers)


def at(name: str, text: str) -> int:
    """The instant of a local time of a calendar such as ``2024-07-03 09:30``."""
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(calendar(name).timezone))
    return round(local.timestamp() * 1000)


def minutes(name: str, since: str, until: str) -> Candles:
    """A candle in each minute; its price is its number."""
    stamps = np.arange(at(name, since), at(name, until), MINUTE_MS, dtype=np.int64)
    price = np.arange(1.0, len(stamps) + 1)
    return Candles.of(stamps, price, price, price, price, np.ones(len(stamps)))


def regular(name: str, timeframe: Timeframe, candles: Candles) -> Candles:
    buckets = calendar(name).regular
    assert buckets.hours
    return fold(candles[buckets.hours.contains(candles.timestamp)], timeframe, buckets)


def opened(name: str, candles: Candles) -> list[str]:
    local = zone(calendar(name).timezone).local(candles.timestamp)
    return [str(np.datetime64(stamp, "ms").astype("datetime64[m]")) for stamp in local.tolist()]


@pytest.mark.parametrize(
    ("name", "day", "opens", "closes", "pause", "early"),
    [
        ("XNYS", "2024-07-02", "09:30", "16:00", None, False),
        ("XNYS", "2024-07-03", "09:30", "13:00", None, True),
        ("XLON", "2024-12-24", "08:00", "12:30", None, True),
        ("XTKS", "2024-07-02", "09:00", "15:00", ("11:30", "12:30"), False),
        ("XHKG", "2024-07-02", "09:30", "16:00", ("12:00", "13:00"), False),
        ("XNYS", "1999-12-30", "09:30", "16:00", None, False),
    ],
)
def test_a_session_has_its_local_hours(
    name: str, day: str, opens: str, closes: str, pause: tuple[str, str] | None, early: bool
) -> None:
    (session,) = calendar(name).sessions(Span(at(name, f"{day} 10:00"), at(name, f"{day} 10:01")))
    assert (session.date, session.early) == (day, early)
    assert (session.opens_at, session.closes_at) == (at(name, f"{day} {opens}"), at(name, f"{day} {closes}"))
    found = (session.break_starts_at, session.break_ends_at)
    assert found == (tuple(at(name, f"{day} {time}") for time in pause) if pause else (None, None))


@pytest.mark.parametrize("day", ["2024-07-04", "2025-01-09", "2024-07-06", "2024-12-25"])
def test_a_holiday_and_a_weekend_have_no_session(day: str) -> None:
    assert not calendar("XNYS").sessions(Span(at("XNYS", f"{day} 00:00"), at("XNYS", f"{day} 23:59")))


def test_hours_open_with_the_session_and_the_last_one_is_short() -> None:
    found = regular("XNYS", HOUR, minutes("XNYS", "2024-07-02 04:00", "2024-07-02 20:00"))
    assert [text[11:] for text in opened("XNYS", found)] == [
        "09:30",
        "10:30",
        "11:30",
        "12:30",
        "13:30",
        "14:30",
        "15:30",
    ]
    assert found.volume.tolist() == [60, 60, 60, 60, 60, 60, 30]
    ends = SeriesCandles(found, HOUR, calendar("XNYS").regular).ends
    assert (ends - found.timestamp).tolist() == [HOUR_MS] * 6 + [HOUR_MS // 2]


def test_an_early_close_cuts_the_last_bucket() -> None:
    found = regular("XNYS", HOUR, minutes("XNYS", "2024-07-03 04:00", "2024-07-03 20:00"))
    assert [text[11:] for text in opened("XNYS", found)] == ["09:30", "10:30", "11:30", "12:30"]
    assert found.volume.tolist() == [60, 60, 60, 30]


@pytest.mark.parametrize(
    ("name", "opens"),
    [
        ("XTKS", ["09:00", "10:00", "11:00", "12:30", "13:30", "14:30"]),
        ("XHKG", ["09:30", "10:30", "11:30", "13:00", "14:00", "15:00"]),
    ],
)
def test_buckets_begin_again_after_lunch(name: str, opens: list[str]) -> None:
    found = regular(name, HOUR, minutes(name, "2024-07-02 08:00", "2024-07-02 18:00"))
    assert [text[11:] for text in opened(name, found)] == opens
    assert found.volume.sum() == (300 if name == "XTKS" else 330)


@pytest.mark.parametrize(
    ("name", "friday", "monday", "hour"),
    [
        ("XNYS", "2024-03-08", "2024-03-11", "09:30"),
        ("XNYS", "2024-11-01", "2024-11-04", "09:30"),
        ("XLON", "2024-03-28", "2024-04-02", "08:00"),  # and Easter
        ("XLON", "2024-10-25", "2024-10-28", "08:00"),
    ],
)
def test_over_a_change_of_clocks_the_next_bucket_opens_at_the_same_local_hour(
    name: str, friday: str, monday: str, hour: str
) -> None:
    buckets, last = calendar(name).regular, at(name, f"{friday} {hour}")
    while last < at(name, f"{monday} 00:00"):
        last = HOUR.next(last, buckets)
    assert last == at(name, f"{monday} {hour}")
    assert DAY.settled(at(name, f"{friday} 18:00"), buckets) == at(name, f"{monday} 00:00")


def test_the_week_over_new_year_is_made_of_its_four_sessions() -> None:
    found = regular("XNYS", WEEK, minutes("XNYS", "2024-12-30 00:00", "2025-01-06 00:00"))
    assert opened("XNYS", found) == ["2024-12-30T00:00"]
    assert found.volume.tolist() == [4 * 390]


def test_a_day_is_over_at_its_close_and_a_month_at_the_last_close_in_it() -> None:
    buckets = calendar("XNYS").regular
    close = at("XNYS", "2024-08-30 16:00")  # a Friday, the last session of August
    for timeframe in map(Timeframe.parse, ("1d", "1w", "1mon")):
        assert timeframe.settled(close - 1, buckets) < close
        assert timeframe.settled(close, buckets) > close


def test_a_session_that_opens_on_the_evening_before_belongs_to_its_date() -> None:
    buckets, sunday = calendar("CMES").regular, at("CMES", "2024-07-07 17:00")
    assert DAY.floor(sunday + HOUR_MS, buckets) == sunday
    one = Candles.of(np.array([sunday]), *(np.ones(1) for _ in range(5)))
    assert SeriesCandles(one, DAY, buckets).dates == ["2024-07-08"]
    assert WEEK.floor(sunday, buckets) == sunday


def test_outside_the_known_dates_every_weekday_trades_at_the_usual_hours() -> None:
    found = calendar("XNYS").regular.hours
    assert found
    for day, trades in (("2040-07-04", True), ("2040-07-07", False), ("1930-01-01", True), ("1930-01-04", False)):
        assert found.contains(np.array([at("XNYS", f"{day} 12:00")])).tolist() == [trades]


def test_every_instant_has_one_bucket_and_openings_number_back() -> None:
    for name in ("XNYS", "XHKG", "CMES", "24/7"):
        buckets, span = calendar(name).regular, Span(at(name, "2024-02-25 00:00"), at(name, "2024-03-20 00:00"))
        for timeframe in map(Timeframe.parse, ("1m", "7m", "1h", "4h", "1d", "1w")):
            stamps = np.arange(span.since, span.until, 7 * MINUTE_MS, dtype=np.int64)
            index = timeframe.index(stamps, buckets)
            assert (np.diff(index) >= 0).all()
            opens = timeframe.open_at(index, buckets)
            assert (opens <= stamps).all()
            assert (timeframe.open_at(index + 1, buckets) > stamps).all()
            assert (timeframe.index(opens, buckets) == index).all()


def test_a_market_that_never_closes_has_days_of_utc() -> None:
    always = calendar("24/7").regular
    candles = minutes("24/7", "2024-07-06 00:00", "2024-07-08 00:00")
    assert fold(candles, DAY, always).volume.tolist() == [1440, 1440]
    assert always.hours
    assert always.hours.contains(candles.timestamp).all()


def test_a_series_gets_its_zone_from_its_calendar() -> None:
    install(calendar("XNYS"))
    record = InstrumentRecord(
        1, Instrument("stocks", "a", "AAPL"), None, None, None, "America/New_York", True, True, None, None,
        calendar="XNYS", native_days=True,
    )  # fmt: skip
    days = calendar("XNYS").regular
    assert series_zone(record, DAY) is series_zone(record, DAY, SessionFilter.REGULAR) is days
    assert series_zone(record, HOUR).hours is None
    assert series_zone(record, HOUR, SessionFilter.REGULAR) is topic_zone(days.key) is days
    tokyo = series_zone(record, HOUR, SessionFilter.REGULAR, zone("Asia/Tokyo"))
    assert (tokyo.name, tokyo.hours) == ("Asia/Tokyo", days.hours)
    for session, asked in ((SessionFilter.EXTENDED, None), (SessionFilter.ALL, UTC)):
        with pytest.raises(BadUserInput):
            series_zone(record, DAY, session, asked)


def test_extended_hours_reach_from_four_to_eight() -> None:
    found = calendar("XNYS").extended.hours
    assert found
    day = minutes("XNYS", "2024-07-02 00:00", "2024-07-03 00:00")
    assert found.contains(day.timestamp).sum() == 16 * 60
    early = minutes("XNYS", "2024-07-03 00:00", "2024-07-04 00:00")
    assert found.contains(early.timestamp).sum() == 13 * 60
    night = at("XNYS", "2024-07-02 20:00")
    assert found.trim(night, night + 8 * HOUR_MS)[0] == found.trim(night, night + 8 * HOUR_MS)[1]
    assert found.trim(night, night + DAY_MS // 2) == (at("XNYS", "2024-07-03 04:00"), at("XNYS", "2024-07-03 08:00"))


def test_a_minute_before_the_opening_is_in_no_regular_candle() -> None:
    found = regular("XNYS", MINUTE, minutes("XNYS", "2024-07-02 09:00", "2024-07-02 09:35"))
    assert opened("XNYS", found)[0].endswith("09:30")


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT"])
def test_the_days_of_real_stocks_are_its_sessions(shared_data: Path | None, symbol: str) -> None:
    """From 2000 to 2013, with the days after 11 September and a hurricane; only where the files are there."""
    if shared_data is None:
        return
    with gzip.open(shared_data / f"us_{symbol}_1d.csv.gz", "rt") as file:
        stamps = np.array([int(row["timestamp_ms"]) for row in csv.DictReader(file)], np.int64)
    buckets, known = calendar("XNYS").regular, calendar("XNYS").dates
    assert (DAY.floor_all(stamps, buckets) == stamps).all()
    days = buckets.day_of(stamps)
    assert days.tolist() == known[(known >= days[0]) & (known <= days[-1])].tolist()
