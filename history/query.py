"""Answers one candles query, window by window, until the limit is reached or nothing is left to read or fetch."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from candlegraph.answer import Answer, CandleRequest, Fill, SourceKind, Wait
from candlegraph.candle import Candles, concat
from candlegraph.clock import OLDEST_MS
from candlegraph.errors import ProviderError, ProviderStarting, ProviderUnavailable
from candlegraph.resample import fold
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import series_zone
from candlegraph.zone import Zone, zone
from history.admission import EXEMPT_ROWS
from history.assembly import QueryResult, assemble
from history.batch_reader import BatchReader
from history.cache_lookup import CacheLookup
from history.filling import FlatCandleFiller
from history.plan import Plan
from history.query_fetches import QueryContext, QueryFetches
from history.window_plan import PlanPart, StoredSpan, WindowPlan
from storage.batches import CandleRead
from storage.coverage import Coverage

MAX_ROWS_PER_READ = 300_000  # stored rows read at once, 14 MB
MAX_WINDOW_BUCKETS = 50_000_000  # buckets; 95 years of minutes


@dataclass(slots=True)
class CandleQuery:
    """One execution of a query; call `run` once."""

    request: CandleRequest
    context: QueryContext
    reader: BatchReader

    plan: Plan = field(init=False)
    fetches: QueryFetches = field(init=False)
    found: list[Candles] = field(default_factory=list)
    answered: list[tuple[Span, SourceKind]] = field(default_factory=list)
    close_before: tuple[int, float | None] | None = None  # the close before an instant, once it was looked up

    def __post_init__(self) -> None:
        """Compute the zones and the final span."""
        record, provider = self.context.record, self.context.provider
        days = zone(record.timezone)
        capabilities = provider.capabilities if provider else None
        levels, timeframe, request = self.reader.levels, self.request.series.timeframe, self.request
        zone_ = series_zone(record, timeframe, request.session, request.zone)
        self.plan = Plan(record, capabilities, Coverage(), levels, timeframe, zone_, days, self.context.now)
        self.fetches = QueryFetches(self.request, self.context)

    @property
    def timeframe(self) -> Timeframe:
        """The requested timeframe."""
        return self.plan.timeframe

    @property
    def zone(self) -> Zone:
        """The zone of its buckets."""
        return self.plan.zone

    @property
    def forward(self) -> bool:
        """Whether the oldest candles from ``since`` are wanted, rather than the newest."""
        return self.request.since is not None

    async def run(self, failure: ProviderError | None) -> Answer:
        """Answer. Raises the provider's error if it left nothing to answer with."""
        self.fetches.outcome.failure = failure
        await self._refresh_plan()
        # Taken first: a change logged during the query may be reported again after this revision, but is never missed.
        revision = self.plan.coverage.revisions.below(self.timeframe)
        reached = await self._read_windows(self._requested_span())
        candles = concat(self.found).sorted()
        if self.request.fill is Fill.PREVIOUS:
            candles = await self._filled(candles, reached)
        outcome = self.fetches.outcome
        findings = QueryResult(candles, reached, outcome.exhausted, tuple(self.answered), outcome)
        if not len(candles) and not findings.covered & Spans([reached]):
            self._raise_failure()
        return replace(assemble(self.request, self.plan, findings), revision=revision)

    async def _refresh_plan(self) -> None:
        """Plan with the present coverage and capabilities: the provider may have detected that its feed is delayed."""
        provider = self.context.provider
        capabilities = provider.capabilities if provider else None
        coverage = await self.reader.coverage.load(self.context.record.id)
        self.plan = replace(self.plan, coverage=coverage, capabilities=capabilities)
        if (first := self.fetches.outcome.first_available) is not None:
            self.context = replace(self.context, record=replace(self.context.record, first_available=first))
            self.plan = replace(self.plan, record=self.context.record)

    def _requested_span(self) -> Span:
        """The whole requested buckets, up to the forming one."""
        until = self._next_opening()
        if self.request.until is not None:
            until = min(until, self.timeframe.ceil(self.request.until, self.zone))
        if self.request.since is None:
            return Span(self._earliest(until), until)
        return Span(min(until, self.timeframe.ceil(self.request.since, self.zone)), until)

    def _next_opening(self) -> int:
        """The opening of the bucket after the present one; of the present one if there was no trading in it yet."""
        now, anchor = self.context.now, self.zone.anchor
        opened = self.timeframe.floor(now, self.zone)
        began = anchor is None or operator.lt(*anchor.trim(opened, now + 1))
        return self.timeframe.next(now, self.zone) if began else opened

    def _earliest(self, until: int) -> int:
        """The oldest instant of a query without ``since``: nothing before it is stored or can be fetched."""
        known = [next(iter(spans)).since for spans in self.plan.coverage.spans.values() if spans]
        if self.context.provider or self.fetches.outcome.failure:
            listed = self.context.record.first_available
            known.append(self.timeframe.ceil(self.plan.earliest, self.zone) if listed is None else listed)
        first = min([until, *(self.timeframe.floor(instant, self.zone) for instant in known)])
        return max(first, self.timeframe.ceil(OLDEST_MS, self.zone))  # the scalar Timestamp has no older instants

    async def _read_windows(self, asked: Span) -> Span:
        """Answer window after window; return the answered span, which is shorter if the budget of calls ended."""
        wanted, found, growth = self.request.limit + 1, 0, 1
        reached = Span(asked.since, asked.since) if self.forward else Span(asked.until, asked.until)
        while found < wanted and reached != asked:
            buckets = min((wanted - found) * growth, MAX_WINDOW_BUCKETS)
            window = self._next_window(reached, buckets, asked)
            answered, count = await self._answer_window(window, wanted - found if growth > 1 else 0)
            reached = Span(min(reached.since, answered.since), max(reached.until, answered.until))
            if self.fetches.outcome.exhausted:
                break
            found += count
            if self.request.fill is Fill.PREVIOUS:
                found = len(await self._filled(concat(self.found).sorted(), reached))
            if count * 4 < buckets and answered == window:
                growth *= 4
        return reached

    def _next_window(self, reached: Span, buckets: int, asked: Span) -> Span:
        if self.forward:
            return Span(reached.until, min(asked.until, self.timeframe.shift(reached.until, buckets, self.zone)))
        return Span(max(asked.since, self.timeframe.shift(reached.since, -buckets, self.zone)), reached.since)

    # One window

    async def _answer_window(self, window: Span, enough: int) -> tuple[Span, int]:
        """Fetch the gaps of a window, read it and keep its candles; return the answered part and its number of candles.

        In a window longer than the first it stops fetching at ``enough`` candles.
        """
        lookup, planned = self._plan_window(window)
        if enough and (known := self.fetches.known_part(self.plan, planned)):
            window = known
            lookup, planned = self._plan_window(window)
        if await self.fetches.fetch(self.plan, planned, enough):
            lookup, planned = await self._plan_again(window)
            if await self.fetches.fetch_coarser(self.plan, planned):
                lookup, planned = await self._plan_again(window)
            self.fetches.give_up(self.plan, planned)
        else:
            planned = self.plan.with_forming(planned, self.fetches.outcome.forming)
        partial = self.fetches.outcome.exhausted or self.fetches.outcome.satisfied
        if partial and (cut := self.fetches.trim_window(self.plan, planned)) != window:
            lookup, planned = self._plan_window(cut)
        hits, parts = await lookup.find(planned)
        answered, made = await self._read_parts([*parts, *planned.tail], planned, lookup)
        found = [candles.between(answered) for candles in (hits.candles, *made)]
        self.found += found
        self.answered += [(span & answered, SourceKind.CACHE) for span in hits.spans]
        self.answered += [(part.span & answered, part.source) for part in [*parts, *planned.tail]]
        return answered, sum(map(len, found))

    async def _plan_again(self, window: Span) -> tuple[CacheLookup, WindowPlan]:
        await self._refresh_plan()
        return self._plan_window(window)

    def _plan_window(self, window: Span) -> tuple[CacheLookup, WindowPlan]:
        lookup = CacheLookup(self.reader, self.context.record, self.plan, window)
        return lookup, self.plan.window(window, self.fetches.outcome.forming, lookup.head)

    async def _read_parts(
        self, parts: Sequence[PlanPart], planned: WindowPlan, lookup: CacheLookup
    ) -> tuple[Span, list[Candles]]:
        """Read, fold and cache ``parts``; return the part of the window that was read completely, and their candles."""
        window, stored = planned.window, lookup.find_below(planned.tail)
        unread = [stored_span for part in parts for stored_span in part.stored_spans if stored_span not in stored]
        reads = [self._read(stored_span) for stored_span in unread]
        async with self.reader.row_budget.reserve(sum(read.max_rows for read in reads), self.context.deadline):
            batches = await asyncio.gather(*map(self.reader.candles.load, reads)) if reads else []
            for stored_span, read, batch in zip(unread, reads, batches, strict=True):
                stored[stored_span] = batch
                window = self._part_read(window, read, batch)
            if (rows := sum(map(len, batches))) > EXEMPT_ROWS:
                await self.reader.row_budget.folding.turn(rows)
            made = [self._fold(part, stored) for part in parts]
            for part, candles in zip(parts, made, strict=True):
                lookup.put(part, part.span if window == planned.window else part.span & window, candles, stored)
        return window, made

    def _read(self, stored_span: StoredSpan) -> CandleRead:
        rows = max(MAX_ROWS_PER_READ, 2 * -(-self.timeframe.nominal_ms // stored_span.timeframe.nominal_ms))
        record, base = self.context.record, stored_span.timeframe
        return CandleRead(
            record.id, base, stored_span.span, rows, newest=not self.forward, relation=stored_span.relation
        )

    def _part_read(self, window: Span, read: CandleRead, batch: Candles) -> Span:
        """The part of a window that was read completely, if there were more rows than one read returns."""
        if len(batch) < read.limit:
            return window
        if read.newest:
            return Span(max(window.since, self.timeframe.next(int(batch.timestamp[0]), self.zone)), window.until)
        return Span(window.since, min(window.until, self.timeframe.floor(int(batch.timestamp[-1]), self.zone)))

    def _fold(self, part: PlanPart, stored: Mapping[StoredSpan, Candles]) -> Candles:
        rows, base = concat([stored[stored_span] for stored_span in part.stored_spans]), part.stored_spans[0].timeframe
        if part.forming is None:
            rows = self.plan.select(rows, base)
            return rows if base == self.timeframe else fold(rows, self.timeframe, self.zone)
        rows = rows.merge(self.fetches.outcome.forming[part.forming].between(part.span))
        rows = self.plan.select(rows, base)
        folded = fold(rows, self.timeframe, self.zone)
        return folded.with_closed(folded.timestamp < self.plan.settled)

    # Spans without a trade, and spans without an answer

    async def _filled(self, candles: Candles, reached: Span) -> Candles:
        """``candles``, with flat ones in the settled, covered buckets that have none."""
        filling = FlatCandleFiller(self.request, self.timeframe, self.zone)
        settled = Span(reached.since, min(reached.until, self.plan.settled))
        known = Spans(span for span, _ in self.answered) & Spans([settled])
        looks = filling.needs_close_before(candles, known, reached.since)
        return filling.fill(candles, known, await self._close_before(reached.since) if looks else None)

    async def _close_before(self, instant: int) -> float | None:
        """The close of the last candle before ``instant``, by a query of its own; None if there may be a later candle."""
        if self.close_before and self.close_before[0] == instant:
            return self.close_before[1]
        request = replace(self.request, since=None, until=instant, limit=1, fill=Fill.NONE)
        try:
            answer = await CandleQuery(request, self.context, self.reader).run(self.fetches.outcome.failure)
        except ProviderError:
            return None
        close = float(answer.candles.close[-1]) if len(answer.candles) and answer.complete else None
        self.close_before = (instant, close)
        return close

    def _raise_failure(self) -> None:
        outcome, provider = self.fetches.outcome, self.context.provider
        starts = isinstance(outcome.failure, ProviderStarting)
        if outcome.failure and not (starts and self.request.wait is Wait.AVAILABLE):
            raise outcome.failure
        if outcome.pending and self.request.wait is Wait.COMPLETE:
            name = provider.name if provider else "The provider"
            raise ProviderUnavailable(
                f"{name} did not answer in time; the fetch goes on in the background: ask again.", retry_after=5
            )
