"""One question walked through time, window by window, until it has its candles or nothing more can come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from candlegraph import clock
from candlegraph.answer import Answer, Ask, Fill, Gap, GapReason, SourceKind, SourceSpan, Wait
from candlegraph.candle import Candles, concat
from candlegraph.errors import (
    ProviderError,
    ProviderRefused,
    ProviderStarting,
    ProviderUnavailable,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Upstream
from candlegraph.resample import fill_previous, fold
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone, zone
from storage.candles import Ledger, Read
from storage.collector import MAX_CALLS, Collected, Collector, Want
from storage.plan import Part, Plan, Stretch
from storage.reader import Reader
from storage.recall import Recall

READ_ROWS = 300_000  # stored rows read at once, 14 MB
MAX_WINDOW = 50_000_000  # buckets; 95 years of minutes


@dataclass(slots=True)
class Walk:
    """The state of one question. ``run`` is called once."""

    ask: Ask
    record: Record
    provider: Upstream | None
    reader: Reader
    collector: Collector
    deadline: float

    now: int = field(default_factory=lambda: clock.now_ms())  # noqa: PLW0108 - a test may replace the function
    zone: Zone = field(init=False)
    plan: Plan = field(init=False)
    settled: int = field(init=False)  # buckets that end here or before are final
    parts: list[Candles] = field(default_factory=list)
    answered: list[tuple[Span, SourceKind]] = field(default_factory=list)
    fetched: Spans = field(default_factory=Spans)
    pending: Spans = field(default_factory=Spans)
    refused: Spans = field(default_factory=Spans)
    unavailable: Spans = field(default_factory=Spans)
    forming: dict[Timeframe, Candles] = field(default_factory=dict)
    live: bool = False  # whether what is forming came from whoever follows it
    failure: ProviderError | None = None
    calls: int = 0
    exhausted: bool = False
    before: tuple[int, float | None] | None = None  # the close before an instant, once it was looked up

    def __post_init__(self) -> None:
        """Work out the zones and what is final."""
        days = zone(self.record.timezone)
        self.zone = self.ask.zone or days
        capabilities = self.provider.capabilities if self.provider else None
        self.plan = Plan(
            self.record, capabilities, Ledger(), self.reader.levels, self.timeframe, self.zone, days, self.now
        )
        self.settled = self.plan.settled

    @property
    def timeframe(self) -> Timeframe:
        """The timeframe asked for."""
        return self.ask.series.timeframe

    @property
    def covered(self) -> Spans:
        """What was answered."""
        return Spans(span for span, _ in self.answered)

    @property
    def forward(self) -> bool:
        """Whether the oldest candles from ``since`` are wanted, rather than the newest."""
        return self.ask.since is not None

    async def run(self, failure: ProviderError | None) -> Answer:
        """Walk. Raises the provider's error where nothing at all could be answered because of it."""
        self.failure = failure
        await self._learn()
        after = self.timeframe.next(self.now, self.zone)
        hi = after if self.ask.until is None else min(after, self.timeframe.ceil(self.ask.until, self.zone))
        lo = self._earliest(hi) if self.ask.since is None else min(hi, self.timeframe.ceil(self.ask.since, self.zone))
        reached, cut = await self._walk(lo, hi)
        return await self._answer(reached, cut=cut)

    async def _learn(self) -> None:
        # A provider may learn what it can do while it is asked: that its feed is a delayed one, say.
        capabilities = self.provider.capabilities if self.provider else None
        self.plan = replace(self.plan, ledger=await self.reader.ledger.load(self.record.id), capabilities=capabilities)

    def _earliest(self, hi: int) -> int:
        """Where walking back ends: nothing is stored, and nothing can be fetched, before."""
        known = [next(iter(spans)).since for spans in self.plan.ledger.spans.values() if spans]
        if self.provider or self.failure:
            known.append(self.record.first_available or 0)
        first = min([hi, *(self.timeframe.floor(instant, self.zone) for instant in known)])
        return max(first, self.timeframe.ceil(0, self.zone))  # what opens before 1970 has no Timestamp

    async def _walk(self, lo: int, hi: int) -> tuple[Span, bool]:
        """Answer window after window; the span that was answered, and whether the budget cut it short."""
        wanted, found, growth = self.ask.limit + 1, 0, 1
        reached = Span(lo, lo) if self.forward else Span(hi, hi)
        while found < wanted and reached != Span(lo, hi):
            buckets = min((wanted - found) * growth, MAX_WINDOW)
            asked = self._window(reached, buckets, lo, hi)
            answered, count = await self._answer_window(asked)
            reached = Span(min(reached.since, answered.since), max(reached.until, answered.until))
            if self.exhausted:
                return reached, True
            found += count
            if self.ask.fill is Fill.PREVIOUS:
                found = len(await self._filled(concat(self.parts).sorted(), reached))
            if count * 4 < buckets and answered == asked:
                growth *= 4
        return reached, False

    def _window(self, reached: Span, buckets: int, lo: int, hi: int) -> Span:
        if self.forward:
            return Span(reached.until, min(hi, self.timeframe.shift(reached.until, buckets, self.zone)))
        return Span(max(lo, self.timeframe.shift(reached.since, -buckets, self.zone)), reached.since)

    async def _answer_window(self, window: Span) -> tuple[Span, int]:
        """Fetch what a window lacks, read it, and keep its candles; what of it was answered, and how many candles."""
        await self._fetch(window)
        window = self._cut(window) if self.exhausted else window
        recall = Recall(self.reader, self.record, self.plan)
        kept, parts = await recall.look(window)
        tail = self.plan.tail(window, self.forming)
        parts, stored = [*parts, *tail], recall.look_below(tail)
        unread = [stretch for part in parts for stretch in part.stretches if stretch not in stored]
        reads = [self._read(stretch) for stretch in unread]
        async with self.reader.room.taken(sum(map(_most, reads))):
            batches = await asyncio.gather(*map(self.reader.candles.load, reads)) if reads else []
            whole = window
            for stretch, read, batch in zip(unread, reads, batches, strict=True):
                stored[stretch] = batch
                window = self._read_part(window, read, batch)
            made = [self._fold(part, stored) for part in parts]
            for part, candles in zip(parts, made, strict=True):
                recall.keep(part, part.span if window == whole else part.span & window, candles, stored)
        found = [candles.between(window) for candles in (kept.candles, *made)]
        self.parts += found
        self.answered += [(span & window, SourceKind.CACHE) for span in kept.spans]
        self.answered += [(part.span & window, part.source) for part in parts]
        return window, sum(map(len, found))

    def _read(self, stretch: Stretch) -> Read:
        rows = max(READ_ROWS, 2 * -(-self.timeframe.nominal_ms // stretch.timeframe.nominal_ms))
        span, base = stretch.span, stretch.timeframe
        return Read(self.record.id, base, span, rows, newest=not self.forward, relation=stretch.relation)

    def _read_part(self, window: Span, read: Read, batch: Candles) -> Span:
        """The part of a window that was read whole, where there were more rows than one read takes."""
        if len(batch) < read.limit:
            return window
        if read.newest:
            return Span(max(window.since, self.timeframe.next(int(batch.timestamp[0]), self.zone)), window.until)
        return Span(window.since, min(window.until, self.timeframe.floor(int(batch.timestamp[-1]), self.zone)))

    def _fold(self, part: Part, stored: Mapping[Stretch, Candles]) -> Candles:
        rows = concat([stored[stretch] for stretch in part.stretches])
        if part.forming is None:
            return rows if part.stretches[0].timeframe == self.timeframe else fold(rows, self.timeframe, self.zone)
        rows = rows.merge(self.forming[part.forming].between(part.span))
        folded = fold(rows, self.timeframe, self.zone)
        return folded.with_closed(folded.timestamp < self.settled)

    # Asking the provider

    async def _fetch(self, window: Span) -> None:
        """Have what a window lacks fetched; wait for it until the deadline, or not at all."""
        # Nobody waits for more once something is late: what lies further on is for the next question to ask.
        if self.provider is None or self.failure or self.pending:
            return
        if not self.forward and any(span.since <= window.until <= span.until for span in self.unavailable):
            self.unavailable |= Spans([window])  # older than what it does not have
            return
        spans = list(self.plan.missing(window, self.forming))
        if not self.forward:
            spans.reverse()
        budget = max(0, MAX_CALLS - self.calls)
        self.exhausted = len(spans) > budget
        tasks = {}
        for span in spans[:budget]:
            if (base := self.plan.choose(span)) is None:
                self.unavailable |= Spans([span])
                continue
            wanted = Span(
                max(span.since, self._listed_from(base)), min(span.until, base.next(self.now, self.plan.days))
            )
            if self._at_hand(base, wanted):
                continue
            task = self.collector.collect(self.record, self.provider, Want(base, wanted, newest=not self.forward))
            tasks[task] = (span, base)
        if not tasks:
            return
        waits = self.ask.wait is Wait.COMPLETE
        timeout = max(0.0, self.deadline - asyncio.get_running_loop().time()) if waits else 0
        done, late = await asyncio.wait(tasks, timeout=timeout)
        self.pending |= Spans(tasks[task][0] for task in late)
        for task in done:
            self._take(task.result(), *tasks[task])
        await self._learn()

    def _at_hand(self, base: Timeframe, wanted: Span) -> bool:
        """Whether all that lacks is what is not final, and that was fetched a moment ago."""
        final_until = base.floor(self.now - self.plan.settle_ms, self.plan.days)
        ahead = Spans([wanted]) - self.plan.ledger.spans.get(base, Spans())
        if not ahead or next(iter(ahead)).since < final_until:
            return False
        recent = self.collector.recent(self.record, base, ahead)
        if recent is None:
            return False
        self.forming[base], self.live = recent.candles[recent.candles.timestamp >= final_until], recent.live
        return True

    def _listed_from(self, base: Timeframe) -> int:
        first = self.record.first_available
        return 0 if first is None else base.floor(first, self.plan.days)

    def _take(self, result: Collected, span: Span, base: Timeframe) -> None:
        self.calls += result.calls
        self.exhausted |= result.exhausted
        self.failure = self.failure or result.failure
        self.fetched |= result.fetched
        self.refused |= result.refused
        # What a delayed feed does not have yet says nothing of what is older.
        delay = self.provider.capabilities.delay_ms if self.provider else 0
        self.unavailable |= result.unavailable - Spans([Span(self.now - delay, self.now)] if delay else [])
        if span.until > self.settled and not result.failure and not result.exhausted:
            self.forming[base] = result.forming
            self.live = result.live

    def _cut(self, window: Span) -> Span:
        """The part of a window next to where we came from, up to the first span that there were no calls left for."""
        explained = Spans(s.outer(self.timeframe, self.zone) for s in self.pending | self.refused | self.unavailable)
        unasked = list(self.plan.missing(window, self.forming) - explained)
        if not unasked:
            return window
        return Span(window.since, unasked[0].since) if self.forward else Span(unasked[-1].until, window.until)

    # The answer

    async def _answer(self, reached: Span, *, cut: bool) -> Answer:
        candles = concat(self.parts).sorted()
        if self.ask.fill is Fill.PREVIOUS:
            candles = await self._filled(candles, reached)
        if len(candles) > self.ask.limit:
            cut = True
            if self.forward:
                candles = candles[: self.ask.limit]
                reached = Span(reached.since, self.timeframe.next(int(candles.timestamp[-1]), self.zone))
            else:
                candles = candles[-self.ask.limit :]
        if not self.forward and len(candles):
            first = int(candles.timestamp[0])
            # The answer begins at its first candle, so a gap before it is not shown: it is said to be more, and the next
            # page says what is wrong with it.
            if self.provider or self.failure:
                older = Span(reached.since, min(first, self.settled))
                beyond = Spans(span for _, span, _ in self.plan.beyond_reach(older))
                cut = cut or bool(Spans([older]) - self.covered - beyond)
            reached = Span(first, reached.until)
        gaps = self._gaps(reached)
        if not len(candles) and not self.covered & Spans([reached]):
            self._raise_failure()
        # Where no candle was met yet, flat ones lie between the one before and here: the next page begins here again.
        flat = self.ask.fill is Fill.PREVIOUS and not len(candles) and not gaps
        return Answer(
            self.record,
            self.ask,
            self.zone,
            candles,
            tuple(gaps),
            tuple(self._sources(reached)),
            cut,
            reached.until if cut and self.forward else None,
            (reached.until if flat else reached.since) if cut and not self.forward else None,
        )

    def _raise_failure(self) -> None:
        starts = isinstance(self.failure, ProviderStarting)
        if self.failure and not (starts and self.ask.wait is Wait.AVAILABLE):
            raise self.failure
        if self.pending and self.ask.wait is Wait.COMPLETE:
            name = self.provider.name if self.provider else "The provider"
            raise ProviderUnavailable(
                f"{name} did not answer in time; what it still sends is kept: ask again.", retry_after=5
            )

    async def _filled(self, candles: Candles, reached: Span) -> Candles:
        """The candles with flat ones at the previous close in the settled, covered buckets that have none.

        Behind a gap nothing is filled before the next candle: what the previous close was is not known there.
        """
        filled = [candles]
        for span in self.covered & Spans([Span(reached.since, min(reached.until, self.settled))]):
            inside = candles.between(span)
            led = len(inside) and inside.timestamp[0] == span.since
            # Who walks back comes to the previous close by itself.
            looks = self.forward and span.since == reached.since and not led
            before = await self._close_before(span.since) if looks else None
            known = (
                span
                if before is not None
                else Span(int(inside.timestamp[0]) if len(inside) else span.until, span.until)
            )
            filled.append(fill_previous(inside, self._wanted_of(known), before))
        return concat(filled).sorted()

    def _wanted_of(self, span: Span) -> Int64s:
        """The openings in ``span``, as many as an answer can want of them: a span may hold fifty years of minutes."""
        if self.forward:
            span &= Span(span.since, self.timeframe.shift(span.since, self.ask.limit + 2, self.zone))
        else:
            span &= Span(self.timeframe.shift(span.until, -self.ask.limit - 2, self.zone), span.until)
        return self.timeframe.edges(span.since, span.until, self.zone)

    async def _close_before(self, instant: int) -> float | None:
        """The close of the last candle before ``instant``, if nothing after it is unknown: a question of its own."""
        if self.before and self.before[0] == instant:
            return self.before[1]
        ask = replace(self.ask, since=None, until=instant, limit=1, fill=Fill.NONE)
        walk = Walk(ask, self.record, self.provider, self.reader, self.collector, self.deadline, now=self.now)
        try:
            answer = await walk.run(self.failure)
        except ProviderError:
            return None
        close = float(answer.candles.close[-1]) if len(answer.candles) and answer.complete else None
        self.before = (instant, close)
        return close

    def _gaps(self, reached: Span) -> list[Gap]:
        """What of the settled buckets is not covered, each span with the first reason that fits it."""
        rest = Spans([reached & Span(reached.since, self.settled)]) - self.covered
        if not rest:
            return []
        reasons = [(reason, Spans([span]), detail) for reason, span, detail in self.plan.beyond_reach(reached)]
        reasons += [
            (GapReason.PENDING, self.pending, "The provider is being asked: ask again in a moment."),
            (GapReason.REFUSED, self.refused, "The provider sent rows that are no candles."),
            (GapReason.UNAVAILABLE, self.unavailable, "The provider does not have it."),
            self._last_reason(rest),
        ]
        gaps: list[Gap] = []
        for reason, spans, detail in reasons:
            hit = rest & Spans(span.outer(self.timeframe, self.zone) for span in spans)
            gaps += [Gap(span.since, span.until, reason, detail) for span in hit]
            rest -= hit
        return sorted(gaps, key=lambda gap: gap.since)

    def _last_reason(self, rest: Spans) -> tuple[GapReason, Spans, str]:
        if isinstance(self.failure, ProviderRefused | UnknownSymbol | Unsupported):
            return GapReason.REFUSED, rest, self.failure.message
        if isinstance(self.failure, ProviderStarting):
            return GapReason.PENDING, rest, self.failure.message
        if self.failure:
            return GapReason.OUTAGE, rest, self.failure.message
        if self.provider is None:
            return GapReason.NOT_FETCHED, rest, "It was not imported, and there is no provider to ask."
        return GapReason.NOT_FETCHED, rest, "It has not been asked for yet."

    def _sources(self, reached: Span) -> list[SourceSpan]:
        """Who answered which part, ascending."""
        ahead = Spans([Span(self.settled, reached.until)] if self.forming else [])
        fresh = self.fetched if self.live else self.fetched | ahead
        live = ahead - fresh
        sources = []
        for span, kind in self.answered:
            within = Spans([span & reached])
            sources += [SourceSpan(s.since, s.until, SourceKind.PROVIDER, self.now) for s in within & fresh]
            sources += [SourceSpan(s.since, s.until, SourceKind.LIVE) for s in within & live]
            sources += [SourceSpan(s.since, s.until, kind) for s in within - fresh - live]
        return _joined(sorted(sources, key=lambda source: source.since))


def _joined(sources: list[SourceSpan]) -> list[SourceSpan]:
    """Neighbours of one kind as one."""
    joined: list[SourceSpan] = []
    for source in sources:
        if joined and joined[-1].until == source.since and joined[-1].source == source.source:
            source = replace(joined.pop(), until=source.until)  # noqa: PLW2901
        joined.append(source)
    return joined


def _most(read: Read) -> int:
    """How many rows a read may bring."""
    return min(read.limit, -(-(read.span.until - read.span.since) // read.timeframe.nominal_ms))
