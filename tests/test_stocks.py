"""Alpaca from end to end: its local server, the real client, the database, the history, the hub and the API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from candlegraph import MINUTE, Candles, Instrument, Series, Span, Timeframe, fold, zone
from candlegraph.answer import Answer, CandleRequest, GapReason, SourceKind
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.event import Event, EventKind
from candlegraph.provider import Provider, UnconfiguredProvider
from candlegraph.supervision import Supervisor
from history.orchestrator import History
from providers.alpaca.provider import create
from providers.registry import Registry
from realtime.cluster import Cluster
from realtime.hub import Hub
from storage.database import Database
from tests.fakes.alpaca import KEY, LATE_MS, SECRET, FakeAlpaca, new_york, session_candles
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import Fault
from tests.providers.test_registry import Point
from tests.waiting import HANG_S, eventually

NEW_YORK = zone("America/New_York")
DAY = Timeframe(1, "d")


@dataclass
class World:
    """Everything below the API, wired as the server does."""

    exchange: FakeAlpaca
    history: History
    hub: Hub
    registry: Registry

    async def ask(self, timeframe: str, limit: int = 500, *, provider: str = "alpaca", **more: int) -> Answer:
        series = Series(Instrument("stocks", provider, "AAPL"), Timeframe.parse(timeframe))
        answer = (await self.history.answer([CandleRequest(series, limit, **more)]))[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def calls(self) -> list[str]:
        """The timeframes of the calls for bars."""
        return [query["timeframe"] for path, query in self.exchange.requests if path == "/v2/stocks/bars"]


Build = Callable[..., Awaitable[World]]


@pytest.fixture
async def build(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Build]:
    database.timings = replace(database.timings, feed_max_backoff_s=0.02, forming_ttl_s=0.0)
    async with FakeAlpaca() as exchange, AsyncExitStack() as stack:
        set_clock(monkeypatch, lambda: exchange.now)

        async def make(candles: Candles, now: int, feeds: str = "iex") -> World:
            exchange.lists("AAPL", candles)
            exchange.now = now

            def factory(environ: object) -> list[Provider | UnconfiguredProvider]:
                return list(create(exchange.environ(ALPACA_FEEDS=feeds)))

            registry = Registry({}, [Point("stocks.alpaca", factory)])
            stack.push_async_callback(registry.close)
            history = History.create(database, registry)
            stack.push_async_callback(history.fetcher.close)
            cluster = Cluster(history)
            supervisor = Supervisor()
            stack.push_async_callback(cluster.close)
            stack.push_async_callback(supervisor.close)
            history.start(supervisor)
            cluster.start(supervisor)
            return World(exchange, history, cluster.hub, registry)

        yield make


def rows(candles: Candles) -> list[list[float]]:
    return [column.tolist() for column in candles.columns[:6]]


async def test_a_year_of_days_is_one_call_and_opens_at_midnight_in_new_york(build: Build) -> None:
    """Over both changes of clocks; weeks and months of it fold from the stored days without a call."""
    truth = session_candles("2023-03-01", 261, minutes=12, keep=1.0)
    since, until = new_york("2023-03-01 00:00"), new_york("2024-03-01 00:00")
    world = await build(truth, until + 12 * HOUR_MS)
    answer = await world.ask("1d", 500, since=since, until=until)
    final = world.exchange.truth("AAPL")
    assert rows(answer.candles) == rows(fold(final, DAY, NEW_YORK).between(Span(since, until)))
    assert {stamp // HOUR_MS % 24 for stamp in answer.candles.timestamp.tolist()} == {4, 5}
    assert answer.complete
    assert world.calls == ["1Day"]
    for name in ("1w", "1mon"):
        timeframe = Timeframe.parse(name)
        edges = timeframe.ceil(since, NEW_YORK), timeframe.floor(until, NEW_YORK)
        longer = await world.ask(name, 500, since=edges[0], until=edges[1])
        folded = fold(final, timeframe, NEW_YORK).between(Span(*edges))
        assert rows(longer.candles)[:5] == rows(folded)[:5]
        assert longer.candles.volume == pytest.approx(folded.volume)
    assert world.calls == ["1Day"]


async def test_a_quiet_night_is_covered_and_asked_once(build: Build) -> None:
    truth = session_candles("2024-03-07", 3)
    since, until = new_york("2024-03-07 09:30"), new_york("2024-03-11 16:00")
    world = await build(truth, until + HOUR_MS)
    world.exchange.page_rows = 400  # every page boundary lies somewhere else
    for _ in range(2):
        answer = await world.ask("1m", 5_000, since=since, until=until)
        assert answer.complete
        assert rows(answer.candles) == rows(world.exchange.truth("AAPL"))
        assert len(world.calls) == 3


async def test_broken_pages_leave_no_hole_behind(build: Build) -> None:
    since, until = new_york("2024-03-07 09:30"), new_york("2024-03-11 16:00")
    world = await build(session_candles("2024-03-07", 3), until + HOUR_MS)
    world.exchange.page_rows = 300
    for fault in (Fault(truncate=True), Fault(abort=True), Fault(status=503), Fault(body=b"<html>")):
        world.exchange.fail(Fault())
        world.exchange.fail(fault, times=4)
        partial = await world.ask("1m", 5_000, since=since, until=until)
        assert {gap.reason for gap in partial.gaps} == {GapReason.OUTAGE}  # a night is none
        world.exchange.reset()
    healed = await world.ask("1m", 5_000, since=since, until=until)
    assert healed.complete
    assert rows(healed.candles) == rows(world.exchange.truth("AAPL"))


async def test_recent_sip_on_the_free_plan_is_unavailable_and_later_it_is_there(build: Build) -> None:
    """Candles that the plan withholds are no error: the gap names them, and they are fetched once they are old enough."""
    since = new_york("2024-03-08 09:30")
    now = since + 120 * MINUTE_MS
    world = await build(session_candles("2024-03-08", 1), now, "sip")
    final = world.exchange.truth("AAPL", "sip")
    reached = MINUTE.floor(now - 16 * MINUTE_MS)
    for _ in range(2):
        answer = await world.ask("1m", provider="alpaca-sip", since=since)
        assert rows(answer.candles) == rows(final.between(Span(since, reached)))
        assert [(gap.since, gap.until, gap.reason) for gap in answer.gaps] == [
            (reached, now - MINUTE_MS, GapReason.UNAVAILABLE)
        ]
    newest = await world.ask("1m", 5, provider="alpaca-sip")
    assert newest.candles.timestamp.tolist() == final.between(Span(since, reached)).timestamp[-5:].tolist()
    assert {gap.reason for gap in newest.gaps} == {GapReason.UNAVAILABLE}
    fives = await world.ask("5m", provider="alpaca-sip", since=since)
    assert [(gap.since, gap.until, gap.reason) for gap in fives.gaps] == [
        (now - 20 * MINUTE_MS, now - 5 * MINUTE_MS, GapReason.UNAVAILABLE)  # what is not whole is not shown
    ]
    assert fives.candles.timestamp[-1] < now - 20 * MINUTE_MS
    world.exchange.now += HOUR_MS
    later = await world.ask("1m", provider="alpaca-sip", since=since, until=now)
    assert later.complete
    assert rows(later.candles) == rows(final.between(Span(since, now)))


@pytest.mark.parametrize("limit", [1, 5, 100])
async def test_the_newest_that_a_delayed_feed_has_are_found_at_the_first_question(build: Build, limit: int) -> None:
    since = new_york("2024-03-08 09:30")
    now = since + 300 * MINUTE_MS
    world = await build(session_candles("2024-03-08", 1), now, "sip")
    answer = await world.ask("1m", limit, provider="alpaca-sip")
    had = world.exchange.truth("AAPL", "sip").between(Span(since, MINUTE.floor(now - 16 * MINUTE_MS)))
    assert answer.candles.timestamp.tolist() == had.timestamp[-limit:].tolist()


class Client:
    """Subscribes and keeps the received events."""

    def __init__(self, world: World, timeframe: str, since: int | None = None) -> None:
        self.events: list[Event] = []
        self._told = asyncio.Condition()
        series = Series(Instrument("stocks", "alpaca", "AAPL"), Timeframe.parse(timeframe))
        self.task = asyncio.create_task(self._listen(world.hub, series, since))

    async def _listen(self, hub: Hub, series: Series, since: int | None) -> None:
        async for event in hub.subscribe(series, since, NEW_YORK):
            async with self._told:
                self.events.append(event)
                self._told.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_S), self._told:
            await self._told.wait_for(holds)

    def closed(self) -> list[object]:
        received = [event for event in self.events if event.kind in {EventKind.SNAPSHOT, EventKind.CLOSE}]
        return [candle for event in received for candle in event.candles if candle.closed]

    def shown(self) -> dict[int, float]:
        """The last volume that was shown of each forming candle."""
        updates = [event for event in self.events if event.kind is EventKind.UPDATE]
        return {candle.timestamp: candle.volume for event in updates for candle in event.candles}

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_a_live_minute_is_shown_corrected_and_then_closed_as_it_is_in_the_end(
    build: Build, database: Database
) -> None:
    database.timings = replace(database.timings, feed_stream_poll_interval_s=0.02)
    since = new_york("2024-03-08 10:00")
    world = await build(session_candles("2024-03-08", 1, keep=1.0), since + 1_000)
    client = Client(world, "1m", since - 10 * MINUTE_MS)
    await client.until(lambda: any(event.caught_up for event in client.events))
    await world.exchange.stream.until({"AAPL"})
    final = world.exchange.truth("AAPL").between(Span(since, since + 1)).volume[0]
    world.exchange.now = since + MINUTE_MS + 100
    await world.exchange.stream.tick()
    await client.until(lambda: since in client.shown())
    assert client.shown()[since] < final
    world.exchange.now += LATE_MS
    await world.exchange.stream.correct()
    await client.until(lambda: client.shown()[since] == final)
    await client.leave()


async def test_a_stream_that_is_cut_three_times_loses_nothing(build: Build, database: Database) -> None:
    """Closed, aborted, and disconnected as a slow client: the received and the stored candles are the truth."""
    database.timings = replace(database.timings, feed_stream_poll_interval_s=0.02)
    since = new_york("2024-03-08 10:00")
    world = await build(session_candles("2024-03-08", 1, keep=0.9), since + 1_000)
    stream = world.exchange.stream

    async def tell_off() -> None:
        await stream.say([{"T": "error", "code": 407, "msg": "slow client"}])

    async def abort() -> None:
        stream.abort()

    cuts = {3: stream.close, 6: abort, 9: tell_off}
    client = Client(world, "1m", since - 10 * MINUTE_MS)
    await client.until(lambda: any(event.caught_up for event in client.events))
    for minute in range(1, 13):
        await stream.until({"AAPL"})
        world.exchange.now = since + minute * MINUTE_MS + 100
        await stream.tick()
        if cut := cuts.get(minute):
            connections = stream.counts["connections"]
            await cut()
            await eventually(lambda before=connections: stream.counts["connections"] != before)
        world.exchange.now += LATE_MS
    world.exchange.now = since + 15 * MINUTE_MS
    ended = world.exchange.now - MINUTE_MS
    truth = world.exchange.truth("AAPL").between(Span(since - 10 * MINUTE_MS, ended))
    await client.until(lambda: len(client.closed()) >= len(truth))
    assert client.closed() == list(truth)
    assert stream.counts["connections"] == 4
    await client.leave()
    stored = await world.ask("1m", since=since - 10 * MINUTE_MS, until=ended)
    assert list(stored.candles) == list(truth)
    assert stored.complete
    assert SourceKind.PROVIDER not in {one.source for one in stored.sources}, "it is not asked for again"


async def test_no_key_reaches_a_client(build: Build) -> None:
    """Neither in what the API says of the provider nor in an error."""
    world = await build(session_candles("2024-03-08", 1), new_york("2024-03-08 16:00"))
    await world.ask("1m", 5)
    seen = []
    for fault in (Fault(status=403), Fault(status=500, body=SECRET.encode()), Fault(abort=True), Fault(truncate=True)):
        world.exchange.fail(fault, times=5)
        since = new_york("2024-03-04 10:00") - len(seen) * DAY_MS
        answer = await world.history.answer(
            [CandleRequest(Series(Instrument("stocks", "alpaca", "AAPL"), MINUTE), 5, since, since + HOUR_MS)]
        )
        seen.append(repr(answer) + json.dumps([str(error) for error in answer if isinstance(error, Exception)]))
        world.exchange.reset()
    seen.append(repr(world.registry.statuses()))
    assert len(seen) == 5
    assert not [text for text in seen if KEY in text or SECRET in text]
    assert await world.registry.get("stocks", "alpaca")
