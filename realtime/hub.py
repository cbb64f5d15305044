"""The hub: who listens to what in this process, and how a listener gets from history to the present without a seam."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from candlegraph.answer import CandleRequest
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError, ProviderUnavailable
from candlegraph.event import Event, EventKind, LiveRequest, SeriesFailure, heartbeat
from candlegraph.outage import Outage
from candlegraph.provider import LiveMode
from candlegraph.series import InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC, Zone, zone
from history.orchestrator import History
from realtime.bus import Bus, BusMessage, PositionRequest, TopicFailure, TopicMessage
from realtime.snapshots import Snapshots
from realtime.subscriber import ListenerGroup, Subscriber
from realtime.topic import EVENT_KINDS, MAX_QUEUED_EVENTS, Listener, Topic
from storage.topics import TopicEvent, TopicKey, TopicPosition, TopicStore


class Hub:
    """Live series of this process: a topic each, however many listen; it lingers for a minute after the last."""

    def __init__(self, history: History, store: TopicStore, bus: Bus) -> None:
        """Nobody listens yet."""
        self._history = history
        self._store = store
        self._bus = bus
        self._topics: dict[TopicKey, Topic] = {}
        self._renewed_at = float("-inf")
        self._unfollowing = asyncio.Lock()
        self.outage = Outage("looking after the followed series")
        bus.subscribe(self._on_message)

    async def subscribe(
        self, series: Series, since: int | None, days: Zone | None, *, closed_only: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Yield the candles of one series since ``since``, then what happens; as `subscribe_many`, whose failure it raises."""
        async with aclosing(self.subscribe_many([LiveRequest(series, since)], days, closed_only=closed_only)) as events:
            async for event in events:
                if isinstance(event, SeriesFailure):
                    raise event.error
                yield heartbeat(event.seq) if event.kind is EventKind.HEARTBEAT else event

    async def subscribe_many(
        self, requests: Sequence[LiveRequest], days: Zone | None, *, closed_only: bool = False
    ) -> AsyncGenerator[Event | SeriesFailure, None]:
        """Yield the candles of many series since their ``since`` (at most 50,000 in all), then what happens to each.

        A series that fails (NotFound, ProviderError, Unavailable: a history that cannot be read in full is an error and not
        a shorter history) and one that gets a RESYNC end alone; with the last of them all ends. BadUserInput.
        """
        group, snapshots = ListenerGroup(), Snapshots(self._history)
        subscribers, failures = await self._subscribers(requests, days, closed_only=closed_only)
        try:
            for failure in failures:
                yield failure
            await snapshots.check(subscribers)
            listening: dict[Listener, Subscriber] = {}
            async with aclosing(self._join(subscribers, group)) as joining:
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
        """What happens to the series that are ``listening``, until none is; RESYNC ends one."""
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

    async def run(self) -> None:
        """Say what is followed, and mend what was missed, every second until cancelled."""
        while True:
            with self.outage.recording():
                await self._renew_and_repair()
            await asyncio.sleep(self._history.timings.hub_interval_s)

    async def close(self) -> None:
        """Say that nothing is followed any more, once `watch` has ended."""
        if self._topics:
            with self.outage.recording():  # where that cannot be said, it expires
                await self._store.unfollow(list(self._topics))

    async def _renew_and_repair(self) -> None:
        clock = asyncio.get_running_loop().time
        await self._drop_idle_topics()
        if self._topics:
            if clock() - self._renewed_at >= self._history.timings.follow_renewal_interval_s:
                await self._store.follow(list(self._topics))
                self._renewed_at = clock()
            await self._repair()

    # Who listens

    async def _subscribers(
        self, requests: Sequence[LiveRequest], days: Zone | None, *, closed_only: bool
    ) -> tuple[list[Subscriber], list[SeriesFailure]]:
        """One subscriber a series, with its topic; and the series that cannot be listened to."""
        records = await self._history.listings.find([one.series.instrument for one in requests])
        live = await asyncio.gather(*map(self._is_live, records), return_exceptions=True)
        subscribers, failures = [], []
        for request, record, moves in zip(requests, records, live, strict=True):
            if isinstance(record, CandlegraphError):
                failures.append(SeriesFailure(request.series, record))
                continue
            if isinstance(moves, BaseException):
                failures.append(SeriesFailure(request.series, moves))
                continue
            dates = days or zone(record.timezone)
            topic = self._topic(record, request.series.timeframe, dates, live=moves)
            subscribers.append(Subscriber(request, record, dates, Listener(dates, closed_only=closed_only), topic))
        return subscribers, failures

    def _topic(self, record: InstrumentRecord, timeframe: Timeframe, days: Zone, *, live: bool) -> Topic:
        if not live:
            # Nothing moves: the history is all there is, and heartbeats say that we are still here.
            return Topic(record, timeframe, days, live=False, ready=True)
        days = UTC if timeframe.width_ms else days  # below a day there is one grid for all zones
        key = TopicKey(record.id, str(timeframe), days.name)
        if key not in self._topics:
            self._topics[key] = Topic(record, timeframe, days, began_at=asyncio.get_running_loop().time())
        topic = self._topics[key]
        topic.left_at = None
        return topic

    async def _join(
        self, subscribers: Sequence[Subscriber], group: ListenerGroup
    ) -> AsyncGenerator[tuple[list[Subscriber], list[SeriesFailure]], None]:
        """Register listeners before any history is read: those of one moment together, as soon as their topics are ready."""
        for one in subscribers:
            group.add(one.listener)
        new = {one.topic.key: one.topic for one in subscribers if not one.topic.ready}
        if new:
            async with self._unfollowing:  # else a delete under way could take the new rows along
                pass
            await self._store.follow(list(new))
        starting = {asyncio.create_task(self._ready(key, topic)): key for key, topic in new.items()}
        try:
            waiting = list(subscribers)
            while waiting:
                errors = {key: error for task, key in starting.items() if task.done() and (error := task.exception())}
                failed = [one for one in waiting if one.topic.key in errors]
                joined = [one for one in waiting if one.topic.ready and one not in failed]
                for one in joined:
                    one.join()
                waiting = [one for one in waiting if one not in joined and one not in failed]
                yield joined, [SeriesFailure(one.request.series, errors[one.topic.key]) for one in failed]
                if waiting and (unfinished := [task for task in starting if not task.done()]):
                    await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    async def _ready(self, key: TopicKey, topic: Topic) -> None:
        """Ask the leader how a topic stands, until it says so."""
        clock, timings = asyncio.get_running_loop().time, self._history.timings
        deadline = clock() + timings.topic_ready_timeout_s
        while not topic.ready:
            answered = topic.answered
            if clock() - topic.requested_at >= timings.topic_ask_interval_s:  # one asks for all who wait
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

    async def _is_live(self, record: InstrumentRecord | CandlegraphError) -> bool:
        if isinstance(record, CandlegraphError) or not record.listed or not record.active:
            return False
        instrument = record.instrument
        timeout_s = self._history.timings.topic_ready_timeout_s
        provider = await self._history.providers.get(instrument.market, instrument.provider, timeout_s=timeout_s)
        return provider is not None and provider.capabilities.live is not LiveMode.NONE

    async def _drop_idle_topics(self) -> None:
        """Let go of what nobody has listened to for a while."""
        now, linger_s = asyncio.get_running_loop().time(), self._history.timings.topic_linger_s
        gone = [
            key
            for key, topic in self._topics.items()
            if not topic.listeners and topic.left_at is not None and now - topic.left_at > linger_s
        ]
        if gone:
            async with self._unfollowing:
                for key in gone:
                    del self._topics[key]
                await self._store.unfollow(gone)

    # What the leader says

    def _on_message(self, news: BusMessage) -> None:
        if isinstance(news, PositionRequest) or (topic := self._topics.get(news.key)) is None:
            return
        if isinstance(news, TopicFailure):
            topic.fail(news.error)
        elif news.epoch >= topic.epoch:
            self._apply(topic, news)

    def _apply(self, topic: Topic, message: TopicMessage) -> None:
        """Take in what follows upon what we know; of what lies further ahead, something was missed: see `_mend`."""
        topic.epoch = message.epoch
        if message.kind == "U":
            if not topic.ready:
                self._refresh_coverage(topic)
                topic.start(message.seq, message.edge, message.epoch, message.candles)
            elif message.seq == topic.seq:
                topic.advance(message.edge)
                topic.update_forming(message.candles)
            if topic.timeframe == MINUTE and len(message.candles):  # a question need not go to the provider either
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
        """Read its ledger anew: what another process has just told of may be stored without our having been told."""
        self._history.coverage_cache.forget(topic.record.id)

    async def _repair(self) -> None:
        """Read from the store what was missed."""
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
        """Tell in order what was missed, each candle as it is now; where that cannot be done, listeners start again."""
        seq = topic.seq
        missed = await self._store.events_since(key, seq, MAX_QUEUED_EVENTS)
        whole = [one.seq for one in missed] == list(range(seq + 1, seq + 1 + len(missed)))
        told = whole and len(missed) >= standing.seq - seq and all(one.kind in EVENT_KINDS for one in missed)
        found = await self._candles(topic, missed) if told else None
        topic.behind_since = None
        if found is None:
            earliest = await self._store.earliest_change_since(key, topic.seq)
            if topic.seq < standing.seq:
                topic.resync(standing.seq, standing.edge, earliest)
            return
        for one in missed:
            if one.seq == topic.seq + 1:  # its message may have come meanwhile
                topic.append(one.kind, found.between(Span(one.opened, one.opened + 1)))
        if topic.seq == standing.seq:
            topic.advance(standing.edge)

    async def _candles(self, topic: Topic, missed: Sequence[TopicEvent]) -> Candles | None:
        """The candles meant; None where some of them are not known any more."""
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
