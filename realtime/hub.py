"""The hub: the topics and subscribers of one process; it joins history and live events without a gap or a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing, suppress

from candlegraph.answer import CandleRequest
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import BadUserInput, CandlegraphError, Overloaded, ProviderUnavailable
from candlegraph.event import Event, EventKind, LiveRequest, SeriesFailure, heartbeat
from candlegraph.outage import Outage
from candlegraph.provider import Capabilities
from candlegraph.series import InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.trading_calendar import SessionFilter, series_zone, topic_zone
from candlegraph.zone import UTC, Zone
from history.orchestrator import History
from realtime.bus import Bus, BusMessage, PositionRequest, TopicFailure, TopicMessage
from realtime.changed_days import resync_changed_days
from realtime.live_capabilities import live_capabilities
from realtime.snapshot_reader import SnapshotReader
from realtime.subscriber import ListenerGroup, Subscriber, join
from realtime.topic import EVENT_KINDS, MAX_QUEUED_EVENTS, Listener, Topic
from realtime.topic_limits import ANYONE, Caller, TopicAdmission, TopicLimits
from storage.topics import TopicEvent, TopicKey, TopicPosition, TopicStore

MAX_WAIT_MS = 5_000  # after the end of a bucket: where a provider settles later, the next candle does not wait for that


class Hub:
    """The live series of this process: one topic per series for all its listeners, kept for a minute after the last leaves."""

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
        self,
        series: Series,
        since: int | None,
        days: Zone | None,
        caller: Caller = ANYONE,
        *,
        closed_only: bool = False,
        session: SessionFilter = SessionFilter.ALL,
    ) -> AsyncGenerator[Event, None]:
        """Yield the candles of one series since ``since``, then live events, as `subscribe_many`; raise its failure."""
        many = self.subscribe_many([LiveRequest(series, since, session)], days, caller, closed_only=closed_only)
        async with aclosing(many) as events:
            async for event in events:
                if isinstance(event, SeriesFailure):
                    raise event.error
                yield heartbeat(event.seq) if event.kind is EventKind.HEARTBEAT else event

    async def subscribe_many(
        self, requests: Sequence[LiveRequest], days: Zone | None, caller: Caller = ANYONE, *, closed_only: bool = False
    ) -> AsyncGenerator[Event | SeriesFailure, None]:
        """Yield the candles of many series since their ``since`` (at most 50,000 in all), then live events of each.

        A RESYNC or a failure ends its own series only; the subscription ends with its last series. Failures: NotFound,
        ProviderError, Unavailable (an incomplete history is an error, not a shorter history), or Overloaded if the address of
        ``caller`` follows too many series. Raises BadUserInput.
        """
        group, snapshots = ListenerGroup(), SnapshotReader(self._history, caller.fetch_budget)
        subscribers, failures = await self._subscribers(requests, days, caller.address, closed_only=closed_only)
        try:
            for failure in failures:
                yield failure
            await snapshots.check(subscribers)
            listening: dict[Listener, Subscriber] = {}
            for one in subscribers:
                group.add(one.listener)
            async with aclosing(join(subscribers, lambda topic: self._begin(topic, caller.address))) as joining:
                async for joined, failed in joining:
                    for failure in failed:
                        yield failure
                    listening |= {one.listener: one for one in joined}
                    async with aclosing(snapshots.read(joined)) as history:
                        async for one, event in history:
                            if isinstance(event, SeriesFailure) or event.kind is EventKind.RESYNC:
                                del listening[one.listener]
                            yield event
            async with aclosing(self._live(group, listening)) as live:
                async for event in live:
                    yield event
        finally:
            for one in subscribers:
                one.leave()

    async def _live(self, group: ListenerGroup, listening: dict[Listener, Subscriber]) -> AsyncGenerator[Event, None]:
        """The live events of the series in ``listening``, until none is left; a RESYNC ends its series."""
        while listening:
            found = await group.next(self._history.timings.hub_heartbeat_interval_s)
            if found is None:
                first = next(iter(listening.values()))
                yield heartbeat(first.topic.seq, first.request.series)
            elif (one := listening.get(found[0])) is not None:
                event = found[1]
                if event.kind is EventKind.RESYNC:
                    del listening[one.listener]
                yield heartbeat(event.seq, one.request.series) if one.is_known(event) else event

    @property
    def topics(self) -> Collection[Topic]:
        """The topics of this process."""
        return self._topics.values()

    async def run(self) -> None:
        """Every second until cancelled: renew the records of the followed topics, and repair missed events."""
        while True:
            with self.outage.recording():
                await self._renew_and_repair()
            await asyncio.sleep(self._history.timings.hub_interval_s)

    async def close(self) -> None:
        """Delete the records of the followed topics, after `run` has ended."""
        if self._topics:
            with self.outage.recording():  # a record that cannot be deleted now expires later
                await self._store.unfollow(list(self._topics))

    async def _renew_and_repair(self) -> None:
        clock = asyncio.get_running_loop().time
        await self._drop_idle_topics()
        if self._topics:
            if clock() - self._renewed_at >= self._history.timings.follow_renewal_interval_s:
                await self._store.follow(list(self._topics))
                self._renewed_at = clock()
                await resync_changed_days(self._history.instruments, self._topics.values())
            await self._repair()

    async def _subscribers(
        self, requests: Sequence[LiveRequest], days: Zone | None, address: str, *, closed_only: bool
    ) -> tuple[list[Subscriber], list[SeriesFailure]]:
        """A subscriber with its topic for each series, and a failure for each series that cannot be followed."""
        records = await self._history.listings.find([one.series.instrument for one in requests])
        live = await asyncio.gather(
            *(live_capabilities(self._history, record) for record in records), return_exceptions=True
        )
        subscribers, failures = [], []
        for request, record, traits in zip(requests, records, live, strict=True):
            if isinstance(record, CandlegraphError):
                failures.append(SeriesFailure(request.series, record))
                continue
            if isinstance(traits, BaseException):
                failures.append(SeriesFailure(request.series, traits))
                continue
            try:
                dates = series_zone(record, request.series.timeframe, request.session, days)
                topic = self._topic(record, request.series.timeframe, dates, address, traits)
            except (BadUserInput, Overloaded) as error:
                failures.append(SeriesFailure(request.series, error))
            else:
                subscribers.append(Subscriber(request, record, dates, Listener(dates, closed_only=closed_only), topic))
        return subscribers, failures

    def _topic(
        self, record: InstrumentRecord, timeframe: Timeframe, days: Zone, address: str, traits: Capabilities | None
    ) -> Topic:
        """The topic of a series for a caller's address; without ``traits`` of a provider nothing moves. Overloaded."""
        if days.hours:
            days = topic_zone(days.key)  # a caller's zone names the dates of the same buckets
        if traits is None:
            # The history is everything, and heartbeats show that the server still runs.
            return Topic(record, timeframe, days, live=False, ready=True)
        days = UTC if timeframe.width_ms and not days.hours else days  # below a day all zones share one grid
        key = TopicKey(record.id, str(timeframe), days.key)
        topic = self._topics.get(key)
        if topic is None:
            self._admission.begin(address)
            began_at = asyncio.get_running_loop().time()
            in_order = traits.final_after_ms <= MAX_WAIT_MS
            topic = Topic(record, timeframe, days, in_order=in_order, began_at=began_at, began_by=address)
            self._topics[key] = topic
        return topic

    async def _begin(self, topic: Topic, address: str) -> None:
        """Follow a topic in turn, unless another caller did meanwhile. A slow leader does not delay the next turn."""
        async with self._admission.turn(address):
            if not topic.ready:
                async with self._unfollowing:  # else a running delete could also delete the new row
                    pass
                await self._store.follow([topic.key])
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._history.timings.topic_turn_s):
                        await self._ready(topic.key, topic)
        await self._ready(topic.key, topic)

    async def _ready(self, key: TopicKey, topic: Topic) -> None:
        """Request the position of a topic from its leader, and repeat the request until the answer arrives."""
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

    async def _drop_idle_topics(self) -> None:
        """Drop the topics that have had no listener for a while."""
        now, timings = asyncio.get_running_loop().time(), self._history.timings
        gone = [key for key, topic in self._topics.items() if topic.is_idle(now, timings)]
        if gone:
            async with self._unfollowing:
                for key in gone:
                    self._admission.end(self._topics.pop(key).began_by)
                await self._store.unfollow(gone)

    def _on_message(self, message: BusMessage) -> None:
        if isinstance(message, PositionRequest) or (topic := self._topics.get(message.key)) is None:
            return
        if isinstance(message, TopicFailure):
            topic.fail(message.error)
        elif message.epoch >= topic.epoch:
            self._apply(topic, message)

    def _apply(self, topic: Topic, message: TopicMessage) -> None:
        """Apply a message that is next in sequence. A later one means that we missed some; `_repair` reads those from the store."""
        topic.epoch = message.epoch
        if message.kind == "U":
            if not topic.ready:
                self._refresh_coverage(topic)
                topic.start(message.seq, message.edge, message.epoch, message.candles)
            elif message.seq == topic.seq:
                topic.update_forming(message.edge, message.candles)
            if topic.timeframe == MINUTE and len(message.candles):  # so queries need not call the provider for it
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
        """Drop its cached coverage: the candle may be stored although the change feed has not reported it yet."""
        self._history.coverage_cache.forget(topic.record.id)

    async def _repair(self) -> None:
        """Read missed events from the store."""
        positions = await self._store.positions(list(self._topics))
        now = asyncio.get_running_loop().time()
        for key, stored in positions.items():
            topic = self._topics.get(key)
            if topic is None:
                continue
            if not topic.ready:
                if now - topic.began_at >= self._history.timings.topic_adoption_delay_s:
                    topic.start(stored.seq, stored.edge, stored.epoch, Candles.empty())
            elif stored.seq <= topic.seq:
                topic.behind_since = None
                if stored.seq == topic.seq:
                    topic.advance(stored.edge)
            elif topic.behind_since is None:
                topic.behind_since = now  # its message may be on its way
            elif now - topic.behind_since >= self._history.timings.message_timeout_s:
                await self._catch_up(key, topic, stored)

    async def _catch_up(self, key: TopicKey, topic: Topic, stored: TopicPosition) -> None:
        """Deliver the missed events in order, each candle in its present version; if that fails, listeners have to restart."""
        seq = topic.seq
        missed = await self._store.events_since(key, seq, MAX_QUEUED_EVENTS)
        unbroken = [event.seq for event in missed] == list(range(seq + 1, seq + 1 + len(missed)))
        reaches_stored = len(missed) >= stored.seq - seq
        repairable = unbroken and reaches_stored and all(event.kind in EVENT_KINDS for event in missed)
        found = await self._candles(topic, missed) if repairable else None
        topic.behind_since = None
        if found is None:
            earliest = await self._store.earliest_change_since(key, topic.seq)
            if topic.seq < stored.seq:
                topic.resync(stored.seq, stored.edge, earliest)
            return
        for event in missed:
            if event.seq == topic.seq + 1:  # its message may have arrived meanwhile
                topic.append(event.kind, found.between(Span(event.opened, event.opened + 1)))
        if topic.seq == stored.seq:
            topic.advance(stored.edge)

    async def _candles(self, topic: Topic, missed: Sequence[TopicEvent]) -> Candles | None:
        """The candles of events; None if some of them are no longer stored."""
        self._refresh_coverage(topic)
        spans = Spans(Span(event.opened, topic.timeframe.next(event.opened, topic.zone)) for event in missed)
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
