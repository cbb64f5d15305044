"""The live side of one process, put together: what it leads, what it hears, and what it tells its listeners."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from realtime.bus import Bus
from realtime.hub import Hub
from realtime.leader import Leader
from realtime.redis_line import RedisLine
from storage.history import History
from storage.live import LiveStore
from storage.notify import Notifications


class Cluster:
    """This process among those that share a database (and perhaps a Redis)."""

    def __init__(self, history: History, *, redis_url: str | None = None, shards: int = 1) -> None:
        """Connect to nothing yet. ConfigurationError where the URL is none of Redis."""
        self._database = history.store.database
        self._redis_url = redis_url
        self.store = LiveStore(self._database)
        self.bus = Bus(str(self.store.process))
        # However many ask at once, when all listeners of a dead server come here, say: its leases must not wait for them.
        self._aside = self._database.dedicated_pool()
        leases = LiveStore(self._aside, self.store.process)
        self.leader = Leader(history, self.store, leases, self.bus, shards=shards)
        self.hub = Hub(history, self.store, self.bus)

    async def run(self) -> None:
        """Lead, hear and tell until cancelled; what is led is given back then."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._aside.close)
            await self._aside.open()
            notifications = Notifications(self._database, self.bus.receive)
            lines: list[RedisLine | Notifications] = [notifications]
            if self._redis_url:
                # Everybody hears both: whoever cannot reach the one is heard by the other.
                channel = f"candlegraph:{await self.store.database_name()}:live"
                redis = RedisLine(self._redis_url, channel, self.bus.receive)
                stack.push_async_callback(redis.close)
                lines.insert(0, redis)
            self.bus.connect(lines)
            stack.push_async_callback(self.bus.close)
            async with asyncio.TaskGroup() as group:
                for loop in (*(line.listen() for line in lines), self.leader.lead(), self.hub.watch()):
                    group.create_task(loop)
