"""The wall clock steps while candles are followed: every provider goes on by its own clock, and nothing is closed, covered or lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import formatdate

import pytest

from candlegraph import (
    MINUTE,
    Budget,
    Candles,
    Capabilities,
    Instrument,
    Listing,
    LiveMode,
    Market,
    Page,
    Provider,
    Series,
    Span,
    Timeframe,
    clock,
)
from candlegraph.answer import Answer, CandleRequest
from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.event import EventKind
from providers.alpaca.provider import create
from providers.ccxt.provider import Ccxt
from providers.demo import Synthetic
from providers.guard.guard import Guard
from storage.database import Database
from tests.fakes.alpaca import FakeAlpaca, new_york, session_candles
from tests.fakes.binance import FakeBinance
from tests.fakes.clocks import SteppingClock
from tests.fakes.exchange import T0, random_candles
from tests.realtime.world import BRISK, Client, Process, eventually

TICK_MS = 15_000


class Plugin:
    """What an author makes of the example in docs/providers.md: it trusts ``clock.now_ms``, and reports no time."""

    api_version = 1
    market, id, name, version = Market("acme", "Acme", "What Acme trades."), "acme", "Acme", "1"
    description = "A truth that is known."
    capabilities = Capabilities(
        (MINUTE,), LiveMode.POLL, max_rows_per_call=1_000, settle_ms=5_000, budget=Budget(1e9, 1.0)
    )

    def __init__(self, truth: Candles, upstream_ms: Callable[[], int]) -> None:
        self._truth, self._upstream_ms = truth, upstream_ms

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def listings(self) -> Sequence[Listing]:
        return [Listing("X", first_available=int(self._truth.timestamp[0]))]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        now = self._upstream_ms()
        found = FakeBinance.drawn(self._truth.between(Span(span.since, min(span.until, now + 1))), now)
        return Page(found, span.since, min(span.until, timeframe.floor(clock.now_ms())))


class DatedPlugin(Plugin):
    """One whose upstream says in each answer when it was made."""

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        clock.note_date({"Date": formatdate(self._upstream_ms() // 1000, usegmt=True)})
        return await super().fetch(instrument, timeframe, span)


@dataclass
class Followed:
    """A provider that is followed live, its upstream's clock, and the candles that it should have sent."""

    machine: SteppingClock
    guard: Guard
    instrument: Instrument
    truth: Callable[[Span], Awaitable[Candles]]
    move: Callable[[int], None] = lambda now: None
    process: Process = field(init=False)
    fetches: int = 0

    async def start(self, database: Database) -> Client:
        """Follow it from ten minutes ago."""
        fetch = self.guard.fetch

        async def counted(*arguments: object) -> Page:
            page = await fetch(*arguments)  # type: ignore[arg-type]
            self.fetches += 1
            return page

        self.guard.fetch = counted  # type: ignore[method-assign, assignment]
        await self.guard.start()
        self.process = Process(database, self.guard)  # type: ignore[arg-type]
        self.began = MINUTE.floor(self.machine.now) - 10 * MINUTE_MS
        client = Client(self.process.hub, since=self.began, of=self.instrument)
        await eventually(client.caught_up.is_set)
        return client

    async def ask(self, since: int, until: int) -> Answer:
        answer = (
            await self.process.history.answer([CandleRequest(Series(self.instrument, MINUTE), 500, since, until)])
        )[0]
        assert isinstance(answer, Answer)
        return answer

    async def covered_until(self) -> int:
        """The end of what is covered, by the database."""
        record = (await self.process.history.listings.find([self.instrument]))[0]
        ledger = (await self.process.history.store.read_coverage([record.id]))[0]  # type: ignore[union-attr]
        return max(span.until for spans in ledger.spans.values() for span in spans)

    async def pass_time(self, ticks: int) -> None:
        """Let time pass, look at the newest candles as a client would, and see that nothing is claimed ahead of time."""
        for _ in range(ticks):
            self.machine.now += TICK_MS
            self.move(self.machine.now)
            seen = self.fetches
            await self.ask(self.machine.now - 5 * MINUTE_MS, self.machine.now + 3 * HOUR_MS)
            await eventually(lambda seen=seen: self.fetches > seen + 2)
            assert await self.covered_until() <= MINUTE.floor(self.machine.now), "covered ahead of the provider's time"


Build = Callable[[SteppingClock, AsyncExitStack], Awaitable[Followed]]


async def binance(machine: SteppingClock, stack: AsyncExitStack) -> Followed:
    exchange = await stack.enter_async_context(FakeBinance())
    truth = random_candles(T0, 300)
    exchange.add("BTC", "USDT", truth)
    exchange.now = machine.now
    provider = Ccxt("binance", exchange.ccxt_options()["binance"])
    stack.push_async_callback(provider.close)

    async def known(span: Span) -> Candles:
        return truth.between(span)

    def move(now: int) -> None:
        exchange.now = now

    return Followed(machine, Guard(provider), Instrument("crypto", "binance", "BTC/USDT"), known, move)


async def alpaca(machine: SteppingClock, stack: AsyncExitStack) -> Followed:
    exchange = await stack.enter_async_context(FakeAlpaca())
    exchange.lists("AAPL", session_candles("2024-03-08", 1, keep=1.0))
    machine.now = new_york("2024-03-08 11:00") + 20_000
    exchange.now = machine.now
    (provider,) = create(exchange.environ())
    assert isinstance(provider, Provider)
    stack.push_async_callback(provider.close)

    async def known(span: Span) -> Candles:
        return exchange.truth("AAPL").between(span)

    def move(now: int) -> None:
        exchange.now = now

    return Followed(machine, Guard(provider), Instrument("stocks", "alpaca", "AAPL"), known, move)


async def demo(machine: SteppingClock, stack: AsyncExitStack) -> Followed:
    instrument = Instrument("demo", "synthetic", "BTC/USD")

    async def known(span: Span) -> Candles:
        return (await Synthetic().fetch(instrument, MINUTE, span)).candles

    return Followed(machine, Guard(Synthetic()), instrument, known)


def plugin(kind: type[Plugin]) -> Build:
    async def build(machine: SteppingClock, stack: AsyncExitStack) -> Followed:
        truth = random_candles(T0, 300)

        async def known(span: Span) -> Candles:
            return truth.between(span)

        made = kind(truth, lambda: machine.now)
        return Followed(machine, Guard(made), Instrument("acme", "acme", "X"), known)

    return build


BUILDS: dict[str, Build] = {
    "ccxt's binance": binance,
    "alpaca": alpaca,
    "demo": demo,
    "a plugin": plugin(Plugin),
    "a plugin that reports the date": plugin(DatedPlugin),
}


def rows(candles: Candles) -> list[list[float]]:
    return [column.tolist() for column in candles.columns[:6]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.mark.parametrize("step_ms", [2 * HOUR_MS, -HOUR_MS], ids=["two hours ahead", "an hour back"])
@pytest.mark.parametrize("name", BUILDS)
async def test_a_step_of_the_wall_clock_closes_covers_and_loses_nothing(
    name: str, step_ms: int, database: Database, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack
) -> None:
    """For 75 seconds, and back; minutes close in time all the while, once each, and the history is whole afterwards."""
    database.timings = BRISK
    machine = SteppingClock(monkeypatch, T0 + 200 * MINUTE_MS + 20_000)
    followed = await BUILDS[name](machine, stack)
    client = await followed.start(database)
    stack.push_async_callback(followed.process.stop)
    stack.push_async_callback(client.leave)
    await followed.pass_time(8)
    machine.step_ms = step_ms
    await followed.pass_time(5)
    machine.step_ms = 0
    await followed.pass_time(12)
    settled = MINUTE.floor(machine.now - followed.guard.capabilities.settle_ms) - MINUTE_MS
    span = Span(followed.began, settled)
    truth = await followed.truth(span)
    assert len(truth) > 10
    await eventually(lambda: [c.timestamp for c in client.closed()][-1] >= settled - MINUTE_MS)
    received = Candles.of(
        *zip(*((c.timestamp, c.open, c.high, c.low, c.close, c.volume) for c in client.closed()), strict=True)
    )
    assert rows(received.between(span)) == rows(truth), "each minute was closed once, with its final numbers"
    assert not [event for event in client.events if event.kind is EventKind.CORRECTION]
    answer = await followed.ask(span.since, span.until)
    assert answer.complete
    assert not answer.gaps
    assert rows(answer.candles) == rows(truth)
