"""The leader: for each provider (or shard of one), the process of the cluster that holds its lease follows the upstream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from candlegraph.errors import CandlegraphError
from candlegraph.outage import Outage
from history.orchestrator import History
from realtime.bus import Bus, BusMessage, PositionRequest
from realtime.feed import Feed
from storage.change_feed import Change
from storage.leases import LeaseToken
from storage.topics import FollowedTopic, TopicKey, TopicStore

log = logging.getLogger(__name__)


class Leader:
    """This process's leases, and the feeds that it runs under them."""

    def __init__(
        self, history: History, store: TopicStore, dedicated: TopicStore, bus: Bus, *, shards: int = 1
    ) -> None:
        """Start nothing: `run` does. ``shards`` must be the same in every process."""
        self._history = history
        self._store = store
        self._dedicated = dedicated
        self._opened = False  # whether the database of the leases was reachable
        self._bus = bus
        self._shards = shards
        self._leases: dict[str, LeaseToken] = {}
        self.outage = Outage("renewing the leases")
        self._swept_at = time.monotonic()
        self._leases_until = (
            0.0  # by our own clock, checked before each publish: after a freeze, the leases may be lost
        )
        self._feeds: dict[int, Feed] = {}
        self._waits = False  # whether another process holds a lease that we would take over
        self._warming: dict[str, asyncio.Task[None]] = {}
        self._others = False  # whether other processes follow a topic that we lead
        self._wake = asyncio.Event()
        bus.subscribe(self._on_message)
        history.store.change_feed.subscribe(self._on_changes)

    async def run(self) -> None:
        """Acquire, renew and release leases every second, until cancelled; after a failure the feeds stay as they are."""
        while True:
            with self.outage.recording():
                if not self._opened:  # here, since a first attempt may fail: PostgreSQL may have no connection left
                    await self._dedicated.database.open()
                    self._opened = True
                await self._reconcile()
                await self._sweep()
            await self._wait()

    async def close(self) -> None:
        """Close the feeds and release every lease, once `run` has ended."""
        for task in self._warming.values():
            task.cancel()
        await self._close(list(self._feeds))
        await self._release()

    async def _sweep(self) -> None:
        if self._leases and time.monotonic() - self._swept_at > self._history.timings.leader_sweep_interval_s:
            self._swept_at = time.monotonic()
            await self._store.sweep()

    async def _wait(self) -> None:
        interval_s = self._history.timings.leader_interval_s
        try:
            async with asyncio.timeout(interval_s / 2 if self._waits else interval_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _reconcile(self) -> None:
        """Read which topics are followed, acquire or renew their leases, and run the feeds of those it gets."""
        groups: dict[str, list[FollowedTopic]] = defaultdict(list)
        for one in await self._dedicated.followed():
            shard = one.key.instrument_id % self._shards
            groups[f"feed:{one.market}/{one.provider}:{shard}"].append(one)
        not_needed = self._leases.keys() - groups.keys()
        await self._close([i for i, feed in self._feeds.items() if feed.lease.name in not_needed])
        if not_needed:
            await self._dedicated.leases.release(list(not_needed))
        began, ttl_s = asyncio.get_running_loop().time(), self._history.timings.lease_ttl_s
        held = await self._dedicated.leases.acquire(list(groups), ttl_s) if groups else {}
        for name in held.keys() ^ self._leases.keys():
            log.info("%s is now led by %s process", name, "this" if name in held else "no or another")
        self._leases, self._leases_until = held, began + ttl_s
        self._waits = held.keys() != groups.keys()
        for name in groups.keys() - held.keys() - self._warming.keys():
            self._warming[name] = asyncio.create_task(self._warm_up(name, groups[name][0]))
        await self._update_feeds({one.key: one for name in held for one in groups[name]}, held)

    async def _update_feeds(self, ours: dict[TopicKey, FollowedTopic], tokens: dict[str, LeaseToken]) -> None:
        """Run a feed for each instrument that this process leads, and no other feeds."""
        keys: dict[int, set[TopicKey]] = defaultdict(set)
        leases: dict[int, LeaseToken] = {}
        for key, one in ours.items():
            keys[key.instrument_id].add(key)
            shard = key.instrument_id % self._shards
            leases[key.instrument_id] = tokens[f"feed:{one.market}/{one.provider}:{shard}"]
        self._others = any(one.processes - {self._store.process} for one in ours.values())
        await self._close([i for i, feed in self._feeds.items() if feed.lost or leases.get(i) != feed.lease])
        missing = sorted(keys.keys() - self._feeds.keys())
        for record in await self._history.instruments.by_id(missing) if missing else ():
            self._feeds[record.id] = Feed(record, self._history, self._store, self._publish, leases[record.id])
        for instrument_id, feed in self._feeds.items():
            feed.follow(keys[instrument_id])

    async def _warm_up(self, name: str, one: FollowedTopic) -> None:
        """Start a provider whose lease another process holds, so that it is ready if we take the lease over.

        After a failure, a later round tries again.
        """
        try:
            await self._history.providers.get(one.market, one.provider)
        except CandlegraphError as error:
            log.debug("%s/%s cannot be started: %s", one.market, one.provider, error.message)
            await asyncio.sleep(self._history.timings.warm_up_retry_s)
            del self._warming[name]

    async def _close(self, ids: Iterable[int]) -> None:
        await asyncio.gather(*(self._feeds.pop(i).close() for i in ids))

    async def _release(self) -> None:
        """Release all leases, and announce it, so that another process takes over at once."""
        if self._leases:
            with self.outage.recording():  # leases that cannot be released expire
                await self._dedicated.leases.release(list(self._leases))
                self._bus.publish(PositionRequest(None, self._bus.name), others=True)

    def _publish(self, message: BusMessage) -> None:
        if asyncio.get_running_loop().time() < self._leases_until:
            self._bus.publish(message, others=self._others)

    def _on_message(self, message: BusMessage) -> None:
        if isinstance(message, PositionRequest):
            self._others |= message.process != self._bus.name
            feed = self._feeds.get(message.key.instrument_id) if message.key else None
            if message.key is None or feed is None or not feed.publish_position(message.key):
                self._wake.set()

    def _on_changes(self, changes: Sequence[Change] | None) -> None:
        for change in changes or ():
            if change.corrected and (feed := self._feeds.get(change.instrument_id)):
                feed.publish_corrections()
