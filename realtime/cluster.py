"""The live side of one process, wired together: its leader, its bus and its hub."""

from __future__ import annotations

from contextlib import AsyncExitStack

from candlegraph.supervision import Supervisor
from history.orchestrator import History
from realtime.bus import Bus
from realtime.hub import Hub
from realtime.leader import Leader
from realtime.redis_channel import RedisChannel
from realtime.topic_limits import TopicLimits
from storage.notify import Notifications
from storage.topics import TopicStore

_REDIS, _POSTGRES = "live messages over Redis", "live messages over PostgreSQL"  # the tasks
_LEASES, _FOLLOWED = "leases", "followed series"


class Cluster:
    """This process among those that share a database (and perhaps a Redis)."""

    def __init__(
        self,
        history: History,
        *,
        redis: tuple[str, str] | None = None,
        shards: int = 1,
        limits: TopicLimits | None = None,
    ) -> None:
        """Open no connection yet. ``redis``: its URL, and a name that separates this database from others on that Redis."""
        self._database = history.store.database
        self.store = TopicStore(self._database)
        self.bus = Bus(str(self.store.process))
        self._redis_at = redis
        self._redis: RedisChannel | None = None
        self._supervisor: Supervisor | None = None
        # Leases have connections of their own: renewals must not wait when all clients of a dead server connect here at once.
        self._dedicated_pool = self._database.dedicated_pool()
        leases = TopicStore(self._dedicated_pool, self.store.process)
        self.leader = Leader(history, self.store, leases, self.bus, shards=shards)
        self.hub = Hub(history, self.store, self.bus, limits)

    def start(self, supervisor: Supervisor) -> None:
        """Run the leader, the bus and the hub, each in a task of its own, until `close`."""
        self._supervisor = supervisor
        notifications = Notifications(self._database, self.bus.receive)
        transports: list[RedisChannel | Notifications] = [notifications]
        if self._redis_at:
            # Every process listens on both: one that cannot reach Redis still gets the messages over PostgreSQL.
            url, database = self._redis_at
            self._redis = RedisChannel(url, f"candlegraph:{database}:live", self.bus.receive, self._database.timings)
            transports.insert(0, self._redis)
            supervisor.start(_REDIS, self._redis.listen, self._redis.outage)
        self.bus.connect(transports)
        supervisor.start(_POSTGRES, notifications.listen, notifications.outage)
        supervisor.start(_LEASES, self.leader.run, self.leader.outage)
        supervisor.start(_FOLLOWED, self.hub.run, self.hub.outage)

    async def close(self) -> None:
        """Release the leases, the followed topics and the connections."""
        if self._supervisor is None:
            return
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._dedicated_pool.close)
            if self._redis:
                stack.push_async_callback(self._redis.close)
            stack.push_async_callback(self.bus.close)
            stack.push_async_callback(self.leader.close)
            stack.push_async_callback(self.hub.close)
            for name in (_REDIS, _POSTGRES, _LEASES, _FOLLOWED):
                stack.push_async_callback(self._supervisor.stop, name)
