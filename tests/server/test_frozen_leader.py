"""Two servers over one database: the one that follows the exchange is frozen over its lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from candlegraph import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.timeframe import MINUTE
from realtime.bus import Bus, TopicMessage
from storage.database import Database
from storage.notify import Notifications
from tests.server.cluster import Cluster, all_received, following
from tests.waiting import eventually


class BusListener:
    """Hears what the servers tell each other, and may speak as one of them."""

    def __init__(self, database: Database) -> None:
        self.bus = Bus("ear")
        self.messages: list[TopicMessage] = []
        self._line = Notifications(database, self.bus.receive)
        self.bus.connect([self._line])
        self.bus.subscribe(lambda news: self.messages.append(news) if isinstance(news, TopicMessage) else None)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._line.listen())
        try:
            await eventually(lambda: bool(self.messages))
            yield
        finally:
            task.cancel()
            await self.bus.close()


async def test_a_leader_that_was_frozen_over_its_lease_writes_and_says_nothing_any_more(
    database: Database, database_dsn: str, tmp_path: Path
) -> None:
    """It freezes while an answer is on its way to it, and the exchange has corrected that before it wakes."""
    async with Cluster(database_dsn, tmp_path) as cluster:
        await asyncio.gather(cluster.start(), cluster.start())
        ear = BusListener(database)
        async with following(cluster, 40) as followers, ear.listening():
            frozen, connects = cluster.leader(), [follower.connects for follower in followers]
            (former,) = {message.epoch for message in ear.messages}
            corrected = await cluster.asked()
            cluster.correct(corrected)
            stood_at = cluster.exchange.now + MINUTE_MS
            async with cluster.frozen(frozen):
                await eventually(lambda: ear.messages[-1].epoch > former)
            for line in ("is now led by no or another process", "LeaseLost"):  # what it wanted to write was refused
                await eventually(lambda line=line: line in frozen.log.read_text(encoding="utf-8"))
            assert cluster.leader() is not frozen
            await eventually(lambda: len(cluster.exchange.sockets.lines) == 1)
            # It has published nothing of what the exchange sent after it woke, and no server would have accepted it.
            late = [m for m in ear.messages if m.epoch == former and max(m.candles.timestamp, default=0) > stood_at]
            assert late == []
            last = ear.messages[-1]
            for number in range(1, 4):
                untrue = Candles.of([last.edge + number * MINUTE_MS], [1], [1], [1], [1], [1])
                said = TopicMessage(
                    last.key, "C", last.seq + number, int(untrue.timestamp[0]) + MINUTE_MS, former, untrue
                )
                ear.bus.publish(said, others=True)
            end = MINUTE.floor(cluster.exchange.now) + 2 * MINUTE_MS
            await all_received(followers, end)
            assert [follower.missing(end) for follower in followers] == [0] * 40
            assert [follower.repeats for follower in followers] == [0] * 40
            assert [follower.connects for follower in followers] == connects
        async with following(cluster, 5) as followers:  # the stored candles are the received ones
            assert [follower.missing(end) for follower in followers] == [0] * 5
    for server in cluster.servers:
        assert "Traceback" not in server.log.read_text(encoding="utf-8")
