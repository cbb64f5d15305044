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
from history.fetch_limits import UNLIMITED, FetchBudget
from history.fetch_request import MAX_CALLS_PER_FETCH, FetchRequest, FetchResult
from history.fetcher import Fetcher
from history.plan import Plan
from history.window_plan import WindowPlan


@dataclass(frozen=True, slots=True)
class QueryContext:
    """The instrument of a query, its provider (None: there is none), its deadline and the present."""

    record: InstrumentRecord
    provider: Upstream | None
    fetcher: Fetcher
    deadline: float  # on the event loop's clock
    now: int  # ms, UTC, by the provider's clock
    fetch_budget: FetchBudget = UNLIMITED


@dataclass(slots=True)
class FetchOutcome:
    """The outcome of all fetches of a query."""

    failure: ProviderError | None = None
    fetched: Spans = field(default_factory=Spans)
    pending: Spans = field(default_factory=Spans)  # still being fetched at the deadline
    refused: Spans = field(default_factory=Spans)  # the provider's rows there are invalid
    lacking: dict[Timeframe, Spans] = field(default_factory=dict)  # the spans that a timeframe did not return
    unavailable: Spans = field(default_factory=Spans)  # at no timeframe
    ended: Spans = field(default_factory=Spans)  # newer than the provider's last candle, at any timeframe
    unproved: Spans = field(default_factory=Spans)  # the provider has not proved yet that these minutes have ended
    forming: dict[Timeframe, Candles] = field(default_factory=dict)
    live: bool = False  # the forming candles came from a feed
    calls: int = 0
    exhausted: bool = False  # the budget of calls ended before the missing spans did
    satisfied: bool = False  # a window has enough candles before its end, and its rest was not fetched
    first_available: int | None = None  # the first candle of the instrument, if a fetch found it


@dataclass(slots=True)
class QueryFetches:
    """Fetches the gaps of a query's windows, within its budget of calls and its deadline."""

    request: CandleRequest
    context: QueryContext
    outcome: FetchOutcome = field(default_factory=FetchOutcome)
    enough: int = 0  # buckets; 0: the whole window

    @property
    def newest_first(self) -> bool:
        """Whether the query goes back in time."""
        return self.request.since is None

    async def fetch(self, plan: Plan, planned: WindowPlan, enough: int = 0) -> bool:
        """Fetch the gaps of a window; wait until the deadline, or not at all. True if its coverage may have changed.

        ``enough`` is the number of buckets that suffices, if the window has more.
        """
        outcome, self.enough = self.outcome, enough
        # A query with a pending span starts no more fetches: the next query will.
        if self.context.provider is None or outcome.failure or outcome.pending:
            return False
        outcome.satisfied = False
        return await self._fetch_all(plan, planned.missing - outcome.ended, self.context.provider)

    async def fetch_coarser(self, plan: Plan, planned: WindowPlan) -> bool:
        """Fetch the missing spans at a coarser timeframe; True if the coverage may have changed."""
        outcome, provider = self.outcome, self.context.provider
        lacking = Spans(span.outer(plan.timeframe, plan.zone) for spans in outcome.lacking.values() for span in spans)
        missing = planned.missing & (lacking - outcome.ended)
        if not missing or provider is None or outcome.failure or outcome.pending or outcome.exhausted:
            return False
        return await self._fetch_all(plan, missing, provider)

    def give_up(self, plan: Plan, planned: WindowPlan) -> None:
        """Mark the spans that a window still lacks after all fetches as unavailable."""
        lacking = Spans(span for spans in self.outcome.lacking.values() for span in spans)
        self.outcome.unavailable |= lacking & Spans(span.outer(plan.timeframe, plan.zone) for span in planned.missing)

    async def _fetch_all(self, plan: Plan, missing: Spans, provider: Upstream) -> bool:
        outcome = self.outcome
        if refusal := await self._refused(plan, missing, provider):
            outcome.failure = refusal
            return False
        tasks = self._start(plan, missing, provider)
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
        """Count the rows that the missing spans may bring; return the refusal if there are too many."""
        calls, rows = max(0, MAX_CALLS_PER_FETCH - self.outcome.calls), 0
        for span in list(missing)[:calls]:
            if base := plan.choose_timeframe(span, self.outcome.lacking):
                wanted = plan.fetchable(span, base)
                page, length = (
                    provider.capabilities.max_rows_per_call,
                    -(-(wanted.until - wanted.since) // base.nominal_ms),
                )
                if self.enough:
                    length = min(length, self.enough * -(-plan.timeframe.nominal_ms // base.nominal_ms) + page)
                rows += min(length, calls * page)
        return await self.context.fetch_budget.spend(rows)

    def known_part(self, plan: Plan, planned: WindowPlan) -> Span:
        """The part of a window that needs no call, from the side where the query began."""
        window, provider = planned.window, self.context.provider
        if provider is None or self.outcome.failure or self.outcome.pending:
            return window
        wanted = [span for span, _ in self._choose(plan, planned.missing - self.outcome.ended)]
        if not wanted:
            return window
        return Span(wanted[-1].until, window.until) if self.newest_first else Span(window.since, wanted[0].since)

    def trim_window(self, plan: Plan, planned: WindowPlan) -> Span:
        """The part of a window before the first span without a call left for it, from the side where the query began."""
        outcome, window = self.outcome, planned.window
        explained = outcome.pending | outcome.refused | outcome.unavailable | outcome.unproved
        unasked = list(planned.missing - Spans(span.outer(plan.timeframe, plan.zone) for span in explained))
        if not unasked:
            return window
        return Span(unasked[-1].until, window.until) if self.newest_first else Span(window.since, unasked[0].since)

    def _start(
        self, plan: Plan, missing: Spans, provider: Upstream
    ) -> dict[asyncio.Task[FetchResult], tuple[Span, Timeframe]]:
        """Start a fetch for each missing span while calls are left, unless its forming candles are known."""
        wanted, budget = self._choose(plan, missing), max(0, MAX_CALLS_PER_FETCH - self.outcome.calls)
        if self.newest_first:
            wanted.reverse()
        self.outcome.exhausted = len(wanted) > budget
        if self.enough and budget and len(wanted) > 1:  # the nearest may have enough
            self.outcome.exhausted, self.outcome.satisfied, wanted = False, True, wanted[:1]
        tasks = {}
        for span, base in wanted[:budget]:
            part = plan.fetchable(span, base)
            if not self._has_forming(plan, base, part):
                rows = self.enough * -(-plan.timeframe.nominal_ms // base.nominal_ms)
                request = FetchRequest(base, part, newest=self.newest_first, enough=rows)
                tasks[self.context.fetcher.fetch(plan.record, provider, request)] = (span, base)
        return tasks

    def _choose(self, plan: Plan, missing: Spans) -> list[tuple[Span, Timeframe]]:
        """The spans to fetch, each at its timeframe; a span is unavailable if no timeframe is left to try."""
        lacking = dict(self.outcome.lacking)
        for base in plan.coverage.retries:
            lacking[base] = lacking.get(base, Spans()) | plan.coverage.postponed(base, plan.now)
        doubtful = Spans(span.outer(plan.timeframe, plan.zone) for spans in lacking.values() for span in spans)
        wanted = []
        for span in sorted([*(missing & doubtful), *(missing - doubtful)]):
            chosen = plan.choose_timeframe(span, lacking)
            if chosen is None:
                self.outcome.unavailable |= Spans([span])
            else:
                wanted.append((span, chosen))
        return wanted

    def _has_forming(self, plan: Plan, base: Timeframe, wanted: Span) -> bool:
        """Whether only forming candles are missing, and were fetched within two seconds."""
        final_until = base.settled(plan.now - plan.settle_ms, plan.grid(base))
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
        outcome.satisfied |= result.satisfied
        outcome.first_available = outcome.first_available or result.first_available
        outcome.failure = outcome.failure or result.failure
        outcome.fetched |= result.fetched
        outcome.refused |= result.refused
        outcome.ended |= Spans(part.inner(plan.timeframe, plan.zone) for part in result.ended)
        outcome.unavailable |= outcome.ended
        outcome.unproved |= result.unproved
        # If a delayed feed lacks the newest candles, that proves nothing about older ones.
        delay = self.context.provider.capabilities.delay_ms if self.context.provider else 0
        lacking = result.unavailable - outcome.ended - Spans([Span(plan.now - delay, plan.now)] if delay else [])
        outcome.lacking[base] = outcome.lacking.get(base, Spans()) | lacking
        if (
            span.until > plan.settled
            and not result.failure
            and not result.exhausted
            and (self.newest_first or not result.satisfied)
        ):
            outcome.forming[base] = result.forming
            outcome.live = result.live
