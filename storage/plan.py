"""What is known of a series, and which relation answers which part of a window."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from candlegraph.answer import GapReason, SourceKind
from candlegraph.provider import Capabilities
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Zone
from storage.candles import Ledger
from storage.levels import BASE, Levels

FEW_CALLS = 3  # so many calls for 1m candles are worth it; beyond, a native timeframe is asked instead


@dataclass(frozen=True, slots=True)
class Stretch:
    """Stored candles of ``span`` in one relation, at its timeframe."""

    span: Span
    timeframe: Timeframe
    relation: str = BASE


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a window: what it is folded of, and whether the forming candles of ``forming`` come on top."""

    span: Span
    stretches: tuple[Stretch, ...]
    forming: Timeframe | None = None

    @property
    def source(self) -> SourceKind:
        """Where it comes from."""
        aggregated = any(stretch.relation != BASE for stretch in self.stretches)
        return SourceKind.AGGREGATE if aggregated else SourceKind.STORE

    def within(self, spans: Spans) -> list[Part]:
        """What of it lies in ``spans``, whole buckets; for parts that are final."""
        return [Part(span, (replace(self.stretches[0], span=span),)) for span in Spans([self.span]) & spans]


@dataclass(frozen=True, slots=True)
class Plan:
    """How buckets of ``timeframe`` in ``zone`` can be had. ``days`` is the zone that stored days and longer are in."""

    record: Record
    capabilities: Capabilities | None  # None: there is no provider to ask
    ledger: Ledger
    levels: Levels
    timeframe: Timeframe
    zone: Zone
    days: Zone
    now: int

    @property
    def settle_ms(self) -> int:
        """How long after its end a candle is final."""
        return self.capabilities.settle_ms if self.capabilities else 0

    @property
    def final_after_ms(self) -> int:
        """How long after its end a candle is final and can be had."""
        return self.capabilities.final_after_ms if self.capabilities else 0

    @property
    def settled(self) -> int:
        """Buckets that end here or before are final."""
        return self.timeframe.floor(self.now - self.settle_ms, self.zone)

    def known(self, base: Timeframe, window: Span) -> Spans:
        """Where ``base`` is settled: by the ledger, and in our first and last bucket by the listing and its end."""
        known = self.ledger.spans.get(base, Spans()) & Spans([window])
        first, ended = self.record.first_available, self.record.ended_at
        if first is not None:
            known |= Spans([Span(self.timeframe.floor(first, self.zone), base.floor(first, self.days)) & window])
        if ended is not None:
            known |= Spans([Span(base.ceil(ended, self.days), self.timeframe.ceil(ended, self.zone)) & window])
        return known

    def final(self, window: Span) -> list[Part]:
        """What answers which settled buckets, whole ones: 1m candles and their aggregates where they can, then the coarser
        native ones before the finer. Each is made of one stretch.
        """
        rest = Spans([window & Span(window.since, self.settled)])
        parts: list[Part] = []
        for base in self._bases():
            level, relation = self._level() if base == MINUTE else (base, BASE)
            whole = self._kept(self.known(base, window), level).inner(self.timeframe, self.zone) & rest
            parts += [Part(span, (Stretch(span, level, relation),)) for span in whole]
            rest -= whole
        return sorted(parts, key=lambda part: part.span)

    def tail(self, window: Span, forming: Collection[Timeframe]) -> list[Part]:
        """What answers the buckets that are not settled, if anything: it needs one of ``forming``, the timeframes whose newest
        candles are at hand.
        """
        tail = window & Span(self.settled, window.until)
        for base in forming if tail else ():
            final = base.floor(self.now - self.final_after_ms, self.days)
            listed = base.floor(self.record.first_available or 0, self.days)  # before it there is nothing to know
            if self.known(base, window).covers(Span(max(tail.since, listed), final)):
                ladder = tuple(self._ladder(Span(tail.since, final))) if base == MINUTE else ()
                stretches = ladder or (Stretch(Span(tail.since, final), base),)
                if all(self._kept(Spans([s.span]), s.timeframe).covers(s.span) for s in stretches):
                    return [Part(tail, stretches, base)]
        return []

    def missing(self, window: Span, forming: Collection[Timeframe]) -> Spans:
        """The buckets that the store cannot answer and the provider could, the forming one among them."""
        answered = Spans(part.span for part in [*self.final(window), *self.tail(window, forming)])
        return Spans([window]) - answered - Spans(span for _, span, _ in self.beyond_reach(window))

    def beyond_reach(self, window: Span) -> list[tuple[GapReason, Span, str]]:
        """What there is no use in asking for, and why."""
        beyond: list[tuple[GapReason, Span, str]] = []
        first, ended = self.record.first_available, self.record.ended_at
        if first is not None:
            before = Span(window.since, self.timeframe.floor(first, self.zone)) & window
            beyond.append((GapReason.BEFORE_LISTING, before, "The symbol was not listed yet."))
        if ended is not None:
            after = Span(self.timeframe.ceil(ended, self.zone), window.until) & window
            beyond.append((GapReason.AFTER_DELISTING, after, "The symbol is not traded any more."))
        if self.capabilities and self.capabilities.delay_ms:
            edge = self.timeframe.floor(self.now - self.capabilities.delay_ms, self.zone)
            recent = Span(edge, self.settled) & window
            beyond.append((GapReason.UNAVAILABLE, recent, "The provider's feed is delayed: it comes later."))
        if self.capabilities:
            reaches = [self.capabilities.reach_ms(base) for base in self.native()]
            if reaches and None not in reaches:
                edge = self.timeframe.ceil(self.now - max(reach or 0 for reach in reaches), self.zone)
                older = Span(window.since, edge) & window
                beyond.append((GapReason.UNAVAILABLE, older, "The provider does not reach back so far."))
        horizon = self.ledger.horizon
        if horizon is not None and set(self.native()) <= {MINUTE}:
            older = Span(window.since, self.timeframe.ceil(horizon, self.zone)) & window
            beyond.append((GapReason.UNAVAILABLE, older, "1-minute candles are not kept for so long."))
        return [item for item in beyond if item[1]]

    def choose(self, span: Span) -> Timeframe | None:
        """The timeframe to ask the provider for: 1m while that is cheap, else the coarsest native one that folds into ours."""
        assert self.capabilities  # noqa: S101 - there is somebody to ask
        native = sorted(self.native(), key=lambda base: -base.nominal_ms)
        reaches = {base: self.capabilities.reach_ms(base) for base in native}
        within = [base for base, reach in reaches.items() if reach is None or self.now - reach <= span.since]
        if self.ledger.horizon is not None and span.since < self.ledger.horizon:
            within = [base for base in within if base != MINUTE]
            native = [base for base in native if base != MINUTE]
        if MINUTE in within:
            minutes = Spans([span & Span(span.since, self.now)]) - self.known(MINUTE, span)
            calls = sum(gap.until - gap.since for gap in minutes) / 60_000 / self.capabilities.max_rows_per_call
            if calls <= FEW_CALLS:
                return MINUTE
        return next(iter(within or native), None)

    def native(self) -> list[Timeframe]:
        """The provider's own timeframes that fold into ours."""
        return [base for base in self.capabilities.timeframes if self._nests(base)] if self.capabilities else []

    def _kept(self, spans: Spans, base: Timeframe) -> Spans:
        """Where there still are candles of ``base`` to be read: minutes before the horizon are dropped."""
        return spans - self.ledger.behind(base)

    def _nests(self, base: Timeframe) -> bool:
        """Whether candles of ``base`` fold into ours; stored days are days of the instrument's zone alone."""
        same_days = self.zone.name == self.days.name or (self.zone.is_utc and self.days.is_utc)
        return (bool(base.width_ms) or same_days) and base.nests_in(self.timeframe, self.zone)

    def _bases(self) -> list[Timeframe]:
        return sorted(filter(self._nests, self.ledger.spans), key=lambda base: (base != MINUTE, -base.nominal_ms))

    def _levels(self) -> list[tuple[Timeframe, str]]:
        """The aggregates that fold into ours, the coarsest first. Their days are those of UTC."""
        found = [
            (level, relation)
            for level, relation in self.levels.items()
            if (level.width_ms or self.zone.is_utc) and level.nests_in(self.timeframe, self.zone)
        ]
        return sorted(found, key=lambda item: -item[0].nominal_ms)

    def _level(self) -> tuple[Timeframe, str]:
        return next(iter(self._levels()), (MINUTE, BASE))

    def _ladder(self, span: Span) -> Iterator[Stretch]:
        """``span``, of minutes that are all known, in as few stored candles as tell it exactly: months, days, ... minutes."""
        reached = span.since
        for level, relation in [*self._levels(), (MINUTE, BASE)]:
            until = level.floor(span.until)
            if until > reached and level.floor(reached) == reached:
                yield Stretch(Span(reached, until), level, relation)
                reached = until
