"""What one window of a question has of the cache, what is left to be read, and what is kept of that."""

from __future__ import annotations

from dataclasses import dataclass

from candlegraph.candle import Candles
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from storage.cache import MAX_CHUNKS, Found
from storage.chunks import BUCKETS, Edition
from storage.plan import Part, Plan
from storage.reader import Reader

_NOTHING = Found(Spans(), Candles.empty())
CHEAP_ROWS = 2_048  # so many stored rows are read for a whole chunk where a part of it is asked for


@dataclass(slots=True)
class Recall:
    """The cache's share in one window, of which everything is known that ``plan`` says."""

    reader: Reader
    record: Record
    plan: Plan
    edition: Edition | None = None

    async def look(self, window: Span) -> tuple[Found, list[Part]]:
        """What the cache has of the settled buckets, and the parts to read for the others; these may reach beyond ``window``."""
        cache, plan = self.reader.cache, self.plan
        settled = Span(window.since, min(window.until, plan.settled))
        edition = Edition.of(self.record, plan.ledger.revision, plan.timeframe, plan.zone)
        if not cache or not settled or edition.count(settled) > MAX_CHUNKS:
            return _NOTHING, plan.final(window)
        self.edition, chunks = edition, edition.chunks(settled)
        wide = Span(chunks[0].span.since, min(chunks[-1].span.until, plan.settled))
        parts = [part for part in plan.final(wide) if part.span & settled]
        covered = Spans(part.span for part in parts)
        found = cache.find(chunks, settled, {})
        lacks = (covered & Spans([settled])) - found.spans
        if not lacks:
            return found, []
        lacking = [chunk for chunk in chunks if lacks & Spans([chunk.span])]
        shelved = await self.reader.shelved([chunk for chunk in lacking if covered.covers(chunk.span)])
        if shelved:
            found = cache.find(chunks, settled, shelved)
        unread = Spans(chunk.span for chunk in lacking if chunk not in shelved) - found.spans
        return found, [piece for part in parts for piece in part.within(unread & Spans([self._room(part, settled)]))]

    def keep(self, part: Part, span: Span, candles: Candles) -> None:
        """Keep what was read of a part."""
        if self.edition and self.reader.cache and part.forming is None:
            self.reader.cache.keep(self.edition, span, candles.between(span))

    def _room(self, part: Part, settled: Span) -> Span:
        """How much of a part is read: whole chunks where they are cheap, so that others can use them as well."""
        rows = BUCKETS * self.plan.timeframe.nominal_ms / part.stretches[0].timeframe.nominal_ms
        return part.span if rows <= CHEAP_ROWS else part.span & settled
