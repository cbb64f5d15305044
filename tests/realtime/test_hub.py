"""Live candles: a real database, a provider whose truth is known, and a clock that the test turns."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candlegraph import (
    MINUTE,
    Candles,
    Instrument,
    LiveMode,
    ProviderUnavailable,
    Series,
    Timeframe,
    fold,
    zone,
)
from candlegraph.answer import CandleRequest, SourceKind
from candlegraph.errors import NotFound, Overloaded
from candlegraph.event import Event, EventKind
from candlegraph.timings import Timings
from candlegraph.upstream import Urgency
from realtime import snapshot_reader as snapshots_module
from realtime import topic as topic_module
from realtime import topic_limits
from realtime.bus import TopicMessage
from realtime.hub import Hub
from realtime.subscriber import ListenerGroup
from realtime.topic import Topic
from realtime.topic_limits import Caller, TopicAdmission, TopicLimits
from storage.database import Database
from storage.leases import Leases
from storage.topics import TopicKey
from tests import waiting
from tests.fakes.clocks import set_clock
from tests.realtime.world import BRISK, BTC, START, Client, Exchange, Held, Process, eventually, minute, trades
from tests.waiting import HANG_S

LIVE = Path(__file__).parents[2] / "docs" / "live.md"


class Time:
    """The clock of the test."""

    def __init__(self) -> None:
        self.now = START
        self.processes: list[Process] = []

    async def turn(self, milliseconds: int) -> None:
        """Let time pass, and every feed that can notice."""
        self.now += milliseconds
        edge = MINUTE.floor(self.now - 5_000)
        feeds = [feed for process in self.processes for feed in process.feeds if not process.exchange.down]
        await eventually(lambda: all(feed.edge >= edge for feed in feeds))


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    turned = Time()
    set_clock(monkeypatch, lambda: turned.now)
    return turned


Build = Callable[[Exchange], Hub]


@pytest.fixture
async def build(database: Database, time: Time) -> AsyncIterator[Build]:
    database.timings = BRISK

    def make(exchange: Exchange) -> Hub:
        process = Process(database, exchange)
        time.processes.append(process)
        return process.hub

    yield make
    for process in time.processes:
        await process.stop()


async def test_history_joins_the_stream_without_a_gap_or_a_repeat_whenever_a_listener_comes(
    build: Build, time: Time
) -> None:
    """Thirty listeners come at random moments, with random histories; each hears every final candle exactly once."""
    draw = random.Random(7)
    exchange = Exchange()
    hub = build(exchange)
    clients = []
    for _ in range(30):
        timeframe = draw.choice(["1m", "5m", "7m", "1h", "1d"])
        days = draw.choice(["UTC", "America/New_York"])
        back = draw.randrange(0, 100) * Timeframe.parse(timeframe).nominal_ms // 20
        since = Timeframe.parse(timeframe).floor(time.now - back, zone(days))
        clients.append(Client(hub, timeframe, since, days))
        await time.turn(draw.choice([1_000, 17_000, 61_000]))
    for _ in range(8):
        await time.turn(60_000)
    final = MINUTE.floor(time.now - 5_000)
    for client in clients:
        await eventually(client.caught_up.is_set)
        assert client.caught_up.is_set(), client.task
        timeframe = client.series.timeframe
        # The bucket at the end counts once its last minute is final.
        until = timeframe.floor(final, client.zone)
        expected = exchange.truth(timeframe, client.since, until, client.zone.name)
        await eventually(lambda client=client, expected=expected: client.closed() == expected)
        assert client.closed() == expected
        seqs = [event.seq for event in client.events if event.kind is EventKind.CLOSE]
        first = client.events[0].seq
        assert seqs == list(range(first + 1, first + 1 + len(seqs)))
        await client.leave()


async def test_one_upstream_serves_however_many_listen(build: Build, time: Time) -> None:
    """200 listeners of three timeframes: one stream, and no more history calls than one listener causes."""
    exchange = Exchange(LiveMode.STREAM)
    hub = build(exchange)
    lonely = Client(hub)
    await asyncio.wait_for(lonely.caught_up.wait(), HANG_S)
    clients = [Client(hub, ("1m", "5m", "15m")[i % 3]) for i in range(200)]
    await asyncio.gather(*(asyncio.wait_for(client.caught_up.wait(), HANG_S) for client in clients))
    await time.turn(60_000)
    assert exchange.streams == 1
    assert {len([k for k in client.kinds() if k is EventKind.CLOSE]) <= 1 for client in clients} == {True}
    for client in [lonely, *clients]:
        await client.leave()


async def test_without_since_the_forming_candle_comes_first_and_is_not_closed(build: Build, time: Time) -> None:
    """A subscription that asks for no history is caught up with its first event."""
    time.now = next(s for s in range(START, START + 3_600_000, 60_000) if trades(MINUTE.floor(s)))
    client = Client(build(Exchange()), "5m")
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    (event,) = client.events[:1]
    assert event.kind is EventKind.SNAPSHOT
    assert [candle.timestamp for candle in event.candles] == [Timeframe(5, "m").floor(time.now)]
    assert not any(candle.closed for candle in event.candles)
    await client.leave()


async def test_the_forming_candle_of_a_month_holds_all_of_its_days_so_far(build: Build, time: Time) -> None:
    """Days, hours and minutes are put together into one candle, and the next final minute moves it on."""
    time.now = START + 2 * 86_400_000
    client = Client(build(Exchange()), "1mon")
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    await time.turn(60_000)
    await time.turn(60_000)
    month = Timeframe(1, "mon")
    opened = month.floor(time.now)
    await eventually(lambda: len(client.events[-1].candles) > 0)
    latest = client.events[-1].candles
    minutes = [minute(s) for s in range(opened, MINUTE.floor(time.now - 5_000), 60_000) if trades(s)]
    so_far = fold(Candles.from_rows(minutes), month)
    assert latest.timestamp.tolist() == [opened]
    assert latest.open[0] == so_far.open[0]
    assert latest.high[0] >= so_far.high[0]
    assert latest.low[0] <= so_far.low[0]
    assert latest.volume[0] >= so_far.volume[0]
    assert latest.volume[0] <= so_far.volume[0] + 100
    await client.leave()


async def test_a_provider_that_fails_for_a_while_loses_no_candle(build: Build, time: Time) -> None:
    """Candles that closed during an outage are sent after it, in order."""
    exchange = Exchange(LiveMode.STREAM)
    client = Client(build(exchange), "1m", time.now - 600_000)
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    exchange.down = True
    for _ in range(5):
        await time.turn(60_000)
    await eventually(lambda: exchange.cuts)
    exchange.down = False
    for _ in range(5):
        await time.turn(10_000)
    expected = exchange.truth(MINUTE, client.since, MINUTE.floor(time.now - 5_000))
    await eventually(lambda: client.closed() == expected)
    assert client.closed() == expected
    await eventually(lambda: exchange.streams > 1)
    assert exchange.streams > 1
    await client.leave()


async def test_a_provider_that_lags_loses_no_candle(build: Build, time: Time) -> None:
    """A minute that it does not have yet is not taken for one without a trade."""
    exchange = Exchange()
    client = Client(build(exchange), "1m", MINUTE.floor(time.now))
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    exchange.lag = 90_000
    for _ in range(4):
        time.now += 60_000
        asked = exchange.fetches
        await eventually(lambda asked=asked: exchange.fetches > asked)
    exchange.lag = 0
    await time.turn(60_000)
    expected = exchange.truth(MINUTE, client.since, MINUTE.floor(time.now - 5_000))
    await eventually(lambda: client.closed() == expected)
    assert client.closed() == expected
    await client.leave()


@pytest.mark.parametrize("skew", [-90_000, 90_000])
async def test_a_minute_closes_by_the_clock_of_the_provider(build: Build, time: Time, skew: int) -> None:
    """A machine whose clock is wrong neither closes a candle that still moves nor waits for one that is done."""
    exchange = Exchange()
    exchange.skew = skew
    client = Client(build(exchange), "1m", MINUTE.floor(time.now - 600_000))
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    for _ in range(3):
        time.now += 60_000
        expected = exchange.truth(MINUTE, client.since, MINUTE.floor(time.now + skew - 5_000))
        await eventually(lambda expected=expected: client.closed() == expected)
        assert client.closed() == expected
    await client.leave()


async def test_what_is_live_is_asked_for_before_everything_else(build: Build, time: Time) -> None:
    """If the budget of an upstream is short, live series get it."""
    exchange = Exchange()
    client = Client(build(exchange))
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    await time.turn(60_000)
    assert set(exchange.urgencies) == {Urgency.LIVE}
    await client.leave()


async def test_a_provider_that_is_down_at_first_is_a_coded_error(build: Build, time: Time) -> None:
    """No subscriber waits for ever for a stream that cannot begin."""
    exchange = Exchange()
    exchange.down = True
    client = Client(build(exchange))
    with pytest.raises(ProviderUnavailable):
        await asyncio.wait_for(client.task, HANG_S)


async def test_an_incomplete_history_is_an_error(build: Build, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot with a hole in it would look like minutes without a trade."""
    exchange = Exchange()
    hub = build(exchange)
    first = Client(hub)
    await asyncio.wait_for(first.caught_up.wait(), HANG_S)
    exchange.down = True
    second = Client(hub, "1m", time.now - 7_200_000)
    with pytest.raises(ProviderUnavailable):
        await asyncio.wait_for(second.task, HANG_S)
    await first.leave()


async def test_an_address_begins_so_many_series_and_whatever_is_there_costs_it_nothing(
    build: Build, database: Database
) -> None:
    """What is refused says when to come back; a series that was heard only for a moment is soon forgotten."""
    database.timings = replace(database.timings, topic_min_linger_s=0.0)
    hub = build(Exchange(LiveMode.STREAM))
    hub._admission = TopicAdmission(TopicLimits(total=3, per_address=2))

    def listen(timeframe: str, address: str) -> AsyncIterator[Event]:
        return hub.subscribe(Series(BTC, Timeframe.parse(timeframe)), None, None, Caller(address))

    begun = [listen("1m", "a"), listen("2m", "a"), listen("3m", "b"), listen("1m", "b"), listen("3m", "a")]
    for one in begun:
        assert (await asyncio.wait_for(anext(one), HANG_S)).caught_up
    for timeframe, address in (("4m", "a"), ("4m", "b")):
        with pytest.raises(Overloaded) as refused:
            await anext(listen(timeframe, address))
        assert refused.value.retry_after
    assert len(hub._topics) == 3
    await begun[1].aclose()  # type: ignore[attr-defined]
    await waiting.eventually(lambda: len(hub._topics) == 2)
    again = listen("4m", "b")
    assert (await asyncio.wait_for(anext(again), HANG_S)).caught_up
    for one in (again, *begun):
        await one.aclose()  # type: ignore[attr-defined]


async def test_a_flood_of_one_address_holds_up_no_other() -> None:
    """Of those that begin, few are of one address; the first of another is not behind all of them."""
    admission, running, most = TopicAdmission(), Counter[str](), Counter[str]()
    held = asyncio.Event()

    async def join(address: str) -> None:
        async with admission.turn(address):
            running[address] += 1
            most[address] = max(most[address], running[address])
            await held.wait()
            running[address] -= 1

    flood = [asyncio.create_task(join("a")) for _ in range(500)]
    other = asyncio.create_task(join("b"))
    await waiting.eventually(lambda: running["b"])
    assert running["a"] == topic_limits.MAX_JOINS_PER_ADDRESS
    held.set()
    await asyncio.gather(other, *flood)
    assert most["a"] == topic_limits.MAX_JOINS_PER_ADDRESS


async def test_a_database_without_a_free_connection_for_a_moment_ends_no_subscription(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred series that begin at once may want more connections than there are."""
    hub = build(Exchange())
    refusals, begin = iter(range(2)), hub._store.open_topic

    async def refused(*given: Any) -> Any:
        if next(refusals, None) is not None:
            raise Overloaded(retry_after=1)
        return await begin(*given)

    monkeypatch.setattr(hub._store, "open_topic", refused)
    client = Client(hub)
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    await client.leave()


async def test_an_unknown_symbol_is_not_found(build: Build) -> None:
    """The subscription ends with the same error as the query."""
    hub = build(Exchange())
    with pytest.raises(NotFound):
        await anext(hub.subscribe(Series(Instrument("lab", "exchange", "NO"), MINUTE), None, None))


async def test_snapshots_hold_a_page_each_and_only_the_last_is_caught_up(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long history comes in pages; what is live follows the one that says so."""
    monkeypatch.setattr(snapshots_module, "SNAPSHOT_PAGE_ROWS", 50)
    client = Client(build(Exchange()), "1m", time.now - 4 * 3_600_000)
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    snapshots = [event for event in client.events if event.kind is EventKind.SNAPSHOT]
    assert len(snapshots) > 3
    assert [event.caught_up for event in snapshots] == [False] * (len(snapshots) - 1) + [True]
    assert all(len(event.candles) <= 50 for event in snapshots)
    await client.leave()


async def test_a_history_that_was_long_on_its_way_takes_nothing_of_the_stream_back(build: Build, time: Time) -> None:
    """The answer has the forming candle as it was at the request; the stream has sent newer ones since."""
    time.now = next(s for s in range(START, START + 3_600_000, 60_000) if trades(MINUTE.floor(s)))
    exchange = Held(LiveMode.STREAM)
    client = Client(build(exchange))
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    exchange.held = True
    await eventually(lambda: exchange.waiting == 1)
    stamp, *prices, volume = minute(MINUTE.floor(time.now))
    exchange.ticks.put_nowait(Candles.from_rows([(stamp, *prices, volume + 1)]))
    await eventually(lambda: client.events[-1].kind is EventKind.UPDATE)
    assert client.events[-1].candles.volume.tolist() == [volume + 1]
    received, asked = len(client.events), exchange.fetches
    exchange.turns.release()
    await eventually(lambda: exchange.fetches > asked)  # the answer has been taken in: the next one is on its way
    assert exchange.fetches > asked
    assert time.processes[0].feeds[0].minutes.volume.tolist() == [volume + 1]
    assert [event.candles.volume.tolist() for event in client.events[received:]] == []
    exchange.held = False
    exchange.turns.release()
    await client.leave()


async def test_a_listener_may_ask_for_history_since_before_1970(build: Build, time: Time) -> None:
    exchange = Exchange()
    client = Client(build(exchange), "1h", since=-86_400_000)
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    expected = exchange.truth(Timeframe(1, "h"), START - 4 * 86_400_000, Timeframe(1, "h").floor(time.now))
    await eventually(lambda: client.closed() == expected)
    assert client.closed() == expected
    assert all(span.since >= 0 for span in exchange.spans)
    await client.leave()


async def test_a_quiet_series_sends_heartbeats(build: Build, time: Time, database: Database) -> None:
    """All listeners get heartbeats, also one that came while nothing moved; their number is the last one."""
    assert f"nothing happened for {Timings().hub_heartbeat_interval_s:.0f} seconds" in LIVE.read_text("utf-8")
    database.timings = replace(database.timings, hub_heartbeat_interval_s=0.05)
    time.now = next(
        s
        for s in range(START, START + 86_400_000, 60_000)
        if all(trades(MINUTE.floor(s) + n * 60_000) for n in range(4))
    )
    hub = build(Exchange())
    early = Client(hub, since=MINUTE.floor(time.now))
    await asyncio.wait_for(early.caught_up.wait(), HANG_S)
    await time.turn(60_000)
    await eventually(lambda: EventKind.CLOSE in early.kinds())
    late = Client(hub)
    await asyncio.wait_for(late.caught_up.wait(), HANG_S)
    early.events.clear()
    late.events.clear()
    for client in (early, late):
        await eventually(lambda client=client: client.kinds().count(EventKind.HEARTBEAT) >= 3)
        assert client.kinds().count(EventKind.HEARTBEAT) >= 3
    seqs = {event.seq for client in (early, late) for event in client.events}
    await time.turn(60_000)
    for client in (early, late):
        await eventually(lambda client=client: EventKind.CLOSE in client.kinds())
        closed = next(event for event in client.events if event.kind is EventKind.CLOSE)
        assert {closed.seq - 1} == seqs
        await client.leave()


async def test_a_listener_that_fell_behind_learns_where_to_resume() -> None:
    """Closed candles are not dropped in silence: over the bound one RESYNC takes their place."""
    listener, group = topic_module.Listener(), ListenerGroup()
    group.add(listener)
    one = Candles.of([0], [1], [1], [1], [1], [1])
    for number in range(topic_module.MAX_QUEUED_EVENTS + 1):
        stamp = Candles.of([number * 60_000], [1], [1], [1], [1], [1])
        listener.push(Event(EventKind.CLOSE, number, stamp))
        listener.push(Event(EventKind.UPDATE, number, one))
    _, event = await group.next(1) or (None, None)
    assert event is not None
    assert (event.kind, event.resync_from) == (EventKind.RESYNC, 0)
    assert await group.next(0.01) is None


async def test_the_forming_candle_conflates_in_a_listener_s_queue() -> None:
    """A slow reader gets the newest state once, not every step towards it."""
    listener, group = topic_module.Listener(), ListenerGroup()
    group.add(listener)
    for number in range(5):
        candle = Candles.of([0], [1], [9], [1], [1 + number], [1], closed=False)
        listener.push(Event(EventKind.UPDATE, number, candle))
    _, event = await group.next(1) or (None, None)
    assert event is not None
    assert event.seq == 4
    assert await group.next(0.01) is None


async def test_a_feed_stops_without_listeners(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """After the linger the upstream is not asked any more, no task is left, and the lease is free."""
    database.timings = replace(database.timings, topic_linger_s=0.05, topic_min_linger_s=0.05)
    exchange = Exchange(LiveMode.STREAM)
    hub = build(exchange)
    leases = Leases(database, uuid.uuid4())
    tasks = []
    for _ in range(2):
        clients = [Client(hub) for _ in range(20)]
        await asyncio.gather(*(asyncio.wait_for(client.caught_up.wait(), HANG_S) for client in clients))
        assert not await leases.acquire(["feed:lab/exchange:0"], 3.0)
        for client in clients:
            await client.leave()
        await eventually(lambda: not time.processes[0].feeds)
        await eventually(lambda: not [task for task in asyncio.all_tasks() if "Feed." in str(task.get_coro())])
        await waiting.eventually(lambda: leases.acquire(["feed:lab/exchange:0"], 3.0))
        await leases.release(["feed:lab/exchange:0"])
        tasks.append(len(asyncio.all_tasks()))
    # One may be at work in the moment they are counted, a look at the store say; one that leaked would stay.
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks[0])
    assert len(asyncio.all_tasks()) <= tasks[0]


async def test_the_published_candles_are_the_stored_ones(build: Build, time: Time, database: Database) -> None:
    """A closed candle is final: the query gives the same one afterwards."""
    exchange = Exchange()
    hub = build(exchange)
    client = Client(hub, "1m", MINUTE.floor(time.now))
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    for _ in range(4):
        await time.turn(60_000)
    await eventually(
        lambda: len(client.closed()) == len(exchange.truth(MINUTE, client.since, MINUTE.floor(time.now - 5_000)))
    )
    received = client.closed()
    stored = (await hub._history.answer([_ask(client.series, client.since)]))[0]
    assert received == [candle for candle in stored.candles if candle.closed]
    assert received
    await client.leave()


def _ask(series: Series, since: int | None) -> CandleRequest:
    return CandleRequest(series, 1000, since)


def test_the_truth_of_these_tests_has_holes() -> None:
    """Otherwise they would prove less than they say."""
    stamps = np.arange(START - START % 60_000, START + 3_600_000, 60_000).tolist()
    assert 0 < sum(map(trades, stamps)) < len(stamps)


async def test_a_query_takes_the_forming_candle_of_a_followed_series_from_the_feed(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is not called for it again; a process without followers calls as before."""
    time.now = next(s for s in range(START, START + 3_600_000, 60_000) if trades(MINUTE.floor(s)))
    exchange = Exchange(LiveMode.STREAM)
    hub = build(exchange)
    client = Client(hub, "5m", time.now - 3_600_000)
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    asked = exchange.urgencies.count(Urgency.QUERY)  # what the feed asks for is live
    for timeframe in ("1m", "5m"):
        answer = (await hub._history.answer([CandleRequest(Series(BTC, Timeframe.parse(timeframe)), 5)]))[0]
        assert not isinstance(answer, BaseException)
        assert not answer.candles.closed[-1]
        assert answer.sources[-1].source is SourceKind.LIVE
        assert answer.complete
    assert exchange.urgencies.count(Urgency.QUERY) == asked
    assert list(answer.candles)[-1] == list(client.events[-1].candles)[-1]
    await client.leave()
    await time.processes[0].stop()
    answer = (await hub._history.answer([CandleRequest(Series(BTC, MINUTE), 5)]))[0]
    assert not isinstance(answer, BaseException)
    assert answer.sources[-1].source is SourceKind.PROVIDER
    assert exchange.urgencies.count(Urgency.QUERY) > asked


async def test_no_event_during_the_join_of_a_listener_is_sent_twice(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader answers, and candles close before the waiting listener has its turn."""
    hub = build(Exchange())
    opened = MINUTE.floor(time.now) - 600_000

    keys: list[TopicKey] = []

    async def ready(key: TopicKey, topic: Topic) -> None:
        keys.append(key)
        topic.start(7, opened, 99, Candles.empty())
        for n in range(3):
            row = Candles.from_rows([(opened + n * 60_000, 1, 1, 1, 1, 1)])
            hub._on_message(TopicMessage(key, "C", 8 + n, opened + (n + 1) * 60_000, 99, row))

    monkeypatch.setattr(hub, "_ready", ready)
    client = Client(hub, "1m", opened)
    await asyncio.wait_for(client.caught_up.wait(), HANG_S)
    assert client.events[0].seq == 10
    row = Candles.from_rows([(opened + 3 * 60_000, 1, 1, 1, 1, 1)])
    hub._on_message(TopicMessage(keys[0], "C", 11, opened + 4 * 60_000, 99, row))
    await eventually(lambda: EventKind.CLOSE in client.kinds())
    assert [event.seq for event in client.events if event.kind is EventKind.CLOSE] == [11]
    await client.leave()
