"""Assembles the answer of a query from its results: candles, gaps with their reasons, sources, cursors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from candlegraph.answer import Answer, CandleRequest, Fill, Gap, GapReason, SourceKind, SourceSpan
from candlegraph.candle import Candles
from candlegraph.errors import FetchLimited, FetchPaused, ProviderRefused, ProviderStarting, UnknownSymbol, Unsupported
from candlegraph.span import Span, Spans
from history.plan import Plan, kept_history
from history.query_fetches import FetchOutcome
from history.window_plan import UnreachableSpan

NOT_PROVED = "The provider does not have it, or its answers prove nothing about it: the server asks again later."


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The results of a query when it ends."""

    candles: Candles  # ascending; filled on request
    reached: Span  # all windows that it has answered
    cut: bool  # the budget of calls ended before the query did
    answered: tuple[tuple[Span, SourceKind], ...]
    outcome: FetchOutcome

    @property
    def covered(self) -> Spans:
        """The spans with an answer."""
        return Spans(span for span, _ in self.answered)


def assemble(request: CandleRequest, plan: Plan, findings: QueryResult) -> Answer:
    """Make the answer; ``plan`` is the query's last one."""
    reached, forward = findings.reached, request.since is not None
    unknown = Spans([Span(reached.since, min(reached.until, plan.settled))]) - findings.covered
    out_of_reach = plan.unreachable(reached) if unknown else []
    candles, shown = _apply_limit(request, plan, findings)
    more = findings.cut or len(candles) < len(findings.candles)
    if not forward and len(candles) and (plan.capabilities or findings.outcome.failure):
        # The answer begins at its first candle and shows no gap before it. A gap there sets ``has_more``:
        # the next page has the gap and its reason.
        reachable = unknown - Spans(item.span for item in out_of_reach)
        more = more or bool(reachable & Spans([Span(reached.since, shown.since)]))
    gaps = explain_gaps(plan, findings.outcome, unknown & Spans([shown]), out_of_reach)
    # A page without a candle, back in time: flat ones follow the next older candle, so the next page reads this span again.
    flat = request.fill is Fill.PREVIOUS and not len(candles) and not gaps
    return Answer(
        plan.record,
        request,
        plan.zone,
        candles,
        tuple(gaps),
        tuple(source_spans(plan, findings, shown)),
        more,
        shown.until if more and forward else None,
        (shown.until if flat else shown.since) if more and not forward else None,
    )


def _apply_limit(request: CandleRequest, plan: Plan, findings: QueryResult) -> tuple[Candles, Span]:
    """The candles within the limit, and the span that they answer."""
    candles, reached = findings.candles, findings.reached
    if request.since is None:
        candles = candles[-request.limit :]
        return candles, Span(int(candles.timestamp[0]), reached.until) if len(candles) else reached
    if len(candles) > request.limit:
        candles = candles[: request.limit]
        reached = Span(reached.since, plan.timeframe.next(int(candles.timestamp[-1]), plan.zone))
    return candles, reached


def explain_gaps(plan: Plan, outcome: FetchOutcome, unknown: Spans, out_of_reach: list[UnreachableSpan]) -> list[Gap]:
    """The settled buckets that are not covered, as gaps; each has the first reason that applies."""
    if not unknown:
        return []
    reasons = [(item.reason, Spans([item.span]), item.detail) for item in out_of_reach]
    reasons += [
        (GapReason.PENDING, outcome.pending, "It is being fetched: ask again in a moment."),
        (GapReason.REFUSED, outcome.refused, "The provider sent invalid rows."),
        (GapReason.UNAVAILABLE, outcome.unavailable, _unavailable_detail(plan)),
        (
            GapReason.PENDING,
            outcome.unproved,
            "The provider reports no time: only a newer candle proves that this one has ended.",
        ),
    ]
    gaps: list[Gap] = []
    for reason, spans, detail in reasons:
        hit = unknown & Spans(span.outer(plan.timeframe, plan.zone) for span in spans)
        gaps += [Gap(span.since, span.until, reason, detail) for span in hit]
        unknown -= hit
    reason, detail = _last_reason(plan, outcome)
    gaps += [Gap(span.since, span.until, reason, detail) for span in unknown]
    return sorted(gaps, key=lambda gap: gap.since)


def _unavailable_detail(plan: Plan) -> str:
    """The detail where answers prove nothing; a provider that keeps a number of traded candles has no edge in time."""
    traits = plan.capabilities
    return (traits and not traits.lookback_counts_quiet and kept_history(traits)) or NOT_PROVED


def _last_reason(plan: Plan, outcome: FetchOutcome) -> tuple[GapReason, str]:
    failure = outcome.failure
    if isinstance(failure, ProviderRefused | UnknownSymbol | Unsupported):
        return GapReason.REFUSED, failure.message
    if isinstance(failure, ProviderStarting):
        return GapReason.PENDING, failure.message
    if isinstance(failure, FetchLimited | FetchPaused):
        return GapReason.NOT_FETCHED, failure.message
    if failure:
        return GapReason.OUTAGE, failure.message
    if plan.capabilities is None:
        return GapReason.NOT_FETCHED, "It was not imported, and there is no provider to ask."
    return GapReason.NOT_FETCHED, "It has not been fetched yet."


def source_spans(plan: Plan, findings: QueryResult, reached: Span) -> list[SourceSpan]:
    """The source of each part of ``reached``, ascending."""
    outcome = findings.outcome
    ahead = Spans([Span(plan.settled, reached.until)] if outcome.forming else [])
    fresh = outcome.fetched if outcome.live else outcome.fetched | ahead
    live = ahead - fresh
    found = []
    for span, kind in findings.answered:
        within = Spans([span & reached])
        found += [SourceSpan(s.since, s.until, SourceKind.PROVIDER, plan.now) for s in within & fresh]
        found += [SourceSpan(s.since, s.until, SourceKind.LIVE) for s in within & live]
        found += [SourceSpan(s.since, s.until, kind) for s in within - fresh - live]
    return _merge_adjacent(sorted(found, key=lambda source: source.since))


def _merge_adjacent(sources: list[SourceSpan]) -> list[SourceSpan]:
    """Merge neighbours with the same source."""
    joined: list[SourceSpan] = []
    for source in sources:
        if joined and joined[-1].until == source.since and joined[-1].source == source.source:
            source = replace(joined.pop(), until=source.until)  # noqa: PLW2901
        joined.append(source)
    return joined
