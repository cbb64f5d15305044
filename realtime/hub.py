"""The hub: who listens to what, and how a listener gets from history to the present without a seam."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from candlegraph.answer import Answer, Ask, GapReason
from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput, ProviderUnavailable
from candlegraph.event import Event, EventKind, heartbeat
from candlegraph.provider import Live, Provider
from candlegraph.series import Record, Series
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Zone, zone
from realtime.feed import Feed
from realtime.topic import Listener, Topic
from storage.history import History

HEARTBEAT_S = 15.0
LINGER_S = 60.0
READY_S = 10.0
PAGE = 1_000
MAX_SNAPSHOT = 50_000
# What a candle's settled minutes are read as: the whole days before today, the hours before this one, the minutes.
_LADDER = (Timeframe(1, "mon"), Timeframe(1, "d"), Timeframe(1, "h"), MINUTE)


class Hub:
    """Live series. One feed an instrument and one topic a timeframe, however many listen; both linger for a minute."""

    def __init__(self, history: History) -> None:
        """Nobody listens yet."""
        self._history = history
        self._feeds: dict[int, Feed] = {}
        self._locks: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()

    async def subscribe(self, series: Series, since: int | None, days: Zone | None) -> AsyncIterator[Event]:
        """Yield the candles since ``since`` (at most 50,000), then what happens; ends after a RESYNC.

        Raises NotFound, BadUserInput, ProviderError or Unavailable, also later: a history that cannot be told whole is
        an error and not a shorter history.
        """
        record = await self._record(series)
        days = days or zone(record.timezone)
        async with self._listening(record, series.timeframe, days) as (listener, topic):
            # Both taken at one moment: whatever happens from here on is in the listener's queue.
            seq, forming = topic.seq, topic.forming
            until = topic.opened if topic.live else None
            pending: Event | None = None
            async for candles in self._snapshots(series, since, until, days):
                if pending:
                    yield pending
                pending = Event(EventKind.SNAPSHOT, seq, candles)
            if pending and len(pending.candles) + len(forming) > PAGE:
                yield pending
                pending = None
            candles = pending.candles.merge(forming) if pending else forming
            yield Event(EventKind.SNAPSHOT, seq, candles, caught_up=True)
            while True:
                event = await listener.next(HEARTBEAT_S)
                yield event or heartbeat(topic.seq)
                if event and event.kind is EventKind.RESYNC:
                    return

    async def close(self) -> None:
        """Stop every feed."""
        feeds, self._feeds = self._feeds, {}
        await asyncio.gather(*(feed.close() for feed in feeds.values()))

    async def _record(self, series: Series) -> Record:
        found = (await self._history.instruments.find([series.instrument]))[0]
        if isinstance(found, Exception):
            raise found
        return found

    @asynccontextmanager
    async def _listening(
        self, record: Record, timeframe: Timeframe, days: Zone
    ) -> AsyncIterator[tuple[Listener, Topic]]:
        """A listener of a topic, registered before any history is read."""
        provider = await self._live_provider(record)
        listener = Listener()
        if provider is None:
            # Nothing moves: the history is all there is, and heartbeats say that we are still here.
            yield listener, Topic(timeframe, days, 0, live=False)
            return
        key = (record.id, timeframe, days.name)
        async with self._locks.setdefault(key, asyncio.Lock()):
            topic = await self._topic(record, provider, timeframe, days)
            topic.listeners.add(listener)
        try:
            yield listener, topic
        finally:
            topic.listeners.discard(listener)
            asyncio.get_running_loop().call_later(LINGER_S, self._leave, record.id)

    async def _live_provider(self, record: Record) -> Provider | None:
        if not record.listed or not record.active:
            return None
        provider = await self._history.providers.get(record.instrument.market, record.instrument.provider)
        return provider if provider and provider.capabilities.live is not Live.NONE else None

    async def _topic(self, record: Record, provider: Provider, timeframe: Timeframe, days: Zone) -> Topic:
        feed = self._feeds.get(record.id)
        if feed is None:
            feed = self._feeds[record.id] = Feed(record, provider, self._history.collector, self._history.store)
        key = (timeframe, days.name)
        if key in feed.topics:
            return feed.topics[key]
        feed.pins += 1
        try:
            async with asyncio.timeout(READY_S):
                await asyncio.shield(feed.ready)
            topic = Topic(timeframe, days, feed.edge)
            topic.settled = await self._settled(record, topic)
            while topic.edge < feed.edge:
                edge = feed.edge
                topic.advance(await feed.final_minutes(topic.edge, edge), edge)
            topic.move(feed.minutes)
            feed.topics[key] = topic
        except TimeoutError:
            raise ProviderUnavailable(f"{provider.name} did not answer in time: try again.", retry_after=5) from None
        finally:
            feed.pins -= 1
            asyncio.get_running_loop().call_later(LINGER_S, self._leave, record.id)
        return topic

    async def _settled(self, record: Record, topic: Topic) -> Candles:
        """The current bucket's candle as far as its minutes are final, read in as few candles as tell it exactly."""
        reached, found = topic.opened, Candles.empty()
        for step in _LADDER:
            until = step.floor(topic.edge, topic.zone)
            if (
                until <= reached
                or not step.nests_in(topic.timeframe, topic.zone)
                or step.nominal_ms > topic.timeframe.nominal_ms
            ):
                continue
            count = (until - reached) // step.nominal_ms + 2
            answer = await self._ask(Ask(Series(record.instrument, step), count, reached, until, zone=topic.zone))
            found, reached = found.merge(answer.candles), until
        whole = Topic(topic.timeframe, topic.zone, topic.edge)
        whole.advance(found, topic.edge)
        return whole.settled

    async def _snapshots(
        self, series: Series, since: int | None, until: int | None, days: Zone
    ) -> AsyncIterator[Candles]:
        """The closed candles of ``[since, until)``, in pages."""
        told = 0
        while since is not None and (until is None or since < until):
            answer = await self._ask(Ask(series, PAGE, since, until, zone=days))
            told += len(answer.candles)
            if told > MAX_SNAPSHOT:
                raise BadUserInput(
                    f"More than {MAX_SNAPSHOT:,} candles since {since}: page through `candles` first, then subscribe."
                )
            yield answer.candles
            since = answer.next_since

    async def _ask(self, ask: Ask) -> Answer:
        answer = (await self._history.answer([ask]))[0]
        if isinstance(answer, BaseException):
            raise answer
        for gap in answer.gaps:
            if gap.reason in {GapReason.OUTAGE, GapReason.PENDING, GapReason.REFUSED}:
                raise ProviderUnavailable(f"The history cannot be told whole: {gap.detail}", retry_after=5)
        return answer

    def _leave(self, record_id: int) -> None:
        """Let go of what nobody has listened to for a while."""
        feed = self._feeds.get(record_id)
        if feed is None or feed.pins:
            return
        feed.topics = {key: topic for key, topic in feed.topics.items() if topic.listeners}
        if not feed.topics:
            del self._feeds[record_id]
            task = asyncio.create_task(feed.close())
            task.add_done_callback(lambda _: None)
