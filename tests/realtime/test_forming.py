"""The forming candle: in order where a provider settles at once, and without a pause where it settles late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from candlegraph import MINUTE, Candles, LiveMode, Series, Timeframe
from candlegraph.event import Event, EventKind, LiveRequest
from candlegraph.series import InstrumentRecord
from candlegraph.zone import UTC
from realtime.topic import Listener, Topic
from tests.fakes.clocks import set_clock
from tests.realtime.test_cluster import World, back, joined
from tests.realtime.test_many import Many
from tests.realtime.world import BTC, ETH, START, Client, Exchange, eventually, trades

AT_ONCE_MS, LATE_MS = 5_000, 30_000
EARLY_MS = 10_000  # after the end of a minute: where a provider settles late, the minute has not settled yet
SETTLING_MS = LATE_MS - EARLY_MS
SHOWN = {EventKind.SNAPSHOT, EventKind.UPDATE, EventKind.CLOSE}


@pytest.fixture
async def world(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Processes at a provider that settles late; each of the 32 minutes around has a trade."""
    world = World(database_dsn)
    world.exchange = Exchange(LiveMode.STREAM, settle_ms=LATE_MS)
    minutes = (MINUTE.floor(START) + n * 60_000 for n in range(100_000))
    world.now = next(at for at in minutes if all(trades(at + n * 60_000) for n in range(-12, 20))) + EARLY_MS
    set_clock(monkeypatch, lambda: world.now)
    yield world
    for process in world.processes:
        process.thaw()
        await process.stop()


RECORD = InstrumentRecord(1, BTC, None, None, None, "UTC", True, True, None, None)


def opens(events: list[Event], *kinds: EventKind) -> list[int]:
    """The openings of the candles of some events, in the order in which they came."""
    return [candle.timestamp for event in events if event.kind in kinds for candle in event.candles]


def has_shown(events: list[Event], opened: int) -> bool:
    return opened in opens(events, EventKind.SNAPSHOT, EventKind.UPDATE)


async def pass_minutes(world: World, count: int, *lists: list[Event]) -> None:
    """Let minutes pass: one settles, the next one ends, and the candle after it is shown before that one closes."""
    for _ in range(count):
        ended = back(world, 1)
        await settle(world, *lists)
        world.now += 60_000 - SETTLING_MS
        for events in lists:
            await eventually(lambda events=events: has_shown(events, back(world, 0)))
            assert opens(events, EventKind.UPDATE)[-1] == back(world, 0)
            assert opens(events, EventKind.CLOSE)[-1] == ended


async def settle(world: World, *lists: list[Event]) -> None:
    """Let the minute settle that has ended."""
    ended = back(world, 1)
    world.now += SETTLING_MS
    for events in lists:
        await eventually(lambda events=events: ended in opens(events, EventKind.CLOSE))
        assert opens(events, EventKind.CLOSE)[-1] == ended


def assert_chart(events: list[Event]) -> None:
    """What a chart needs: no UPDATE goes back, and an older bar is one that it has."""
    bars: list[int] = []
    for event in events:
        for candle in event.candles:
            assert event.kind is not EventKind.UPDATE or not bars or candle.timestamp >= bars[-1]
            if not bars or candle.timestamp > bars[-1]:
                bars.append(candle.timestamp)
            assert candle.timestamp in bars
        assert event.kind is not EventKind.UPDATE or len(event.candles) == 1


@pytest.mark.parametrize("live", [LiveMode.POLL, LiveMode.STREAM])
async def test_where_a_provider_settles_late_the_next_candle_does_not_wait(world: World, live: LiveMode) -> None:
    world.exchange = Exchange(live, settle_ms=LATE_MS)
    client = Client((await world.start()).hub, since=back(world, 10))
    await joined(client)
    await pass_minutes(world, 6, client.events)
    await world.check(client)
    assert_chart(client.events)
    await client.leave()


async def test_a_longer_candle_does_not_wait_either(world: World) -> None:
    client = Client((await world.start()).hub, "5m", Timeframe(5, "m").floor(back(world, 30)))
    await joined(client)
    first = Timeframe(5, "m").next(world.now)
    world.now = first + EARLY_MS
    await eventually(lambda: has_shown(client.events, first))
    assert opens(client.events, EventKind.UPDATE)[-1] == first
    assert not opens(client.events, EventKind.CLOSE)
    world.now = first + LATE_MS
    await eventually(lambda: bool(opens(client.events, EventKind.CLOSE)))
    assert opens(client.events, EventKind.CLOSE) == [first - 300_000]
    await world.check(client)
    assert_chart(client.events)
    await client.leave()


@pytest.mark.parametrize("live", [LiveMode.POLL, LiveMode.STREAM])
@pytest.mark.parametrize("timeframe", ["1m", "5m"])
async def test_where_a_provider_settles_at_once_no_event_goes_back_in_time(
    world: World, live: LiveMode, timeframe: str
) -> None:
    """What a chart needs that takes one candle after the other: the same one again, or a later one."""
    world.exchange = Exchange(live, settle_ms=AT_ONCE_MS)
    process = await world.start()
    client = Client(process.hub, timeframe, back(world, 30))
    await joined(client)
    for step in (20_000, 15_000, 22_000, 4_000, 3_000, 9_000) * 10:
        world.now += step
        await eventually(lambda: all(feed.edge >= world.final() for feed in process.feeds))
        await asyncio.sleep(0.01)  # the stream says so within five milliseconds
    await eventually(lambda: len(opens(client.events, EventKind.CLOSE)) >= 2)
    stamps = opens(client.events, *SHOWN)
    assert stamps == sorted(stamps)
    assert {EventKind.UPDATE, EventKind.CLOSE} <= set(client.kinds())
    await client.leave()


@pytest.mark.parametrize("minutes", [None, 3])
async def test_the_snapshot_at_the_join_has_the_ended_candle_and_the_running_one(
    world: World, minutes: int | None
) -> None:
    process = await world.start()
    first = Client(process.hub)
    await joined(first)
    await pass_minutes(world, 1, first.events)
    running = back(world, 0)
    client = Client(process.hub, since=None if minutes is None else back(world, minutes))
    await joined(client)
    (snapshot,) = [event for event in client.events if event.caught_up]
    candles = [(candle.timestamp, candle.closed) for candle in snapshot.candles]
    assert candles[-2:] == [(running - 60_000, False), (running, False)]
    assert [closed for _, closed in candles[:-2]] == [True] * (len(candles) - 2)
    await settle(world, client.events)
    assert opens(client.events, EventKind.CLOSE) == [running - 60_000]
    assert_chart(client.events)
    for one in (first, client):
        await one.leave()


async def test_many_series_on_one_subscription_do_not_wait(world: World) -> None:
    process = await world.start()
    series = [Series(BTC, MINUTE), Series(ETH, MINUTE)]
    many = Many(process.hub, [LiveRequest(one, back(world, 5 + n)) for n, one in enumerate(series)])
    since = [back(world, 5 + n) for n in range(2)]
    await eventually(lambda: many.caught_up() == 2)
    for _ in range(3):
        world.now += SETTLING_MS
        for one in series:
            await eventually(lambda one=one: back(world, 1) in many.closed(one))
        world.now += 60_000 - SETTLING_MS
        for one in series:
            await eventually(lambda one=one: has_shown(many.of(one), back(world, 0)))
            assert opens(many.of(one), EventKind.UPDATE)[-1] == back(world, 0)
            assert many.closed(one)[-1] == back(world, 2)
    for one, began in zip(series, since, strict=True):
        assert many.closed(one) == list(range(began, back(world, 1), 60_000))
        assert_chart(many.of(one))
    await many.leave()


async def test_every_server_shows_the_running_candle_and_a_new_leader_takes_none_back(world: World) -> None:
    """The leader dies between the end of a minute and its settling."""
    one, other = await world.start(), await world.start()
    clients = {process: Client(process.hub, since=back(world, 10)) for process in (one, other)}
    await joined(*clients.values())
    await pass_minutes(world, 3, *(client.events for client in clients.values()))
    leader = await world.leading()
    survivor = other if leader is one else one
    await leader.kill()
    world.processes.remove(leader)
    await pass_minutes(world, 3, clients[survivor].events)
    await world.check(clients[survivor])
    for client in clients.values():
        assert_chart(client.events)
        await client.leave()


@pytest.mark.parametrize("away_ms", [0, 15_000, 25_000, 45_000, 130_000])
async def test_a_client_that_resumes_misses_nothing_and_gets_nothing_twice(world: World, away_ms: int) -> None:
    """It has seen the running candle before the last CLOSE; `since` is that of the CLOSE, at any server."""
    one, other = await world.start(), await world.start()
    first = Client(one.hub, since=back(world, 10))
    await joined(first)
    await pass_minutes(world, 2, first.events)
    await first.leave()
    world.now += away_ms
    closed = [candle.timestamp for candle in first.closed()]
    again = Client(other.hub, since=closed[-1])
    await joined(again)
    world.now += 300_000 - away_ms
    await world.check(again)
    assert closed + [candle.timestamp for candle in again.closed()][1:] == list(
        range(closed[0], back(world, 1), 60_000)
    )
    assert again.closed()[0].timestamp == closed[-1]  # it comes once more
    assert_chart(again.events)
    await again.leave()


def _topic(*, in_order: bool) -> tuple[Topic, Listener]:
    topic = Topic(RECORD, MINUTE, UTC, in_order=in_order)
    topic.start(7, 0, 1, Candles.empty())
    listener = Listener()
    topic.listeners.add(listener)
    return topic, listener


def _forming(*rows: tuple[int, float]) -> Candles:
    stamps, closes = zip(*rows, strict=True)
    return Candles.of([at * 60_000 for at in stamps], *[closes] * 5, closed=False)


def _taken(listener: Listener) -> list[tuple[EventKind, int, float]]:
    events = [listener.pop() for _ in range(len(listener))]
    return [(one.kind, int(one.candles.timestamp[0]) // 60_000, float(one.candles.close[0])) for one in events]


def test_a_slow_reader_gets_the_newest_state_of_each_forming_candle() -> None:
    """Only updates of one bucket replace each other: every bar is there before its CLOSE comes late."""
    update = EventKind.UPDATE
    topic, listener = _topic(in_order=False)
    for forming in (_forming((0, 1)), _forming((0, 2)), _forming((0, 3), (1, 4)), _forming((0, 9), (1, 5))):
        topic.update_forming(0, forming)
    assert _taken(listener) == [(update, 0, 3), (update, 1, 5)]
    topic.append("C", _forming((0, 9)))
    topic.update_forming(0, _forming((1, 6)))
    assert _taken(listener) == [(EventKind.CLOSE, 0, 9), (update, 1, 6)]


def test_in_order_the_next_candle_follows_the_close() -> None:
    topic, listener = _topic(in_order=True)
    topic.update_forming(0, _forming((0, 3), (1, 4)))
    assert _taken(listener) == [(EventKind.UPDATE, 0, 3)]
    topic.append("C", _forming((0, 9)))
    assert _taken(listener) == [(EventKind.CLOSE, 0, 9), (EventKind.UPDATE, 1, 4)]


def test_a_new_leader_that_knows_less_takes_the_running_candle_from_nobody() -> None:
    topic, listener = _topic(in_order=False)
    topic.update_forming(0, _forming((0, 3), (1, 4)))
    topic.update_forming(0, _forming((0, 5)))
    assert _taken(listener) == [(EventKind.UPDATE, 0, 3), (EventKind.UPDATE, 1, 4)]
    assert topic.current.timestamp.tolist() == [0, 60_000]  # a new listener gets both
    topic.update_forming(0, _forming((0, 5), (1, 6)))
    assert _taken(listener) == [(EventKind.UPDATE, 1, 6)]


def test_after_an_outage_the_running_candle_comes_behind_those_that_closed_meanwhile() -> None:
    """A chart has no bars for them yet, and takes none between two bars."""
    close, update = EventKind.CLOSE, EventKind.UPDATE
    topic, listener = _topic(in_order=False)
    topic.update_forming(0, _forming((0, 3)))
    topic.update_forming(0, _forming((0, 3), (3, 4)))
    for minute in range(3):
        topic.append("C", _forming((minute, 9)))
    assert _taken(listener) == [(update, 0, 3), (close, 0, 9), (close, 1, 9), (close, 2, 9)]
    topic.advance(180_000)  # as the store has it, before the leader's next message
    assert not len(listener)
    topic.update_forming(180_000, _forming((3, 5)))
    assert _taken(listener) == [(update, 3, 5)]
