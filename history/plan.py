"""The plan of a query: which relation answers which part of a window, and which parts are missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from candlegraph import clock
from candlegraph.answer import GapReason
from candlegraph.candle import Candles
from candlegraph.provider import Capabilities
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, ORIGIN_MS, Timeframe
from candlegraph.trading_calendar import TradingCalendar, calendar_of
from candlegraph.zone import Zone
from history.window_plan import PlanPart, StoredSpan, UnreachableSpan, WindowPlan
from storage.coverage import Coverage
from storage.relations import BASE_RELATION, Aggregates

CHEAP_CALLS = 3  # the most calls for 1m candles; beyond, a native timeframe is fetched instead

NOTHING_LACKS: Mapping[Timeframe, Spans] = MappingProxyType({})

_DECADE = Timeframe(10, "y")
_DAY = Timeframe(1, "d")
_UNITS = ((clock.DAY_MS, "days"), (clock.HOUR_MS, "hours"), (clock.MINUTE_MS, "minutes"))


def kept_history(capabilities: Capabilities) -> str | None:
    """The detail of a gap where a provider keeps only so much history; None if it declares no limit."""
    if (count := capabilities.max_lookback_candles) is not None:
        return f"The provider keeps only its newest {count} candles of each timeframe."
    if (reach := capabilities.max_lookback_ms) is None:
        return None
    size, unit = next((size, unit) for size, unit in _UNITS if reach >= 2 * size or size == clock.MINUTE_MS)
    return f"The provider keeps only the candles of the last {reach // size} {unit}."


@dataclass(frozen=True, slots=True)
class Plan:
    """Finds the sources of buckets of ``timeframe`` in ``zone``. ``days`` is the zone of stored days and longer candles."""

    record: InstrumentRecord
    capabilities: Capabilities | None  # None: there is no provider to ask
    coverage: Coverage
    aggregates: Aggregates
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
        """How long after its end a candle is final and available."""
        return self.capabilities.final_after_ms if self.capabilities else 0

    @property
    def earliest(self) -> int:
        """No candle that opens before is available: the listing date if known, else the provider's limit."""
        if self.record.first_available is not None:
            return self.record.first_available
        return self.capabilities.earliest_ms if self.capabilities else 0

    @property
    def beginning(self) -> int:
        """The beginning of the known time: 1970, or the first known candle if that is older."""
        known = [next(iter(spans)).since for spans in self.coverage.spans.values() if spans]
        return max(clock.OLDEST_MS, min([0, self.record.first_available or 0, *known]))

    @property
    def settled(self) -> int:
        """Buckets that end here or before are final."""
        return self.timeframe.settled(self.now - self.settle_ms, self.zone)

    @property
    def calendar(self) -> TradingCalendar | None:
        """The trading calendar of the instrument, if it has one."""
        return calendar_of(self.record)

    def grid(self, base: Timeframe) -> Zone:
        """The zone in which stored buckets of ``base`` open and end: days of a calendar end with their session."""
        return self.days if base.width_ms or self.calendar is None else self.calendar.regular

    def select(self, candles: Candles, base: Timeframe) -> Candles:
        """The candles that buckets are made of: those of ``base`` within the trading hours; days are made of them already."""
        return candles[self.zone.hours.contains(candles.timestamp)] if self.zone.hours and base.width_ms else candles

    def covered(self, base: Timeframe, window: Span) -> Spans:
        """The spans where ``base`` is complete: the covered ones, and at the ends of gaps what is known to be empty.

        Known to be empty is the time outside the listing in the outer buckets, and outside the trading hours.
        """
        known = self.coverage.spans.get(base, Spans()) & Spans([window])
        first, ended = self.record.first_available, self.record.ended_at
        if first is not None:
            known |= Spans([Span(self.timeframe.floor(first, self.zone), base.floor(first, self.days)) & window])
        if ended is not None:
            known |= Spans([Span(base.ceil(ended, self.days), self.timeframe.ceil(ended, self.zone)) & window])
        return known | self._closed(Spans([window]) - known, base) if self.calendar else known

    def _closed(self, gaps: Spans, base: Timeframe) -> Spans:
        """The buckets of ``base`` in gaps before the first and after the last trading in each."""
        hours, grid = self.zone.hours or (self.calendar and self.calendar.extended.hours), self.grid(base)
        if not hours:
            return Spans()
        return gaps - Spans(Span(*hours.trim(gap.since, gap.until)).outer(base, grid) for gap in gaps)

    def window(self, window: Span, forming: Collection[Timeframe] = (), head: Span | None = None) -> WindowPlan:
        """Plan the whole buckets of ``window``; ``forming`` are the timeframes whose forming candles are known.

        ``head`` is a longer span to plan the settled buckets in. An empty ``head`` leaves them out, because the cache has
        them all.
        """
        head = window if head is None else head
        rest = window if head else Span(max(window.since, self.settled), window.until)
        final = tuple(part for part in self._final(head) if part.span & window) if head else ()
        out_of_reach = tuple(self.unreachable(window))
        missing = Spans([rest]) - Spans(part.span for part in final) - Spans(item.span for item in out_of_reach)
        return self.with_forming(WindowPlan(window, final, (), missing, out_of_reach), forming)

    def with_forming(self, planned: WindowPlan, forming: Collection[Timeframe]) -> WindowPlan:
        """The same plan, now that the forming candles of ``forming`` are known: they answer the tail."""
        tail = self._tail(planned.window, forming)
        return (
            replace(planned, tail=tail, missing=planned.missing - Spans(part.span for part in tail))
            if tail
            else planned
        )

    def _final(self, window: Span) -> list[PlanPart]:
        """The parts that answer settled buckets: 1m candles and their aggregates first, then native candles, coarse to fine.

        Each part has one stored span.
        """
        rest = Spans([window & Span(window.since, self.settled)])
        parts: list[PlanPart] = []
        for base in self._bases():
            level, relation = self._coarsest_aggregate(rest) if base == MINUTE else (base, BASE_RELATION)
            whole = self._retained(self.covered(base, window), level).inner(self.timeframe, self.zone) & rest
            parts += [PlanPart(span, (StoredSpan(span, level, relation),)) for span in whole]
            rest -= whole
        return sorted(parts, key=lambda part: part.span)

    def _tail(self, window: Span, forming: Collection[Timeframe]) -> tuple[PlanPart, ...]:
        """The part that answers the unsettled buckets, if any: made of the first of ``forming`` that is covered up to now."""
        tail = window & Span(self.settled, window.until)
        for base in forming if tail else ():
            final = base.settled(self.now - self.final_after_ms, self.grid(base))
            listed = base.floor(self.record.first_available or 0, self.days)  # before it nothing needs to be covered
            if self.covered(base, window).covers(Span(max(tail.since, listed), final)):
                decomposed = tuple(self._decompose(Span(tail.since, final))) if base == MINUTE else ()
                stored_spans = decomposed or (StoredSpan(Span(tail.since, final), base),)
                if all(self._retained(Spans([s.span]), s.timeframe).covers(s.span) for s in stored_spans):
                    return (PlanPart(tail, stored_spans, base),)
        return ()

    def unreachable(self, window: Span) -> list[UnreachableSpan]:
        """The spans that no call can return, with the reasons."""
        found = [*self._outside_listing(window), *self._outside_capabilities(window)]
        horizon = self.coverage.horizon
        if horizon is not None and set(self.native_timeframes()) <= {MINUTE}:
            older = Span(window.since, self.timeframe.ceil(horizon, self.zone)) & window
            found.append(UnreachableSpan(GapReason.UNAVAILABLE, older, "1-minute candles are not kept that long."))
        return [item for item in found if item.span]

    def _outside_listing(self, window: Span) -> Iterator[UnreachableSpan]:
        first, ended = self.record.first_available, self.record.ended_at
        if first is not None:
            before = Span(window.since, self.timeframe.floor(first, self.zone)) & window
            yield UnreachableSpan(GapReason.BEFORE_LISTING, before, "The symbol was not listed yet.")
        if ended is not None:
            after = Span(self.timeframe.ceil(ended, self.zone), window.until) & window
            yield UnreachableSpan(GapReason.AFTER_DELISTING, after, "The symbol is not traded any more.")

    def _outside_capabilities(self, window: Span) -> Iterator[UnreachableSpan]:
        if not self.capabilities:
            return
        if self.record.first_available is None:
            before = Span(window.since, self.timeframe.ceil(self.earliest, self.zone)) & window
            yield UnreachableSpan(GapReason.UNAVAILABLE, before, "The provider has no data that old.")
        if self.capabilities.delay_ms:
            edge = self.timeframe.floor(self.now - self.capabilities.delay_ms, self.zone)
            recent = Span(edge, self.settled) & window
            yield UnreachableSpan(GapReason.UNAVAILABLE, recent, "The provider's feed is delayed: it comes later.")
        reaches = [self.capabilities.reach_ms(base) for base in self.native_timeframes()]
        if reaches and None not in reaches:
            edge = self.timeframe.ceil(self.now - max(reach or 0 for reach in reaches), self.zone)
            older = Span(window.since, edge) & window
            yield UnreachableSpan(GapReason.UNAVAILABLE, older, kept_history(self.capabilities) or "")

    def choose_timeframe(self, span: Span, lacking: Mapping[Timeframe, Spans] = NOTHING_LACKS) -> Timeframe | None:
        """The timeframe to fetch: 1m while that is cheap, else the coarsest native one that folds into ours.

        ``lacking`` are the spans that a timeframe did not return: only coarser ones, which reach further back, are chosen there.
        """
        assert self.capabilities  # noqa: S101 - callers have a provider
        failed = max((base.nominal_ms for base, spans in lacking.items() if Spans([span]) & spans), default=0)
        native = sorted(self.native_timeframes(), key=lambda base: -base.nominal_ms)
        native = [base for base in native if base.nominal_ms > failed]
        reaches = {base: self.capabilities.reach_ms(base) for base in native}
        within = [base for base, reach in reaches.items() if reach is None or self.now - reach <= span.since]
        if self.coverage.horizon is not None and span.since < self.coverage.horizon:
            within = [base for base in within if base != MINUTE]
            native = [base for base in native if base != MINUTE]
        if MINUTE in within:
            minutes = Spans([span & Span(span.since, self.now)]) - self.covered(MINUTE, span)
            calls = sum(gap.until - gap.since for gap in minutes) / 60_000 / self.capabilities.max_rows_per_call
            if calls <= CHEAP_CALLS:
                return MINUTE
        return next(iter(within or native), None)

    def fetchable(self, span: Span, base: Timeframe) -> Span:
        """The part of ``span`` that the provider may have at ``base``: from the listing to the forming candle."""
        first = self.record.first_available
        listed = self.earliest if first is None else base.floor(first, self.days)
        return Span(max(span.since, listed), min(span.until, base.next(self.now, self.days)))

    def native_timeframes(self) -> list[Timeframe]:
        """The provider's own timeframes that fold into ours."""
        return [base for base in self.capabilities.timeframes if self._serves(base)] if self.capabilities else []

    def _retained(self, spans: Spans, base: Timeframe) -> Spans:
        """The part of ``spans`` whose candles of ``base`` are still stored: minutes before the horizon are dropped."""
        return spans - self.coverage.dropped(base)

    @property
    def _decade(self) -> int:
        """The instant from which timeframes must nest; a multiple of ten years, so that cached results are reused."""
        return _DECADE.floor(self.beginning)

    def _nests(self, base: Timeframe) -> bool:
        """Whether candles of ``base`` fold into ours; stored days do so only in the instrument's zone."""
        same_days = self.zone.name == self.days.name or (self.zone.is_utc and self.days.is_utc)
        return (bool(base.width_ms) or same_days) and base.nests_in(self.timeframe, self.zone, self._decade)

    def _bases(self) -> list[Timeframe]:
        return sorted(filter(self._serves, self.coverage.spans), key=lambda base: (base != MINUTE, -base.nominal_ms))

    def _serves(self, base: Timeframe) -> bool:
        """Whether our buckets may be made of ``base``: within trading hours of minutes, or of the one source of the days."""
        if self.zone.hours is None:
            return self._nests(base)
        native = self.record.native_days and not self.timeframe.width_ms
        return base == (_DAY if native else MINUTE) and (not native or base.nests_in(self.timeframe, self.zone))

    def _usable_aggregates(self, since: int) -> list[tuple[Timeframe, str]]:
        """The aggregates that fold into ours from ``since`` on, the coarsest first. Their days are days of UTC."""
        found = [
            (level, relation) for level, relation in self.aggregates.items() if self._aggregate_nests(level, since)
        ]
        return sorted(found, key=lambda item: -item[0].nominal_ms)

    def _aggregate_nests(self, level: Timeframe, since: int) -> bool:
        if (hours := self.zone.hours) is None:
            return (bool(level.width_ms) or self.zone.is_utc) and level.nests_in(
                self.timeframe, self.zone, self._decade
            )
        within = not self.timeframe.width_ms or self.timeframe.width_ms % (level.width_ms or 1) == 0
        return bool(level.width_ms) and within and hours.grid_ms(_DECADE.floor(since), ORIGIN_MS) % level.width_ms == 0

    def _coarsest_aggregate(self, rest: Spans) -> tuple[Timeframe, str]:
        since = next((span.since for span in rest), self.beginning)
        return next(iter(self._usable_aggregates(since)), (MINUTE, BASE_RELATION))

    def _decompose(self, span: Span) -> Iterator[StoredSpan]:
        """Split a covered ``span`` of minutes into the fewest stored candles that give it exactly: months, days, ... minutes."""
        reached = span.since
        for level, relation in [*self._usable_aggregates(span.since), (MINUTE, BASE_RELATION)]:
            until = level.floor(span.until)
            if until > reached and level.floor(reached) == reached:
                yield StoredSpan(Span(reached, until), level, relation)
                reached = until
