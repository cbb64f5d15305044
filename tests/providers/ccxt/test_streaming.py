"""Live minutes over ccxt's websockets: the unmodified class against a local server that speaks Binance's frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderError, ProviderRefused, ProviderUnavailable, RateLimited, UnknownSymbol
from candlegraph.provider import LiveMode, SupportsStreaming
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt.provider import Ccxt
from storage.database import Database
from tests.fakes.binance import FakeBinance
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import T0, Fault, random_candles
from tests.providers.following import first, following
from tests.timings import PATIENT_CCXT
from tests.waiting import HANG_S, eventually

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

START = T0 + 100 * MINUTE_MS + 20_000
CROWD = 200


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[FakeBinance]:
    async with FakeBinance() as fake:
        for number in range(CROWD):
            fake.add(f"S{number}", "USDT", random_candles(T0, 2_000, seed=number))
        yield fake


@pytest.fixture(scope="module")
def symbols_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


Connect = Callable[..., Awaitable[Ccxt]]


@pytest.fixture
async def connect(server: FakeBinance, symbols_kept: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Make started providers of the server; the clock is the server's."""
    made: list[Ccxt] = []
    server.now = START
    set_clock(monkeypatch, lambda: server.now)

    async def make(**options: Any) -> Ccxt:
        provider = Ccxt(
            "binance",
            {**server.ccxt_options()["binance"], "rateLimit": 1, **options},
            folder=symbols_kept,
            timings=PATIENT_CCXT,
        )
        made.append(provider)
        await provider.start()
        return provider

    yield make
    for provider in made:
        await provider.close()
    assert not server.sockets.lines or await gone(server)


@pytest.fixture
def fake(server: FakeBinance) -> Iterator[FakeBinance]:
    def calm() -> None:
        server.reset()
        server.run(0)
        server.sockets.calm()

    calm()
    yield server
    calm()


async def gone(fake: FakeBinance) -> None:
    await eventually(lambda: not fake.sockets.lines)


def instrument(number: int = 0) -> Instrument:
    return Instrument("crypto", "binance", f"S{number}/USDT")


def truth(number: int = 0) -> Candles:
    return random_candles(T0, 2_000, seed=number)


async def concat_all(stream: Any) -> Candles:
    return concat([candles async for candles in stream])


async def test_an_exchange_with_a_websocket_is_streamed_and_one_without_is_polled(connect: Connect) -> None:
    provider = await connect()
    assert isinstance(provider, SupportsStreaming)
    assert provider.capabilities.live is LiveMode.STREAM
    polled = Ccxt("bitso")
    await polled.start()
    assert polled.capabilities.live is LiveMode.POLL
    await polled.close()


async def test_a_follower_of_a_stream_that_is_closed_before_its_first_step_is_let_go(connect: Connect) -> None:
    provider = await connect()
    live = provider._live
    assert live is not None
    async with aclosing(live.stream("S0/USDT")) as stream:
        follower = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)  # the follower waits, and its task has yet to begin
        await live.close()
        with pytest.raises(ProviderUnavailable):
            await asyncio.wait_for(follower, HANG_S)


async def test_the_forming_minute_is_sent_as_it_moves_then_as_it_ended_then_the_next(
    connect: Connect, fake: FakeBinance
) -> None:
    provider = await connect()
    async with aclosing(provider.stream(instrument())) as stream:
        received = await first(stream)
        assert received.timestamp.tolist() == [T0 + 100 * MINUTE_MS]
        assert received.open.tolist() == truth().open[100:101].tolist()
        assert received.volume[0] < truth().volume[100]
        kept = received.volume.tolist()
        fake.now = START + MINUTE_MS
        changed = await first(stream)
        while len(changed) < 2 and changed.timestamp[-1] < T0 + 101 * MINUTE_MS:
            changed = changed.merge(await first(stream))
        assert changed.volume[0] == truth().volume[100]
        assert received.volume.tolist() == kept  # a row that was handed out does not change
    await gone(fake)


async def test_unchanged_minutes_are_not_sent_again(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    fake.sockets.twice = True
    async with aclosing(provider.stream(instrument())) as stream:
        received = await first(stream)
        looks = fake.sockets.looks
        await eventually(lambda: fake.sockets.looks > looks + 1)
        fake.now += 10_000
        assert (await first(stream)).volume[-1] != received.volume[-1], "the next is what changed"


async def test_minutes_received_out_of_order_are_yielded_in_order(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    fake.sockets.backwards = True
    async with aclosing(provider.stream(instrument())) as stream:
        found = await first(stream)
        fake.now = START + MINUTE_MS
        while found.timestamp[-1] < T0 + 101 * MINUTE_MS or found.volume[0] != truth().volume[100]:
            found = found.merge(candles := await first(stream))
            assert (candles.timestamp[1:] > candles.timestamp[:-1]).all()


async def test_a_minute_without_a_trade_is_no_candle(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    fake.now = T0 + 100 * MINUTE_MS  # no part of it is over: its volume is 0
    async with aclosing(provider.stream(instrument())) as stream:
        waiting = asyncio.ensure_future(first(stream))
        await eventually(lambda: any(candle for line in fake.sockets.lines for candle in line.sent.values()))
        fake.now += 10_000
        assert (await waiting).volume[0] > 0


async def test_two_hundred_symbols_share_one_socket_and_leave_nothing_behind(
    connect: Connect, fake: FakeBinance
) -> None:
    provider = await connect()
    await provider._find(instrument())  # the symbols are there
    before = len(asyncio.all_tasks())
    streams = [provider.stream(instrument(number)) for number in range(CROWD)]
    received = await asyncio.gather(*map(first, streams))
    assert all(len(candles) for candles in received)
    assert (fake.sockets.opened, len(fake.sockets.streams)) == (1, CROWD)
    assert fake.calls["/api/v3/klines"] == 0
    await asyncio.gather(*(stream.aclose() for stream in streams))
    await gone(fake)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_many_followers_of_a_symbol_cost_one_subscription(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    streams = [provider.stream(instrument()) for _ in range(5)]
    received = await asyncio.gather(*map(first, streams))
    assert len({candles.volume[0] for candles in received}) == 1
    assert fake.sockets.frames["SUBSCRIBE"] == 1
    for stream in streams[1:]:
        await stream.aclose()
    fake.now = START + 10_000
    assert (await first(streams[0])).volume[0] > received[0].volume[0]  # the streams that ended took nothing along
    await streams[0].aclose()


async def test_who_leaves_is_unsubscribed_and_may_come_back(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    stays, leaves = provider.stream(instrument(0)), provider.stream(instrument(1))
    await asyncio.gather(first(stays), first(leaves))
    await leaves.aclose()
    await eventually(lambda: fake.sockets.streams == {"s0usdt@kline_1m"})
    back = provider.stream(instrument(1))
    await first(back)
    assert (fake.sockets.opened, fake.sockets.frames["UNSUBSCRIBE"]) == (1, 1)
    await back.aclose()
    await stays.aclose()


async def test_a_cancelled_follower_ends_no_other(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    stays, leaves = provider.stream(instrument()), provider.stream(instrument())
    await asyncio.gather(first(stays), first(leaves))
    waiting = asyncio.ensure_future(anext(leaves))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    fake.now = START + 10_000
    assert len(await first(stays))
    await stays.aclose()


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "aborted"])
async def test_a_cut_line_is_an_error_to_all_who_follow_and_the_next_stream_dials_again(
    connect: Connect, fake: FakeBinance, abort: bool
) -> None:
    provider = await connect()
    streams = [provider.stream(instrument(number)) for number in range(3)]
    await asyncio.gather(*map(first, streams))
    await fake.sockets.cut(abort=abort)
    ends = await asyncio.gather(*map(first, streams), return_exceptions=True)
    assert all(isinstance(end, ProviderUnavailable) for end in ends), ends
    async with aclosing(provider.stream(instrument())) as again:
        assert len(await first(again))
    assert fake.sockets.opened == 2


async def test_a_line_that_was_cut_and_dialled_anew_behind_our_back_is_an_error(
    connect: Connect, fake: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ccxt hides it if no task waits at that moment: minutes would be missing silently."""
    provider = await connect()
    stream = provider.stream(instrument())
    await first(stream)
    exchange: Any = provider._exchange
    watch = exchange.watch_ohlcv

    async def late(*arguments: Any) -> Any:
        monkeypatch.setattr(exchange, "watch_ohlcv", watch)
        await fake.sockets.cut()
        await eventually(lambda: not exchange.clients)
        fake.now = START + 5 * MINUTE_MS
        return await watch(*arguments)

    monkeypatch.setattr(exchange, "watch_ohlcv", late)
    fake.now = START + 10_000
    with pytest.raises(ProviderUnavailable, match="cut"):
        await concat_all(stream)


async def test_an_unfinished_minute_of_an_earlier_connection_is_not_sent_by_the_next(
    connect: Connect, fake: FakeBinance
) -> None:
    provider = await connect()
    async with aclosing(provider.stream(instrument())) as stream:
        await first(stream)
    fake.now = START + 5 * MINUTE_MS
    async with aclosing(provider.stream(instrument())) as stream:
        received = await first(stream)
        assert received.timestamp.tolist() == [T0 + 105 * MINUTE_MS]


async def test_a_line_without_a_sign_of_life_is_cut_and_dialled_again(connect: Connect, fake: FakeBinance) -> None:
    """The whole socket is silent: it is closed, and all followers start again."""
    provider = await connect()
    streams = [provider.stream(instrument(number)) for number in range(2)]
    await asyncio.gather(*map(first, streams))
    provider._live.timings = replace(provider._live.timings, min_silence_s=0.2)  # type: ignore[union-attr]
    fake.sockets.stalled = None
    for stream in streams:
        await stream.aclose()
    streams = [provider.stream(instrument(number)) for number in range(2)]
    ends = await asyncio.gather(*map(first, streams), return_exceptions=True)
    assert all(isinstance(end, ProviderUnavailable) for end in ends)
    await gone(fake)
    fake.sockets.stalled = set()
    async with aclosing(provider.stream(instrument())) as again:
        assert len(await first(again))


async def test_a_dead_line_is_noticed_by_the_missing_pongs(connect: Connect, fake: FakeBinance) -> None:
    """Fifteen seconds are asked for, where Binance's own class waits for three minutes; a setting goes before."""
    assert (await connect())._exchange.streaming["keepAlive"] == 15_000  # type: ignore[union-attr]
    provider = await connect(streaming={"keepAlive": 50})
    stream = provider.stream(instrument())
    await first(stream)
    fake.sockets.ignores_pings = True
    with pytest.raises(ProviderUnavailable):
        await first(stream)


async def test_one_silent_symbol_is_subscribed_again_and_disconnects_no_other(
    connect: Connect, fake: FakeBinance
) -> None:
    fake.run(1)
    provider = await connect()
    provider._live.timings = replace(provider._live.timings, min_silence_s=0.3)  # type: ignore[union-attr]
    fake.sockets.stalled = {"S1USDT"}
    moves, silent = provider.stream(instrument(0)), provider.stream(instrument(1))
    received = [0]

    async def follow() -> None:
        async for candles in moves:
            received[0] += len(candles)

    following = asyncio.create_task(follow())
    with pytest.raises(ProviderUnavailable, match="S1/USDT"):
        await first(silent)
    so_far = received[0]
    await eventually(lambda: received[0] > so_far)
    assert (fake.sockets.opened, fake.sockets.frames["UNSUBSCRIBE"]) == (1, 1)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_symbol_that_is_usually_silent_is_waited_for_longer_each_time(
    connect: Connect, fake: FakeBinance
) -> None:
    provider = await connect()
    provider._live.timings = replace(provider._live.timings, min_silence_s=0.1, max_silence_s=0.35)  # type: ignore[union-attr]
    fake.sockets.stalled = None
    for _ in range(3):
        with pytest.raises(ProviderError):
            await first(provider.stream(instrument()))
    assert provider._live._silences == {"S0/USDT": 0.35}  # type: ignore[union-attr]


async def test_a_handshake_that_is_refused_says_how_long_to_wait_and_is_not_repeated_before(
    connect: Connect, fake: FakeBinance
) -> None:
    provider = await connect()
    fake.fail(Fault(status=429, headers={"Retry-After": "7"}), path="socket")
    with pytest.raises(RateLimited) as limited:
        await first(provider.stream(instrument()))
    assert limited.value.retry_after == 7
    with pytest.raises(ProviderUnavailable) as early:
        await first(provider.stream(instrument()))
    assert 0 < (early.value.retry_after or 0) <= 7
    assert sum(count for path, count in fake.calls.items() if path.startswith("/ws")) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(451, ProviderRefused), (503, ProviderUnavailable), (302, ProviderUnavailable)]
)
async def test_a_refused_handshake_is_an_error_in_our_terms(
    connect: Connect, fake: FakeBinance, status: int, kind: type[ProviderError]
) -> None:
    provider = await connect()
    fake.fail(Fault(status=status, headers={"Location": f"{fake.url}/elsewhere"}), path="socket")
    with pytest.raises(kind):
        await first(provider.stream(instrument()))
    assert "/elsewhere" not in fake.calls


async def test_where_a_stream_is_refused_for_good_the_exchange_is_polled(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    fake.fail(Fault(status=451), path="socket")
    with pytest.raises(ProviderRefused):
        await first(provider.stream(instrument()))
    assert provider.capabilities.live is LiveMode.POLL


async def test_an_unknown_symbol_opens_no_socket(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    with pytest.raises(UnknownSymbol):
        await first(provider.stream(Instrument("crypto", "binance", "NO/SUCH")))
    assert not fake.sockets.opened


async def test_close_ends_every_stream(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    stream = provider.stream(instrument())
    await first(stream)
    await provider.close()
    with pytest.raises(ProviderUnavailable):
        await first(stream)
    await gone(fake)


async def test_pings_are_answered(connect: Connect, fake: FakeBinance) -> None:
    provider = await connect()
    async with aclosing(provider.stream(instrument())) as stream:
        await first(stream)
        await fake.sockets.ping()
        await eventually(lambda: fake.sockets.frames["pong"] == 1)


# From the socket to the store


@pytest.mark.usefixtures("listed_here")
async def test_twenty_live_symbols_outlive_three_cuts_and_the_store_equals_the_truth(
    connect: Connect, fake: FakeBinance, database: Database
) -> None:
    """The clock runs sixty times faster: a cut of a second loses a minute, which the history brings."""
    database.timings = replace(database.timings, feed_stream_poll_interval_s=0.5, feed_max_backoff_s=0.3)
    instruments, since = [instrument(number) for number in range(20)], START - 10 * MINUTE_MS
    async with following(await connect(), database, instruments, since) as followed:
        fake.run(60)
        for number, abort in enumerate((True, False, True)):
            await eventually(lambda number=number: fake.sockets.opened > number and len(fake.sockets.lines) == 1)
            until = fake.now + MINUTE_MS
            await eventually(lambda until=until: fake.now > until)
            await fake.sockets.cut(abort=abort)
        end = MINUTE.floor(fake.now)
        await eventually(lambda: all(followed.closed(one).timestamp[-1] >= end for one in instruments))
        await eventually(lambda: fake.sockets.opened >= 4)
        span = Span(MINUTE.floor(START) - 9 * MINUTE_MS, end)
        for number, one in enumerate(instruments):
            expected = list(zip(*truth(number).between(span).columns[:6], strict=True))
            assert expected
            for candles in (await followed.kept(one, span), followed.closed(one).sorted().between(span)):
                assert list(zip(*candles.columns[:6], strict=True)) == expected
