"""One subscription to many series: each on its own, and together no more than one listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from candlegraph import MINUTE, Candles, Instrument, LiveMode, Series, Timeframe
from candlegraph.errors import BadUserInput, NotFound, ProviderUnavailable
from candlegraph.event import Event, EventKind, LiveRequest, SeriesFailure
from candlegraph.span import Span, Spans
from realtime import snapshot_reader as snapshots_module
from realtime.hub import Hub
from realtime.subscriber import ListenerGroup
from realtime.topic import MAX_QUEUED_EVENTS, Listener
from storage.batches import CandleWrite
from storage.database import Database
from tests.fakes.clocks import set_clock
from tests.realtime.test_hub import Time
from tests.realtime.world import BRISK, BTC, ETH, START, Client, Exchange, Process, eventually
from tests.waiting import HANG_S

Build = Callable[[Exchange], Hub]
FIVE = Timeframe(5, "m")
OLD = Instrument("mine", "file", "OLD")  # imported: there is no provider


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    turned = Time()
    set_clock(monkeypatch, lambda: turned.now)
    return turned


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


class Many:
    """Subscribes to many series at once, and keeps what comes of each."""

    def __init__(self, hub: Hub, requests: Sequence[LiveRequest], *, closed_only: bool = False) -> None:
        self.events: list[Event | SeriesFailure] = []
        self.task = asyncio.create_task(self._listen(hub, requests, closed_only))

    async def _listen(self, hub: Hub, requests: Sequence[LiveRequest], closed_only: bool) -> None:
        async with aclosing(hub.subscribe_many(requests, None, closed_only=closed_only)) as events:
            async for event in events:
                self.events.append(event)

    def of(self, series: Series) -> list[Event]:
        return [one for one in self.events if isinstance(one, Event) and one.series == series]

    def closed(self, series: Series) -> list[int]:
        received = [e for e in self.of(series) if e.kind in {EventKind.SNAPSHOT, EventKind.CLOSE}]
        return [candle.timestamp for event in received for candle in event.candles if candle.closed]

    def caught_up(self) -> int:
        return sum(isinstance(one, Event) and one.caught_up for one in self.events)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def _import(hub: Hub, rows: int, instrument: Instrument = OLD) -> int:
    """Minutes that were imported: the opening of the first."""
    first = MINUTE.floor(START) - 10 * 86_400_000
    stamps = first + 60_000 * np.arange(rows, dtype=np.int64)
    record = await hub._history.instruments.get_or_create(instrument, "UTC")
    covered = Spans([Span(first, first + rows * 60_000)])
    await hub._history.store.write(
        [CandleWrite(record.id, MINUTE, Candles.of(stamps, *[np.ones(rows)] * 5), covered, "i")]
    )
    return first


async def test_each_series_has_its_own_history_and_count_and_fails_alone(build: Build, time: Time) -> None:
    exchange = Exchange()
    hub = build(exchange)
    minutes, fives, other = Series(BTC, MINUTE), Series(BTC, FIVE), Series(ETH, MINUTE)
    wrong = Series(Instrument("lab", "exchange", "NO"), MINUTE)
    since = {minutes: MINUTE.floor(time.now) - 1_800_000, fives: FIVE.floor(time.now) - 3_600_000, other: None}
    many = Many(hub, [LiveRequest(wrong), *(LiveRequest(one, at) for one, at in since.items())])
    await eventually(lambda: many.caught_up() == 3)
    for _ in range(11):
        await time.turn(60_000)
    final = MINUTE.floor(time.now - 5_000)
    for series in (minutes, fives):
        begin = since[series] or 0
        expected = [c.timestamp for c in exchange.truth(series.timeframe, begin, series.timeframe.floor(final))]
        await eventually(partial(_equal, lambda: many.closed(series), expected))  # noqa: B023 - it is awaited here
        assert many.closed(series) == expected
    await eventually(lambda: len(many.closed(other)) >= 8)
    for series in since:
        seqs = [event.seq for event in many.of(series) if event.kind is EventKind.CLOSE]
        assert seqs == list(range(many.of(series)[0].seq + 1, many.of(series)[0].seq + 1 + len(seqs)))
    (failure,) = [one for one in many.events if isinstance(one, SeriesFailure)]
    assert (failure.series, type(failure.error)) == (wrong, NotFound)
    await many.leave()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that read candles."""
    sent: list[str] = []
    borrow = Database.connection

    def note(query: Any) -> None:
        if "ohlcv_" in query.query:
            sent.append(query.query)

    @asynccontextmanager
    async def connection(database: Database) -> AsyncIterator[Any]:
        async with borrow(database) as connection:
            with connection.query_logger(note):
                yield connection

    monkeypatch.setattr(Database, "connection", connection)
    return sent


async def test_a_hundred_series_take_one_task_and_one_read_of_their_histories(
    build: Build, time: Time, reads: list[str]
) -> None:
    hub = build(Exchange())
    first = MINUTE.floor(START) - 10 * 86_400_000
    writes, series = [], []
    for number in range(100):
        record = await hub._history.instruments.get_or_create(replace_symbol(OLD, f"S{number}"), "UTC")
        rows = Candles.of(first + 60_000 * np.arange(5 + number), *[np.ones(5 + number)] * 5)
        covered = Spans([Span(first, first + (5 + number) * 60_000)])
        writes.append(CandleWrite(record.id, MINUTE, rows, covered, "i"))
        series.append(Series(record.instrument, MINUTE))
    await hub._history.store.write(writes)
    reads.clear()
    tasks = len(asyncio.all_tasks())
    many = Many(hub, [LiveRequest(one, first + 60_000 * number) for number, one in enumerate(series)])
    await eventually(lambda: many.caught_up() == 100)
    assert [len(many.closed(one)) for one in series] == [5] * 100  # each from its own `since` on
    assert len(many.events) == 100
    assert len(reads) == 2  # how many there are, since they might be too many, and they themselves
    assert len(asyncio.all_tasks()) <= tasks + 1
    await many.leave()


async def test_a_resync_ends_its_own_series_only_and_the_last_one_ends_all(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = build(Exchange())
    series = [Series(BTC, MINUTE), Series(ETH, MINUTE)]
    many = Many(hub, [LiveRequest(one) for one in series])
    await eventually(lambda: many.caught_up() == 2)
    topics = {topic.series: topic for topic in hub._topics.values()}
    topics[series[0]].resync(99, topics[series[0]].edge, None)
    await eventually(lambda: any(event.kind is EventKind.RESYNC for event in many.of(series[0])))
    before = len(many.of(series[0]))
    for _ in range(4):
        await time.turn(60_000)
    await eventually(lambda: len(many.closed(series[1])) >= 2)
    assert len(many.of(series[0])) == before
    topics[series[1]].resync(99, topics[series[1]].edge, None)
    await asyncio.wait_for(many.task, HANG_S)
    assert not any(topic.listeners for topic in hub._topics.values())


async def test_one_heartbeat_stands_for_all_where_nothing_happens(build: Build, time: Time, database: Database) -> None:
    hub = build(Exchange())
    database.timings = replace(database.timings, hub_heartbeat_interval_s=0.05)
    first = await _import(hub, 3)
    await _import(hub, 3, replace_symbol(OLD, "OLDER"))
    series = [Series(OLD, MINUTE), Series(replace_symbol(OLD, "OLDER"), MINUTE)]
    many = Many(hub, [LiveRequest(one, first) for one in series])
    await eventually(lambda: len(many.events) >= 5)
    assert [e.kind for e in many.events[:2] if isinstance(e, Event)] == [EventKind.SNAPSHOT] * 2
    beats = [event for event in many.events[2:] if isinstance(event, Event)]
    assert {(beat.kind, beat.series) for beat in beats} == {(EventKind.HEARTBEAT, series[0])}
    await many.leave()


def _equal(found: Callable[[], list[int]], expected: list[int]) -> bool:
    return found() == expected


def _ended(client: Client) -> bool:
    return client.task.done() or client.caught_up.is_set()


def replace_symbol(instrument: Instrument, symbol: str) -> Instrument:
    """The same provider's other symbol."""
    return replace(instrument, symbol=symbol)


async def test_an_imported_series_has_its_history_and_then_heartbeats(
    build: Build, time: Time, database: Database
) -> None:
    """There is no provider to ask for what was not imported, so that nothing can be missing."""
    hub = build(Exchange())
    database.timings = replace(database.timings, hub_heartbeat_interval_s=0.05)
    first = await _import(hub, 30)
    client = Client(hub, "1m", first - 3_600_000, of=OLD)
    await eventually(lambda: len(client.events) >= 3)
    assert [candle.timestamp for candle in client.closed()] == [first + 60_000 * n for n in range(30)]
    assert client.events[0].caught_up
    assert set(client.kinds()[1:]) == {EventKind.HEARTBEAT}
    await client.leave()


async def test_a_history_that_is_stored_and_does_not_fit_is_refused_before_anything_of_it_is_sent(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots_module, "MAX_SNAPSHOT_ROWS", 100)
    hub = build(Exchange())
    first = await _import(hub, 101)
    client = Client(hub, "1m", first, of=OLD)
    with pytest.raises(BadUserInput, match=f"since {first}"):
        await asyncio.wait_for(client.task, HANG_S)
    assert client.events == []
    older = replace_symbol(OLD, "OLDER")
    await _import(hub, 60, older)
    many = Many(hub, [LiveRequest(Series(OLD, MINUTE), first + 40 * 60_000), LiveRequest(Series(older, MINUTE), first)])
    with pytest.raises(BadUserInput):  # of both together
        await asyncio.wait_for(many.task, HANG_S)
    fits = Client(hub, "1m", first + 60_000, of=OLD)
    await eventually(fits.caught_up.is_set)
    assert len(fits.closed()) == 100
    await fits.leave()


async def test_a_history_that_turns_out_too_long_ends_with_a_resync_and_goes_on_from_there(
    build: Build, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not stored yet, so that its length was unknown."""
    monkeypatch.setattr(snapshots_module, "MAX_SNAPSHOT_ROWS", 100)
    monkeypatch.setattr(snapshots_module, "SNAPSHOT_PAGE_ROWS", 30)
    exchange = Exchange()
    hub = build(exchange)
    since, received = MINUTE.floor(time.now) - 200 * 60_000, []
    for _ in range(5):
        client = Client(hub, "1m", since)
        await eventually(partial(_ended, client))
        received += [candle.timestamp for candle in client.closed()]
        last = client.events[-1]
        await client.leave()
        if last.kind is not EventKind.RESYNC:
            break
        assert len(client.closed()) <= 100
        assert last.resync_from is not None
        since = last.resync_from
    final = MINUTE.floor(time.now - 5_000)
    assert received == [c.timestamp for c in exchange.truth(MINUTE, MINUTE.floor(START) - 200 * 60_000, final)]


async def test_without_the_forming_candle_only_closed_ones_are_sent(build: Build, time: Time) -> None:
    exchange = Exchange(LiveMode.STREAM)
    hub = build(exchange)
    series = Series(BTC, MINUTE)
    shown, many = Client(hub), Many(hub, [LiveRequest(series)], closed_only=True)
    await eventually(lambda: many.caught_up() == 1 and shown.caught_up.is_set())
    for _ in range(6):
        await time.turn(20_000)
    for _ in range(4):
        await time.turn(60_000)
    await eventually(lambda: len(many.closed(series)) >= 3)
    assert EventKind.UPDATE in shown.kinds()
    assert {event.kind for event in many.of(series)} <= {EventKind.SNAPSHOT, EventKind.CLOSE, EventKind.CORRECTION}
    assert all(candle.closed for event in many.of(series) for candle in event.candles)
    await shown.leave()
    await many.leave()


async def test_a_provider_that_is_away_ends_its_series_alone(build: Build, time: Time) -> None:
    exchange = Exchange()
    hub = build(exchange)
    first = await _import(hub, 5)
    exchange.down = True
    series = Series(BTC, MINUTE)
    many = Many(hub, [LiveRequest(series, time.now - 7_200_000), LiveRequest(Series(OLD, MINUTE), first)])
    await eventually(lambda: many.caught_up() == 1 and len(many.events) >= 2)
    (failure,) = [one for one in many.events if isinstance(one, SeriesFailure)]
    assert failure.series == series
    assert isinstance(failure.error, (ProviderUnavailable, NotFound))
    assert len(many.closed(Series(OLD, MINUTE))) == 5
    await many.leave()


async def test_a_slow_reader_of_many_series_loses_only_the_one_that_was_too_much() -> None:
    """Each series has a queue of its own, and they are read in turn."""
    group, listeners = ListenerGroup(), [Listener(), Listener()]
    for listener in listeners:
        group.add(listener)
    for number in range(MAX_QUEUED_EVENTS + 1):
        row = Candles.of([number * 60_000], *[[1.0]] * 5)
        listeners[0].push(Event(EventKind.CLOSE, number, row))
        if number < 3:
            listeners[1].push(Event(EventKind.CLOSE, number, row))
    found = [await group.next(1) for _ in range(4)]
    received = [(listeners.index(one[0]), one[1].kind, one[1].seq) for one in found if one]
    close = EventKind.CLOSE
    assert received == [(0, EventKind.RESYNC, MAX_QUEUED_EVENTS), (1, close, 0), (1, close, 1), (1, close, 2)]
    assert await group.next(0.01) is None
