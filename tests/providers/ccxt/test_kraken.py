"""Live minutes of Kraken: ccxt's class, with what we put in front of it, against a local server that speaks version 2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candlegraph.answer import CandleRequest, GapReason
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable, UnknownSymbol
from candlegraph.provider import LiveMode
from candlegraph.series import Instrument, Series
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt.provider import Ccxt
from storage.database import Database
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import T0, Fault, random_candles
from tests.fakes.kraken import FakeKraken
from tests.providers.following import Following, first, following
from tests.timings import PATIENT_CCXT
from tests.waiting import eventually

pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning"),
    pytest.mark.usefixtures("listed_here"),
]

START = T0 + 1_000 * MINUTE_MS + 20_000
OPENED = START - 20_000
CROWD = 20
BUSY, OTHER = (Instrument("crypto", "kraken", f"S{number}/USD") for number in range(2))
QUIET = Instrument("crypto", "kraken", "QUIET/USD")  # a trade every third minute
LUNC = Instrument("crypto", "kraken", "LUNC/USD")  # Kraken's LUNA
LUNA = Instrument("crypto", "kraken", "LUNA/USD")  # Kraken's LUNA2


def truth(number: int = 0) -> Candles:
    return random_candles(T0, 3_000, seed=number)


def quiet_truth() -> Candles:
    candles = random_candles(T0, 3_000, seed=77)
    return candles[np.arange(len(candles)) % 3 == 0]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[FakeKraken]:
    async with FakeKraken() as fake:
        for number in range(CROWD):
            fake.add(f"S{number}", "USD", truth(number))
        fake.add("QUIET", "USD", quiet_truth())
        fake.add("XBT", "USD", truth(50))
        fake.add("LUNA", "USD", truth(51))
        fake.add("LUNA2", "USD", truth(52))
        yield fake


@pytest.fixture(scope="module")
def symbols_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def fake(server: FakeKraken, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKraken]:
    def calm() -> None:
        server.reset()
        server.run(0)
        server.sockets.calm()

    calm()
    server.now = START
    set_clock(monkeypatch, lambda: server.now)
    yield server
    calm()


Connect = Callable[..., Awaitable[Ccxt]]


@pytest.fixture
async def connect(fake: FakeKraken, symbols_kept: Path) -> AsyncIterator[Connect]:
    """Make started providers of the server; the clock is the server's."""
    made: list[Ccxt] = []

    async def make(**options: Any) -> Ccxt:
        provider = Ccxt(
            "kraken",
            {**fake.ccxt_options()["kraken"], "rateLimit": 1, **options},
            folder=symbols_kept,
            timings=PATIENT_CCXT,
        )
        made.append(provider)
        await provider.start()
        return provider

    yield make
    for provider in made:
        await provider.close()
    await gone(fake)


async def gone(fake: FakeKraken) -> None:
    await eventually(lambda: not fake.sockets.lines)


def rows(candles: Candles) -> list[tuple[Any, ...]]:
    return list(zip(*candles.columns[:6], strict=True))


# Messages


async def test_the_snapshot_is_sent_once_and_then_each_minute_as_it_moves(connect: Connect, fake: FakeKraken) -> None:
    provider = await connect()
    assert provider.capabilities.live is LiveMode.STREAM
    async with aclosing(provider.stream(BUSY)) as stream:
        snapshot = await first(stream)
        past = Span(int(snapshot.timestamp[0]), OPENED)
        assert len(snapshot) > 1
        assert rows(snapshot.between(past)) == rows(truth().between(past))
        assert snapshot.timestamp[-1] == OPENED
        assert snapshot.volume[-1] < truth().between(Span(OPENED, START)).volume[0]
        fake.now = START + 10_000
        moved = await first(stream)
        assert moved.timestamp.tolist() == [OPENED], "the rest of the snapshot is not sent again"
        assert moved.volume[0] > snapshot.volume[-1]
        fake.now = OPENED + MINUTE_MS + 5_000
        ended = await first(stream)
        while OPENED + MINUTE_MS not in ended.timestamp:
            ended = ended.merge(await first(stream))
        assert ended.timestamp.tolist() == [OPENED, OPENED + MINUTE_MS]
        assert rows(ended[:1]) == rows(truth().between(Span(OPENED, START)))
    await gone(fake)


@pytest.mark.parametrize("fillers", [False, True], ids=["left out", "filled"])
async def test_a_minute_without_a_trade_is_no_candle(connect: Connect, fake: FakeKraken, fillers: bool) -> None:
    fake.sockets.fillers = fillers
    fake.now = T0 + 999 * MINUTE_MS + 20_000  # this minute has a trade
    provider = await connect()
    async with aclosing(provider.stream(QUIET)) as stream:
        received = await first(stream)
        assert len(received) > 1
        for _ in range(3):
            fake.now += MINUTE_MS
            asked = fake.sockets.looks
            await eventually(lambda asked=asked: fake.sockets.looks > asked + 1)
        while received.timestamp[-1] < T0 + 1_002 * MINUTE_MS:
            received = received.merge(await first(stream))
        assert ((received.timestamp - T0) // MINUTE_MS % 3 == 0).all()
        assert (received.volume > 0).all()


async def test_a_symbol_without_recent_trades_has_an_empty_snapshot_and_updates_when_it_moves(
    connect: Connect, fake: FakeKraken
) -> None:
    fake.now = T0 - 1
    provider = await connect()
    async with aclosing(provider.stream(BUSY)) as stream:
        waiting = asyncio.ensure_future(first(stream))
        await eventually(lambda: fake.sockets.streams == {"S0/USD"})
        fake.now = T0 + 30_000
        assert (await waiting).timestamp.tolist() == [T0]


async def test_each_symbol_gets_its_own_minutes_where_kraken_has_another_name_for_it(
    connect: Connect, fake: FakeKraken
) -> None:
    """Kraken's LUNA is LUNC to ccxt, and its LUNA2 is LUNA: asked for by ccxt's name, it would tell another coin's."""
    provider = await connect()
    past = Span(OPENED - 5 * MINUTE_MS, OPENED)
    for instrument, number in ((Instrument("crypto", "kraken", "BTC/USD"), 50), (LUNC, 51), (LUNA, 52)):
        async with aclosing(provider.stream(instrument)) as stream:
            assert rows((await first(stream)).between(past)) == rows(truth(number).between(past)), instrument


# Subscriptions


async def test_a_follower_that_leaves_is_unsubscribed_and_gets_a_new_snapshot_later(
    connect: Connect, fake: FakeKraken
) -> None:
    provider = await connect()
    stays, leaves = provider.stream(BUSY), provider.stream(OTHER)
    await asyncio.gather(first(stays), first(leaves))
    await leaves.aclose()
    await eventually(lambda: fake.sockets.streams == {"S0/USD"})
    fake.now = START + 5 * MINUTE_MS
    async with aclosing(provider.stream(OTHER)) as back:
        received, past = await first(back), Span(OPENED, OPENED + 5 * MINUTE_MS)
        assert rows(received.between(past)) == rows(truth(1).between(past))
    await eventually(lambda: fake.sockets.streams == {"S0/USD"})
    assert (fake.sockets.opened, fake.sockets.frames["unsubscribe"]) == (1, 2)
    await stays.aclose()


async def test_an_update_that_came_too_late_for_a_leaver_does_not_hide_the_next_snapshot(
    connect: Connect, fake: FakeKraken, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await connect()
    exchange: Any = provider._exchange
    watch, stale = exchange.watch_ohlcv, next(iter(truth()[1_000:1_001]))

    async def late(*arguments: Any) -> Any:
        """It arrives between the question and the acknowledgement."""
        monkeypatch.setattr(exchange, "watch_ohlcv", watch)
        asked = asyncio.ensure_future(watch(*arguments))
        await asyncio.sleep(0)
        for line in fake.sockets.lines:
            await line.send(fake.sockets.frame_of("S0/USD", stale, final=False))
        return await asked

    async with aclosing(provider.stream(OTHER)) as other:
        await first(other)
        monkeypatch.setattr(exchange, "watch_ohlcv", late)
        async with aclosing(provider.stream(BUSY)) as stream:
            received, past = await first(stream), Span(OPENED - 5 * MINUTE_MS, OPENED)
            while not len(received.between(past)):
                received = received.merge(await first(stream))
            assert received.timestamp[-1] == OPENED
            assert received.volume[-1] < stale.volume, "the snapshot is newer than what came before it"
            assert rows(received.between(past)) == rows(truth().between(past))


async def test_a_refused_subscription_fails_at_once_although_heartbeats_go_on(
    connect: Connect, fake: FakeKraken
) -> None:
    provider = await connect()
    async with aclosing(provider.stream(OTHER)) as stays:
        await first(stays)
        fake.sockets.refusals["S0/USD"] = "EService:Market in cancel_only mode"
        with pytest.raises(UnknownSymbol, match="S0/USD: EService:Market in cancel_only mode"):
            await first(provider.stream(BUSY))
        fake.sockets.refusals.clear()
        async with aclosing(provider.stream(BUSY)) as stream:
            assert len(await first(stream))
    assert provider.capabilities.live is LiveMode.STREAM, "one market's trouble is not the exchange's"


# Silence


async def test_heartbeats_keep_a_stream_alive_without_trades(connect: Connect, fake: FakeKraken) -> None:
    provider = await connect()
    provider._live.timings = replace(provider._live.timings, min_silence_s=40 * fake.sockets.every_s)  # type: ignore[union-attr]
    async with aclosing(provider.stream(BUSY)) as stream:
        await first(stream)
        waiting, looks = asyncio.ensure_future(anext(stream)), fake.sockets.looks
        await eventually(lambda: fake.sockets.looks > looks + 80)  # twice as long as is suspicious elsewhere
        assert not waiting.done()
        fake.now = START + 10_000
        assert (await waiting).timestamp.tolist() == [OPENED]
    assert (fake.sockets.opened, fake.sockets.frames["subscribe"], fake.sockets.frames["unsubscribe"]) == (1, 1, 0)


async def test_what_moves_beside_a_silent_symbol_stands_for_the_heartbeat(connect: Connect, fake: FakeKraken) -> None:
    """There is none then."""
    fake.sockets.beats = False
    provider = await connect()
    exchange: Any = provider._exchange
    async with aclosing(provider.stream(BUSY)) as moves, aclosing(provider.stream(OTHER)) as silent:
        await asyncio.gather(first(moves), first(silent))
        (client,) = exchange.clients.values()
        client.beat_at = float("-inf")
        assert not exchange.is_quiet(OTHER.symbol)
        fake.sockets.stalled = {"S1USD"}
        fake.now = START + 10_000
        await first(moves)
        assert exchange.is_quiet(OTHER.symbol)
        assert not exchange.is_quiet(QUIET.symbol), "it is not subscribed"


async def test_a_line_whose_heart_has_stopped_is_cut_though_it_answers_pings(
    connect: Connect, fake: FakeKraken
) -> None:
    provider = await connect(streaming={"keepAlive": 50})
    provider._live.timings = replace(provider._live.timings, min_silence_s=0.1)  # type: ignore[union-attr]
    stream = provider.stream(BUSY)
    await first(stream)
    fake.sockets.beats = False
    answered = fake.sockets.frames["ping"]
    await eventually(lambda: fake.sockets.frames["ping"] > answered + 1)
    provider._exchange.heartbeat_timeout_s = 0.1  # type: ignore[union-attr]
    with pytest.raises(ProviderUnavailable, match="sent nothing of S0/USD"):
        await first(stream)
    await gone(fake)


async def test_a_dead_line_is_noticed_by_the_missing_pongs(connect: Connect, fake: FakeKraken) -> None:
    provider = await connect(streaming={"keepAlive": 50})
    stream = provider.stream(BUSY)
    await first(stream)
    fake.sockets.ignores_pings = True
    with pytest.raises(ProviderUnavailable):
        await first(stream)


# From the socket to the store


async def test_live_symbols_outlive_three_cuts_and_the_store_equals_the_truth(
    connect: Connect, fake: FakeKraken, database: Database
) -> None:
    """Each time it is subscribed, then read from the last final minute on, and each minute is received once."""
    database.timings = replace(database.timings, feed_stream_poll_interval_s=0.5, feed_max_backoff_s=0.3)
    crowd = [Instrument("crypto", "kraken", f"S{number}/USD") for number in range(CROWD)]
    async with following(await connect(), database, [*crowd, QUIET], START - 10 * MINUTE_MS) as followed:
        fake.run(60)
        for number, abort in enumerate((True, False, True)):
            await eventually(lambda number=number: fake.sockets.opened > number and len(fake.sockets.lines) == 1)
            until = fake.now + MINUTE_MS
            await eventually(lambda until=until: fake.now > until)
            await fake.sockets.cut(abort=abort)
        end = MINUTE.floor(fake.now)
        await eventually(lambda: all(followed.closed(one).timestamp[-1] >= end for one in crowd))
        await eventually(lambda: followed.closed(QUIET).timestamp[-1] >= end - 3 * MINUTE_MS)
        assert fake.sockets.opened >= 4
        whole = [*map(truth, range(CROWD)), quiet_truth()]
        for instrument, expected in zip([*crowd, QUIET], whole, strict=True):
            await streams_exactly(followed, instrument, expected, Span(OPENED - 9 * MINUTE_MS, end))


async def test_a_symbol_that_the_socket_refuses_is_polled(
    connect: Connect, fake: FakeKraken, database: Database
) -> None:
    database.timings = replace(database.timings, feed_poll_interval_s=0.1, feed_spread_s=0.0)
    fake.sockets.refusals["S0/USD"] = "Currency pair not supported S0/USD"
    async with following(await connect(), database, [BUSY, OTHER], START - 10 * MINUTE_MS) as followed:
        last = OPENED + 2 * MINUTE_MS
        fake.now = last + 40_000
        await eventually(lambda: followed.forming[BUSY].timestamp[-1] == last)
        await eventually(lambda: followed.closed(BUSY).timestamp[-1] == last - MINUTE_MS)
        assert fake.sockets.streams == {"S1/USD"}
        await streams_exactly(followed, BUSY, truth(), Span(OPENED - 9 * MINUTE_MS, last))


async def test_a_quiet_minute_is_closed_by_the_clock_and_a_look_at_the_history(
    connect: Connect, fake: FakeKraken, database: Database
) -> None:
    """The socket says nothing of it, and the filler in the history is no candle."""
    database.timings = replace(database.timings, feed_stream_poll_interval_s=0.1, feed_spread_s=0.0)
    async with following(await connect(), database, [QUIET], START - 10 * MINUTE_MS) as followed:
        fake.now = START + 5 * MINUTE_MS
        span = Span(OPENED - 9 * MINUTE_MS, OPENED + 5 * MINUTE_MS)
        expected = quiet_truth().between(span)
        await eventually(lambda: followed.closed(QUIET).timestamp[-1] == expected.timestamp[-1])
        await streams_exactly(followed, QUIET, quiet_truth(), span)
        answer: Any = (
            await followed.history.answer([CandleRequest(Series(QUIET, MINUTE), 100, span.since, span.until)])
        )[0]
        assert (rows(answer.candles), answer.gaps) == (rows(expected), ())


async def test_a_gap_that_is_longer_than_the_history_reaches_back_is_reported(
    connect: Connect, fake: FakeKraken, database: Database
) -> None:
    database.timings = replace(
        database.timings, feed_stream_poll_interval_s=0.1, feed_spread_s=0.0, feed_max_backoff_s=0.3
    )
    async with following(await connect(), database, [BUSY], START - 5 * MINUTE_MS) as followed:
        fake.fail(Fault(status=503), times=3, path="socket")
        fake.fail(Fault(status=503), times=3)
        fake.now = START + 800 * MINUTE_MS
        await fake.sockets.cut(abort=True)
        back = MINUTE.floor(fake.now) - 719 * MINUTE_MS  # the oldest that Kraken still has
        end = MINUTE.floor(fake.now - 30_000)
        await eventually(lambda: followed.closed(BUSY).timestamp[-1] == end - MINUTE_MS)
        received = followed.closed(BUSY)
        assert rows(received.between(Span(back, end))) == rows(truth().between(Span(back, end)))
        span = Span(START - 5 * MINUTE_MS, end)
        answer: Any = (
            await followed.history.answer([CandleRequest(Series(BUSY, MINUTE), 1_000, span.since, span.until)])
        )[0]
        (gap,) = answer.gaps
        assert (gap.reason, gap.until) == (GapReason.UNAVAILABLE, back)
        known = np.concatenate([truth().between(part).timestamp for part in (Span(0, gap.since), Span(back, end))])
        assert answer.candles.timestamp.tolist() == [at for at in known if MINUTE.floor(span.since) < at < end]
        assert set(received.timestamp.tolist()) == set(answer.candles.timestamp.tolist())


async def streams_exactly(followed: Following, instrument: Instrument, expected: Candles, span: Span) -> None:
    """It was closed minute by minute, each one once and in order, and stored as it was."""
    received = followed.closed(instrument).between(span)
    for candles in (received, await followed.kept(instrument, span)):
        assert rows(candles) == rows(expected.between(span)), instrument
