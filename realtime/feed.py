"""What moves of one instrument, followed at 1m alone by the one process that leads, for every process that listens.

Every other timeframe is folded from these minutes. The provider's history is the authority for what is final: a stream
shows the forming minute, and a minute is closed by asking for it once it has settled. Whatever fails, the feed begins anew
from what the database says was counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from zlib import crc32

import numpy as np

from candlegraph.answer import Ask, GapReason
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError, ProviderUnavailable
from candlegraph.provider import Upstream, Urgency
from candlegraph.series import Record, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.timings import Timings
from candlegraph.zone import Zone, zone
from history.fetch_job import FetchRequest
from history.orchestrator import History
from realtime.bus import Failed, Message, News
from realtime.topic_counter import Count
from storage.batches import Write
from storage.leases import Held, LeaseLost
from storage.topics import Happened, LiveStore, Step, TopicKey, timeframe_of

log = logging.getLogger(__name__)

BEHIND_MS = 5 * MINUTE_MS  # how far back a feed begins: a provider that lags has not said yet what it will have
AGAIN_MS = 3 * MINUTE_MS  # how far back a poll looks for corrections when it closes a minute
MOST_TOLD = 1_000  # closed or corrected candles at once; beyond, listeners have to start again
MOST_PAGES = 50  # of history, for the candle that is forming

# What a candle's settled minutes are read as: the whole months and days before today, the hours before this one, the minutes.
_LADDER = (Timeframe(1, "mon"), Timeframe(1, "d"), Timeframe(1, "h"), MINUTE)

Publish = Callable[[News], None]


class Feed:
    """Follows one instrument until it is closed or its lease is lost."""

    def __init__(self, record: Record, history: History, store: LiveStore, publish: Publish, held: Held) -> None:
        """Start following at the present, or where its topics were left."""
        self.held = held
        self.lost = False
        self.edge = 0  # every minute before it is final and stored
        self.minutes = Candles.empty()  # those that are not final yet
        self._streamed = Candles.empty()  # what a stream has shown of them since the history was last asked
        self._record = record
        self._history = history
        self._store = store
        self._publish = publish
        self._place_s = crc32(str(record.instrument).encode()) % 1000 / 1000 * self._timings.feed_spread_s
        self._counts: dict[TopicKey, Count] = {}
        self._joining: set[TopicKey] = set()
        self._starting: set[TopicKey] = set()
        self._corrected = False
        self._news = asyncio.Event()
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
        self.lost = True  # the leader replaces it, should it still hold the lease
        if not task.cancelled() and (error := task.exception()):
            log.error("the feed of %s failed; it is replaced", self._record.instrument, exc_info=error)

    def follow(self, keys: set[TopicKey]) -> None:
        """Count these topics and no others."""
        for key in self._counts.keys() - keys:
            del self._counts[key]
        joining = keys - self._counts.keys()
        if joining - self._joining:
            self._news.set()
        self._joining = joining

    def tell(self, key: TopicKey) -> bool:
        """Say how a topic stands, to somebody who asks; False where it is not followed yet."""
        if key in self._counts:
            self._tell(key)
        elif key in self._joining:
            self._news.set()
        else:
            return False
        return True

    def correct(self) -> None:
        """Something that was final has changed: have it told."""
        self._corrected = True
        self._news.set()

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
                    # The stream first, then history up to it: between the two no minute is without a source.
                    if stream := provider.stream(self._record.instrument):
                        group.create_task(self._watch(stream))
                    await self._lead(group, provider, polls=stream is None)
            except* LeaseLost:
                self.lost = True
            except* Exception as group_error:  # noqa: BLE001 - it is logged, and the feed goes on
                self._fail(group_error)
            finally:
                self._history.fetcher.forming.unfollow(self._record.id)
            self._starting.clear()
            if self.lost:
                break
            failures = 1 if loop.time() - began > 2 * self._timings.feed_max_backoff_s else failures + 1
            await self._back_off(failures, provider)

    async def _upstream(self) -> Upstream:
        instrument = self._record.instrument
        provider = await self._history.providers.get(instrument.market, instrument.provider)
        if provider is None:
            raise ProviderUnavailable(f"{instrument.provider} is not there.")
        # Before its clock can be asked nothing is known of the present.
        self.edge = self.edge or MINUTE.floor(_settled(provider)) - BEHIND_MS
        return provider

    def _fail(self, failed: BaseExceptionGroup) -> None:
        """Tell whoever waits for a topic, and count all of them anew: what was written last may not be known here."""
        error: BaseException = failed
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, CandlegraphError):
            log.error("following %s failed unexpectedly", self._record.instrument, exc_info=error)
            error = ProviderUnavailable(f"{self._record.instrument} cannot be followed now.", retry_after=5)
        for key in self._joining:
            self._publish(Failed(key, error))
        self._joining |= self._counts.keys()
        self._counts.clear()

    async def _back_off(self, failures: int, provider: Upstream | None) -> None:
        """Wait before the next attempt, no longer than until a minute settles."""
        # Full jitter: a thousand feeds cut at once must not come back at once.
        longest = random.uniform(0.1, min(self._timings.feed_max_backoff_s, 2.0**failures))  # noqa: S311
        if provider:
            longest = min(longest, max(self._timings.feed_retry_s, self._pause(provider, longest)))
        await asyncio.sleep(min(self._timings.feed_retry_s, longest))
        await self._wait(longest - self._timings.feed_retry_s)

    async def _lead(self, group: asyncio.TaskGroup, provider: Upstream, *, polls: bool) -> None:
        """Read what became final when it is due, and do at once what comes up in between."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self._corrected:
                self._corrected = False
                await self._tell_corrected()
            if loop.time() >= due:
                whole = await self._advance(provider, again=polls)
                due = loop.time() + (self._pause(provider, self._period(polls=polls)) if whole else 0)
                self._history.fetcher.forming.follow(self._record.id, lambda: self._seen(provider))
            for key in self._joining - self._starting:
                self._starting.add(key)
                group.create_task(self._join(key, provider))
            await self._wait(due - loop.time())

    def _period(self, *, polls: bool) -> float:
        timings = self._timings
        return timings.feed_poll_interval_s if polls else timings.feed_stream_poll_interval_s

    def _pause(self, provider: Upstream, period: float) -> float:
        """Seconds to the next read: when a minute settles, again where it is not there yet, and each ``period``."""
        due = (self.edge + MINUTE_MS - _settled(provider)) / 1000 + self._place_s
        if due <= 0:
            due = next((after + due for after in self._timings.feed_late_retries_s if after + due > 0), period)
        return min(period, due)

    async def _wait(self, seconds: float) -> None:
        """For so long, or until something else is to be done."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return
        self._news.clear()

    def _seen(self, provider: Upstream) -> tuple[Candles, Span]:
        """The minutes that are not final, for whoever asks a query."""
        return self.minutes, Span(self.edge, MINUTE.next(provider.now_ms()))

    # What the provider says

    async def _watch(self, stream: AsyncGenerator[Candles, None]) -> None:
        async with aclosing(stream):
            async for candles in stream:
                late = candles[candles.timestamp < self.edge]
                if len(late):
                    await self._take_late(late)
                ahead = candles[candles.timestamp >= self.edge]
                self.minutes, self._streamed = self.minutes.merge(ahead), self._streamed.merge(ahead)
                self._move()
        raise ProviderUnavailable(f"The stream of {self._record.instrument} has ended.")

    async def _take_late(self, candles: Candles) -> None:
        """Final minutes that the provider sends once more: where they differ from what is stored, they correct it."""
        span = Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + MINUTE_MS)
        stored = await self._final_minutes(span)
        known = set(zip(*(column.tolist() for column in stored.columns[:6]), strict=True))
        rows = zip(*(column.tolist() for column in candles.columns[:6]), strict=True)
        changed = candles[np.array([row not in known and row[5] > 0 for row in rows], np.bool_)]
        if len(changed) and not changed.problems(MINUTE, span):
            spans = Spans(Span(stamp, stamp + MINUTE_MS) for stamp in changed.timestamp.tolist())
            await self._history.store.write_led(Write(self._record.id, MINUTE, changed, spans), (), self.held)

    async def _advance(self, provider: Upstream, *, again: bool) -> bool:
        """Have what became final stored, counted and told, and show what is forming; False where there is more of it."""
        now = provider.now_ms()
        final = MINUTE.floor(_settled(provider))
        overlap = AGAIN_MS if again and final > self.edge else 0
        request = FetchRequest(
            MINUTE, Span(self.edge, MINUTE.next(now)), urgency=Urgency.LIVE, overlap_ms=overlap, held=self.held
        )
        self._streamed = Candles.empty()
        result = await asyncio.shield(self._history.fetcher.fetch(self._record, provider, request))
        if result.failure:
            raise result.failure
        if self._corrected:
            self._corrected = False
            await self._tell_corrected()
        await self._count(await self._covered_until(Span(self.edge, final), result.refused, provider))
        # What the stream has shown since the question was put is newer than the answer.
        self.minutes = self.minutes.merge(result.forming).merge(self._streamed)
        self.minutes = self.minutes[self.minutes.timestamp >= self.edge]
        self._move()
        return not result.exhausted

    async def _covered_until(self, span: Span, refused: Spans, provider: Upstream) -> int:
        """How far the minutes of ``span`` are known from its beginning on: the provider may not have said yet.

        What it sends rubbish of, or does not reach back to any more, is passed over; the history has a gap there.
        """
        if not span:
            return span.since
        reach = provider.capabilities.reach_ms(MINUTE)
        beyond = Spans() if reach is None else Spans([Span(0, provider.now_ms() - reach)])
        ledger = (await self._history.ledgers.load([self._record.id]))[0]
        known = ledger.spans.get(MINUTE, Spans()) | refused | beyond
        return next((min(s.until, span.until) for s in known if s.since <= span.since < s.until), span.since)

    # What is told

    async def _count(self, edge: int) -> None:
        """Close what ends with the minutes up to ``edge``: counted first, then told."""
        behind = {key: count for key, count in self._counts.items() if count.edge < edge}
        if behind:
            minutes = await self._final_minutes(Span(min(count.edge for count in behind.values()), edge))
            await self._close(behind, minutes, edge)
        self.edge = max(self.edge, edge)

    async def _close(self, counts: dict[TopicKey, Count], minutes: Candles, edge: int) -> None:
        ahead = {key: count.ahead(minutes, edge) for key, count in counts.items()}
        steps = [
            Step(key, counts[key].seq, _happened("C", closed.timestamp), edge, counts[key].corrected)
            for key, (closed, _) in ahead.items()
        ]
        seqs = await self._store.append(self.held, steps)
        for key, (closed, settled) in ahead.items():
            count = counts[key]
            count.edge, count.settled, count.seq = edge, settled, seqs[key]
            self._publish_all(key, count, "C", closed)

    def _publish_all(self, key: TopicKey, count: Count, kind: str, candles: Candles) -> None:
        """Tell of candles that were just counted."""
        if len(candles) > MOST_TOLD:
            self._publish(Message(key, "R", count.seq, count.edge, self.held.epoch, candles[:1]))
            return
        first = count.seq - len(candles) + 1
        for i in range(len(candles)):
            self._publish(Message(key, kind, first + i, count.edge, self.held.epoch, candles[i : i + 1]))

    async def _tell_corrected(self) -> None:
        """Tell the closed candles over what was corrected anew; the current bucket takes it in silently."""
        after = min((count.corrected for count in self._counts.values()), default=0)
        rows = await self._store.corrections(self._record.id, after) if self._counts else []
        counts = {key: count for key, count in self._counts.items() if rows and count.corrected < rows[-1][0]}
        found: dict[TopicKey, Candles] = {}
        for key, count in counts.items():
            opens = {count.timeframe.floor(at, count.zone) for n, at in rows if n > count.corrected}
            found[key] = await self._candles(count, sorted(opened for opened in opens if opened < count.opened))
            count.settled = await self._settled(count)
        if not counts:
            return
        steps = [
            Step(key, counts[key].seq, _happened("X", candles.timestamp), counts[key].edge, rows[-1][0])
            for key, candles in found.items()
        ]
        seqs = await self._store.append(self.held, steps)
        for key, candles in found.items():
            counts[key].seq, counts[key].corrected = seqs[key], rows[-1][0]
            self._publish_all(key, counts[key], "X", candles)
        self._move()

    async def _join(self, key: TopicKey, provider: Upstream) -> None:
        """Begin to count a topic; one that cannot begin keeps no other from it, and is tried again later."""
        try:
            standing = await self._store.open(key, self.edge, self.held)
            count = Count(timeframe_of(key), zone(key.zone), standing.edge, standing.seq, standing.corrected)
            count.settled = await self._settled(count)
            while count.edge < self.edge:
                await self._catch_up(key, count, provider)
        except LeaseLost:
            raise
        except CandlegraphError as error:
            self._publish(Failed(key, error))
        else:
            if key in self._joining:  # nobody may want it any more
                self._joining.discard(key)
                self._counts[key] = count
                count.move(self.minutes)
                self._tell(key)
                self.correct()  # there may have been corrections while nobody led
        finally:
            self._starting.discard(key)

    async def _catch_up(self, key: TopicKey, count: Count, provider: Upstream) -> None:
        """Tell what closed since a topic was left, by whoever led before."""
        missed, refused = Span(count.edge, self.edge), Spans()
        while True:
            request = FetchRequest(MINUTE, missed, urgency=Urgency.LIVE, held=self.held)
            result = await asyncio.shield(self._history.fetcher.fetch(self._record, provider, request))
            refused |= result.refused
            if result.failure:
                raise result.failure
            if not result.exhausted:
                break
        if await self._covered_until(missed, refused, provider) < missed.until:
            raise ProviderUnavailable(f"{provider.name} does not say what closed meanwhile.", retry_after=5)
        await self._close({key: count}, await self._final_minutes(missed), missed.until)

    def _move(self) -> None:
        for key, count in self._counts.items():
            if count.move(self.minutes):
                self._tell(key)

    def _tell(self, key: TopicKey) -> None:
        """Say how a topic stands."""
        count = self._counts[key]
        self._publish(Message(key, "U", count.seq, count.edge, self.held.epoch, count.forming))

    # What is stored

    async def _settled(self, count: Count) -> Candles:
        """The current bucket's candle as far as its minutes are final, read in as few candles as tell it exactly."""
        reached, found = count.opened, Candles.empty()
        for step in _LADDER:
            until = step.floor(count.edge, count.zone)
            if until > reached and step.nests_in(count.timeframe, count.zone):
                found, reached = found.merge(await self._read(step, count.zone, Span(reached, until))), until
        return count.fold(found)

    async def _candles(self, count: Count, opens: Sequence[int]) -> Candles:
        """The closed candles of a topic that open at ``opens``; of more than can be told, one more than that."""
        spans = Spans(Span(at, count.timeframe.next(at, count.zone)) for at in opens[: MOST_TOLD + 1])
        return concat([await self._read(count.timeframe, count.zone, span) for span in spans])

    async def _read(self, timeframe: Timeframe, days: Zone, span: Span) -> Candles:
        """Final candles of the instrument, all there are in ``span``."""
        found, series = [], Series(self._record.instrument, timeframe)
        since: int | None = span.since
        for _ in range(MOST_PAGES):
            ask = Ask(series, MOST_TOLD, since, span.until, zone=days, known_until=span.until)
            answer = (await self._history.answer([ask]))[0]
            if isinstance(answer, BaseException):
                raise answer
            for gap in answer.gaps:
                if gap.reason in {GapReason.OUTAGE, GapReason.PENDING, GapReason.NOT_FETCHED}:
                    raise ProviderUnavailable(f"The history cannot be told whole: {gap.detail}", retry_after=5)
            found.append(answer.candles)
            if (since := answer.next_since) is None:
                return concat(found)
        raise ProviderUnavailable(f"Too much of the history of {self._record.instrument} is missing: load it first.")

    async def _final_minutes(self, span: Span) -> Candles:
        """The stored minutes of ``span``."""
        return await self._history.store.minutes(self._record.id, span)


def _settled(provider: Upstream) -> int:
    """What ends here or before is final; a provider may learn while it runs that its feed is delayed."""
    return provider.now_ms() - provider.capabilities.final_after_ms


def _happened(kind: str, stamps: Iterable[int]) -> list[Happened]:
    happened = [Happened(kind, int(stamp)) for stamp in stamps]
    return happened if len(happened) <= MOST_TOLD else [Happened("R", happened[0].opened)]
