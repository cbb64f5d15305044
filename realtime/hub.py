"""The hub: the topics and subscribers of one process; it joins history and live events without a gap or a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from candlegraph.answer import Answer, CandleRequest, GapReason
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import BadUserInput, ProviderUnavailable
from candlegraph.event import Event, EventKind, heartbeat
from candlegraph.outage import Outage
from candlegraph.provider import LiveMode
from candlegraph.series import InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC, Zone, zone
from history.fetch_limits import FetchAllowance
from history.orchestrator import History
from realtime.bus import Bus, BusMessage, PositionRequest, TopicFailure, TopicMessage
from realtime.topic import EVENT_KINDS, MAX_QUEUED_EVENTS, Listener, Topic
from realtime.topic_limits import ANYONE, Caller, TopicAdmission, TopicLimits
from storage.topics import TopicEvent, TopicKey, TopicPosition, TopicStore

SNAPSHOT_PAGE_ROWS = 1_000
MAX_SNAPSHOT_ROWS = 50_000
_TEMPORARY_GAPS = {GapReason.OUTAGE, GapReason.PENDING, GapReason.REFUSED, GapReason.NOT_FETCHED}


class Hub:
    """Live series of this process: one topic for any number of listeners; it stays for a minute after the last one left."""

    def __init__(self, history: History, store: TopicStore, bus: Bus, limits: TopicLimits | None = None) -> None:
        """Start without listeners."""
        self._admission = TopicAdmission(limits)
        self._history = history
        self._store = store
        self._bus = bus
        self._topics: dict[TopicKey, Topic] = {}
        self._renewed_at = float("-inf")
        self._unfollowing = asyncio.Lock()
        self.outage = Outage("maintaining the followed series")
        bus.subscribe(self._on_message)

    async def subscribe(
        self, series: Series, since: int | None, days: Zone | None, caller: Caller = ANYONE
    ) -> AsyncIterator[Event]:
        """Yield the candles since ``since`` (at most 50,000), then live events; end after a RESYNC.

        Raises NotFound, BadUserInput, ProviderError or Unavailable, also later: an incomplete history is an error and not a
        shorter history. Overloaded where the address of ``caller`` follows too many series.
        """
        record = await self._record(series)
        days = days or zone(record.timezone)
        async with self._attach_listener(record, series.timeframe, days, caller.address) as (listener, topic):
            # All read at one moment: later events are in the listener's queue.
            seq, forming, until = topic.seq, topic.forming, topic.opened if topic.live else None
            pending: Event | None = None
            async for candles in self._snapshots(topic, since, until, caller.allowance):
                if pending:
                    yield pending
                pending = Event(EventKind.SNAPSHOT, seq, candles)
            if pending and len(pending.candles) + len(forming) > SNAPSHOT_PAGE_ROWS:
                yield pending
                pending = None
            candles = pending.candles.merge(forming) if pending else forming
            yield Event(EventKind.SNAPSHOT, seq, candles, caught_up=True)
            while True:
                event = await listener.next(self._history.timings.hub_heartbeat_interval_s)
                if event is None or _is_already_sent(event, since):
                    event = heartbeat(event.seq if event else topic.seq)
                yield event
                if event.kind is EventKind.RESYNC:
                    return

    async def run(self) -> None:
        """Record what is followed, and repair missed events, every second until cancelled."""
        while True:
            with self.outage.recording():
                await self._renew_and_repair()
            await asyncio.sleep(self._history.timings.hub_interval_s)

    async def close(self) -> None:
        """Record that nothing is followed any more, once `run` has ended."""
        if self._topics:
            with self.outage.recording():  # a record that cannot be deleted expires
                await self._store.unfollow(list(self._topics))

    async def _renew_and_repair(self) -> None:
        clock = asyncio.get_running_loop().time
        await self._drop_idle_topics()
        if self._topics:
            if clock() - self._renewed_at >= self._history.timings.follow_renewal_interval_s:
                await self._store.follow(list(self._topics))
                self._renewed_at = clock()
            await self._repair()

    async def _record(self, series: Series) -> InstrumentRecord:
        found = (await self._history.listings.find([series.instrument]))[0]
        if isinstance(found, Exception):
            raise found
        return found

    # Listeners

    @asynccontextmanager
    async def _attach_listener(
        self, record: InstrumentRecord, timeframe: Timeframe, days: Zone, address: str
    ) -> AsyncIterator[tuple[Listener, Topic]]:
        """Attach a listener to a topic, before any history is read."""
        listener = Listener()
        if not await self._is_live(record):
            # Nothing moves: the history is everything, and heartbeats show that the server still runs.
            yield listener, Topic(record, timeframe, days, live=False)
            return
        days = UTC if timeframe.width_ms else days  # below a day all zones share one grid
        key = TopicKey(record.id, str(timeframe), days.name)
        topic = self._topics.get(key)
        if topic is None:
            self._admission.begin(address)
            began_at = asyncio.get_running_loop().time()
            topic = self._topics[key] = Topic(record, timeframe, days, began_at=began_at, began_by=address)
        topic.left_at = None
        topic.joining += 1
        try:
            if not topic.ready:
                await self._begin(key, topic, address)
            # Only now, and without an await before its position is noted: earlier events are not for this listener.
            topic.listeners.add(listener)
            topic.left_at = None
            yield listener, topic
        finally:
            topic.joining -= 1
            topic.listeners.discard(listener)
            if not topic.listeners and not topic.joining:
                topic.left_at = asyncio.get_running_loop().time()

    async def _begin(self, key: TopicKey, topic: Topic, address: str) -> None:
        """Follow a topic in turn, unless somebody else did meanwhile. A leader that is slow to answer holds up no other."""
        async with self._admission.turn(address):
            if not topic.ready:
                async with self._unfollowing:  # else a delete under way could take the new row along
                    pass
                await self._store.follow([key])
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._history.timings.topic_turn_s):
                        await self._ready(key, topic)
        await self._ready(key, topic)

    async def _ready(self, key: TopicKey, topic: Topic) -> None:
        """Ask the leader for the position of a topic, until the answer comes."""
        clock, timings = asyncio.get_running_loop().time, self._history.timings
        deadline = clock() + timings.topic_ready_timeout_s
        while not topic.ready:
            answered = topic.answered
            if clock() - topic.requested_at >= timings.topic_ask_interval_s:  # one request for all waiting listeners
                topic.requested_at = clock()
                self._bus.publish(PositionRequest(key, self._bus.name), others=True)
            try:
                async with asyncio.timeout_at(min(clock() + timings.topic_ask_interval_s, deadline)):
                    await answered.wait()
            except TimeoutError:
                if clock() >= deadline:
                    name = topic.record.instrument.provider
                    raise ProviderUnavailable(f"{name} did not answer in time: try again.", retry_after=5) from None
            else:
                if topic.answered is not answered and topic.failure:
                    raise topic.failure

    async def _is_live(self, record: InstrumentRecord) -> bool:
        if not record.listed or not record.active:
            return False
        instrument = record.instrument
        timeout_s = self._history.timings.topic_ready_timeout_s
        provider = await self._history.providers.get(instrument.market, instrument.provider, timeout_s=timeout_s)
        return provider is not None and provider.capabilities.live is not LiveMode.NONE

    async def _drop_idle_topics(self) -> None:
        """Drop topics that have had no listener for a while."""
        now, timings = asyncio.get_running_loop().time(), self._history.timings
        gone = [key for key, topic in self._topics.items() if topic.is_idle(now, timings)]
        if gone:
            async with self._unfollowing:
                for key in gone:
                    self._admission.end(self._topics.pop(key).began_by)
                await self._store.unfollow(gone)

    # Messages from the leader

    def _on_message(self, news: BusMessage) -> None:
        if isinstance(news, PositionRequest) or (topic := self._topics.get(news.key)) is None:
            return
        if isinstance(news, TopicFailure):
            topic.fail(news.error)
        elif news.epoch >= topic.epoch:
            self._apply(topic, news)

    def _apply(self, topic: Topic, message: TopicMessage) -> None:
        """Apply a message that is next in sequence. A later one means that we missed some; `_repair` reads those from the store."""
        topic.epoch = message.epoch
        if message.kind == "U":
            if not topic.ready:
                self._refresh_coverage(topic)
                topic.start(message.seq, message.edge, message.epoch, message.candles)
            elif message.seq == topic.seq:
                topic.advance(message.edge)
                topic.update_forming(message.candles)
            if topic.timeframe == MINUTE and len(message.candles):  # a query need not call the provider either
                span = Span(message.edge, int(message.candles.timestamp[-1]) + MINUTE_MS)
                self._history.fetcher.forming.remember_live(topic.record.id, message.candles, span)
        elif topic.ready and message.seq == topic.seq + 1:
            self._refresh_coverage(topic)
            if message.kind == "R":
                earliest = int(message.candles.timestamp[0]) if len(message.candles) else None
                topic.resync(message.seq, message.edge, earliest)
            else:
                topic.append(message.kind, message.candles)

    def _refresh_coverage(self, topic: Topic) -> None:
        """Read its coverage again: the candle may be stored although its change has not arrived here."""
        self._history.coverage_cache.forget(topic.record.id)

    async def _repair(self) -> None:
        """Read missed events from the store."""
        standings = await self._store.positions(list(self._topics))
        now = asyncio.get_running_loop().time()
        for key, standing in standings.items():
            topic = self._topics.get(key)
            if topic is None:
                continue
            if not topic.ready:
                if now - topic.began_at >= self._history.timings.topic_adoption_delay_s:
                    topic.start(standing.seq, standing.edge, standing.epoch, Candles.empty())
            elif standing.seq <= topic.seq:
                topic.behind_since = None
                if standing.seq == topic.seq:
                    topic.advance(standing.edge)
            elif topic.behind_since is None:
                topic.behind_since = now  # its message may be on its way
            elif now - topic.behind_since >= self._history.timings.message_timeout_s:
                await self._catch_up(key, topic, standing)

    async def _catch_up(self, key: TopicKey, topic: Topic, standing: TopicPosition) -> None:
        """Deliver the missed events in order, each candle as it is now; where that fails, listeners have to restart."""
        seq = topic.seq
        missed = await self._store.events_since(key, seq, MAX_QUEUED_EVENTS)
        whole = [one.seq for one in missed] == list(range(seq + 1, seq + 1 + len(missed)))
        repairable = whole and len(missed) >= standing.seq - seq and all(one.kind in EVENT_KINDS for one in missed)
        found = await self._candles(topic, missed) if repairable else None
        topic.behind_since = None
        if found is None:
            earliest = await self._store.earliest_change_since(key, topic.seq)
            if topic.seq < standing.seq:
                topic.resync(standing.seq, standing.edge, earliest)
            return
        for one in missed:
            if one.seq == topic.seq + 1:  # its message may have arrived meanwhile
                topic.append(one.kind, found.between(Span(one.opened, one.opened + 1)))
        if topic.seq == standing.seq:
            topic.advance(standing.edge)

    async def _candles(self, topic: Topic, missed: Sequence[TopicEvent]) -> Candles | None:
        """The candles of events; None where some of them are no longer known."""
        self._refresh_coverage(topic)
        spans = Spans(Span(one.opened, topic.timeframe.next(one.opened, topic.zone)) for one in missed)
        answers = await self._history.answer(
            [
                CandleRequest(topic.series, MAX_QUEUED_EVENTS, s.since, s.until, zone=topic.zone, final_until=s.until)
                for s in spans
            ]
        )
        found = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            if not answer.complete:
                return None
            found.append(answer.candles)
        return concat(found)

    # History

    async def _snapshots(
        self, topic: Topic, since: int | None, until: int | None, allowance: FetchAllowance
    ) -> AsyncIterator[Candles]:
        """The closed candles of ``[since, until)``, in pages."""
        sent = 0
        while since is not None and (until is None or since < until):
            answer = await self._query(
                CandleRequest(topic.series, SNAPSHOT_PAGE_ROWS, since, until, zone=topic.zone, final_until=until or 0),
                allowance,
            )
            sent += len(answer.candles)
            if sent > MAX_SNAPSHOT_ROWS:
                raise BadUserInput(
                    f"More than {MAX_SNAPSHOT_ROWS:,} candles since {since}: page through `candles` first, then subscribe."
                )
            yield answer.candles
            since = answer.next_since

    async def _query(self, request: CandleRequest, allowance: FetchAllowance) -> Answer:
        answer = (await self._history.answer([request], allowance))[0]
        if isinstance(answer, BaseException):
            raise answer
        for gap in answer.gaps:
            if gap.reason in _TEMPORARY_GAPS:
                raise ProviderUnavailable(f"The history is incomplete: {gap.detail}", retry_after=5)
        return answer


def _is_already_sent(event: Event, since: int | None) -> bool:
    """Whether a closed candle lies before ``since``: a resuming subscriber may have it from a process ahead of us."""
    return event.kind is EventKind.CLOSE and since is not None and int(event.candles.timestamp[0]) < since
