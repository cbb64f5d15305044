"""What a ccxt provider says of its exchange: budget, clock, beginnings and ends; and Coinbase's habits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable, UnknownSymbol, Unsupported
from candlegraph.provider import Budget, Page, SupportsFirstAvailable, SupportsServerTime
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt import http_session as ccxt_session
from providers.ccxt.provider import Ccxt
from tests.fakes.binance import FakeBinance
from tests.fakes.clocks import set_clock
from tests.fakes.coinbase import FakeCoinbase
from tests.fakes.exchange import T0, FakeExchange, Fault, random_candles
from tests.fakes.kraken import FakeKraken
from tests.timings import PATIENT_CCXT

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

NOW = T0 + 2_000 * MINUTE_MS + 20_000
TRUTH = random_candles(T0, 2_001)
LISTED_AT = T0 + 1_500 * MINUTE_MS
ENDED_AT = T0 + 1_000 * MINUTE_MS


def furnish(fake: FakeExchange, quote: str) -> None:
    fake.add("BTC", quote, TRUTH)
    fake.add("NEW", quote, random_candles(LISTED_AT, 501, seed=3))
    fake.add("OLD", quote, random_candles(T0, 1_000, seed=4), trading=False)
    fake.now = NOW


@pytest.fixture(scope="module")
async def binance_fake() -> AsyncIterator[FakeBinance]:
    async with FakeBinance() as fake:
        furnish(fake, "USDT")
        fake.add_swap("BTC", "USDT", random_candles(LISTED_AT, 100, seed=5))
        yield fake


@pytest.fixture(scope="module")
async def kraken_fake() -> AsyncIterator[FakeKraken]:
    async with FakeKraken() as fake:
        furnish(fake, "USD")
        yield fake


@pytest.fixture(scope="module")
async def coinbase_fake() -> AsyncIterator[FakeCoinbase]:
    async with FakeCoinbase() as fake:
        furnish(fake, "USD")
        yield fake


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


Start = Callable[[FakeBinance | FakeKraken | FakeCoinbase], Awaitable[Ccxt]]


@pytest.fixture
async def start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    set_clock(monkeypatch, lambda: NOW)
    made: list[Ccxt] = []

    async def make(fake: FakeBinance | FakeKraken | FakeCoinbase) -> Ccxt:
        kinds = ("spot", "linear") if isinstance(fake, FakeBinance) else ()
        ((name, options),) = fake.ccxt_options(*kinds).items()  # type: ignore[call-arg]
        provider = Ccxt(name, options, folder=folder, timings=PATIENT_CCXT)
        made.append(provider)
        await provider.start()
        await ask(provider, 0, 1)  # the symbols are there
        fake.reset()
        return provider

    yield make
    for provider in made:
        await provider.close()


async def ask(provider: Ccxt, first: int, last: int, base: str = "BTC") -> Page:
    span = Span(T0 + first * MINUTE_MS, T0 + last * MINUTE_MS)
    return await provider.fetch(instrument(provider, base), MINUTE, span)


def instrument(provider: Ccxt, base: str = "BTC") -> Instrument:
    return Instrument("crypto", provider.id, f"{base}/{'USDT' if provider.id == 'binance' else 'USD'}")


def same(candles: Candles, truth: Candles) -> bool:
    return all(np.array_equal(*pair) for pair in zip(candles.columns[:6], truth.columns[:6], strict=True))


# What may be spent


async def test_the_budget_is_what_ccxt_allows_an_exchange_in_a_minute(start: Start, binance_fake: FakeBinance) -> None:
    provider = await start(binance_fake)
    assert provider.capabilities.budget == Budget(1_200, 60.0, 8)  # 50 ms for a cost of 1
    assert provider.capabilities.deadline_s == 10
    kraken = Ccxt("kraken")
    await kraken.start()
    assert kraken.capabilities.budget == Budget(60, 60.0, 5)  # more could not begin in five seconds
    await kraken.close()


async def test_the_budget_is_that_of_who_asks() -> None:
    """Each API key has a budget of its own; a secret, a password or another option does not change the budget."""
    options: list[dict[str, object]] = [
        {},
        {"timeout": 5_000},
        {"apiKey": "canary"},
        {"apiKey": "canary", "secret": "s", "timeout": 5_000},
        {"apiKey": "another"},
        {"walletAddress": "canary"},
    ]
    credentials = []
    for each in options:
        provider = Ccxt("kraken", each, timings=PATIENT_CCXT)
        await provider.start()
        assert provider.capabilities.budget is not None
        assert "canary" not in repr(provider.capabilities)
        credentials.append(provider.capabilities.budget.credential)
        await provider.close()
    anonymous, too, ours, still, another, wallet = credentials
    assert (anonymous, ours) == (too, still)
    assert len({anonymous, ours, another, wallet}) == 4


async def test_a_call_weighs_what_ccxt_charges_for_it(start: Start, binance_fake: FakeBinance) -> None:
    assert Ccxt("binance").capabilities.call_weight == 1
    provider = await start(binance_fake)
    assert provider.capabilities.call_weight == 0.4
    await provider.fetch(Instrument("crypto", "binance", "BTC/USDT:USDT"), MINUTE, Span(LISTED_AT, NOW))
    assert provider.capabilities.call_weight == 5  # five hundred and more rows of a swap


# What time it is there


async def test_the_exchange_reports_the_time(
    start: Start, binance_fake: FakeBinance, kraken_fake: FakeKraken, coinbase_fake: FakeCoinbase
) -> None:
    for fake, expected in ((binance_fake, NOW), (kraken_fake, NOW), (coinbase_fake, NOW)):
        provider = await start(fake)
        assert isinstance(provider, SupportsServerTime)
        assert await provider.server_time() == expected
        assert sum(fake.calls.values()) == 1


async def test_a_time_that_is_none_is_an_error(start: Start, binance_fake: FakeBinance) -> None:
    provider = await start(binance_fake)
    for body in (b"{}", b'{"serverTime":"soon"}', b"[]"):
        binance_fake.fail(Fault(body=body), path="")
        with pytest.raises(ProviderUnavailable):
            await provider.server_time()


async def test_an_exchange_without_a_clock_says_so() -> None:
    provider = Ccxt("gemini")
    await provider.start()
    with pytest.raises(Unsupported):
        await provider.server_time()
    await provider.close()


# Beginnings and ends


async def test_where_history_begins_costs_one_call_of_one_row(start: Start, binance_fake: FakeBinance) -> None:
    provider = await start(binance_fake)
    assert isinstance(provider, SupportsFirstAvailable)
    assert await provider.first_available(instrument(provider, "NEW")) == LISTED_AT
    assert [query["limit"] for _, query in binance_fake.requests] == ["1"]
    with pytest.raises(UnknownSymbol):
        await provider.first_available(instrument(provider, "NO"))


async def test_where_the_listing_says_it_nothing_is_asked(start: Start, binance_fake: FakeBinance) -> None:
    provider = await start(binance_fake)
    assert await provider.first_available(Instrument("crypto", "binance", "BTC/USDT:USDT")) == LISTED_AT
    assert not binance_fake.calls


async def test_a_symbol_without_any_candle_has_no_beginning(start: Start, binance_fake: FakeBinance) -> None:
    provider = await start(binance_fake)
    binance_fake.fail(Fault(empty=True))
    assert await provider.first_available(instrument(provider)) is None


async def test_the_newest_rows_show_the_beginning_only_where_they_hold_it(
    start: Start, kraken_fake: FakeKraken
) -> None:
    provider = await start(kraken_fake)
    assert await provider.first_available(instrument(provider, "NEW")) == LISTED_AT
    assert await provider.first_available(instrument(provider)) is None


async def test_the_beginning_is_bisected_where_windows_are_answered(start: Start, coinbase_fake: FakeCoinbase) -> None:
    provider = await start(coinbase_fake)
    assert await provider.first_available(instrument(provider, "NEW")) == LISTED_AT
    assert sum(coinbase_fake.calls.values()) <= 10
    assert await provider.first_available(instrument(provider, "BTC")) == T0


@pytest.mark.usefixtures("listed_here")
async def test_a_delisted_symbol_has_ended_after_three_empty_answers_and_not_before(
    start: Start, binance_fake: FakeBinance
) -> None:
    """It is complete to its last candle; should it be traded again, the next listing takes its end back."""
    provider = await start(binance_fake)

    async def end() -> int | None:
        return {listing.symbol: listing.ended_at for listing in await provider.listings()}["OLD/USDT"]

    assert same((await ask(provider, 0, 1_000, "OLD")).candles, random_candles(T0, 1_000, seed=4))
    for _ in range(2):
        await ask(provider, 1_000, 3_000, "OLD")
        await ask(provider, 1_000, 1_500, "OLD")  # says nothing of what came after
    assert await end() is None
    await ask(provider, 1_000, 3_000, "OLD")
    assert await end() == ENDED_AT
    binance_fake.pairs["OLDUSDT"].trading = True
    assert await end() is None
    binance_fake.pairs["OLDUSDT"].trading = False


@pytest.mark.usefixtures("listed_here")
async def test_a_traded_symbol_that_is_quiet_has_not_ended(start: Start, binance_fake: FakeBinance) -> None:
    provider = await start(binance_fake)
    binance_fake.fail(Fault(empty=True), times=5)
    for _ in range(5):
        await ask(provider, 1_990, 3_000)
    assert {listing.ended_at for listing in await provider.listings()} == {None}
    binance_fake.pairs["BTCUSDT"].trading = False  # it may have been traded between the last answer and its end
    assert {listing.ended_at for listing in await provider.listings()} == {None}
    binance_fake.pairs["BTCUSDT"].trading = True


# Answers out of bounds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(start: Start, binance_fake: FakeBinance, status: int) -> None:
    provider = await start(binance_fake)
    binance_fake.fail(Fault(status=status, headers={"Location": f"{binance_fake.url}/api/v3/time"}))
    with pytest.raises(ProviderUnavailable):
        await ask(provider, 0, 10)
    assert binance_fake.calls == {"/api/v3/klines": 1}
    assert len((await ask(provider, 0, 10)).candles) == 10


async def test_an_endless_answer_is_given_up(
    start: Start, binance_fake: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await start(binance_fake)
    assert ccxt_session.MAX_BYTES == 32 << 20
    monkeypatch.setattr(ccxt_session, "MAX_BYTES", 50_000)
    with pytest.raises(ProviderUnavailable):
        await ask(provider, 0, 1_000)
    assert len((await ask(provider, 0, 100)).candles) == 100


# Coinbase: newest first, three hundred buckets at most


async def test_coinbase_is_paged_in_windows_that_it_accepts(start: Start, coinbase_fake: FakeCoinbase) -> None:
    provider = await start(coinbase_fake)
    pages, cursor = [], 0
    while cursor < 1_000:
        page = await ask(provider, cursor, 1_000)
        assert page.complete_from == T0 + cursor * MINUTE_MS < page.complete_to
        pages.append(page.candles)
        cursor = (page.complete_to - T0) // MINUTE_MS
    assert same(concat(pages), TRUTH[:1_000])
    assert sum(coinbase_fake.calls.values()) == 4


async def test_rows_that_coinbase_sends_from_before_are_dropped(start: Start, coinbase_fake: FakeCoinbase) -> None:
    provider = await start(coinbase_fake)
    coinbase_fake.fail(Fault(before=5))
    page = await ask(provider, 500, 600)
    assert same(page.candles, TRUTH[500:600])
    assert (page.complete_from, page.complete_to) == (T0 + 500 * MINUTE_MS, T0 + 600 * MINUTE_MS)


async def test_an_empty_window_of_coinbase_proves_that_window_alone(start: Start, coinbase_fake: FakeCoinbase) -> None:
    provider = await start(coinbase_fake)
    page = await ask(provider, 0, 1_600, "NEW")
    assert (len(page.candles), page.complete_to) == (0, T0 + 300 * MINUTE_MS)
