"""Alpaca's stream: the real websocket client against a local server, and every way in which a connection ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from candlegraph import Candles, Instrument
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderError, ProviderRefused, ProviderUnavailable
from providers.alpaca.provider import Alpaca, create
from providers.alpaca.timings import AlpacaTimings
from tests.fakes.alpaca import KEY, LATE_MS, SECRET, FakeAlpaca, new_york, session_candles
from tests.fakes.clocks import set_clock
from tests.waiting import HANG_S, eventually

SINCE = new_york("2024-03-08 09:30")
TRUTH = session_candles("2024-03-08", 1, keep=1.0)
NAMES = ("AAPL", "MSFT", "TSLA")
BRISK = AlpacaTimings(occupied_retries_s=(0.02, 0.02, 0.02))


@pytest.fixture
async def exchange(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAlpaca]:
    async with FakeAlpaca() as fake:
        for name in NAMES:
            fake.lists(name, TRUTH)
        fake.now = SINCE + MINUTE_MS
        set_clock(monkeypatch, lambda: fake.now)
        yield fake


@pytest.fixture
async def alpaca(exchange: FakeAlpaca) -> AsyncIterator[Alpaca]:
    (provider,) = create(exchange.environ(), BRISK)
    assert isinstance(provider, Alpaca)
    await provider.start()
    yield provider
    await provider.close()
    await exchange.stream.until(set())
    assert not [task for task in asyncio.all_tasks() if "_Socket" in repr(task.get_coro())]


class Listener:
    """Iterates in a task of its own, as a feed does."""

    def __init__(self, provider: Alpaca, symbol: str = "AAPL") -> None:
        self.heard: list[Candles] = []
        self._arrived = asyncio.Event()
        self.task = asyncio.create_task(self._listen(provider.stream(Instrument("stocks", provider.id, symbol))))

    async def _listen(self, stream: AsyncIterator[Candles]) -> None:
        async for candles in stream:
            self.heard.append(candles)
            self._arrived.set()

    async def next(self) -> Candles:
        async with asyncio.timeout(HANG_S):
            while not self.heard:
                self._arrived.clear()
                await self._arrived.wait()
        return self.heard.pop(0)

    async def error(self) -> BaseException:
        async with asyncio.timeout(HANG_S):
            await asyncio.wait([self.task])
        error = self.task.exception()
        assert error is not None
        return error

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def row(candles: Candles) -> tuple[int, float]:
    (candle,) = candles
    return candle.timestamp, candle.volume


async def test_a_minute_comes_when_it_has_ended_and_again_when_it_is_corrected(
    exchange: FakeAlpaca, alpaca: Alpaca
) -> None:
    listener = Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    await exchange.stream.tick()
    final = exchange.truth("AAPL")[:1]
    stamp, early = row(await listener.next())
    assert stamp == SINCE
    assert early < final.volume[0]
    exchange.now += LATE_MS
    await exchange.stream.correct()
    assert row(await listener.next()) == (SINCE, final.volume[0])
    await listener.leave()


async def test_one_connection_serves_all_symbols_and_all_who_follow_them(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    """Symbols come and go while it is open; it closes with the last one."""
    first, again, other = Listener(alpaca), Listener(alpaca), Listener(alpaca, "MSFT")
    await exchange.stream.until({"AAPL", "MSFT"})
    await exchange.stream.tick()
    for listener in (first, again, other):
        assert row(await listener.next())[0] == SINCE
    await first.leave()
    third = Listener(alpaca, "TSLA")
    await exchange.stream.until({"AAPL", "MSFT", "TSLA"})
    await other.leave()
    await exchange.stream.until({"AAPL", "TSLA"})
    exchange.now += MINUTE_MS
    await exchange.stream.tick()
    assert row(await again.next())[0] == row(await third.next())[0] == SINCE + MINUTE_MS
    assert not first.heard
    assert not other.heard
    await again.leave()
    await third.leave()
    await exchange.stream.until(set())
    assert exchange.stream.counts["connections"] == exchange.stream.counts["auth"] == 1


async def test_two_providers_of_a_feed_share_its_connection(exchange: FakeAlpaca) -> None:
    exchange.free_plan = False
    raw, split = create(exchange.environ(ALPACA_FEEDS="sip,sip:split"), BRISK)
    assert isinstance(raw, Alpaca)
    assert isinstance(split, Alpaca)
    listeners = [Listener(raw), Listener(split)]
    await exchange.stream.until({"AAPL"})
    await exchange.stream.tick()
    assert row(await listeners[0].next()) == row(await listeners[1].next())
    assert exchange.stream.counts["connections"] == 1
    await asyncio.gather(raw.close(), split.close())
    for listener in listeners:
        assert isinstance(await listener.error(), ProviderUnavailable)


async def test_who_leaves_and_comes_back_never_has_two_connections_open(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    for number in range(5):
        listener = Listener(alpaca, NAMES[number % 3])
        await exchange.stream.until({NAMES[number % 3]})
        await listener.leave()
    for number in range(5):
        hasty = Listener(alpaca, NAMES[number % 3])
        await asyncio.sleep(0)
        await hasty.leave()
    last = Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    assert exchange.stream.most_at_once == 1
    await last.leave()


async def test_a_slow_reader_gets_the_newest_of_each_minute(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    stream = alpaca.stream(Instrument("stocks", "alpaca", "AAPL"))
    first = asyncio.create_task(anext(stream))
    await exchange.stream.until({"AAPL"})
    await exchange.stream.tick()
    await first
    quick = Listener(alpaca)
    for _ in range(3):
        exchange.now += MINUTE_MS
        await exchange.stream.tick()
        exchange.now += LATE_MS
        await exchange.stream.correct()
        exchange.now -= LATE_MS
    truth = exchange.truth("AAPL")[1:4]
    newest = (truth.timestamp[-1], truth.volume[-1])
    await eventually(lambda: quick.heard and (quick.heard[-1].timestamp[-1], quick.heard[-1].volume[-1]) == newest)
    candles = await anext(stream)
    assert candles.timestamp.tolist() == truth.timestamp.tolist()
    assert candles.volume.tolist() == truth.volume.tolist()
    await stream.aclose()
    await quick.leave()


# Ends

Cut = Callable[[FakeAlpaca], Awaitable[None]]


async def _close(exchange: FakeAlpaca) -> None:
    await exchange.stream.close()


async def _abort(exchange: FakeAlpaca) -> None:
    exchange.stream.abort()


def _say(payload: object) -> Cut:
    async def say(exchange: FakeAlpaca) -> None:
        await exchange.stream.say(payload)

    return say


CUTS: dict[str, Cut] = {
    "closed": _close,
    "aborted": _abort,
    "slow client": _say([{"T": "error", "code": 407, "msg": "slow client"}]),
    "internal error": _say([{"T": "error", "code": 500, "msg": "internal error"}]),
    "unknown error": _say([{"T": "error", "msg": "what"}]),
    "no JSON": _say("<html>"),
    "no list": _say({"T": "b"}),
    "no objects": _say([1]),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
async def test_every_cut_fails_all_iterators_so_that_each_reads_what_it_missed(
    exchange: FakeAlpaca, alpaca: Alpaca, cut: Cut
) -> None:
    listeners = [Listener(alpaca, name) for name in NAMES]
    await exchange.stream.until(set(NAMES))
    await exchange.stream.tick()
    await cut(exchange)
    for listener in listeners:
        assert type(await listener.error()) is ProviderUnavailable
        assert row(await listener.next())[0] == SINCE  # what came before the cut is not lost
    again = Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    await exchange.stream.tick()
    assert row(await again.next())[0] == SINCE
    await again.leave()


async def test_a_connection_that_has_gone_silent_is_found_out(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    alpaca._stream.timings = replace(BRISK, heartbeat_interval_s=0.1)
    listener = Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    exchange.stream.deaf = True
    assert isinstance(await listener.error(), ProviderUnavailable)


async def test_a_subscription_that_is_not_answered_is_found_out(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    alpaca._stream.timings = replace(BRISK, answer_timeout_s=0.1)
    exchange.stream.no_answer = True
    error = await Listener(alpaca).error()
    assert isinstance(error, ProviderUnavailable)
    assert "subscription" in error.message


async def test_a_host_that_is_not_there_is_unavailable(exchange: FakeAlpaca) -> None:
    for url in ("ws://127.0.0.1:1", exchange.environ()["ALPACA_STREAM_URL"] + "/nothing/here"):
        (provider,) = create(exchange.environ(ALPACA_STREAM_URL=url), BRISK)
        assert isinstance(provider, Alpaca)
        error = await Listener(provider).error()
        assert isinstance(error, ProviderUnavailable)
        assert SECRET not in repr(error)
        await provider.close()


async def test_bad_keys_are_refused_and_not_tried_again_at_once(
    exchange: FakeAlpaca, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (provider,) = create(exchange.environ(ALPACA_API_SECRET=SECRET + "x"), BRISK)
    assert isinstance(provider, Alpaca)
    for _ in range(3):
        error = await Listener(provider).error()
        assert type(error) is ProviderRefused
        assert "ALPACA_API_SECRET" in error.message
        assert SECRET not in repr(error)
    assert exchange.stream.counts["connections"] == 1
    provider._stream.timings = replace(BRISK, refused_pause_s=0.0)
    await provider.close()
    await Listener(provider).error()
    assert exchange.stream.counts["connections"] == 2
    await provider.close()
    assert KEY not in caplog.text
    assert SECRET not in caplog.text


async def test_a_plan_without_the_live_feed_is_refused(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.stream.refusal = 409
    error = await Listener(alpaca).error()
    assert type(error) is ProviderRefused
    assert "plan" in error.message


async def test_a_sign_in_that_came_too_late_is_tried_again(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.stream.refusal = 404
    assert type(await Listener(alpaca).error()) is ProviderUnavailable
    exchange.stream.refusal = None
    listener = Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    await listener.leave()


async def test_an_old_connection_that_still_counts_is_waited_for(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.stream.occupied = 2
    listener = Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    assert not listener.task.done()
    assert exchange.stream.counts["connections"] == 3
    await listener.leave()


async def test_a_connection_that_somebody_else_keeps_is_an_error_in_the_end(
    exchange: FakeAlpaca, alpaca: Alpaca
) -> None:
    exchange.stream.occupied = 1_000
    error = await Listener(alpaca).error()
    assert type(error) is ProviderUnavailable
    assert "another connection" in error.message


@pytest.mark.parametrize("together", [True, False])
async def test_symbols_beyond_the_plan_s_limit_are_refused_and_the_others_go_on(
    exchange: FakeAlpaca, alpaca: Alpaca, *, together: bool
) -> None:
    """Those that came first stay; when one of them leaves, there is room again."""
    exchange.stream.symbol_limit = 2
    first, second = Listener(alpaca), Listener(alpaca, "MSFT")
    if not together:
        await exchange.stream.until({"AAPL", "MSFT"})
    third = Listener(alpaca, "TSLA")
    error = await third.error()
    assert type(error) is ProviderRefused
    assert "'TSLA'" in error.message
    assert "symbols" in error.message
    await exchange.stream.until({"AAPL", "MSFT"})
    await exchange.stream.tick()
    assert row(await first.next())[0] == row(await second.next())[0] == SINCE
    await second.leave()
    again = Listener(alpaca, "TSLA")
    await exchange.stream.until({"AAPL", "TSLA"})
    assert exchange.stream.counts["connections"] == 1
    for listener in (first, again):
        await listener.leave()


async def test_closing_the_provider_ends_every_iterator(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    early, settled = Listener(alpaca), Listener(alpaca)
    await exchange.stream.until({"AAPL"})
    await alpaca.close()
    await exchange.stream.until(set())
    for listener in (early, settled):
        assert isinstance(await listener.error(), ProviderError)
    late = Listener(alpaca)
    await asyncio.sleep(0)
    await alpaca.close()  # before the connection has begun
    assert isinstance(await late.error(), ProviderError)
