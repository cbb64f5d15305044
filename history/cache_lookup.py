"""The cache lookup for one window of a query: it finds cached candles and the parts still to read, and caches these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC
from history.batch_reader import BatchReader
from history.plan import Plan
from history.window_plan import PlanPart, StoredSpan, WindowPlan
from storage.cache.chunks import BUCKETS_PER_CHUNK, CacheKey, Chunk
from storage.cache.memory import CacheHits, hits_within
from storage.relations import BASE_RELATION

_NOTHING = CacheHits(Spans(), Candles.empty())
# The most stored rows to read for a whole chunk if a query requests a part of it. Far below `history.query.MAX_ROWS_PER_READ`,
# so that a read which begins before the window does not end before it.
CHEAP_READ_ROWS = 2_048


@dataclass(slots=True)
class CacheLookup:
    """The lookup of one window for one plan: after a fetch, the query makes a new plan and a new lookup."""

    reader: BatchReader
    record: InstrumentRecord
    plan: Plan
    window: Span
    hits: CacheHits | None = field(
        init=False
    )  # every settled bucket of the window, if the process has them all in memory
    final_tail: dict[StoredSpan, Candles] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look in memory first: if everything is there, no plan is needed."""
        self.hits = self._find_complete(self.settled) if self.settled else None

    @property
    def settled(self) -> Span:
        """The settled part of the window."""
        return Span(self.window.since, min(self.window.until, self.plan.settled))

    @property
    def head(self) -> Span:
        """The span to plan for the settled buckets: whole chunks, the unit of the cache; empty if all are in memory."""
        if self.hits is not None:
            return Span(0, 0)
        return self._cache_key().whole_chunks(self.settled) if self.reader.cache and self.settled else self.window

    async def find(self, planned: WindowPlan) -> tuple[CacheHits, list[PlanPart]]:
        """Return the settled buckets found, and the parts still to read; a part may extend past the window."""
        cache = self.reader.cache
        if cache is None or not planned.final:
            return self.hits or _NOTHING, list(planned.final)
        known = Span(planned.final[0].span.since, planned.final[-1].span.until) & self.window
        chunks, covered = self._cache_key().chunks(known), planned.covered
        entries = cache.get(chunks)
        found = hits_within(entries, known)
        missed = overlapping(chunks, (covered & Spans([known])) - found.spans)
        if not missed:
            return found, []
        shared = await self.reader.read_shared([c for c in missed if not c.is_long and covered.covers(c.span)])
        if shared:
            found = hits_within({c: e for c in chunks if (e := shared.get(c) or entries.get(c))}, known)
            missed = [chunk for chunk in missed if chunk not in shared]
        unread = Spans(chunk.span for chunk in missed) - found.spans
        return found, widened(planned.final, unread, known, self.plan.timeframe)

    def find_below(self, tail: Sequence[PlanPart]) -> dict[StoredSpan, Candles]:
        """Return those final candles in memory of which the forming candle is folded."""
        for stored_span in [stored_span for part in tail for stored_span in part.stored_spans]:
            if not stored_span.span:
                self.final_tail[stored_span] = Candles.empty()
            elif found := self._find_complete(stored_span.span, stored_span):
                self.final_tail[stored_span] = found.candles
        return dict(self.final_tail)

    def put(self, part: PlanPart, span: Span, candles: Candles, stored: Mapping[StoredSpan, Candles]) -> None:
        """Cache the candles that answered ``part`` on ``span``; if it is forming, only the final ones it is folded of."""
        if part.forming is None:
            self._put(self._cache_key(), span, candles.between(span))
        elif span == part.span:
            for stored_span in part.stored_spans:
                if stored_span not in self.final_tail:
                    self._put(self._cache_key(stored_span), stored_span.span, stored[stored_span])

    def _put(self, key: CacheKey, span: Span, candles: Candles) -> None:
        if self.reader.cache is not None and span:
            self.reader.cache.put(key, span, candles)

    def _find_complete(self, span: Span, stored_span: StoredSpan | None = None) -> CacheHits | None:
        """The cached candles of ``span`` if all of them are in memory, else None."""
        cache = self.reader.cache
        if cache is None:
            return None
        chunks = self._cache_key(stored_span).chunks(span)
        if stored_span is None and chunks[0].is_long:
            return None
        found = hits_within(cache.get(chunks), span)
        return found if found.spans.covers(span) else None

    def _cache_key(self, stored_span: StoredSpan | None = None) -> CacheKey:
        """The key of the requested series or of a stored one, whose days are in UTC (aggregates) or the instrument's zone."""
        revision, plan = self.plan.coverage.revision, self.plan
        if stored_span is None:
            return CacheKey.create(self.record, revision, plan.timeframe, plan.zone)
        days = plan.grid(stored_span.timeframe) if stored_span.relation == BASE_RELATION else UTC
        return CacheKey.create(self.record, revision, stored_span.timeframe, days, stored_span.relation)


def widened(parts: Sequence[PlanPart], unread: Spans, asked: Span, timeframe: Timeframe) -> list[PlanPart]:
    """The parts to read of ``unread`` chunks: the whole chunk if that is cheap, for later queries; else the requested part.

    ``timeframe`` is that of the buckets in a chunk.
    """
    narrow = unread & Spans([asked])
    return [piece for part in parts for piece in part.within(unread if _is_cheap(part, timeframe) else narrow)]


def overlapping(chunks: Sequence[Chunk], spans: Spans) -> list[Chunk]:
    """The chunks that overlap ``spans``."""
    return [chunk for chunk in chunks if spans & Spans([chunk.span])] if spans else []


def _is_cheap(part: PlanPart, timeframe: Timeframe) -> bool:
    return BUCKETS_PER_CHUNK * timeframe.nominal_ms <= CHEAP_READ_ROWS * part.stored_spans[0].timeframe.nominal_ms
