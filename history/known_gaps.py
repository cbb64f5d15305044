"""The covered spans of a series up to now, and its gaps with reasons."""

from __future__ import annotations

from candlegraph.answer import Gap, GapReason
from candlegraph.span import Span, Spans
from history.plan import Plan


def known_and_missing(plan: Plan) -> tuple[Spans, tuple[Gap, ...]]:
    """The covered spans of a series up to now, and the reasons of its gaps."""
    planned = plan.window(Span(plan.beginning, plan.settled))
    covered, imported = planned.covered, plan.capabilities is None
    first = min((span.since for span in covered), default=plan.settled)
    known = Span(
        first if plan.record.first_available is None else plan.beginning,
        max((span.until for span in covered), default=0) if imported else plan.settled,
    )
    rest = Spans([known]) - covered
    holes = [
        Gap(span.since, span.until, item.reason, item.detail)
        for item in planned.unreachable
        for span in rest & Spans([item.span])
    ]
    rest -= Spans(item.span for item in planned.unreachable)
    holes += [Gap(s.since, s.until, GapReason.NOT_FETCHED, "It has not been fetched yet.") for s in rest]
    return covered, tuple(sorted(holes, key=lambda gap: gap.since))
