"""An event of a followed series is counted once, however often its leader sends it and whichever call is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from candlegraph.clock import MINUTE_MS
from storage.database import Database
from storage.leases import LeaseLost, LeaseToken
from storage.topics import TopicAppend, TopicConflict, TopicEvent, TopicKey, TopicStore
from tests.fakes.upstream import minutes
from tests.history.world import T0, World


class Slow(TopicStore):
    """A store whose answers to `live_append` are on their way, once they are committed, until a test lets them through."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.committed: asyncio.Queue[int] = asyncio.Queue()
        self.answers = asyncio.Semaphore(0)

    async def _fetch(self, name: str, *arguments: object) -> Sequence[Any]:
        rows = await super()._fetch(name, *arguments)
        if name == "live_append":
            self.committed.put_nowait(len(rows))
            await self.answers.acquire()
        return rows


class Topics:
    """Topics of one instrument at ``T0``, led by a process; each minute closes one 1m candle."""

    def __init__(self, store: TopicStore, held: LeaseToken, keys: Sequence[TopicKey]) -> None:
        self.store, self.held, self.keys = store, held, keys

    @classmethod
    async def open(cls, store: TopicStore) -> Topics:
        world = World(store.database).lists(minutes(T0, 1))
        instrument = (await world.record()).id
        held = (await store.leases.acquire(["feed:fake/upstream:0"], 60.0))["feed:fake/upstream:0"]
        keys = [TopicKey(instrument, "1m", "UTC"), TopicKey(instrument, "5m", "UTC")]
        for key in keys:
            await store.open_topic(key, T0, held)
        return cls(store, held, keys)

    def closes(self, topic: int, seq: int, minutes: int = 1, since: int = 0) -> TopicAppend:
        """The step that closes minutes from the one numbered ``since``."""
        opened = [T0 + n * MINUTE_MS for n in range(since, since + minutes)]
        return TopicAppend(self.keys[topic], seq, [TopicEvent("C", at) for at in opened], opened[-1] + MINUTE_MS, 0)

    async def append(self, *steps: TopicAppend) -> list[int]:
        seqs = await self.store.append(self.held, steps)
        return [seqs[step.key] for step in steps]

    async def events(self, topic: int = 0) -> list[tuple[int, str, int]]:
        """What is counted of a topic: numbers, kinds and minutes."""
        key = self.keys[topic]
        found = [(e.seq, e.kind, (e.opened - T0) // MINUTE_MS) for e in await self.store.events_since(key, 0, 100)]
        assert (await self.store.positions([key]))[key].seq == len(found)
        return found


async def test_a_step_that_is_said_twice_is_counted_once(database: Database) -> None:
    topics = await Topics.open(TopicStore(database))
    step = topics.closes(0, seq=0)
    assert await topics.append(step) == [1]
    assert await topics.append(step) == [1]
    assert await asyncio.gather(topics.append(step), topics.append(step)) == [[1], [1]]
    assert await topics.events() == [(1, "C", 0)]
    assert await topics.append(topics.closes(0, seq=1, minutes=2, since=1)) == [3]
    assert await topics.events() == [(1, "C", 0), (2, "C", 1), (3, "C", 2)]


async def test_corrections_that_are_said_twice_are_counted_once(database: Database) -> None:
    topics = await Topics.open(TopicStore(database))
    await topics.append(topics.closes(0, seq=0))
    step = TopicAppend(topics.keys[0], 1, [TopicEvent("X", T0)], T0 + MINUTE_MS, 7)
    assert await topics.append(step) == [2]
    assert await topics.append(step) == [2]
    again = replace(step, seq=2, corrected=8)
    assert await topics.append(again) == [3]
    assert await topics.events() == [(1, "C", 0), (2, "X", 0), (3, "X", 0)]


async def test_a_step_that_closes_no_candle_moves_the_topic_and_may_be_said_twice(database: Database) -> None:
    topics = await Topics.open(TopicStore(database))
    step = TopicAppend(topics.keys[1], 0, [], T0 + MINUTE_MS, 0)
    assert await topics.append(step) == [0]
    assert await topics.append(step) == [0]
    standing = (await topics.store.positions([topics.keys[1]]))[topics.keys[1]]
    assert (standing.seq, standing.edge) == (0, T0 + MINUTE_MS)


async def test_a_step_that_overlaps_what_is_counted_is_refused_and_its_neighbour_is_not(database: Database) -> None:
    """Its leader did not know of the first minute, so it must read the topic again."""
    topics = await Topics.open(TopicStore(database))
    await topics.append(topics.closes(0, seq=0))
    refused, counted = await asyncio.gather(
        topics.append(topics.closes(0, seq=0, minutes=2)),
        topics.append(topics.closes(1, seq=0)),
        return_exceptions=True,
    )
    assert isinstance(refused, TopicConflict)
    assert counted == [1]
    assert await topics.events() == [(1, "C", 0)]
    assert await topics.events(1) == [(1, "C", 0)]


@pytest.mark.parametrize("leaver", [0, 1])
async def test_a_caller_that_is_cancelled_between_commit_and_answer_has_nothing_counted_twice(
    database: Database, leaver: int
) -> None:
    topics = await Topics.open(store := Slow(database))
    busy = asyncio.create_task(store.append(topics.held, []))
    await store.committed.get()
    calls = [asyncio.create_task(topics.append(topics.closes(n, seq=0))) for n in (0, 1)]
    await asyncio.sleep(0)
    store.answers.release()
    await busy
    assert await store.committed.get() == 2  # both of them by one statement
    calls[leaver].cancel()
    await asyncio.wait([calls[leaver]])
    store.answers.release()
    store.answers.release()
    assert await calls[1 - leaver] == [1]
    assert calls[leaver].cancelled()
    assert store.committed.empty()
    assert await topics.events(0) == await topics.events(1) == [(1, "C", 0)]


async def test_a_write_that_its_leader_left_and_the_same_write_anew_count_once(database: Database) -> None:
    """Two connections at once: the second waits for the row, and sees what the first has made of it."""
    topics = await Topics.open(TopicStore(database))
    again = Topics(TopicStore(database, topics.store.process), topics.held, topics.keys)
    step = topics.closes(0, seq=0)
    async with database.transaction() as connection:
        await connection.execute("select from live_topics for update")
        calls = [asyncio.create_task(one.append(step)) for one in (topics, again)]
        async with database.connection() as other:
            while await other.fetchval("select count(*) from pg_locks where not granted") < 2:
                await asyncio.sleep(0.01)
    assert await asyncio.gather(*calls) == [[1], [1]]
    assert await topics.events() == [(1, "C", 0)]


async def test_without_the_lease_nothing_is_counted(database: Database) -> None:
    topics = await Topics.open(TopicStore(database))
    topics.held = replace(topics.held, epoch=topics.held.epoch - 1)
    with pytest.raises(LeaseLost):
        await topics.append(topics.closes(0, seq=0))
    assert await topics.events() == []
