"""The forming minute out of trades: the fold alone, and ccxt's unmodified class against Coinbase's frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable
from candlegraph.provider import LiveMode
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt.provider import Ccxt
from providers.ccxt.trades import Trade, TradeFold
from providers.ccxt.volumes import VolumeScale
from storage.database import Database
from tests.fakes.clocks import set_clock
from tests.fakes.coinbase import FakeCoinbase
from tests.fakes.exchange import T0, random_candles
from tests.providers.following import first, following
from tests.timings import PATIENT_CCXT
from tests.waiting import HANG_S, eventually

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

MINUTES = 2_000
QUIET = 103  # a minute without a trade
TRUTH = random_candles(T0, MINUTES, seed=7)
TRUTH = TRUTH[TRUTH.timestamp != T0 + QUIET * MINUTE_MS]
START = T0 + 100 * MINUTE_MS + 10_000
BTC = Instrument("crypto", "coinbase", "BTC/USD")


def trade(at: int, price: float, amount: float = 1.0, number: str | None = None) -> Trade:
    return {"id": number or f"{at}-{price}", "timestamp": T0 + at, "price": price, "amount": amount}


def joined(times: float = 1.0, *, inverse: bool = False) -> TradeFold:
    """A fold that was there before the minute of T0 + 1 min opened."""
    fold = TradeFold(VolumeScale(times, inverse))
    assert fold.add([trade(1_000, 9.0)], T0 + 2_000) == []
    return fold


def test_the_minute_in_which_the_stream_joins_is_not_shown_and_the_next_one_is() -> None:
    fold = joined()
    assert fold.add([trade(30_000, 8.0)], T0 + 30_000) == []
    assert fold.add([trade(61_000, 10.0)], T0 + 61_000) == [[T0 + MINUTE_MS, 10, 10, 10, 10, 1]]


def test_trades_of_a_snapshot_that_are_newer_than_our_clock_put_the_join_off() -> None:
    fold = TradeFold(VolumeScale(1.0))
    fold.add([trade(61_000, 10.0)], T0 + 59_000)
    assert fold.add([trade(70_000, 11.0), trade(121_000, 12.0)], T0 + 121_000) == [
        [T0 + 2 * MINUTE_MS, 12, 12, 12, 12, 1]
    ]


def test_trades_out_of_order_and_repeated_fold_into_the_same_candle() -> None:
    trades = [trade(60_000 + n * 1_000, price, n + 1.0) for n, price in enumerate((10.0, 13.0, 8.0, 11.0))]
    expected = [[T0 + MINUTE_MS, 10.0, 13.0, 8.0, 11.0, 10.0]]
    assert joined().add(trades, T0 + 70_000) == expected
    assert joined().add(trades[::-1] + trades, T0 + 70_000) == expected
    fold = joined()
    for one in (trades[3], trades[0], trades[2], trades[0], trades[1]):
        rows = fold.add([*trades[3:], one], T0 + 70_000)
    assert rows == expected


def test_a_late_trade_changes_its_own_minute_and_one_of_long_ago_none() -> None:
    fold = joined()
    for minute in range(1, 6):
        fold.add([trade(minute * MINUTE_MS, 10.0)], T0 + minute * MINUTE_MS)
    rows = fold.add([trade(4 * MINUTE_MS + 5, 12.0), trade(MINUTE_MS + 5, 99.0)], T0 + 5 * MINUTE_MS)
    assert [(row[0] - T0) // MINUTE_MS for row in rows] == [3, 4, 5]
    assert [row[2] for row in rows] == [10, 12, 10]


def test_a_trade_of_the_future_or_without_a_number_is_left_out() -> None:
    broken = [{"id": "x", "timestamp": T0 + 62_000, "price": None, "amount": 1.0}]
    assert joined().add([trade(10 * MINUTE_MS, 10.0), *broken], T0 + 62_000) == []


def test_amounts_of_contracts_become_units_of_the_base() -> None:
    (linear,) = joined(0.01).add([trade(61_000, 10.0, 5.0)], T0 + 61_000)
    (inverse,) = joined(100.0, inverse=True).add([trade(61_000, 10.0, 5.0)], T0 + 61_000)
    assert (linear[5], inverse[5]) == pytest.approx((0.05, 50.0))


# Coinbase


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[FakeCoinbase]:
    async with FakeCoinbase() as fake:
        fake.add("BTC", "USD", TRUTH)
        yield fake


@pytest.fixture
def fake(server: FakeCoinbase) -> Iterator[FakeCoinbase]:
    server.reset()
    server.run(0)
    server.sockets.calm()
    server.now = START
    yield server
    server.run(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def provider(fake: FakeCoinbase, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ccxt]:
    set_clock(monkeypatch, lambda: fake.now)
    made = Ccxt("coinbase", fake.ccxt_options()["coinbase"], folder=folder, timings=PATIENT_CCXT)
    assert made.capabilities.live is LiveMode.STREAM, "known before the start"
    await made.start()
    yield made
    await made.close()
    await eventually(lambda: not fake.sockets.lines)


def has_joined(provider: Ccxt) -> bool:
    """Whether the stream has heard of the exchange."""
    streams = provider._live._streams if provider._live else {}
    return any(watch.fold and watch.fold.whole_from for watch in streams.values())


def folded(fake: FakeCoinbase, minute: int, until: int) -> list[float]:
    """The open, high, low, close and volume of the trades of a minute up to ``until``."""
    opens = T0 + minute * MINUTE_MS
    trades = fake.sockets.trades(fake.pairs["BTCUSD"], opens - 1, min(until, opens + MINUTE_MS - 1))
    prices = [trade.price for trade in trades]
    return [prices[0], max(prices), min(prices), prices[-1], sum(trade.size for trade in trades)]


def numbers(candles: Candles, minute: int) -> list[float]:
    """The same of a candle."""
    (one,) = candles[candles.timestamp == T0 + minute * MINUTE_MS]
    return [one.open, one.high, one.low, one.close, one.volume]


async def until_shown(stream: AsyncIterator[Candles], fake: FakeCoinbase, minute: int) -> Candles:
    """Read on until a minute is shown as all of its trades up to now make it."""
    expected = pytest.approx(folded(fake, minute, fake.now))
    while True:
        candles = await first(stream)
        assert candles.timestamp[0] > START - MINUTE_MS // 2, "the minute of the join is not whole"
        if T0 + minute * MINUTE_MS in candles.timestamp and numbers(candles, minute) == expected:
            return candles


async def read_on(stream: AsyncIterator[Candles]) -> None:
    """Read until it ends."""
    while True:
        await first(stream)


@pytest.mark.parametrize("habit", ["twice", "backwards", "neither"])
async def test_the_forming_minute_is_the_fold_of_its_trades(provider: Ccxt, fake: FakeCoinbase, habit: str) -> None:
    if habit != "neither":
        setattr(fake.sockets, habit, True)
    assert provider.capabilities.streams_trades
    async with aclosing(provider.stream(BTC)) as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await eventually(lambda: has_joined(provider))
        fake.now = T0 + 101 * MINUTE_MS + 25_000
        await asyncio.wait_for(waiting, HANG_S)
        await until_shown_or(stream, fake, waiting.result())
        fake.now = T0 + 101 * MINUTE_MS + 55_000
        await until_shown(stream, fake, 101)
        fake.now = T0 + 104 * MINUTE_MS + 10_000  # one of the minutes between was quiet
        shown = await until_shown(stream, fake, 104)
        assert T0 + QUIET * MINUTE_MS not in shown.timestamp
    assert fake.calls["/api/v3/brokerage/market/products/BTC-USD/candles"] == 0


async def until_shown_or(stream: AsyncIterator[Candles], fake: FakeCoinbase, candles: Candles) -> None:
    """As `until_shown`, where the first answer may be it."""
    if numbers(candles, 101) != pytest.approx(folded(fake, 101, fake.now)):
        await until_shown(stream, fake, 101)


async def test_after_a_cut_the_half_seen_minute_is_left_to_the_history(provider: Ccxt, fake: FakeCoinbase) -> None:
    stream = provider.stream(BTC)
    waiting = asyncio.ensure_future(anext(stream))
    await eventually(lambda: has_joined(provider))
    fake.now = T0 + 101 * MINUTE_MS + 25_000
    await asyncio.wait_for(waiting, HANG_S)
    await fake.sockets.cut(abort=True)
    with pytest.raises(ProviderUnavailable):
        await read_on(stream)
    await eventually(lambda: not fake.sockets.lines)
    async with aclosing(provider.stream(BTC)) as again:
        waiting = asyncio.ensure_future(anext(again))
        await eventually(lambda: has_joined(provider))
        fake.now = T0 + 102 * MINUTE_MS + 10_000
        assert (await asyncio.wait_for(waiting, HANG_S)).timestamp.tolist() == [T0 + 102 * MINUTE_MS]


@pytest.mark.usefixtures("listed_here")
async def test_each_close_equals_the_history_and_costs_a_call_a_minute(
    provider: Ccxt, fake: FakeCoinbase, database: Database
) -> None:
    """The clock runs thirty times faster, and so do the reads: polled, it would be twelve calls a minute."""
    database.timings = replace(
        database.timings,
        feed_stream_poll_interval_s=2.0,
        feed_poll_interval_s=5 / 30,
        feed_late_retries_s=(0.5, 1.0),
        feed_max_backoff_s=0.3,
    )
    since = MINUTE.floor(START) - 5 * MINUTE_MS
    async with following(provider, database, [BTC], since) as followed:
        fake.run(30)
        await eventually(lambda: fake.now > START + 3 * MINUTE_MS)
        path = "/api/v3/brokerage/market/products/BTC-USD/candles"
        began, before = fake.now, fake.calls[path]
        await eventually(lambda: fake.now > began + 5 * MINUTE_MS)
        calls, passed = fake.calls[path] - before, (fake.now - began) / MINUTE_MS
        end = MINUTE.floor(fake.now) - MINUTE_MS
        await fake.sockets.cut(abort=True)
        await eventually(lambda: followed.closed(BTC).timestamp[-1] >= end)
        span = Span(since, end + MINUTE_MS)
        expected = list(zip(*TRUTH.between(span).columns[:6], strict=True))
        for candles in (await followed.kept(BTC, span), followed.closed(BTC).sorted().between(span)):
            assert list(zip(*candles.columns[:6], strict=True)) == expected
    print(f"{calls / passed:.1f} calls a minute")
    assert calls / passed < 6
