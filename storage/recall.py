"""What one window of a question has of the cache, what is left to be read, and what is kept of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.zone import UTC
from storage.cache import Cache, Found
from storage.chunks import BUCKETS, Chunk, Edition
from storage.levels import BASE
from storage.plan import Part, Plan, Stretch
from storage.reader import Reader

_NOTHING = Found(Spans(), Candles.empty())
# So many stored rows are read for a whole chunk where a part of it is asked for. Far fewer than `storage.walk.READ_ROWS`:
# a read that begins before its window must not end before it.
CHEAP_ROWS = 2_048


@dataclass(slots=True)
class Recall:
    """The cache's share in one window, of which everything is known that ``plan`` says."""

    reader: Reader
    record: Record
    plan: Plan
    below: dict[Stretch, Candles] = field(default_factory=dict)

    async def look(self, window: Span) -> tuple[Found, list[Part]]:
        """What the cache has of the settled buckets, and the parts to read for the others; these may reach beyond ``window``."""
        cache, plan = self.reader.cache, self.plan
        if cache is not None and (found := self._all(cache, Span(window.since, min(window.until, plan.settled)))):
            return found, []
        parts = plan.final(window)
        if cache is None or not parts:
            return _NOTHING, parts
        known = Span(parts[0].span.since, parts[-1].span.until)
        chunks = self._edition().chunks(known)
        wide = Span(chunks[0].span.since, min(chunks[-1].span.until, plan.settled))
        parts = [part for part in plan.final(wide) if part.span & known]
        covered = Spans(part.span for part in parts)
        wanted = covered & Spans([known])
        found = cache.find(chunks, known, {})
        lacking = _lacking(chunks, wanted - found.spans)
        if not lacking:
            return found, []
        whole = [chunk for chunk in lacking if not chunk.long and covered.covers(chunk.span)]
        if shelved := await self.reader.shelved(whole):
            # What came may have put out what was found before.
            found = cache.find(chunks, known, shelved)
            lacking = _lacking(chunks, wanted - found.spans)
        unread = Spans(chunk.span for chunk in lacking) - found.spans
        return found, [piece for part in parts for piece in part.within(unread & Spans([self._room(part, known)]))]

    def _all(self, cache: Cache, settled: Span) -> Found | None:
        """What is kept, where that is all: then there is nothing to plan."""
        chunks = self._edition().chunks(settled) if settled else []
        if not chunks or chunks[0].long:
            return None
        found = cache.find(chunks, settled, {})
        return found if found.spans.covers(settled) else None

    def look_below(self, tail: Sequence[Part]) -> dict[Stretch, Candles]:
        """What is kept of the final candles that the forming one is made of, too."""
        for stretch in [stretch for part in tail for stretch in part.stretches]:
            if not stretch.span:
                self.below[stretch] = Candles.empty()
            elif self.reader.cache is not None:
                found = self.reader.cache.find(self._edition(stretch).chunks(stretch.span), stretch.span, {})
                if found.spans.covers(stretch.span):
                    self.below[stretch] = found.candles
        return dict(self.below)

    def keep(self, part: Part, span: Span, candles: Candles, stored: Mapping[Stretch, Candles]) -> None:
        """Keep what a part was answered with on ``span``; of one that is not final, what lies below the forming candle."""
        if part.forming is None:
            self._keep(self._edition(), span, candles.between(span))
        elif span == part.span:
            for stretch in part.stretches:
                if stretch not in self.below:
                    self._keep(self._edition(stretch), stretch.span, stored[stretch])

    def _keep(self, edition: Edition, span: Span, candles: Candles) -> None:
        if self.reader.cache is not None and span:
            self.reader.cache.keep(edition, span, candles)

    def _edition(self, stretch: Stretch | None = None) -> Edition:
        """What is asked for; or stored candles as they are: those of an aggregate are UTC's, others the instrument's."""
        revision, plan = self.plan.ledger.revision, self.plan
        if stretch is None:
            return Edition.of(self.record, revision, plan.timeframe, plan.zone)
        days = plan.days if stretch.relation == BASE else UTC
        return Edition.of(self.record, revision, stretch.timeframe, days, stretch.relation)

    def _room(self, part: Part, known: Span) -> Span:
        """How much of a part is read: whole chunks where they are cheap, so that others can use them as well."""
        rows = BUCKETS * self.plan.timeframe.nominal_ms / part.stretches[0].timeframe.nominal_ms
        return part.span if rows <= CHEAP_ROWS else part.span & known


def _lacking(chunks: Sequence[Chunk], lacks: Spans) -> list[Chunk]:
    return [chunk for chunk in chunks if lacks & Spans([chunk.span])] if lacks else []
