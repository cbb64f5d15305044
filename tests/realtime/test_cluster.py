"""Several processes over one database: one of them leads, all send their listeners the same events, and any may die."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from candlegraph import MINUTE, LiveMode, Span, Timeframe, fold
from candlegraph.answer import CandleRequest, SourceKind
from candlegraph.candle import Candles
from candlegraph.event import EventKind
from candlegraph.span import Spans
from candlegraph.upstream import Urgency
from realtime import hub as hub_module
from realtime import topic_publisher as publisher_module
from storage import topics as live_module
from storage import write_transaction
from storage.batches import CandleWrite
from storage.database import SQL, Database
from storage.leases import LeaseLost
from storage.topics import TopicAppend, TopicEvent, TopicKey, TopicStore
from tests import waiting
from tests.fakes.clocks import set_clock
from tests.realtime.world import (
    BRISK,
    BTC,
    ETH,
    START,
    Client,
    Exchange,
    Gate,
    Held,
    Process,
    eventually,
    minute,
    trades,
)
from tests.waiting import HANG_S

LEASE = "feed:lab/exchange:0"


class World:
    """The processes, the exchange that all of them ask, and the clock."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.now = START
        self.exchange = Exchange()
        self.processes: list[Process] = []
        self.timings = BRISK

    async def start(self) -> Process:
        process = await Process.start(self.dsn, self.exchange, timings=self.timings)
        self.processes.append(process)
        return process

    def retime(self, **changed: float) -> None:
        """Other timings for the processes that run, and for those that start later."""
        self.timings = replace(self.timings, **changed)
        for process in self.processes:
            process.database.timings = self.timings

    async def leading(self) -> Process:
        """The process that has a feed, once there is one."""
        await eventually(lambda: any(process.feeds for process in self.processes))
        return next(process for process in self.processes if process.feeds)

    def final(self) -> int:
        """The end of the minutes that are final."""
        return MINUTE.floor(self.now - self.exchange.capabilities.settle_ms)

    def expected(self, client: Client) -> list[object]:
        """The candles that a client must have received by now."""
        timeframe = client.series.timeframe
        until = timeframe.floor(self.final(), client.zone)
        assert client.since is not None
        return list(self.exchange.truth(timeframe, client.since, until, client.zone.name))

    def forming(self, client: Client) -> list[tuple[float, ...]]:
        """What is to be shown of the candles that are not final."""
        timeframe = client.series.timeframe
        opened = timeframe.floor(self.final(), client.zone)
        candles = fold(self.exchange.rows(Span(opened, self.now)), timeframe, client.zone)
        return list(zip(*candles.columns[:6], strict=True))

    async def check(self, *clients: Client) -> None:
        """Check that each client has received the right candles, each once and in order, and every number."""
        for client in clients:
            await eventually(lambda client=client: client.known() == self.expected(client))
            assert client.known() == self.expected(client)
            stamps = [candle.timestamp for candle in client.closed()]
            assert stamps == sorted(set(stamps))
            counted = [e.seq for e in client.events if e.kind in {EventKind.CLOSE, EventKind.CORRECTION}]
            first = client.events[0].seq + 1
            assert counted == list(range(first, first + len(counted)))

    async def minutes(self, count: int, *clients: Client) -> None:
        """Let minutes pass, one after the other."""
        for _ in range(count):
            self.now += 60_000
            await self.check(*clients)


@pytest.fixture
async def world(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(database_dsn)
    set_clock(monkeypatch, lambda: world.now)
    yield world
    for process in world.processes:
        process.thaw()
        await process.stop()


async def joined(*clients: Client) -> None:
    await asyncio.gather(*(asyncio.wait_for(client.caught_up.wait(), HANG_S) for client in clients))


def back(world: World, minutes: int) -> int:
    return MINUTE.floor(world.now) - minutes * 60_000


async def test_listeners_of_every_process_get_the_same_events_from_one_feed(world: World) -> None:
    one, other = await world.start(), await world.start()
    clients = [Client(process.hub, name, back(world, 30)) for process in (one, other) for name in ("1m", "5m")]
    await joined(*clients)
    await world.minutes(6, *clients)
    assert len(one.feeds) + len(other.feeds) == 1
    pairs = zip(clients[:2], clients[2:], strict=True)
    for ours, theirs in pairs:
        assert ours.numbered().items() & theirs.numbered().items()
        shared = ours.numbered().keys() & theirs.numbered().keys()
        assert {n: ours.numbered()[n] for n in shared} == {n: theirs.numbered()[n] for n in shared}
    for client in clients:
        await client.leave()


async def test_a_question_to_any_process_is_answered_with_what_that_hears_of_the_forming_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.retime(forming_ttl_s=60.0)
    processes = [await world.start(), await world.start()]
    clients = [Client(process.hub, since=back(world, 5)) for process in processes]
    await joined(*clients)
    await world.minutes(1, *clients)
    while not trades(MINUTE.floor(world.now)):
        await world.minutes(1, *clients)
    for process, client in zip(processes, clients, strict=True):
        await eventually(lambda client=client: shown(client) == world.forming(client))
        before = world.exchange.urgencies.count(Urgency.QUERY)
        answer = (await process.history.answer([CandleRequest(client.series, 100, client.since)]))[0]
        assert not isinstance(answer, BaseException)
        assert world.exchange.urgencies.count(Urgency.QUERY) == before
        assert answer.sources[-1].source is SourceKind.LIVE
        stored = list(zip(*(column.tolist() for column in answer.candles.columns[:6]), strict=True))
        assert stored[-len(world.forming(client)) :] == world.forming(client)
    for client in clients:
        await client.leave()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the processes ask their database, and how often; but for looks at what others wrote, which go by time."""
    asked: Counter[str] = Counter()
    borrow = Gate.connection

    def note(query: Any) -> None:
        drivers = "typeinfo" in query.query or "current_setting" in query.query  # once a connection
        asked[query.query] += query.query != SQL["changes_since"] and not drivers

    @asynccontextmanager
    async def connection(gate: Gate) -> AsyncIterator[Any]:
        async with borrow(gate) as connection:
            with connection.query_logger(note):
                yield connection

    monkeypatch.setattr(Gate, "connection", connection)
    return asked


async def test_an_event_costs_a_thousand_listeners_the_calls_and_statements_that_it_costs_one(
    world: World, statements: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three minutes close: with one listener in each of two processes, with a hundred of them, and with a thousand."""
    world.retime(lease_ttl_s=600.0)
    exchange = world.exchange = Held()
    hours = range(START, START + 86_400_000, 60_000)
    world.now = next(s for s in hours if all(trades(MINUTE.floor(s) + n * 60_000) for n in range(12)))
    one, other = await world.start(), await world.start()
    clients = [Client(one.hub, since=back(world, 5))]
    await joined(*clients)
    costs = []
    # What is done once is done in the first round, and the work that a process does every second without subscribers.
    for crowd in (2, 2, 100, 1_000):
        while len(clients) < crowd:  # not all at once: the history of each is read
            more = [Client((other, one)[n % 2].hub, since=back(world, 5)) for n in range(min(50, crowd - len(clients)))]
            await joined(*more)
            clients += more
        world.retime(hub_interval_s=600.0, leader_interval_s=600.0)
        exchange.held = True
        await eventually(lambda: exchange.waiting == 1)
        statements.clear()
        called = exchange.fetches
        for _ in range(3):
            world.now += 60_000
            for _ in range(2):  # the poll that was under way, and the one that closes the minute
                exchange.turns.release()
            await world.check(*clients[:2])
            await eventually(lambda clients=clients: len({client.events[-1].seq for client in clients}) == 1)
            assert len({client.events[-1].seq for client in clients}) == 1
            await eventually(lambda: exchange.waiting == 1)
        costs.append((exchange.fetches - called, statements.total()))
        exchange.held = False
        exchange.turns.release()
        await eventually(lambda: not exchange.waiting)
    assert [calls for calls, _ in costs] == [6] * 4
    # 16 to 20 a minute: messages that come together are one, and a ledger is read while it is not known.
    assert max(asked for _, asked in costs[1:]) <= 60, costs
    for client in clients:
        await client.leave()


@pytest.mark.parametrize("how", ["stopped", "killed", "frozen"])
async def test_another_process_takes_over_and_no_candle_is_missing_or_repeated(world: World, how: str) -> None:
    one, other = await world.start(), await world.start()
    clients = {process: Client(process.hub, since=back(world, 10)) for process in (one, other)}
    await joined(*clients.values())
    await world.minutes(2, *clients.values())
    leader = await world.leading()
    survivor = other if leader is one else one
    held = leader.feeds[0].lease
    match how:
        case "stopped":
            await leader.stop()
            world.processes.remove(leader)
        case "killed":
            await leader.kill()
            world.processes.remove(leader)
        case "frozen":
            leader.freeze()
    await world.minutes(3, clients[survivor])
    assert survivor.feeds
    assert survivor.feeds[0].lease.epoch > held.epoch
    if how == "frozen":
        leader.thaw()
        await world.minutes(2, *clients.values())
        assert len(one.feeds) + len(other.feeds) == 1
    for client in clients.values():
        await client.leave()


async def test_what_a_frozen_leader_still_wants_to_write_is_refused(world: World, database: Database) -> None:
    """It held the lease once; another process does now."""
    one = await world.start()
    client = Client(one.hub, since=back(world, 10))
    await joined(client)
    feed = (await world.leading()).feeds[0]
    stale = feed.lease
    await client.leave()
    await one.kill()
    world.processes.clear()
    successor = TopicStore(database)
    await waiting.eventually(lambda: successor.leases.acquire([LEASE], 3.0))
    key = TopicKey(feed._record.id, "1m", "UTC")
    database.timings = BRISK
    fresh = Process(database, world.exchange)
    world.processes.append(fresh)
    candles = Candles.from_rows([minute(back(world, 8))])
    span = Spans([Span(back(world, 8), back(world, 7))])
    with pytest.raises(LeaseLost):
        await fresh.history.store.write([CandleWrite(key.instrument_id, MINUTE, candles, span)], held=stale)
    with pytest.raises(LeaseLost):
        await successor.append(stale, [TopicAppend(key, 0, [TopicEvent("C", back(world, 8))], back(world, 7), 0)])
    with pytest.raises(LeaseLost):
        await successor.open_topic(key, back(world, 7), stale)


async def test_a_leader_that_freezes_in_the_middle_of_a_write_does_not_keep_its_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction has locked the row of the lease, and its connection lives."""
    one, other = await world.start(), await world.start()
    clients = {process: Client(process.hub, since=back(world, 10)) for process in (one, other)}
    await joined(*clients.values())
    leader = await world.leading()
    survivor = other if leader is one else one
    extend, begun, thawed = write_transaction.extend_coverage, asyncio.Event(), asyncio.Event()

    async def stand_still(*given: Any) -> int:
        if not begun.is_set():
            begun.set()
            await thawed.wait()
        return await extend(*given)

    monkeypatch.setattr(write_transaction, "extend_coverage", stand_still)
    world.now += 60_000
    await asyncio.wait_for(begun.wait(), HANG_S)
    leader.freeze()
    await world.minutes(2, clients[survivor])
    assert survivor.feeds
    thawed.set()
    leader.thaw()
    await world.minutes(2, *clients.values())
    assert len(one.feeds) + len(other.feeds) == 1
    for client in clients.values():
        await client.leave()


async def test_a_feed_that_is_closed_while_its_minute_is_counted_repeats_nothing_of_its_neighbour(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both close the minute by one statement; it has committed, and its answer is on its way, when one of them ends."""
    world.retime(lease_ttl_s=30.0)
    process = await world.start()
    clients = [Client(process.hub, since=back(world, 10), of=instrument) for instrument in (BTC, ETH)]
    await joined(*clients)
    await world.minutes(1, *clients)
    leader, store = process.cluster.leader, process.cluster.store
    append, fetch, asked = store.append, store._fetch, list[int]()
    committed, answers = asyncio.Queue[int](), asyncio.Semaphore(0)

    async def noted(held: live_module.LeaseToken, steps: Sequence[TopicAppend]) -> dict[TopicKey, int]:
        asked.extend(step.key.instrument_id for step in steps)
        return await append(held, steps)

    async def slowly(name: str, *arguments: object) -> Sequence[Any]:
        rows = await fetch(name, *arguments)
        if name == "live_append":
            committed.put_nowait(len(rows))
            await answers.acquire()
        return rows

    monkeypatch.setattr(store, "append", noted)
    monkeypatch.setattr(store, "_fetch", slowly)
    busy = asyncio.create_task(append(process.feeds[0].lease, []))
    assert await committed.get() == 0
    world.now += 60_000
    while not trades(back(world, 1)):  # until there is a candle to close
        world.now += 60_000
    await eventually(lambda: len(asked) == 2)
    answers.release()
    await busy
    assert await committed.get() == 2
    await asyncio.wait_for(leader._close(asked[:1]), HANG_S)
    for _ in range(100):
        answers.release()
    await world.check(*clients)
    await world.minutes(2, *clients)
    for client in clients:
        await client.leave()


@pytest.mark.parametrize("live", [LiveMode.POLL, LiveMode.STREAM])
async def test_a_correction_replaces_and_reaches_listeners_of_every_process(world: World, live: LiveMode) -> None:
    """A poll looks back three minutes when it closes one; a stream sends it by itself."""
    world.exchange = Exchange(live)
    one, other = await world.start(), await world.start()
    clients = [Client(process.hub, name, back(world, 20)) for process in (one, other) for name in ("1m", "5m")]
    await joined(*clients)
    await world.minutes(2, *clients)
    corrected = next(s for s in range(back(world, 3), back(world, 0), 60_000) if world.exchange.minute(s))
    world.exchange.correct(corrected)
    if live is LiveMode.STREAM:
        world.exchange.late.append(corrected)
    await world.minutes(4, *clients)
    for client in clients:
        kinds = [event for event in client.events if event.kind is EventKind.CORRECTION]
        opened = client.series.timeframe.floor(corrected)
        assert {int(event.candles.timestamp[0]) for event in kinds} == {opened}
        await client.leave()


class Mute(Exchange):
    """Its stream hangs for ever."""

    async def _stream(self) -> AsyncIterator[Candles]:
        self.streams += 1
        await asyncio.Event().wait()
        yield Candles.empty()


async def test_a_stream_that_hangs_without_a_word_costs_no_minute(world: World) -> None:
    """Each is read from the history when it closes, whatever the stream does, and the forming one with it."""
    world.exchange = Mute(LiveMode.STREAM)
    client = Client((await world.start()).hub, since=back(world, 10))
    await joined(client)
    await world.minutes(5, client)
    assert world.exchange.streams == 1
    await client.leave()


async def test_messages_that_are_lost_are_read_from_the_store(world: World) -> None:
    one, other = await world.start(), await world.start()
    ours = Client(one.hub, since=back(world, 10))
    await joined(ours)
    theirs = Client(other.hub, since=back(world, 10))
    await joined(theirs)
    other.loss = one.loss = 1.0
    await world.minutes(3, ours, theirs)
    for client in (ours, theirs):
        await client.leave()


async def test_a_listener_may_begin_while_nothing_comes_over_the_bus(world: World) -> None:
    one, other = await world.start(), await world.start()
    ours = Client(one.hub, since=back(world, 10))
    await joined(ours)
    one.loss = other.loss = 1.0
    theirs = Client(other.hub, since=back(world, 10))
    await joined(theirs)
    await world.minutes(2, ours, theirs)
    for client in (ours, theirs):
        await client.leave()


async def test_a_process_that_was_away_too_long_sends_resync_and_then_everything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More happened than is sent one by one: RESYNC, and from `resyncFrom` on nothing is missing."""
    monkeypatch.setattr(publisher_module, "MAX_EVENTS", 5)
    one = await world.start()
    client = Client(one.hub, since=back(world, 10))
    await joined(client)
    world.exchange.down = True
    world.now += 30 * 60_000
    asked = world.exchange.fetches
    await eventually(lambda: world.exchange.fetches > asked)
    world.exchange.down = False
    await asyncio.wait_for(client.task, HANG_S)
    resync = client.events[-1]
    assert resync.kind is EventKind.RESYNC
    before = [candle for candle in client.closed() if candle.timestamp < (resync.resync_from or 0)]
    again = Client(one.hub, since=resync.resync_from)
    await joined(again)
    await world.minutes(1)
    client.since = back(world, 41)
    await eventually(lambda: before + again.closed() == world.expected(client))
    assert before + again.closed() == world.expected(client)
    await again.leave()


def shown(client: Client) -> list[tuple[float, ...]]:
    """The candles that are not final, as a client knows them."""
    newest = next(e for e in reversed(client.events) if e.kind in {EventKind.UPDATE, EventKind.SNAPSHOT})
    closed = client.known()
    candles = newest.candles[~newest.candles.closed]
    candles = candles[candles.timestamp > (closed[-1].timestamp if closed else 0)]
    return list(zip(*candles.columns[:6], strict=True))


@pytest.mark.parametrize("days", ["UTC", "America/New_York"])
async def test_every_event_of_a_long_candle_is_the_fold_of_its_minutes(
    world: World, days: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5m, a day, a week, a month and a year; over the end of a day each closes as its aggregate is."""
    world.retime(lease_ttl_s=30.0)
    midnight = Timeframe(1, "d").next(world.now)
    world.now = midnight - 3 * 60_000 + 30_000 + (5 * 3_600_000 if days != "UTC" else 0)
    one = await world.start()
    names = ("5m", "1d", "1w", "1mon", "1y")
    since = world.now - 3 * 86_400_000
    clients = [Client(one.hub, name, since, days) for name in names]
    await joined(*clients)
    for _ in range(6):
        world.now += 60_000
        for client in clients:
            await eventually(lambda client=client: shown(client) == world.forming(client))
            assert shown(client) == world.forming(client), client.series
    await world.check(*clients)
    assert len(clients[1].closed()) >= 3
    for client in clients:
        answer = (await one.history.answer([CandleRequest(client.series, 5_000, since, zone=client.zone)]))[0]
        assert not isinstance(answer, BaseException)
        assert [c for c in answer.candles if c.closed] == client.known()
        await client.leave()


async def test_a_resync_reaches_back_to_the_earliest_missed_correction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too much was missed to be sent one by one, including a correction of an old candle."""
    monkeypatch.setattr(hub_module, "MAX_QUEUED_EVENTS", 3)
    one, other = await world.start(), await world.start()
    ours = Client(one.hub, since=back(world, 20))
    await joined(ours)
    theirs = Client(other.hub, since=back(world, 20))
    await joined(theirs)
    one.loss = other.loss = 1.0
    world.retime(message_timeout_s=60.0)
    leader = await world.leading()
    follower = theirs if leader is one else ours
    corrected = next(s for s in range(back(world, 15), back(world, 10), 60_000) if world.exchange.minute(s))
    world.exchange.correct(corrected)
    record = leader.feeds[0]._record
    rows = Candles.from_rows([world.exchange.minute(corrected)])
    await leader.history.store.write(
        [CandleWrite(record.id, MINUTE, rows, Spans([Span(corrected, corrected + 60_000)]))]
    )
    leading = ours if leader is one else theirs
    await world.minutes(6, leading)
    world.retime(message_timeout_s=0.0)
    await asyncio.wait_for(follower.task, HANG_S)
    assert follower.events[-1].kind is EventKind.RESYNC
    assert follower.events[-1].resync_from == corrected
    await leading.leave()
