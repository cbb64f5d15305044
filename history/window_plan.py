"""The plan of one window: the stored spans that answer its buckets, and the spans that are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from candlegraph.answer import GapReason, SourceKind
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from storage.relations import BASE_RELATION


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span of stored candles in one relation, at the relation's timeframe."""

    span: Span
    timeframe: Timeframe
    relation: str = BASE_RELATION


@dataclass(frozen=True, slots=True)
class PlanPart:
    """A part of a window and the stored spans it is folded from; with ``forming``, that timeframe's forming candles too."""

    span: Span
    stored_spans: tuple[StoredSpan, ...]
    forming: Timeframe | None = None

    @property
    def source(self) -> SourceKind:
        """Whether it comes from an aggregate or from the base relation."""
        aggregated = any(stored.relation != BASE_RELATION for stored in self.stored_spans)
        return SourceKind.AGGREGATE if aggregated else SourceKind.STORE

    def within(self, spans: Spans) -> list[PlanPart]:
        """Its parts in ``spans``, which are whole buckets; only for final parts."""
        return [PlanPart(span, (replace(self.stored_spans[0], span=span),)) for span in Spans([self.span]) & spans]


class UnreachableSpan(NamedTuple):
    """A span that no call can return, and the reason."""

    reason: GapReason
    span: Span
    detail: str


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How the buckets of ``window`` are answered, by the coverage known when the plan was made.

    Query, cache lookup and fetches read this one value. Only a fetch changes the coverage, and after it the query makes a new
    plan. Forming candles may arrive without a new plan; see `Plan.with_forming`. The plan does not choose the native
    timeframe of a missing span: `Plan.choose_timeframe` does before its fetch, since a window may have thousands of missing
    spans, and a query fetches a dozen of them.
    """

    window: Span
    final: tuple[PlanPart, ...]  # each answers settled buckets; the outer ones may extend past the window
    tail: tuple[PlanPart, ...]  # answers the buckets that are not settled: one part or none
    missing: Spans  # buckets that the store lacks and the provider may have, including the forming one
    unreachable: tuple[UnreachableSpan, ...]

    @property
    def covered(self) -> Spans:
        """The spans of the final parts."""
        return Spans(part.span for part in self.final)
