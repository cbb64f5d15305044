"""The fetches of one query, and their outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from candlegraph.answer import CandleRequest, Wait
from candlegraph.candle import Candles
from candlegraph.errors import FetchLimited, ProviderError
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Upstream
from history.fetch_job import MAX_CALLS_PER_FETCH, FetchRequest, FetchResult
from history.fetch_limits import UNLIMITED, FetchAllowance
from history.fetcher import Fetcher
from history.plan import Plan, WindowPlan


@dataclass(frozen=True, slots=True)
class QueryContext:
    """The instrument of a query, its provider (None: there is none), and the time: by what clock, and until when."""

    record: InstrumentRecord
    provider: Upstream | None
    fetcher: Fetcher
    deadline: float  # on the event loop's clock
    now: int  # ms, UTC
    allowance: FetchAllowance = UNLIMITED


@dataclass(slots=True)
class FetchOutcome:
    """What came of all fetches of a query."""

    failure: ProviderError | None = None
    fetched: Spans = field(default_factory=Spans)
    pending: Spans = field(default_factory=Spans)  # still being fetched at the deadline
    refused: Spans = field(default_factory=Spans)  # the provider's rows there are no candles
    unavailable: Spans = field(default_factory=Spans)  # the provider does not have it
    ended: Spans = field(default_factory=Spans)  # newer than everything the provider has, at whatever timeframe
    unproved: Spans = field(default_factory=Spans)  # the provider has not proved yet that they are over
    forming: dict[Timeframe, Candles] = field(default_factory=dict)
    live: bool = False  # the forming candles came from a feed
    calls: int = 0
    exhausted: bool = False  # the budget of calls ended before the missing spans did


@dataclass(slots=True)
class QueryFetches:
    """Fetches what the windows of a query lack, within its budget of calls and its deadline."""

    request: CandleRequest
    context: QueryContext
    outcome: FetchOutcome = field(default_factory=FetchOutcome)

    @property
    def newest_first(self) -> bool:
        """Whether the query goes back in time."""
        return self.request.since is None

    async def fetch(self, plan: Plan, planned: WindowPlan) -> bool:
        """Fetch what a window lacks; wait until the deadline, or not at all. True if its coverage may have changed."""
        outcome, window = self.outcome, planned.window
        # A query that has something pending fetches no more: the next query will.
        if self.context.provider is None or outcome.failure or outcome.pending:
            return False
        beyond_reach = outcome.unavailable - outcome.ended
        if self.newest_first and any(span.since <= window.until <= span.until for span in beyond_reach):
            outcome.unavailable |= Spans([window])  # older than what the provider does not have
            return False
        missing = planned.missing - outcome.ended
        if refusal := await self._refused(plan, missing, self.context.provider):
            outcome.failure = refusal
            return False
        tasks = self._start(plan, missing, self.context.provider)
        if not tasks:
            return False
        waits = self.request.wait is Wait.COMPLETE
        timeout = max(0.0, self.context.deadline - asyncio.get_running_loop().time()) if waits else 0
        done, late = await asyncio.wait(tasks, timeout=timeout)
        outcome.pending |= Spans(tasks[task][0] for task in late)
        for task in done:
            self._add(plan, task.result(), *tasks[task])
        return True

    async def _refused(self, plan: Plan, missing: Spans, provider: Upstream) -> FetchLimited | None:
        """Count the rows that the missing spans may bring for the operation's caller; the refusal where they are too many."""
        calls, rows = max(0, MAX_CALLS_PER_FETCH - self.outcome.calls), 0
        for span in list(missing)[:calls]:
            if base := plan.choose_timeframe(span):
                wanted = plan.fetchable(span, base)
                length = -(-(wanted.until - wanted.since) // base.nominal_ms)
                rows += min(length, calls * provider.capabilities.max_rows_per_call)
        return await self.context.allowance.spend(rows)

    def trim_window(self, plan: Plan, planned: WindowPlan) -> Span:
        """The part of a window next to where the query came from, up to the first span that no calls were left for."""
        outcome, window = self.outcome, planned.window
        explained = outcome.pending | outcome.refused | outcome.unavailable | outcome.unproved
        unasked = list(planned.missing - Spans(span.outer(plan.timeframe, plan.zone) for span in explained))
        if not unasked:
            return window
        return Span(unasked[-1].until, window.until) if self.newest_first else Span(window.since, unasked[0].since)

    def _start(
        self, plan: Plan, missing: Spans, provider: Upstream
    ) -> dict[asyncio.Task[FetchResult], tuple[Span, Timeframe]]:
        """Start a fetch for each missing span that there are calls left for, unless its candles are at hand."""
        spans, budget = list(missing), max(0, MAX_CALLS_PER_FETCH - self.outcome.calls)
        if self.newest_first:
            spans.reverse()
        self.outcome.exhausted = len(spans) > budget
        tasks = {}
        for span in spans[:budget]:
            if (base := plan.choose_timeframe(span)) is None:
                self.outcome.unavailable |= Spans([span])
                continue
            wanted = plan.fetchable(span, base)
            if not self._has_forming(plan, base, wanted):
                request = FetchRequest(base, wanted, newest=self.newest_first)
                tasks[self.context.fetcher.fetch(plan.record, provider, request)] = (span, base)
        return tasks

    def _has_forming(self, plan: Plan, base: Timeframe, wanted: Span) -> bool:
        """Whether all that is missing is not final, and was fetched a moment ago."""
        final_until = base.floor(plan.now - plan.settle_ms, plan.days)
        ahead = Spans([wanted]) - plan.coverage.spans.get(base, Spans())
        if not ahead or next(iter(ahead)).since < final_until:
            return False
        recent = self.context.fetcher.forming.recent((plan.record.id, base), ahead)
        if recent is None:
            return False
        self.outcome.forming[base] = recent.candles[recent.candles.timestamp >= final_until]
        self.outcome.live = recent.live
        return True

    def _add(self, plan: Plan, result: FetchResult, span: Span, base: Timeframe) -> None:
        outcome = self.outcome
        outcome.calls += result.calls
        outcome.exhausted |= result.exhausted
        outcome.failure = outcome.failure or result.failure
        outcome.fetched |= result.fetched
        outcome.refused |= result.refused
        outcome.ended |= Spans(part.inner(plan.timeframe, plan.zone) for part in result.ended)
        outcome.unavailable |= outcome.ended
        outcome.unproved |= result.unproved
        # The missing newest candles of a delayed feed prove nothing about older ones.
        delay = self.context.provider.capabilities.delay_ms if self.context.provider else 0
        outcome.unavailable |= result.unavailable - Spans([Span(plan.now - delay, plan.now)] if delay else [])
        if span.until > plan.settled and not result.failure and not result.exhausted:
            outcome.forming[base] = result.forming
            outcome.live = result.live
