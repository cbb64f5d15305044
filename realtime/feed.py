"""A feed: follows one instrument at 1m in the one process that leads it, on behalf of all subscribers.

It folds every other timeframe from these minutes. Final minutes come from the provider's history only: a stream shows the
forming minute, and the feed closes a minute by fetching it after it has settled. After a failure the feed starts again from
the positions in the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError, Overloaded, ProviderUnavailable
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from candlegraph.timings import Timings
from candlegraph.trading_calendar import topic_zone
from candlegraph.upstream import Upstream, Urgency
from history.fetch_request import FetchRequest
from history.orchestrator import History
from realtime import schedule
from realtime.final_candles import FinalCandles
from realtime.topic_counter import TopicCounter
from realtime.topic_publisher import Publish, TopicPublisher
from realtime.topic_stages import TopicStage, TopicStages
from storage.batches import CandleWrite
from storage.leases import LeaseLost, LeaseToken
from storage.topics import TopicKey, TopicStore, timeframe_of

log = logging.getLogger(__name__)

MAX_LAG_MS = 5 * MINUTE_MS  # how far back a feed begins: a lagging provider may publish the minutes since then late
REREAD_MS = 3 * MINUTE_MS  # how far back a poll reads again, for corrections, when it closes a minute
FORMING_ROWS = 5_000  # the forming candle of a topic takes as long as folding so many rows


class Feed:
    """Follows one instrument until it is closed or its lease is lost."""

    def __init__(
        self, record: InstrumentRecord, history: History, store: TopicStore, publish: Publish, lease: LeaseToken
    ) -> None:
        """Start following at the present, or at the position of its topics."""
        self.lease = lease
        self.lost = False
        self.edge = 0  # every minute before it is final and stored
        self.minutes = Candles.empty()  # the minutes that are not final yet
        self._streamed = Candles.empty()  # what the stream sent of them since the last read of the history
        self._record = record
        self._history = history
        self._store = store
        self._final = FinalCandles(record, history)
        self._publisher = TopicPublisher(store, self._final, publish, lease)
        self._topics = TopicStages()
        self._offset_s = schedule.offset_s(record.instrument, self._timings.feed_spread_s)
        self._corrected = False
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    @property
    def _timings(self) -> Timings:
        return self._history.timings

    async def close(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.lost = True  # the leader replaces it, if it still holds the lease
        if not task.cancelled() and (error := task.exception()):
            log.error("the feed of %s failed; it is replaced", self._record.instrument, exc_info=error)

    def follow(self, keys: set[TopicKey]) -> None:
        """Publish the events of these topics and of no others."""
        if self._topics.follow(keys):
            self._wake.set()

    def publish_position(self, key: TopicKey) -> bool:
        """Publish the position of a topic, on request; False if the feed does not follow it yet."""
        stage = self._topics.stage(key)
        if stage is TopicStage.COUNTING:
            self._publisher.forming(key, self._topics.counts[key])
        elif stage in {TopicStage.JOINING, TopicStage.STARTING}:
            self._wake.set()
        else:
            return False
        return True

    def publish_corrections(self) -> None:
        """Wake the feed to publish corrections of final candles."""
        self._corrected = True
        self._wake.set()

    # The loop

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self.lost:
            began = loop.time()
            provider: Upstream | None = None
            try:
                provider = await self._upstream()
                async with asyncio.TaskGroup() as group:
                    # Open the stream first, then read the history up to it: so no minute between the two is missed.
                    if stream := provider.stream(self._record.instrument):
                        group.create_task(
                            self._read_stream(stream, provider), name=f"stream of {self._record.instrument}"
                        )
                    await self._follow_provider(group, provider, polls=stream is None)
            except* LeaseLost:
                self.lost = True
            except* Exception as group_error:  # noqa: BLE001 - `_fail` logs it, and the feed goes on
                self._fail(group_error)
            finally:
                self._history.fetcher.forming.unfollow(self._record.id)
            if self.lost:
                break
            failures = 1 if loop.time() - began > 2 * self._timings.feed_max_backoff_s else failures + 1
            await self._back_off(failures, provider)

    async def _upstream(self) -> Upstream:
        instrument = self._record.instrument
        provider = await self._history.providers.get(instrument.market, instrument.provider)
        if provider is None:
            raise ProviderUnavailable(f"{instrument.provider} is not available.")
        # Not in the constructor: the time comes from the provider's clock.
        self.edge = self.edge or MINUTE.floor(_settled(provider)) - MAX_LAG_MS
        return provider

    def _fail(self, failed: BaseExceptionGroup) -> None:
        """Report the failure to every waiting topic, and restart all from the store: a last write may have succeeded there."""
        error: BaseException = failed
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, CandlegraphError):
            log.error("following %s failed unexpectedly", self._record.instrument, exc_info=error)
            error = ProviderUnavailable(f"{self._record.instrument} cannot be followed now.", retry_after=5)
        for key in () if isinstance(error, Overloaded) else self._topics.uncounted():
            self._publisher.failed(key, error)
        self._topics.restart()

    async def _back_off(self, failures: int, provider: Upstream | None) -> None:
        """Wait before the next attempt; at most until the next minute settles."""
        longest = schedule.jittered_s(failures, self._timings.feed_max_backoff_s)
        if provider:
            longest = min(longest, max(self._timings.feed_retry_s, self._pause(provider, longest)))
        await asyncio.sleep(min(self._timings.feed_retry_s, longest))
        await self._wait(longest - self._timings.feed_retry_s)

    async def _follow_provider(self, group: asyncio.TaskGroup, provider: Upstream, *, polls: bool) -> None:
        """Read the final minutes when they are due; between these reads do other work as soon as it comes."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        joined = MINUTE.next(provider.now_ms())
        while True:
            await self._publish_corrections()
            if loop.time() >= due:
                whole = await self._advance(provider, again=polls)
                # A stream of trades shows only the minutes that open after it began; poll the minute before.
                joining = provider.capabilities.streams_trades and provider.now_ms() < joined
                due = loop.time() + (self._pause(provider, self._period(polls=polls or joining)) if whole else 0)
                self._history.fetcher.forming.follow(self._record.id, lambda: self._forming_minutes(provider))
            for key in self._topics.start():
                group.create_task(self._join(key, provider))
            await self._wait(due - loop.time())

    def _period(self, *, polls: bool) -> float:
        timings = self._timings
        return timings.feed_poll_interval_s if polls else timings.feed_stream_poll_interval_s

    def _pause(self, provider: Upstream, period: float) -> float:
        """Seconds to the next read."""
        until_final_s = (self.edge + MINUTE_MS - _settled(provider)) / 1000 + self._offset_s
        return schedule.pause_s(until_final_s, period, self._timings.feed_late_retries_s)

    async def _wait(self, seconds: float) -> None:
        """Wait for ``seconds``, or until there is other work."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return
        self._wake.clear()

    def _forming_minutes(self, provider: Upstream) -> tuple[Candles, Span]:
        """The minutes that are not final, for queries in this process."""
        return self.minutes, Span(self.edge, MINUTE.next(provider.now_ms()))

    # Input from the provider

    async def _read_stream(self, stream: AsyncGenerator[Candles, None], provider: Upstream) -> None:
        async with aclosing(stream):
            async for candles in stream:
                late = candles[candles.timestamp < self.edge]
                # Minutes that this server folded from trades never replace those of the provider's history.
                if len(late) and not provider.capabilities.streams_trades:
                    await self._store_corrections(late)
                ahead = candles[candles.timestamp >= self.edge]
                self.minutes, self._streamed = self.minutes.merge(ahead), self._streamed.merge(ahead)
                await self._update_forming()
        raise ProviderUnavailable(f"The stream of {self._record.instrument} has ended.")

    async def _store_corrections(self, candles: Candles) -> None:
        """Store final minutes that the provider sends again, as corrections, if they differ from the stored ones."""
        span = Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + MINUTE_MS)
        stored = await self._final.minutes(span)
        changed = _differing(candles, stored)
        if len(changed) and not changed.problems(MINUTE, span):
            spans = Spans(Span(stamp, stamp + MINUTE_MS) for stamp in changed.timestamp.tolist())
            await self._history.store.write_leased(CandleWrite(self._record.id, MINUTE, changed, spans), (), self.lease)

    async def _advance(self, provider: Upstream, *, again: bool) -> bool:
        """Store, count and publish the minutes that became final, and show the forming one; False if more are left to read."""
        now = provider.now_ms()
        final = MINUTE.floor(_settled(provider))
        overlap = REREAD_MS if again and final > self.edge else 0
        request = FetchRequest(
            MINUTE, Span(self.edge, MINUTE.next(now)), urgency=Urgency.LIVE, overlap_ms=overlap, lease=self.lease
        )
        self._streamed = Candles.empty()
        result = await asyncio.shield(self._history.fetcher.fetch(self._record, provider, request))
        if result.failure:
            raise result.failure
        await self._publish_corrections()
        await self._count(await self._final.covered_until(Span(self.edge, final), provider, result.refused))
        # What the stream sent since the call began is newer than the call's answer.
        self.minutes = self.minutes.merge(result.forming).merge(self._streamed)
        self.minutes = self.minutes[self.minutes.timestamp >= self.edge]
        await self._update_forming()
        return not result.exhausted

    # Output to the topics

    async def _count(self, edge: int) -> None:
        """Close the candles that end with the minutes up to ``edge``: first in the store, then on the bus."""
        behind = {key: count for key, count in self._topics.counts.items() if count.edge < edge}
        if behind:
            minutes = await self._final.minutes(Span(min(count.edge for count in behind.values()), edge))
            await self._publisher.close(behind, minutes, edge)
        self.edge = max(self.edge, edge)

    async def _publish_corrections(self) -> None:
        """Publish the corrections since the last time, if any."""
        if self._corrected:
            self._corrected = False
            if await self._publisher.correct(self._topics.counts):
                await self._update_forming()

    async def _join(self, key: TopicKey, provider: Upstream) -> None:
        """Start to count a topic. If that fails, the other topics go on, and a later round tries again."""
        try:
            count = await self._begin(key, provider)
        except LeaseLost:
            raise
        except Overloaded:  # no connection of the database was free in time: the next one may be
            self._topics.postpone(key)
            self._wake.set()
        except CandlegraphError as error:
            self._publisher.failed(key, error)
            self._topics.postpone(key)
        else:
            if self._topics.started(key, count):
                count.update_forming(self.minutes)
                self._publisher.forming(key, count)
                self.publish_corrections()  # there may have been corrections while no process led

    async def _begin(self, key: TopicKey, provider: Upstream) -> TopicCounter:
        position = await self._store.open_topic(key, self.edge, self.lease)
        count = TopicCounter(timeframe_of(key), topic_zone(key.zone), position.edge, position.seq, position.corrected)
        count.settled = await self._final.settled(count)
        while count.edge < self.edge:
            await self._catch_up(key, count, provider)
        return count

    async def _catch_up(self, key: TopicKey, count: TopicCounter, provider: Upstream) -> None:
        """Publish the candles that closed since the last leader stopped."""
        missed, refused = Span(count.edge, self.edge), Spans()
        while True:
            request = FetchRequest(MINUTE, missed, urgency=Urgency.LIVE, lease=self.lease)
            result = await asyncio.shield(self._history.fetcher.fetch(self._record, provider, request))
            refused |= result.refused
            if result.failure:
                raise result.failure
            if not result.exhausted:
                break
        if await self._final.covered_until(missed, provider, refused) < missed.until:
            raise ProviderUnavailable(
                f"{provider.name} did not return the candles that closed meanwhile.", retry_after=5
            )
        await self._publisher.close({key: count}, await self._final.minutes(missed), missed.until)

    async def _update_forming(self) -> None:
        for key, count in list(self._topics.counts.items()):
            await self._history.row_budget.folding.turn(FORMING_ROWS)
            if self._topics.counts.get(key) is count and count.update_forming(self.minutes):
                self._publisher.forming(key, count)


def _settled(provider: Upstream) -> int:
    """The instant before which minutes are final. Read it each time: a provider may detect at run time that its feed lags."""
    return provider.now_ms() - provider.capabilities.final_after_ms


def _differing(candles: Candles, stored: Candles) -> Candles:
    """The rows of ``candles`` that have a volume and differ from the stored ones."""
    known = set(zip(*(column.tolist() for column in stored.columns[:6]), strict=True))
    rows = zip(*(column.tolist() for column in candles.columns[:6]), strict=True)
    return candles[np.array([row not in known and row[5] > 0 for row in rows], np.bool_)]
