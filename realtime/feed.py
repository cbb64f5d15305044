"""What moves of one instrument, followed at 1m alone by the one process that leads, for every process that listens.

Every other timeframe is folded from these minutes. The provider's history is the authority for what is final: a stream
shows the forming minute, and a minute is closed by asking for it once it has settled.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from candlegraph.answer import Ask, GapReason
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError, ProviderUnavailable
from candlegraph.provider import Upstream, Urgency
from candlegraph.resample import fold
from candlegraph.series import Record, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Zone, zone
from realtime.bus import Message
from storage.candles import Read, Write
from storage.collector import Want
from storage.history import History
from storage.live import Happened, Held, LeaseLost, LiveStore, TopicKey, timeframe_of

log = logging.getLogger(__name__)

POLL_S = 5.0  # how often the forming minute is asked for where there is no stream
STREAM_POLL_S = 60.0  # and where there is one: at least once a minute, when it closes
LATE_S = (3.0, 10.0)  # how long after it was due a minute is asked for again that should be final and is not there
SPREAD_S = 2.0  # within which the symbols are read when a minute settles, each at its own place: not all at once
MAX_BACKOFF_S = 60.0
MOST_TOLD = 1_000  # closed or corrected candles at once; beyond, listeners have to start again

# What a candle's settled minutes are read as: the whole days before today, the hours before this one, the minutes.
_LADDER = (Timeframe(1, "mon"), Timeframe(1, "d"), Timeframe(1, "h"), MINUTE)

Publish = Callable[[Message], None]


@dataclass(slots=True)
class Count:
    """A topic as its leader counts it.

    ``settled`` is the candle of the current bucket as far as its minutes are final, before ``edge``: none or one row.
    """

    timeframe: Timeframe
    zone: Zone
    edge: int
    seq: int
    settled: Candles = field(default_factory=Candles.empty)
    forming: Candles = field(default_factory=Candles.empty)

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.floor(self.edge, self.zone)

    def ahead(self, minutes: Candles, edge: int) -> tuple[Candles, Candles]:
        """What final minutes up to ``edge`` make of it: the candles that close, and what is settled of the next."""
        folded = fold(concat([self.settled, minutes]), self.timeframe, self.zone)
        opened = self.timeframe.floor(edge, self.zone)
        return folded[folded.timestamp < opened], folded[folded.timestamp >= opened]

    def move(self, minutes: Candles) -> bool:
        """Take in how the minutes that are not final yet stand; whether the forming candle moved by that."""
        live = fold(concat([self.settled, minutes]), self.timeframe, self.zone)
        live = live.with_closed(np.zeros(len(live), np.bool_))
        moved = not _same(live, self.forming)
        self.forming = live
        return moved


class Feed:
    """Follows one instrument until it is closed or its lease is lost. ``edge``: every minute before it is final and stored."""

    def __init__(
        self, record: Record, provider: Upstream, history: History, store: LiveStore, publish: Publish, held: Held
    ) -> None:
        """Start following at the present, or where its topics were left."""
        self.held = held
        self._record = record
        self._provider = provider
        self._history = history
        self._store = store
        self._publish = publish
        self._place_s = crc32(str(record.instrument).encode()) % 1000 / 1000 * SPREAD_S
        self.edge = MINUTE.floor(provider.now_ms() - self._settle_ms)
        self.minutes = Candles.empty()  # those that are not final yet
        self.counts: dict[TopicKey, Count] = {}
        self._joining: set[TopicKey] = set()
        self._corrected = Spans()
        self._news = asyncio.Event()
        self.lost = False
        self._task = asyncio.create_task(self._run())

    @property
    def _settle_ms(self) -> int:
        return self._provider.capabilities.final_after_ms  # a provider may learn that its feed is delayed

    async def close(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def follow(self, keys: set[TopicKey], news: set[TopicKey]) -> None:
        """Count these topics and no others; ``news`` have a listener that knows nothing yet."""
        for key in self.counts.keys() - keys:
            del self.counts[key]
        self._joining = (self._joining | (keys - self.counts.keys())) & keys
        for key in news & self.counts.keys():
            self._tell(key)
        if self._joining:
            self._news.set()

    def correct(self, span: Span) -> None:
        """Final minutes of ``span`` have changed: have it told."""
        self._corrected |= Spans([span])
        self._news.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    # The stream first, then history up to it: between the two no minute is without a source.
                    if stream := self._provider.stream(self._record.instrument):
                        group.create_task(self._watch(stream))
                    while True:
                        await self._advance()
                        failures = 0
                        await self._wait(self._pause(STREAM_POLL_S if stream else POLL_S))
            except* LeaseLost:
                self.lost = True
            except* Exception as group_error:
                error = group_error.exceptions[0]
                if not isinstance(error, CandlegraphError | _StreamEnded):
                    log.exception("following %s failed unexpectedly", self._record.instrument)
            if self.lost:
                return
            # Full jitter: a thousand feeds cut at once must not come back at once.
            failures += 1
            await asyncio.sleep(random.uniform(0.1, min(MAX_BACKOFF_S, 2.0**failures)))  # noqa: S311

    def _pause(self, period: float) -> float:
        """Seconds to the next read: when a minute settles, again where it is not there yet, and each ``period``."""
        due = (self.edge + MINUTE_MS + self._settle_ms - self._provider.now_ms()) / 1000 + self._place_s
        if due <= 0:
            due = next((after + due for after in LATE_S if after + due > 0), period)
        return min(period, due)

    async def _wait(self, seconds: float) -> None:
        """For so long, or until something else is to be done."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def _watch(self, stream: AsyncIterator[Candles]) -> None:
        async for candles in stream:
            late = candles[candles.timestamp < self.edge]
            if len(late):
                await self._take_late(late)
            self.minutes = self.minutes.merge(candles[candles.timestamp >= self.edge])
            self._move()
        raise _StreamEnded

    async def _take_late(self, candles: Candles) -> None:
        """Final minutes that the provider sends once more: where they differ from what is stored, they correct it."""
        first, last = int(candles.timestamp[0]), int(candles.timestamp[-1])
        stored = await self._final_minutes(first, last + MINUTE_MS)
        known = {int(c.timestamp): c for c in stored}
        changed = [i for i, candle in enumerate(candles) if known.get(int(candle.timestamp)) not in (None, candle)]
        rows = candles[np.array(changed, np.int64)]
        if len(rows) and not rows.problems(MINUTE, Span(first, last + MINUTE_MS)):
            spans = Spans(Span(stamp, stamp + MINUTE_MS) for stamp in rows.timestamp.tolist())
            await self._history.store.write([Write(self._record.id, MINUTE, rows, spans)], held=self.held)

    async def _advance(self) -> None:
        """Have what became final stored, counted and told, and show what is forming."""
        await self._join()
        now = self._provider.now_ms()
        want = Want(MINUTE, Span(self.edge, MINUTE.next(now)), urgency=Urgency.LIVE, held=self.held)
        task = self._history.collector.collect(self._record, self._provider, want)
        result = await asyncio.shield(task)
        if result.failure:
            raise result.failure
        if result.exhausted:
            self._news.set()  # there is more: go on at once
            return
        await self._count(await self._covered_until(MINUTE.floor(now - self._settle_ms), result.refused))
        if self._corrected:
            await self._tell_corrected()
        self.minutes = self.minutes.merge(result.forming)
        self.minutes = self.minutes[self.minutes.timestamp >= self.edge]
        self._move()

    async def _count(self, edge: int) -> None:
        """Close what ends with the minutes up to ``edge``: counted first, then told."""
        if edge <= self.edge:
            return
        minutes = await self._final_minutes(self.edge, edge)
        ahead = {key: count.ahead(minutes, edge) for key, count in self.counts.items()}
        happened = {key: _closed(closed) for key, (closed, _) in ahead.items()}
        if happened:
            seqs = await self._store.append(self.held, edge, happened)
            for key, (closed, settled) in ahead.items():
                if (count := self.counts.get(key)) is None:
                    continue
                count.edge, count.settled, count.seq = edge, settled, seqs[key]
                self._publish_all(key, closed, "C")
        self.edge = edge

    def _publish_all(self, key: TopicKey, candles: Candles, kind: str) -> None:
        count = self.counts[key]
        if len(candles) > MOST_TOLD:
            at = Message(key, "R", count.seq, count.edge, self.held.epoch, candles[:1])
            self._publish(at)
            return
        for i in range(len(candles)):
            seq = count.seq - len(candles) + 1 + i
            self._publish(Message(key, kind, seq, count.edge, self.held.epoch, candles[i : i + 1]))

    async def _tell_corrected(self) -> None:
        """Tell the closed candles over what was corrected anew; the current bucket takes it in silently."""
        spans, self._corrected = self._corrected, Spans()
        found: dict[TopicKey, Candles] = {}
        for key, count in list(self.counts.items()):
            batches = [await self._candles(count, span.outer(count.timeframe, count.zone)) for span in spans]
            found[key] = concat(batches).sorted()
            count.settled = await self._settled(count)
        happened = {
            key: [Happened("X", int(stamp)) for stamp in candles.timestamp[:MOST_TOLD]]
            for key, candles in found.items() if len(candles) and key in self.counts
        }  # fmt: skip
        if not happened:
            return
        seqs = await self._store.append(self.held, self.edge, happened)
        for key, seq in seqs.items():
            if key in self.counts:
                self.counts[key].seq = seq
                self._publish_all(key, found[key], "X")

    async def _candles(self, count: Count, span: Span) -> Candles:
        """The closed candles of a topic in ``span``, at most one more than can be told."""
        closed = Span(span.since, min(span.until, count.opened))
        return await self._read(count.timeframe, count.zone, closed, MOST_TOLD + 1) if closed else Candles.empty()

    async def _join(self) -> None:
        """Begin to count the topics that are new."""
        for key in list(self._joining):
            timeframe, days = timeframe_of(key), zone(key.zone)
            standing = await self._store.open(key, self.edge, self.held)
            count = Count(timeframe, days, min(standing.edge, self.edge), standing.seq)
            if count.edge < self.edge and not (await self._known()).covers(Span(count.edge, self.edge)):
                # It was left in the past by whoever led before: the minutes since then are told first.
                self.edge = count.edge
                for other in self.counts.values():
                    other.edge = min(other.edge, self.edge)
            count.settled = await self._settled(count)
            self._joining.discard(key)
            self.counts[key] = count
            if count.edge < self.edge:
                await self._catch_up(key, count)
            count.move(self.minutes)
            self._tell(key)

    async def _catch_up(self, key: TopicKey, count: Count) -> None:
        edge = self.edge
        closed, settled = count.ahead(await self._final_minutes(count.edge, edge), edge)
        seqs = await self._store.append(self.held, edge, {key: _closed(closed)})
        count.edge, count.settled, count.seq = edge, settled, seqs[key]
        self._publish_all(key, closed, "C")

    async def _settled(self, count: Count) -> Candles:
        """The current bucket's candle as far as its minutes are final, read in as few candles as tell it exactly."""
        reached, found = count.opened, Candles.empty()
        for step in _LADDER:
            until = step.floor(count.edge, count.zone)
            if (
                until <= reached
                or not step.nests_in(count.timeframe, count.zone)
                or step.nominal_ms > count.timeframe.nominal_ms
            ):
                continue
            limit = (until - reached) // step.nominal_ms + 2
            found, reached = found.merge(await self._read(step, count.zone, Span(reached, until), limit)), until
        return fold(found, count.timeframe, count.zone)

    async def _read(self, timeframe: Timeframe, days: Zone, span: Span, limit: int) -> Candles:
        ask = Ask(Series(self._record.instrument, timeframe), limit, span.since, span.until, zone=days)
        answer = (await self._history.answer([ask]))[0]
        if isinstance(answer, BaseException):
            raise answer
        for gap in answer.gaps:
            if gap.reason in {GapReason.OUTAGE, GapReason.PENDING}:
                raise ProviderUnavailable(f"The history cannot be told whole: {gap.detail}", retry_after=5)
        return answer.candles

    async def _known(self) -> Spans:
        ledger = (await self._history.ledgers.load([self._record.id]))[0]
        return ledger.spans.get(MINUTE, Spans())

    async def _covered_until(self, final: int, refused: Spans) -> int:
        """How far the minutes from the edge on are known: a provider that lags has not said yet what it will have.

        Minutes of which it sent rubbish are passed over; the history has a gap there.
        """
        if final <= self.edge:
            return self.edge
        known = await self._known() | refused
        return next((min(span.until, final) for span in known if span.since <= self.edge < span.until), self.edge)

    def _move(self) -> None:
        for key, count in self.counts.items():
            if count.move(self.minutes):
                self._tell(key)

    def _tell(self, key: TopicKey) -> None:
        """Say how a topic stands."""
        count = self.counts[key]
        self._publish(Message(key, "U", count.seq, count.edge, self.held.epoch, count.forming))

    async def _final_minutes(self, since: int, until: int) -> Candles:
        """The stored minutes of ``[since, until)``."""
        read = Read(self._record.id, MINUTE, Span(since, until), (until - since) // MINUTE_MS)
        return (await self._history.store.read([read]))[0]


def _closed(candles: Candles) -> list[Happened]:
    if len(candles) > MOST_TOLD:
        return [Happened("R", int(candles.timestamp[0]))]
    return [Happened("C", int(stamp)) for stamp in candles.timestamp]


def _same(a: Candles, b: Candles) -> bool:
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a.columns, b.columns, strict=True))


class _StreamEnded(Exception):
    """The provider ended its stream."""
