"""A provider whose truth is known, processes that share a database, and clients of theirs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Self

from candlegraph import (
    MINUTE,
    Candle,
    Candles,
    Capabilities,
    Instrument,
    Listing,
    LiveMode,
    Market,
    Page,
    ProviderUnavailable,
    Series,
    Span,
    Timeframe,
    clock,
    fold,
    zone,
)
from candlegraph.candle import concat
from candlegraph.event import Event, EventKind
from candlegraph.supervision import RestartPolicy, Supervisor
from candlegraph.timings import Timings
from candlegraph.upstream import Urgency
from candlegraph.zone import UTC
from history.orchestrator import History
from realtime.cluster import Cluster
from realtime.feed import Feed
from realtime.hub import Hub
from storage.database import Database
from tests import waiting
from tests.fakes.upstream import FakeProviders
from tests.timings import PATIENT

START = 1_709_251_200_000 + 30_000  # 2024-03-01T00:00:30Z
BTC, ETH = Instrument("lab", "exchange", "BTC"), Instrument("lab", "exchange", "ETH")
FIRST = START - 3 * 86_400_000
QUICK = RestartPolicy(first_s=0.05, longest_s=0.2, healthy_s=0.2)
BRISK = replace(  # what is done once a second is done much more often
    PATIENT,
    feed_poll_interval_s=0.02,
    feed_stream_poll_interval_s=0.02,
    feed_retry_s=0.02,
    feed_spread_s=0.0,
    feed_max_backoff_s=0.02,
    leader_interval_s=0.05,
    hub_interval_s=0.05,
    message_timeout_s=0.05,
    follow_renewal_interval_s=0.2,
    topic_ask_interval_s=0.1,
    topic_adoption_delay_s=2.0,
    notify_retry_s=0.05,
    redis_channel_retry_s=0.05,
    change_poll_interval_s=0.05,
    forming_ttl_s=0.0,
    lease_ttl_s=0.5,
)


def minute(stamp: int) -> tuple[float, ...]:
    """The final candle of a minute; the truth of these tests."""
    draw = random.Random(stamp)
    low, high = sorted(draw.sample(range(1, 1000), 2))
    return (stamp, draw.randint(low, high), high, low, draw.randint(low, high), draw.randint(1, 50))


def trades(stamp: int) -> bool:
    return random.Random(-stamp).random() < 0.8


class Exchange:
    """A provider that knows the truth up to the test's clock and counts what it is asked."""

    api_version = 1
    market = Market("lab", "Laboratory", "")
    id, name, description, version = "exchange", "Exchange", "A truth that is known.", "1"

    def __init__(self, live: LiveMode = LiveMode.POLL, *, settle_ms: int = 5_000) -> None:
        self.capabilities = Capabilities(
            (MINUTE, Timeframe(1, "h"), Timeframe(1, "d")), live, max_rows_per_call=1000, settle_ms=settle_ms
        )
        self.fetches = self.streams = self.cuts = 0
        self.down = False
        self.lag = 0  # how long after the fact it has anything
        self.skew = 0  # how far its clock is from ours
        self.corrected: dict[int, tuple[float, ...]] = {}  # minutes that are not what they were
        self.urgencies: list[Urgency] = []
        self.spans: list[Span] = []
        self.late: list[int] = []  # minutes that a stream sends once more

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def listings(self) -> Sequence[Listing]:
        return [Listing("BTC", first_available=FIRST), Listing("ETH", first_available=FIRST)]

    def rows(self, span: Span) -> Candles:
        until = min(span.until, self.now_ms() - self.lag)
        stamps = [s for s in range(MINUTE.ceil(max(span.since, FIRST)), until, 60_000) if self.minute(s)]
        rows = []
        for stamp in stamps:
            row = self.minute(stamp)
            if stamp + 60_000 > self.now_ms():  # forming: half of its volume so far, and closing at its opening
                row = (*row[:4], row[1], row[5] / 2)
            rows.append(row)
        return Candles.from_rows(rows)

    def minute(self, stamp: int) -> tuple[float, ...]:
        """A minute as it is by now known to have been; nothing if there was no trade."""
        return self.corrected.get(stamp) or (minute(stamp) if trades(stamp) else ())

    def correct(self, stamp: int) -> None:
        """Change what is said of a minute that is over."""
        _, *prices, volume = self.corrected.get(stamp) or minute(stamp)
        self.corrected[stamp] = (stamp, *prices, volume + 1000)

    def truth(self, timeframe: Timeframe, since: int, until: int, days: str = "UTC") -> list[Candle]:
        """The final candles that open in ``[since, until)``."""
        at = zone(days)
        opens, ends = timeframe.floor(since, at), timeframe.ceil(until, at)
        rows = [row for s in range(max(opens, MINUTE.ceil(FIRST)), ends, 60_000) if (row := self.minute(s))]
        return list(fold(Candles.from_rows(rows), timeframe, at).between(Span(since, until)))

    def now_ms(self) -> int:
        return clock.now_ms() + self.skew

    async def first_available(self, instrument: Instrument) -> int | None:
        return FIRST

    def refused(self, rows: int) -> None: ...

    async def fetch(
        self, instrument: Instrument, timeframe: Timeframe, span: Span, urgency: Urgency = Urgency.QUERY
    ) -> Page:
        self.fetches += 1
        self.urgencies.append(urgency)
        self.spans.append(span)
        await asyncio.sleep(0)
        if self.down:
            raise ProviderUnavailable("The exchange is down.")
        wide = Span(span.since, timeframe.ceil(span.until))
        candles = fold(self.rows(wide), timeframe)
        cut = candles[: self.capabilities.max_rows_per_call]
        to = span.until if len(cut) == len(candles) else timeframe.next(int(cut.timestamp[-1]))
        return Page(cut, span.since, min(to, timeframe.floor(self.now_ms() - self.lag)))

    def stream(self, instrument: Instrument) -> AsyncGenerator[Candles, None] | None:
        return self._stream() if self.capabilities.live is LiveMode.STREAM else None

    async def _stream(self) -> AsyncGenerator[Candles, None]:
        self.streams += 1
        while True:
            await asyncio.sleep(0.005)
            if self.down:
                self.cuts += 1
                raise ProviderUnavailable("The socket was cut.")
            opening = MINUTE.floor(self.now_ms())
            candles = self.rows(Span(opening, opening + 60_000))
            if self.late:
                candles = Candles.from_rows([self.minute(stamp) for stamp in self.late]).merge(candles)
            if len(candles):
                yield candles


class Held(Exchange):
    """An exchange whose histories are on their way, while they are ``held``, until the test lets each of them through."""

    def __init__(self, live: LiveMode = LiveMode.POLL) -> None:
        super().__init__(live)
        self.held = False
        self.waiting = 0
        self.turns = asyncio.Semaphore(0)
        self.ticks: asyncio.Queue[Candles] = asyncio.Queue()  # the only ticks that a stream sends

    async def fetch(
        self, instrument: Instrument, timeframe: Timeframe, span: Span, urgency: Urgency = Urgency.QUERY
    ) -> Page:
        page = await super().fetch(instrument, timeframe, span, urgency)
        if self.held:
            self.waiting += 1
            await self.turns.acquire()
            self.waiting -= 1
        return page

    async def _stream(self) -> AsyncGenerator[Candles, None]:
        while True:
            yield await self.ticks.get()


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the test's own assertion says what is wrong if it never does."""
    with suppress(TimeoutError):
        await waiting.eventually(holds)


class Gate(Database):
    """A pool whose process may be frozen: then nothing that it asks for goes on."""

    def __init__(self, dsn: str, timings: Timings) -> None:
        super().__init__(dsn, max_connections=5, timings=timings)
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self._all = [self]

    def dedicated_pool(self) -> Gate:
        """One more of the same process."""
        beside = Gate(self.dsn, self.timings)
        beside.open_gate = self.open_gate
        self._all.append(beside)
        return beside

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        await self.open_gate.wait()
        async with super().connection() as connection:
            yield connection

    async def die(self) -> None:
        """Lose every connection, and get none any more."""
        for gate in self._all:
            if gate._pool:
                gate._pool.terminate()


class Process:
    """One of those that share a database: a pool, a history and a cluster of its own, in this event loop."""

    def __init__(self, database: Database, exchange: Exchange, redis: tuple[str, str] | None = None) -> None:
        self.exchange = exchange
        self.database = database
        self.history = History.create(database, FakeProviders([exchange]))
        self.cluster = Cluster(self.history, redis=redis)
        self.hub = self.cluster.hub
        self.loss = 0.0  # the share of what others say that does not arrive
        self._missed: list[Any] = []
        self._receive = self.cluster.bus.receive
        self.cluster.bus.receive = self._hear  # type: ignore[method-assign]
        self.supervisor = Supervisor(QUICK)
        self.history.start(self.supervisor)
        self.cluster.start(self.supervisor)

    @classmethod
    async def start(
        cls, dsn: str, exchange: Exchange, redis: tuple[str, str] | None = None, timings: Timings = BRISK
    ) -> Self:
        """Start one with connections of its own."""
        gate = Gate(dsn, timings)
        await gate.open()
        return cls(gate, exchange, redis)

    @property
    def feeds(self) -> list[Feed]:
        """What it leads."""
        return list(self.cluster.leader._feeds.values())

    def _hear(self, payload: str | bytes) -> None:
        if isinstance(self.database, Gate) and not self.database.open_gate.is_set():
            self._missed.append(payload)
        elif random.random() >= self.loss:
            self._receive(payload)

    async def stop(self) -> None:
        """End it as a signal does; what it holds is given back."""
        await self.supervisor.close()
        await self.cluster.close()
        await self.history.fetcher.close()
        if isinstance(self.database, Gate):
            await self.database.close()

    async def kill(self) -> None:
        """End it without a message to any client."""
        assert isinstance(self.database, Gate)
        await self.database.die()
        self.database.open_gate.set()
        await self.stop()

    def freeze(self) -> None:
        """Let it stand still."""
        assert isinstance(self.database, Gate)
        self.database.open_gate.clear()

    def thaw(self) -> None:
        """Let it go on where it stood."""
        if isinstance(self.database, Gate):
            self.database.open_gate.set()
        missed, self._missed = self._missed, []
        for payload in missed:
            self._receive(payload)


class Client:
    """Subscribes and keeps the received events."""

    def __init__(
        self, hub: Hub, timeframe: str = "1m", since: int | None = None, days: str = "UTC", of: Instrument = BTC
    ) -> None:
        self.series = Series(of, Timeframe.parse(timeframe))
        self.since = since
        self.zone = zone(days) if days != "UTC" else UTC
        self.events: list[Event] = []
        self.caught_up = asyncio.Event()
        self.task = asyncio.create_task(self._listen(hub))

    async def _listen(self, hub: Hub) -> None:
        async for event in hub.subscribe(self.series, self.since, self.zone):
            self.events.append(event)
            if event.caught_up:
                self.caught_up.set()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def closed(self) -> list[Candle]:
        """The final candles in the order they were received, from snapshots and from closes."""
        received = [e for e in self.events if e.kind in {EventKind.SNAPSHOT, EventKind.CLOSE}]
        return [candle for event in received for candle in event.candles if candle.closed]

    def known(self) -> list[Candle]:
        """The final candles after all received events."""
        received = [
            e.candles for e in self.events if e.kind in {EventKind.SNAPSHOT, EventKind.CLOSE, EventKind.CORRECTION}
        ]
        return list(concat([candles[candles.closed] for candles in received]).sorted())

    def numbered(self) -> dict[int, tuple[EventKind, int]]:
        """What each number stood for."""
        counted = [e for e in self.events if e.kind in {EventKind.CLOSE, EventKind.CORRECTION}]
        return {e.seq: (e.kind, int(e.candles.timestamp[0])) for e in counted}

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]
