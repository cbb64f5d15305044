"""Trading sessions in the API: which trading counts, and where its buckets end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from candlegraph import MINUTE, Candles, Instrument, Listing, Span
from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.span import Spans
from storage.batches import CandleWrite
from tests.fakes.alpaca import new_york
from tests.fakes.clocks import set_clock
from tests.fakes.laboratory import ApiWorld, laboratory

SINCE, UNTIL = new_york("2024-07-01 00:00"), new_york("2024-07-04 00:00")  # Monday to Wednesday, which closes at 13:00
ARGUMENTS = 'market: "lab", provider: "nyse"'
CANDLES = f"""query ($timeframe: Timeframe!, $session: SessionFilter! = ALL, $timezone: String) {{
  candles({ARGUMENTS}, symbol: "STOCK", timeframe: $timeframe, since: {SINCE}, session: $session, timezone: $timezone) {{
    session timezone complete nodes {{ timestamp date end open close volume closed }} }} }}"""


@pytest.fixture(scope="module")
async def nyse(new_database: Callable[..., Any], migrated_template: str) -> AsyncIterator[ApiWorld]:
    """A stock with every minute of three days, whose price is its number, and a coin with the same candles."""
    async with laboratory(await new_database(migrated_template)) as lab:
        history = lab.services.history
        listings = [Listing("STOCK", calendar="XNYS"), Listing("COIN")]
        await history.instruments.store_list("lab", "nyse", listings, "America/New_York", 0.0)
        stamps = np.arange(SINCE, UNTIL, MINUTE_MS, dtype=np.int64)
        price = np.arange(1.0, len(stamps) + 1)
        candles = Candles.of(stamps, price, price, price, price, np.ones(len(stamps)))
        for symbol in ("STOCK", "COIN"):
            name = Instrument("lab", "nyse", symbol)
            record = (await history.instruments.get_stored([name]))[name]
            await history.store.write([CandleWrite(record.id, MINUTE, candles, Spans([Span(SINCE, UNTIL)]), "i")])
        yield lab


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, lambda: UNTIL)


async def ask(lab: ApiWorld, document: str = CANDLES, **variables: object) -> dict[str, Any]:
    answer = await lab.ask(document, variables)
    assert not answer["errors"], answer
    return answer["data"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("session", ["ALL", "REGULAR"])
async def test_days_are_of_regular_sessions_whatever_is_asked(nyse: ApiWorld, session: str) -> None:
    found = (await ask(nyse, timeframe="1d", session=session))["candles"]
    assert [(one["date"], one["volume"], one["open"]) for one in found["nodes"]] == [
        ("2024-07-01", 390, 571), ("2024-07-02", 390, 1440 + 571), ("2024-07-03", 210, 2880 + 571),
    ]  # fmt: skip
    assert (found["session"], found["timezone"], found["complete"]) == (session, "America/New_York", True)


async def test_regular_hours_open_with_the_session(nyse: ApiWorld) -> None:
    nodes = (await ask(nyse, timeframe="1h", session="REGULAR", timezone="Asia/Tokyo"))["candles"]["nodes"]
    assert len(nodes) == 7 + 7 + 4
    assert [one["timestamp"] for one in nodes[:2]] == [new_york("2024-07-01 09:30"), new_york("2024-07-01 10:30")]
    assert [one["end"] - one["timestamp"] for one in nodes[6:8]] == [HOUR_MS // 2, HOUR_MS]
    assert [one["volume"] for one in nodes[-2:]] == [60, 30]
    assert nodes[1]["date"] == "2024-07-01"
    assert nodes[3]["date"] == "2024-07-02", "in Tokyo"


async def test_all_and_extended_stay_on_the_grid_of_utc(nyse: ApiWorld) -> None:
    everything = (await ask(nyse, timeframe="1h"))["candles"]["nodes"]
    extended = (await ask(nyse, timeframe="1h", session="EXTENDED"))["candles"]["nodes"]
    assert len(everything) == 72
    assert [one["timestamp"] for one in extended] == [
        one["timestamp"] for one in everything
        if new_york("2024-07-01 04:00") <= one["timestamp"] < new_york("2024-07-01 20:00")
        or new_york("2024-07-02 04:00") <= one["timestamp"] < new_york("2024-07-02 20:00")
        or new_york("2024-07-03 04:00") <= one["timestamp"] < new_york("2024-07-03 17:00")
    ]  # fmt: skip


@pytest.mark.parametrize(("session", "timezone"), [("EXTENDED", None), ("ALL", "UTC"), ("REGULAR", "Europe/London")])
async def test_what_does_not_apply_to_days_fails_for_that_series_alone(
    nyse: ApiWorld, session: str, timezone: str | None
) -> None:
    document = f"""query ($session: SessionFilter! = ALL, $timezone: String) {{
      candlesBatch(series: [{{{ARGUMENTS}, symbol: "STOCK", timeframe: "1d"}}, {{{ARGUMENTS}, symbol: "COIN", timeframe: "1d"}}],
        since: {SINCE}, session: $session, timezone: $timezone) {{ symbol session nodes {{ volume }} }} }}"""
    answer = await nyse.ask(document, {"session": session, "timezone": timezone})
    stock, coin = answer["data"]["candlesBatch"]
    assert stock is None
    assert [(error["path"], error["extensions"]["code"]) for error in answer["errors"]] == [
        (["candlesBatch", 0], "BAD_USER_INPUT")
    ]
    assert {node["volume"] for node in coin["nodes"]} <= {1440, 1200, 240, 300, 1140}


async def test_the_newest_candles_are_those_of_candles(nyse: ApiWorld) -> None:
    for timeframe, session in (("1d", "ALL"), ("1h", "REGULAR"), ("30m", "EXTENDED"), ("1h", "ALL")):
        expected = (await ask(nyse, timeframe=timeframe, session=session))["candles"]["nodes"][-2:]
        document = f"""query ($timeframe: Timeframe!, $session: SessionFilter!) {{
          latest({ARGUMENTS}, symbols: ["STOCK", "COIN"], timeframe: $timeframe, session: $session) {{ nodes {{
            symbol {{ symbol calendar }} current previousClose
            candle {{ timestamp date end open close volume closed }} }} }} }}"""
        stock, coin = (await ask(nyse, document, timeframe=timeframe, session=session))["latest"]["nodes"]
        assert stock["symbol"] == {"symbol": "STOCK", "calendar": "XNYS"}
        assert stock["candle"] == expected[-1]
        assert stock["current"]
        assert stock["previousClose"] == (expected[0]["close"] if len(expected) > 1 else None)
        assert coin["symbol"]["calendar"] is None


async def test_sessions_are_those_of_the_calendar(nyse: ApiWorld) -> None:
    document = f"""query ($symbol: String!) {{ sessions({ARGUMENTS}, symbol: $symbol, since: {SINCE}, until: {UNTIL + 48 * HOUR_MS}) {{
      date opensAt closesAt breakStartsAt breakEndsAt early }} }}"""
    found = (await ask(nyse, document, symbol="STOCK"))["sessions"]
    assert [(one["date"], one["early"]) for one in found] == [
        ("2024-07-01", False), ("2024-07-02", False), ("2024-07-03", True), ("2024-07-05", False)
    ]  # fmt: skip
    assert found[2]["closesAt"] == new_york("2024-07-03 13:00")
    assert (await ask(nyse, document, symbol="COIN"))["sessions"] is None


async def test_long_lists_of_sessions_are_limited_and_have_their_price(nyse: ApiWorld) -> None:
    def field(since: str, until: str) -> str:
        span = f"since: {new_york(since)}, until: {new_york(until)}"
        return (
            f'sessions({ARGUMENTS}, symbol: "STOCK", {span}) {{ __typename date opensAt closesAt breakEndsAt early }}'
        )

    years = (await ask(nyse, f"{{ {field('2020-07-01 00:00', '2024-06-01 00:00')} }}"))["sessions"]
    assert len(years) == 986  # 128 + 252 + 251 + 250 + 105
    assert years[0] == {
        "__typename": "TradingSession", "date": "2020-07-01", "opensAt": new_york("2020-07-01 09:30"),
        "closesAt": new_york("2020-07-01 16:00"), "breakEndsAt": None, "early": False,
    }  # fmt: skip
    many = " ".join(f"s{n}: {field('2020-07-01 00:00', '2024-06-01 00:00')}" for n in range(30))
    for document in (f"{{ {field('1990-01-01 00:00', '2024-06-01 00:00')} }}", f"{{ {many} }}"):
        answer = await nyse.ask(document, {})
        assert {error["extensions"]["code"] for error in answer["errors"]} == {"BAD_USER_INPUT"}
