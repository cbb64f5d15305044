"""The hub: who listens to what in this process, and how a listener gets from history to the present without a seam."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from candlegraph.answer import Answer, Ask, GapReason
from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput, CandlegraphError, ProviderUnavailable
from candlegraph.event import Event, EventKind
from candlegraph.provider import Live
from candlegraph.series import Record, Series
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone, zone
from realtime.bus import Bus, Follow, Message
from realtime.topic import MAX_QUEUED, Listener, Topic
from storage.history import History
from storage.live import LiveStore, Standing, TopicKey

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
LINGER_S = 60.0
READY_S = 10.0
EVERY_S = 1.0  # how often what may have been missed is looked for
RENEW_EVERY = 4  # of these, how often it is said again what is followed
PAGE = 1_000
MAX_SNAPSHOT = 50_000
_KINDS = {"C": EventKind.CLOSE, "X": EventKind.CORRECTION}


class Hub:
    """Live series of this process: a topic each, however many listen; it lingers for a minute after the last."""

    def __init__(self, history: History, store: LiveStore, bus: Bus) -> None:
        """Nobody listens yet."""
        self._history = history
        self._store = store
        self._bus = bus
        self._topics: dict[TopicKey, Topic] = {}
        self._records: dict[int, Record] = {}
        bus.hear(self._heard)

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
                yield event or Event(EventKind.HEARTBEAT, topic.seq, Candles.empty())
                if event and event.kind is EventKind.RESYNC:
                    return

    async def watch(self) -> None:
        """Say what is followed, and mend what was missed, every second until cancelled."""
        turn = 0
        while True:
            try:
                self._forget()
                if self._topics:
                    if turn % RENEW_EVERY == 0:
                        await self._store.follow(list(self._topics))
                    await self._mend()
            except CandlegraphError as error:
                log.debug("what is followed cannot be looked after: %s", error.message)
            except Exception:
                log.exception("looking after what is followed failed")
            turn += 1
            await asyncio.sleep(EVERY_S)

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
        listener = Listener()
        if not await self._is_live(record):
            # Nothing moves: the history is all there is, and heartbeats say that we are still here.
            yield listener, Topic(timeframe, days, live=False)
            return
        key = TopicKey(record.id, str(timeframe), days.name)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(timeframe, days)
            self._records[record.id] = record
        topic.left_at = None
        topic.listeners.add(listener)
        try:
            await self._ready(key, topic, record)
            yield listener, topic
        finally:
            topic.listeners.discard(listener)
            if not topic.listeners:
                topic.left_at = asyncio.get_running_loop().time()

    async def _ready(self, key: TopicKey, topic: Topic, record: Record) -> None:
        if topic.ready.is_set():
            return
        await self._store.follow([key])
        self._bus.publish(Follow(), others=True)
        try:
            async with asyncio.timeout(READY_S):
                await topic.ready.wait()
        except TimeoutError:
            name = record.instrument.provider
            raise ProviderUnavailable(f"{name} did not answer in time: try again.", retry_after=5) from None

    async def _is_live(self, record: Record) -> bool:
        if not record.listed or not record.active:
            return False
        provider = await self._history.providers.get(record.instrument.market, record.instrument.provider)
        return provider is not None and provider.capabilities.live is not Live.NONE

    # What the leader says

    def _heard(self, message: Message | Follow) -> None:
        if (
            isinstance(message, Follow)
            or (topic := self._topics.get(message.key)) is None
            or message.epoch < topic.epoch
        ):
            return
        if not topic.ready.is_set():
            if message.kind == "U":
                topic.seq, topic.edge, topic.epoch, topic.forming = (
                    message.seq,
                    message.edge,
                    message.epoch,
                    message.candles,
                )
                topic.ready.set()
            return
        topic.epoch = message.epoch
        if message.kind == "U":
            if message.seq == topic.seq:
                topic.edge = max(topic.edge, message.edge)
                self._form(topic, message.candles)
        elif message.seq == topic.seq + 1:
            self._happen(topic, message.kind, message.seq, message.edge, message.candles)
        # What is ahead of us shows that something was missed: it is read from the store within a second.

    def _form(self, topic: Topic, forming: Candles) -> None:
        moved = len(forming) and not _same(forming, topic.forming)
        topic.forming = forming
        if moved:
            topic.publish(Event(EventKind.UPDATE, topic.seq, forming))

    def _happen(self, topic: Topic, kind: str, seq: int, edge: int, candles: Candles) -> None:
        topic.seq, topic.edge = seq, max(topic.edge, edge)
        topic.forming = topic.forming[topic.forming.timestamp >= topic.opened]
        if kind in _KINDS:
            topic.publish(Event(_KINDS[kind], seq, candles))
        else:
            at = int(candles.timestamp[0]) if len(candles) else topic.opened
            topic.publish(Event(EventKind.RESYNC, seq, Candles.empty(), resync_from=at))

    async def _mend(self) -> None:
        """Read from the store what was missed: told in order, each candle as it is now."""
        standings = await self._store.standings(list(self._topics))
        now = asyncio.get_running_loop().time()
        for key, standing in standings.items():
            topic = self._topics.get(key)
            if topic is None or not topic.ready.is_set() or standing.seq <= topic.seq:
                if topic is not None:
                    topic.behind_since = None
                continue
            if topic.behind_since is None:
                topic.behind_since = now  # its message may be on its way
            elif now - topic.behind_since >= EVERY_S / 2:
                await self._mend_topic(key, topic, standing)

    async def _mend_topic(self, key: TopicKey, topic: Topic, standing: Standing) -> None:
        missed = await self._store.missed(key, topic.seq, MAX_QUEUED)
        record = self._records[key.instrument_id]
        for one in missed:
            if one.seq != topic.seq + 1:
                break
            candles = Candles.empty()
            if one.kind in _KINDS:
                series = Series(record.instrument, topic.timeframe)
                answer = await self._ask(
                    Ask(series, 1, one.opened, topic.timeframe.next(one.opened, topic.zone), zone=topic.zone)
                )
                candles = answer.candles
            if one.seq == topic.seq + 1:  # the message may have come meanwhile
                self._happen(topic, one.kind, one.seq, topic.edge, candles)
        if topic.seq < standing.seq and not missed:
            # It happened so long ago that nobody remembers: whoever listens has to start again.
            self._happen(topic, "R", standing.seq, standing.edge, Candles.empty())
        topic.edge = max(topic.edge, standing.edge) if topic.seq == standing.seq else topic.edge
        topic.behind_since = None

    def _forget(self) -> None:
        """Let go of what nobody has listened to for a while."""
        now = asyncio.get_running_loop().time()
        for key, topic in list(self._topics.items()):
            if not topic.listeners and topic.left_at is not None and now - topic.left_at > LINGER_S:
                del self._topics[key]
        self._records = {key.instrument_id: self._records[key.instrument_id] for key in self._topics}

    # History

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


def _same(a: Candles, b: Candles) -> bool:
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a.columns, b.columns, strict=True))
