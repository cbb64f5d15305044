"""An exchange from end to end: the unmodified ccxt class, a server that speaks Binance's REST, the database, the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from strawberry.types import ExecutionResult

from candlegraph import MINUTE, Instrument, LiveMode, Series, Timeframe, fold
from candlegraph.answer import Answer, CandleRequest, GapReason
from candlegraph.clock import MINUTE_MS
from history.orchestrator import History
from providers.ccxt.provider import Ccxt
from providers.guard.guard import Guard
from resolvers.context import Context, Services
from schema.build import build_schema
from storage.database import Database
from tests.fakes.binance import FakeBinance
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import HTML, T0, Fault, random_candles
from tests.fakes.kraken import FakeKraken
from tests.fakes.services import services_over
from tests.fakes.upstream import FakeProviders
from tests.timings import PATIENT_CCXT
from tests.waiting import HANG_S

MINUTES = 4_000
TRUTH = random_candles(T0, MINUTES, keep=0.97)
NOW = int(TRUTH.timestamp[-1]) + 20_000  # the last one is forming
SCHEMA = build_schema()


def alone(provider: Ccxt) -> FakeProviders:
    """A registry of the one provider, which is tried again at once."""
    return FakeProviders([Guard(provider, backoff_s=0.01)])


@pytest.fixture(scope="module")
async def exchange() -> AsyncIterator[FakeBinance]:
    async with FakeBinance() as fake:
        fake.add("BTC", "USDT", TRUTH)
        fake.now = NOW
        fake.fillers = True
        yield fake


@pytest.fixture(scope="module")
async def binance(exchange: FakeBinance) -> AsyncIterator[Ccxt]:
    provider = Ccxt("binance", exchange.ccxt_options()["binance"], timings=PATIENT_CCXT)
    await provider.start()
    yield provider
    await provider.close()


class Api:
    """Asks the API as a client does, and counts what that costs upstream."""

    def __init__(self, services: Services, exchange: FakeBinance) -> None:
        self.services = services
        self.exchange = exchange

    async def ask(self, arguments: str) -> ExecutionResult:
        document = (
            f'{{ candles(market: "crypto", provider: "binance", symbol: "BTC/USDT", {arguments}) '
            "{ complete hasMore columns { timestamp open high low close volume closed } gaps { reason } } }"
        )
        return await SCHEMA.execute(document, context_value=Context(self.services, "test"))

    async def candles(self, arguments: str) -> dict[str, Any]:
        result = await self.ask(arguments)
        assert not result.errors
        assert result.data
        return result.data["candles"]  # type: ignore[no-any-return]

    @property
    def calls(self) -> int:
        return sum(1 for path, _ in self.exchange.requests if "klines" in path)


@pytest.fixture
async def api(
    database: Database, exchange: FakeBinance, binance: Ccxt, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Api]:
    set_clock(monkeypatch, lambda: NOW)
    providers = alone(binance)
    history = History.create(database, providers)
    exchange.reset()
    yield Api(services_over(history), exchange)
    await history.fetcher.close()


def closed(span_since: int, minutes: int) -> list[int]:
    """The minutes that the truth has candles of."""
    return [s for s in TRUTH.timestamp.tolist() if span_since <= s < span_since + minutes * MINUTE_MS]


async def test_three_thousand_minutes_cost_three_calls_and_asked_again_none(api: Api) -> None:
    """Pages of a thousand, filler minutes dropped; what is covered is never asked for again."""
    arguments = f"since: {T0}, until: {T0 + 3_000 * MINUTE_MS}, limit: 3000"
    first = await api.candles(arguments)
    assert api.calls == 3
    assert first["complete"] is True
    assert first["columns"]["timestamp"] == closed(T0, 3_000)
    again = await api.candles(arguments)
    assert api.calls == 3
    assert again["columns"] == first["columns"]


async def test_any_timeframe_folds_from_the_stored_minutes_without_a_call(api: Api) -> None:
    """Once the minutes are there, the exchange is not needed for an hour of them."""
    await api.candles(f"since: {T0}, until: {T0 + 3_000 * MINUTE_MS}, limit: 3000")
    hours = await api.candles(f'timeframe: "1h", since: {T0}, until: {T0 + 3_000 * MINUTE_MS}')
    assert api.calls == 3
    folded = fold(TRUTH[TRUTH.timestamp < T0 + 3_000 * MINUTE_MS], Timeframe(1, "h"))
    for name in ("timestamp", "open", "high", "low", "close"):
        assert hours["columns"][name] == getattr(folded, name).tolist()


async def test_the_newest_candle_is_forming_and_is_not_stored(api: Api) -> None:
    """It is returned as not closed; the next question asks for it anew."""
    newest = await api.candles("limit: 3")
    assert newest["columns"]["closed"][-1] is False
    stored = await api.services.history.store.read_coverage([1])
    assert all(span.until <= NOW - 5_000 for spans in stored[0].spans.values() for span in spans)


FAULTS = {
    "half a JSON": Fault(truncate=True),
    "a connection cut": Fault(abort=True),
    "HTML with 200": HTML,
    "503": Fault(status=503),
    "429": Fault(status=429, headers={"Retry-After": "7"}),
    "451": Fault(status=451),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_page_that_cannot_be_read_is_an_error_then_healed_and_never_a_covered_hole(
    api: Api, fault: Fault
) -> None:
    """The first question is answered with a coded error, the second one in full."""
    arguments = f"since: {T0}, until: {T0 + 500 * MINUTE_MS}, limit: 1000"
    api.exchange.fail(fault, times=5)
    broken = await api.ask(arguments)
    assert broken.data == {"candles": None}
    assert [error.extensions["code"] for error in broken.errors or []] in (
        [["PROVIDER_UNAVAILABLE"], ["RATE_LIMITED"], ["PROVIDER_REFUSED"]]
    )
    api.exchange.reset()
    healed = await api.candles(arguments)
    assert healed["complete"] is True
    assert healed["columns"]["timestamp"] == closed(T0, 500)


async def test_a_page_that_breaks_in_the_middle_leaves_what_came_before_and_says_what_is_missing(api: Api) -> None:
    """Partial with an OUTAGE: the stored part is answered, the rest is healed later."""
    await api.candles(f"since: {T0}, until: {T0 + 1_000 * MINUTE_MS}, limit: 1000")
    api.exchange.fail(Fault(truncate=True), times=5)
    arguments = f"since: {T0}, until: {T0 + 2_000 * MINUTE_MS}, limit: 2000"
    partial = await api.candles(arguments)
    assert partial["complete"] is False
    assert [gap["reason"] for gap in partial["gaps"]] == ["OUTAGE"]
    assert partial["columns"]["timestamp"] == closed(T0, 1_000)
    api.exchange.reset()
    healed = await api.candles(arguments)
    assert healed["complete"] is True
    assert healed["columns"]["timestamp"] == closed(T0, 2_000)


async def test_an_exchange_that_hangs_is_an_error_within_the_deadline(api: Api, database: Database) -> None:
    """No caller waits longer than the deadline, and later pages are kept."""
    database.timings = replace(database.timings, query_deadline_s=0.3)
    api.exchange.fail(Fault(delay_s=1.0))
    arguments = f"since: {T0}, until: {T0 + 100 * MINUTE_MS}"
    slow = await api.ask(arguments)
    assert [error.extensions["code"] for error in slow.errors or []] == ["PROVIDER_UNAVAILABLE"]
    database.timings = replace(database.timings, query_deadline_s=HANG_S)
    calls = api.calls
    healed = await api.candles(arguments)
    assert healed["complete"] is True
    assert api.calls == max(calls, 1)  # the first question's call was joined, also where it had not arrived yet


async def test_rows_that_are_no_candles_are_refused_and_their_minutes_stay_uncovered(api: Api) -> None:
    """A high below its low is neither stored nor taken for an empty minute."""
    api.exchange.fail(Fault(corrupt="high below low"))
    arguments = f"since: {T0}, until: {T0 + 100 * MINUTE_MS}"
    bad = await api.candles(arguments)
    assert bad["complete"] is False
    assert [gap["reason"] for gap in bad["gaps"]] == ["REFUSED"]
    assert bad["columns"]["timestamp"] == closed(T0, 100)[1:]
    healed = await api.candles(arguments)
    assert healed["complete"] is True
    assert healed["columns"]["timestamp"] == closed(T0, 100)


async def test_after_a_restart_neither_candles_nor_symbols_are_asked_for_again(
    api: Api, exchange: FakeBinance, database: Database, tmp_path: Path
) -> None:
    """What is stored answers a server that was started anew; for a piece that is missing it costs that page alone."""
    arguments = f"since: {T0}, until: {T0 + 3_000 * MINUTE_MS}, limit: 3000"
    await api.candles(arguments)
    for _ in range(2):
        exchange.reset()
        provider = Ccxt("binance", exchange.ccxt_options()["binance"], folder=tmp_path, timings=PATIENT_CCXT)
        await provider.start()
        providers = alone(provider)
        history = History.create(database, providers)
        series = Series(Instrument("crypto", "binance", "BTC/USDT"), MINUTE)
        answer = (await history.answer([CandleRequest(series, 3_000, T0, T0 + 3_000 * MINUTE_MS)]))[0]
        assert isinstance(answer, Answer)
        assert answer.candles.timestamp.tolist() == closed(T0, 3_000)
        assert not exchange.calls
        answer = (await history.answer([CandleRequest(series, 3_000, T0, T0 + 3_100 * MINUTE_MS)]))[0]
        await history.fetcher.close()
        await provider.close()
    assert exchange.calls == {}  # the second restart found the last piece stored, and the symbols in their file


async def test_kraken_does_not_reach_beyond_its_newest_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five thousand minutes cost one call; the older part is UNAVAILABLE, and no minute of it is taken for empty."""
    async with FakeKraken() as kraken:
        kraken.add("BTC", "USD", TRUTH)
        kraken.now = NOW
        kraken.fillers = True
        set_clock(monkeypatch, lambda: NOW)
        provider = Ccxt("kraken", kraken.ccxt_options()["kraken"], timings=PATIENT_CCXT)
        await provider.start()
        history = History.create(database, alone(provider))
        series = Series(Instrument("crypto", "kraken", "BTC/USD"), MINUTE)
        since = MINUTE.floor(NOW) - 5_000 * MINUTE_MS
        answer = (await history.answer([CandleRequest(series, 5_000, since)]))[0]
        assert isinstance(answer, Answer)
        assert kraken.calls["/0/public/OHLC"] == 1
        assert {gap.reason for gap in answer.gaps} == {GapReason.UNAVAILABLE}
        first = int(answer.candles.timestamp[0])
        assert [(gap.since, gap.until <= first) for gap in answer.gaps] == [(since, True)]
        final = answer.candles[answer.candles.closed].timestamp.tolist()
        assert final == [s for s in TRUTH.timestamp.tolist() if first <= s and s + MINUTE_MS <= NOW - 30_000]
        assert len(final) > 650
        await history.fetcher.close()
        await provider.close()


def test_the_exchange_s_candles_come_by_websocket(binance: Ccxt) -> None:
    """So says ccxt of it; the hub follows."""
    assert binance.capabilities.live is LiveMode.STREAM
