"""Who follows the upstreams: for each provider (or shard of one) the one process of the cluster that holds its lease."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Sequence

from candlegraph.errors import CandlegraphError
from candlegraph.provider import Live, Upstream
from candlegraph.series import Record
from realtime.bus import Bus, Follow, Message
from realtime.feed import Feed
from storage.changes import Change
from storage.history import History
from storage.live import Followed, Held, LiveStore, TopicKey

log = logging.getLogger(__name__)

EVERY_S = 1.0
SWEEP_S = 60.0


class Leader:
    """This process's leases, and the feeds that it runs by them."""

    def __init__(self, history: History, store: LiveStore, bus: Bus, *, shards: int = 1) -> None:
        """Nothing runs before `lead`."""
        self._history = history
        self._store = store
        self._bus = bus
        self._shards = shards
        self._held: dict[str, Held] = {}
        self._feeds: dict[int, Feed] = {}
        self._followers: dict[TopicKey, frozenset[uuid.UUID]] = {}
        self._others = False  # whether any other process follows anything
        self._news = asyncio.Event()
        bus.hear(self._heard)
        history.store.changes.subscribe(self._changed)

    async def lead(self) -> None:
        """Renew, take over and let go every second, until cancelled; then free every lease."""
        loop = asyncio.get_running_loop()
        swept_at = loop.time()
        try:
            while True:
                try:
                    await self._look()
                    if self._held and loop.time() - swept_at > SWEEP_S:
                        swept_at = loop.time()
                        await self._store.sweep()
                except CandlegraphError as error:
                    log.debug("leases cannot be looked after: %s", error.message)
                except Exception:
                    log.exception("leading failed")
                await self._wait()
        finally:
            await asyncio.gather(*(feed.close() for feed in self._feeds.values()))
            self._feeds.clear()
            if self._held:
                try:
                    await self._store.free(list(self._held))
                except CandlegraphError:
                    log.debug("leases end by themselves")

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(EVERY_S):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def _look(self) -> None:
        followed = await self._store.followed()
        groups: dict[str, list[Followed]] = defaultdict(list)
        for one in followed:
            shard = one.key.instrument_id % self._shards
            groups[f"feed:{one.market}/{one.provider}:{shard}"].append(one)
        if not_needed := self._held.keys() - groups.keys():
            await self._let_go(not_needed)
        before = self._held
        self._held = await self._store.take(list(groups)) if groups else {}
        for name in before.keys() - self._held.keys():
            log.info("%s is led by another process now", name)
        ours = [one for name in self._held for one in groups[name]]
        self._others = any(one.processes - {self._store.process} for one in ours)
        await self._follow(
            ours, {one.key.instrument_id: self._held[name] for name in self._held for one in groups[name]}
        )

    async def _let_go(self, names: set[str]) -> None:
        """Nothing is followed of these any more."""
        for name in names:
            await self._close([i for i, feed in self._feeds.items() if feed.held.name == name])
        await self._store.free(list(names))

    async def _follow(self, ours: Sequence[Followed], held: dict[int, Held]) -> None:
        """Run a feed for each instrument of ours and for no other."""
        await self._close([i for i, feed in self._feeds.items() if feed.lost or held.get(i) != feed.held])
        missing = sorted({one.key.instrument_id for one in ours} - self._feeds.keys())
        for record in await self._history.instruments.by_id(missing) if missing else ():
            if upstream := await self._upstream(record):
                self._feeds[record.id] = Feed(
                    record, upstream, self._history, self._store, self._publish, held[record.id]
                )
        keys: dict[int, set[TopicKey]] = defaultdict(set)
        news: dict[int, set[TopicKey]] = defaultdict(set)
        for one in ours:
            keys[one.key.instrument_id].add(one.key)
            if one.processes - self._followers.get(one.key, frozenset()):
                news[one.key.instrument_id].add(one.key)
        self._followers = {one.key: one.processes for one in ours}
        for instrument_id, feed in self._feeds.items():
            feed.follow(keys[instrument_id], news[instrument_id])

    async def _close(self, ids: Sequence[int]) -> None:
        feeds = [self._feeds.pop(i) for i in ids]
        await asyncio.gather(*(feed.close() for feed in feeds))

    async def _upstream(self, record: Record) -> Upstream | None:
        try:
            found = await self._history.providers.get(record.instrument.market, record.instrument.provider)
        except CandlegraphError as error:
            log.debug("%s cannot be followed: %s", record.instrument, error.message)
            return None
        return found if found and found.capabilities.live is not Live.NONE else None

    def _publish(self, message: Message) -> None:
        self._bus.publish(message, others=self._others)

    def _heard(self, message: Message | Follow) -> None:
        if isinstance(message, Follow):
            self._news.set()

    def _changed(self, changes: Sequence[Change] | None) -> None:
        for change in changes or ():
            if change.corrected and (feed := self._feeds.get(change.instrument_id)):
                feed.correct(change.corrected)
