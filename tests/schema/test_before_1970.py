"""Candles from before 1970 are candles: stored, folded, paged and answered as any others."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from candlegraph import MINUTE, Candles, Instrument, Timeframe, zone
from candlegraph.span import Span, Spans
from schema.scalars import parse_timestamp
from server.cli.command import instant as instant_of_option
from storage.batches import CandleWrite
from tests.candlegraph.scalar_calendar import OLDEST, at
from tests.candlegraph.scalar_calendar import floor as scalar_floor
from tests.fakes.laboratory import ApiWorld
from tests.fakes.upstream import minutes
from tests.history.world import folded, rows_of

DAY_MS = 86_400_000
QUERY = """
query ($symbol: String!, $timeframe: Timeframe!, $since: Timestamp, $until: Timestamp, $before: Timestamp, $limit: Int,
       $timezone: String) {
  candles(market: "lab", provider: "bench", symbol: $symbol, timeframe: $timeframe, since: $since, until: $until,
          before: $before, limit: $limit, timezone: $timezone) {
    nodes { timestamp open high low close volume } gaps { since until reason } sources { since until source } complete
    nextSince nextBefore
  }
  coverage(market: "lab", provider: "bench", symbol: $symbol, timeframe: $timeframe) {
    rows covered { since until } holes { since until } firstAvailable
  }
}
"""
# A century begins, an offset of seconds, four days of another offset, summer time in the war, a repeated date, 1970 itself.
STARTS = {
    "UTC": ["1900-01-01", "1969-12-31"],
    "Europe/Paris": ["1911-03-10", "1940-06-14"],
    "Europe/Dublin": ["1916-05-20"],
    "Africa/Freetown": ["1939-09-03"],
    "America/New_York": ["1942-02-08", "1969-12-31"],
    "Pacific/Kwajalein": ["1969-09-29"],
}


async def store(lab: ApiWorld, symbol: str, zone_name: str, candles: Candles, timeframe: Timeframe = MINUTE) -> None:
    history = lab.services.history
    record = await history.instruments.get_or_create(Instrument("lab", "bench", symbol), zone_name)
    end = timeframe.next(int(candles.timestamp[-1]), zone(zone_name))
    covered = Spans([Span(int(candles.timestamp[0]), end)])
    await history.store.write([CandleWrite(record.id, timeframe, candles, covered, "i")])


async def answer(lab: ApiWorld, symbol: str, timeframe: str = "1m", **arguments: Any) -> dict[str, Any]:
    found = await lab.ask(QUERY, {"symbol": symbol, "timeframe": timeframe, **arguments})
    assert found["errors"] == []
    for stamp in timestamps(found["data"]):
        assert parse_timestamp(stamp) == stamp
    return dict(found["data"])


def timestamps(value: Any) -> list[int]:
    """Every Timestamp of an answer, however deep."""
    if isinstance(value, list):
        return [stamp for item in value for stamp in timestamps(item)]
    if not isinstance(value, dict):
        return []
    names = {"timestamp", "since", "until", "nextSince", "nextBefore", "firstAvailable"}
    own = [item for name, item in value.items() if name in names and item is not None]
    return own + [stamp for item in value.values() for stamp in timestamps(item)]


@pytest.mark.parametrize(("name", "start"), [(name, start) for name, starts in STARTS.items() for start in starts])
async def test_every_timeframe_is_folded_and_paged_in_both_directions(lab: ApiWorld, name: str, start: str) -> None:
    """The pages, led by the cursors, are the buckets that plain Python folds; each Timestamp printed is accepted."""
    symbol, first = f"{name} {start}", at(start) - (7 * 3_600_000 if start > "1901" else 0)
    truth = minutes(first, 3 * 1440, holes=range(2_000, 2_040))
    await store(lab, symbol, name, truth)
    for timeframe in ("1m", "7m", "4h", "1d", "1w"):
        parsed = Timeframe.parse(timeframe)
        whole = Span(first, first + 3 * DAY_MS).inner(parsed, zone(name))
        kept = truth.between(whole) if whole else truth[:0]
        expected = {
            opened: candle
            for opened, candle in folded(rows_of(kept), parsed, name).items()
            if whole.since <= opened < whole.until
        }
        limit = max(2, len(expected) // 3)
        forward: list[dict[str, Any]] = []
        since: int | None = first
        while since is not None:
            page = (await answer(lab, symbol, timeframe, since=since, until=first + 3 * DAY_MS, limit=limit))["candles"]
            forward += page["nodes"]
            since = page["nextSince"]
        backward: list[dict[str, Any]] = []
        before: int | None = first + 3 * DAY_MS
        while before is not None:
            page = (await answer(lab, symbol, timeframe, before=before, limit=limit))["candles"]
            backward = page["nodes"] + backward
            before = page["nextBefore"]
        found = {
            node["timestamp"]: tuple(node[key] for key in ("open", "high", "low", "close", "volume"))
            for node in forward
        }
        assert found == expected, timeframe
        assert backward == forward, timeframe


async def test_days_of_a_stock_reach_over_1970(lab: ApiWorld) -> None:
    """Days of New York from 1962 on: as they are stored, folded into months, and covered from the first to the last."""
    days, name, symbol = Timeframe.parse("1d"), "America/New_York", "IBM"
    opens = days.edges(at("1962-01-02T05:00"), at("1972-01-01"), zone(name))
    prices = 100.0 + np.arange(len(opens)) % 50
    await store(lab, symbol, name, Candles.of(opens, prices, prices + 1, prices - 1, prices, np.ones(len(opens))), days)
    found = await answer(lab, symbol, "1d", since="1969-12-30T05:00:00Z", until="1970-01-03T05:00:00Z", limit=10)
    assert [node["timestamp"] // DAY_MS for node in found["candles"]["nodes"]] == [-2, -1, 0, 1]
    assert found["candles"]["complete"]
    assert found["coverage"]["covered"] == [{"since": int(opens[0]), "until": days.next(int(opens[-1]), zone(name))}]
    months = (await answer(lab, symbol, "1mon", since=-60 * DAY_MS, until=55 * DAY_MS, limit=10))["candles"]
    assert [node["timestamp"] for node in months["nodes"]] == [
        at(f"{month}-01T05:00") for month in ("1969-12", "1970-01", "1970-02")
    ]
    assert [node["volume"] for node in months["nodes"]] == [31.0, 31.0, 28.0]
    years = (await answer(lab, symbol, "1y", before=at("1972-01-02"), limit=100))["candles"]
    assert [node["timestamp"] for node in years["nodes"]] == [at(f"{year}-01-01T05:00") for year in range(1963, 1972)]


async def test_every_timestamp_of_any_answer_is_accepted(lab: ApiWorld) -> None:
    """Short series anywhere from 1900 to today, in any zone, asked at any timeframe from 1900 on."""
    seed = random.SystemRandom().randrange(10**9)
    dice = random.Random(seed)
    for number in range(12):
        name = dice.choice(
            ["UTC", "Europe/Paris", "Asia/Kolkata", "America/New_York", "Pacific/Apia", "Africa/Monrovia"]
        )
        first = dice.randrange(OLDEST, at("2024-01-01")) // 60_000 * 60_000
        symbol = f"any {seed} {number}"
        await store(lab, symbol, name, minutes(first, 2_000, holes=range(900, 950)))
        for timeframe in dice.sample(["1m", "5m", "25m", "1h", "7h", "1d", "3d", "1w", "1mon", "7mon", "1y", "10y"], 4):
            parsed = Timeframe.parse(timeframe)
            since = dice.choice([OLDEST, first, first - parsed.nominal_ms if first > 0 else OLDEST])
            for arguments in ({"since": since}, {"before": first + 1_500 * 60_000}):
                page = await answer(lab, symbol, timeframe, **arguments, timezone=name, limit=50)
                for node in page["candles"]["nodes"]:
                    assert node["timestamp"] == scalar_floor(parsed, node["timestamp"], name), (seed, symbol)


def test_an_option_of_the_command_line_may_be_before_1970() -> None:
    assert instant_of_option("-252460800000") == instant_of_option("1962-01-01T00:00:00Z") == -252_460_800_000
