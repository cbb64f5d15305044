"""The live side begins by itself where it could not begin at once, and goes on where what it needs was away."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from redis.asyncio.connection import AbstractConnection

from candlegraph import MINUTE
from realtime.bus import PositionRequest
from realtime.feed import Feed
from realtime.redis_channel import RedisChannel
from storage.redis import Redis
from storage.topics import TopicKey, TopicStore
from tests.fakes.clocks import set_clock
from tests.fakes.valkey import Valkey
from tests.realtime.test_bus import Ear, arrives
from tests.realtime.world import BRISK, START, Client, Exchange, Process, eventually
from tests.timings import PATIENT
from tests.waiting import HANG_S

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, lambda: START)


Start = Callable[[str], Awaitable[Process]]


@pytest.fixture
async def start(quick: None) -> AsyncIterator[Start]:
    """Start processes over databases; all of them are stopped in the end."""
    processes: list[Process] = []

    async def begin(dsn: str) -> Process:
        processes.append(process := await Process.start(dsn, Exchange()))
        return process

    yield begin
    for process in processes:
        await process.stop()


@pytest.fixture
async def limited(database_dsn: str) -> AsyncIterator[tuple[str, Callable[[int], Any]]]:
    """The address of a database by a user of few connections, and the way to give that user more."""
    user = f"limited_{next(_numbers)}"
    admin = await asyncpg.connect(database_dsn)
    await admin.execute(
        f"create role {user} login connection limit 1; grant pg_read_all_data, pg_write_all_data to {user}"
    )
    parts = urlsplit(database_dsn)
    try:
        yield (
            urlunsplit(parts._replace(netloc=f"{user}@")),
            lambda count: admin.execute(f"alter role {user} connection limit {count}"),
        )
    finally:
        await admin.execute(f"drop role {user}")
        await admin.close()


async def test_without_a_free_connection_at_the_start_it_becomes_live_when_there_is_one(
    limited: tuple[str, Callable[[int], Any]], start: Start
) -> None:
    dsn, allow = limited
    process = await start(dsn)
    client = Client(process.hub, since=START - 600_000)
    try:
        await eventually(lambda: len(process.supervisor.degraded()) == 2)
        assert process.supervisor.degraded().keys() == {"leases", "live messages over PostgreSQL"}
        await allow(10)
        async with asyncio.timeout(HANG_S):
            await client.caught_up.wait()
        assert client.closed() == process.exchange.truth(MINUTE, START - 600_000, START - 60_000)
        await eventually(lambda: not process.supervisor.degraded())
        assert process.supervisor.degraded() == {}
    finally:
        await client.leave()


async def test_a_feed_that_fails_unexpectedly_is_replaced(
    database_dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = await start(database_dsn)
    client = Client(process.hub)
    back_off, failed = Feed._back_off, asyncio.Event()

    async def fail_once(self: Feed, *given: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise KeyError
        await back_off(self, *given)

    try:
        await asyncio.wait_for(client.caught_up.wait(), HANG_S)
        monkeypatch.setattr(Feed, "_back_off", fail_once)
        process.exchange.down = True
        await asyncio.wait_for(failed.wait(), HANG_S)
        process.exchange.down = False
        now, seen = START + 60_000, len(client.closed())
        set_clock(monkeypatch, lambda: now)
        truth = process.exchange.truth(MINUTE, START - 30_000, START + 30_000)
        await eventually(lambda: client.closed()[seen:] == truth)
        assert client.closed()[seen:] == truth
        assert "the feed of" in caplog.text
    finally:
        await client.leave()


def _breaking(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Let the next command on a socket of Redis fail as uvloop fails one that is closed, for each item of the list."""
    due: list[None] = []
    send = AbstractConnection.send_packed_command

    async def send_packed_command(self: Any, *given: Any, **more: Any) -> None:
        if due:
            due.pop()
            await self.disconnect(nowait=True)
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        await send(self, *given, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", send_packed_command)
    return due


async def test_a_closed_handler_of_uvloop_is_a_redis_that_is_away_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    valkey = Valkey()
    redis, due = Redis(valkey.url, timings=replace(PATIENT, redis_probe_interval_s=0.05)), _breaking(monkeypatch)
    try:
        assert await redis.ask("PING")
        due.append(None)
        assert await redis.ask("PING") is None
        assert redis.problem
        await eventually(lambda: redis.problem is None)
        assert await redis.ask("PING")
    finally:
        await redis.close()
        valkey.server.stop()


async def test_a_line_over_redis_goes_on_after_a_closed_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    valkey, due = Valkey(), _breaking(monkeypatch)
    one, other = Ear("one"), Ear("other")
    sending, hearing = (RedisChannel(valkey.url, "x", ear.bus.receive, BRISK) for ear in (one, other))
    try:
        due.append(None)  # the first command of a listener subscribes
        async with one.over(sending), other.over(hearing):
            await arrives(one, other, PositionRequest(None, "one"))
            assert not due
            due.append(None)
            assert not await sending.send(["[]"])
            await arrives(one, other, PositionRequest(None, "one"))
    finally:
        valkey.server.stop()


async def test_another_mistake_is_not_taken_for_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    valkey = Valkey()
    redis = Redis(valkey.url, timings=PATIENT)

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(AbstractConnection, "send_packed_command", fail)
    try:
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            await redis.ask("PING")
    finally:
        monkeypatch.undo()
        await redis.close()
        valkey.server.stop()


async def test_a_listener_that_comes_while_its_topic_is_let_go_of_keeps_its_row(
    database_dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delete is under way when the newcomer's row would be written."""
    process = await start(database_dsn)
    process.database.timings = replace(BRISK, follow_renewal_interval_s=3600)
    store, unfollow, follow = process.cluster.store, TopicStore.unfollow, TopicStore.follow
    deleting, go_on, wrote = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(self: TopicStore, keys: list[TopicKey]) -> None:
        deleting.set()
        await go_on.wait()
        await unfollow(self, keys)

    async def written(self: TopicStore, keys: list[TopicKey]) -> None:
        await follow(self, keys)
        wrote.set()

    first = Client(process.hub)
    await asyncio.wait_for(first.caught_up.wait(), HANG_S)
    monkeypatch.setattr(TopicStore, "unfollow", slowly)
    monkeypatch.setattr(TopicStore, "follow", written)
    process.database.timings = replace(process.database.timings, topic_linger_s=0.0)
    await first.leave()
    await asyncio.wait_for(deleting.wait(), HANG_S)
    process.database.timings = replace(process.database.timings, topic_linger_s=60.0)
    newcomer = Client(process.hub)
    try:
        for _ in range(20):  # it gets as far as it can meanwhile
            await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.wait_for(wrote.wait(), HANG_S)
        await asyncio.wait_for(newcomer.caught_up.wait(), HANG_S)
        (followed,) = await store.followed()
        assert followed.processes == {store.process}
    finally:
        go_on.set()
        await newcomer.leave()
