"""The orchestrator: answers a request from the store, and fetches the gaps of the store from the provider.

If the 1m candles of a span are covered, the coarsest of their aggregates that nests in the timeframe answers it; otherwise
the coarsest native timeframe that nests. A bucket is only built from a source that covers all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from candlegraph import clock
from candlegraph.answer import Answer, CandleRequest, CoverageReport, Wait
from candlegraph.errors import CandlegraphError, Overloaded, ProviderError
from candlegraph.series import InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.supervision import Supervisor
from candlegraph.timeframe import Timeframe
from candlegraph.timings import Timings
from candlegraph.trading_calendar import series_zone
from candlegraph.upstream import Providers, Upstream
from candlegraph.zone import zone
from history.admission import RowBudget
from history.batch_reader import BatchReader, ReadSources
from history.fetch_limits import UNLIMITED, FetchBudget
from history.fetch_request import MAX_CALLS_PER_FETCH, FetchRequest
from history.fetcher import Fetcher
from history.known_gaps import known_and_missing
from history.listings import Listings
from history.plan import Plan
from history.query import CandleQuery
from history.query_fetches import QueryContext
from history.revisions import Revisions
from storage.batches import Superseded
from storage.cache.memory import CandleCache
from storage.candles import CandleStore, ReadFunction, read_tables
from storage.change_feed import ChangeFeed
from storage.counts.candle_counts import CandleCounts
from storage.coverage_cache import CoverageCache
from storage.database import Database
from storage.instruments import Instruments
from storage.relations import ALL_AGGREGATES, Aggregates

MAX_REPORTED_FETCHES = 20  # the most upstream calls in a coverage report


@dataclass(frozen=True, slots=True)
class History:
    """The candles of every series: what is stored, and the means to fetch more."""

    store: CandleStore
    coverage_cache: CoverageCache
    instruments: Instruments
    listings: Listings
    fetcher: Fetcher
    providers: Providers
    aggregates: Aggregates
    candle_counts: CandleCounts
    row_budget: RowBudget
    revisions: Revisions
    cache: CandleCache | None = None

    @property
    def timings(self) -> Timings:
        """The timings of this process, which its database carries."""
        return self.store.database.timings

    @classmethod
    def create(
        cls,
        database: Database,
        providers: Providers,
        levels: Aggregates = ALL_AGGREGATES,
        reading: ReadFunction = read_tables,
        cache: CandleCache | None = None,
    ) -> Self:
        """Build it over a database and its providers; `start` begins its background tasks."""
        store = CandleStore(database, ChangeFeed(database), reading)
        coverage_cache = CoverageCache(store)
        instruments = Instruments(database)
        fetcher = Fetcher(store, coverage_cache, instruments)
        listings, revisions = Listings(instruments, providers), Revisions(store, coverage_cache, fetcher.claims)
        counts, budget = CandleCounts(database), RowBudget()
        return cls(
            store, coverage_cache, instruments, listings, fetcher, providers, levels, counts, budget, revisions, cache
        )

    async def close(self) -> None:
        """Stop the running reads of lists, fetches and checks of revisions."""
        await self.revisions.close()
        await self.fetcher.close()
        await self.listings.close()

    def start(self, supervisor: Supervisor) -> None:
        """Follow the writes of other processes, and renew the claims of this one."""
        changes, claims, calendars = self.store.change_feed, self.fetcher.claims, self.instruments.calendars
        supervisor.start("trading calendars", calendars.run, calendars.outage)
        supervisor.start("changes", changes.run, changes.outage)
        supervisor.start("claims", claims.renew, claims.outage)

    async def answer(
        self, requests: Sequence[CandleRequest], fetch_budget: FetchBudget = UNLIMITED
    ) -> list[Answer | BaseException]:
        """Answer many requests at once: each step reads the database in one statement for all of them.

        ``fetch_budget`` is that of the calling operation: all its requests share one deadline. The item of a failed request is
        its exception (NotFound, BadUserInput, ProviderError, Overloaded, Unavailable); the others are answered.
        """
        sources = ReadSources(
            self.store, self.coverage_cache, self.listings, self.aggregates, self.row_budget, self.cache
        )
        reader = BatchReader(sources)
        return await asyncio.gather(
            *(self._answer_in_time(request, reader, fetch_budget) for request in requests), return_exceptions=True
        )

    async def coverage(self, series: Series) -> CoverageReport:
        """The coverage of a series. NotFound, or ProviderError if its provider's symbol list cannot be read."""
        record = (await self.listings.find([series.instrument]))[0]
        if isinstance(record, CandlegraphError):
            raise record
        provider, _ = await self._provider(record, self.timings.query_deadline_s)
        coverage = (await self.coverage_cache.load([record.id]))[0]
        buckets, days = series_zone(record, series.timeframe), zone(record.timezone)
        now = provider.now_ms() if provider else clock.now_ms()
        capabilities = provider.capabilities if provider else None
        plan = Plan(record, capabilities, coverage, self.aggregates, series.timeframe, buckets, days, now)
        covered, holes = known_and_missing(plan)
        rows = await self.candle_counts.count(record.id, series.timeframe, coverage, self.aggregates)
        fetches = await self.store.recent_fetches(record.id, series.timeframe, MAX_REPORTED_FETCHES)
        return CoverageReport(record, covered, holes, rows, tuple(fetches))

    async def _answer_in_time(self, request: CandleRequest, reader: BatchReader, fetch_budget: FetchBudget) -> Answer:
        """Answer by the deadline of the operation; a read of the store may take a moment longer."""
        deadline = fetch_budget.deadline or asyncio.get_running_loop().time() + self.timings.query_deadline_s
        try:
            async with asyncio.timeout_at(deadline + self.timings.query_finish_s):
                return await self._answer(request, reader, replace(fetch_budget, deadline=deadline))
        except TimeoutError:
            raise Overloaded("The operation took too long: ask for less at once, or later.", retry_after=5) from None

    async def _answer(self, request: CandleRequest, reader: BatchReader, fetch_budget: FetchBudget) -> Answer:
        record: InstrumentRecord = await reader.record.load(request.series.instrument)
        deadline = fetch_budget.deadline or 0
        timeout_s = max(0.0, deadline - asyncio.get_running_loop().time())
        provider, failure = await self._provider(record, timeout_s if request.wait is Wait.COMPLETE else 0)
        now = provider.now_ms() if provider else clock.now_ms()
        if provider:
            now = max(now, request.final_until + provider.capabilities.final_after_ms)
        context = QueryContext(record, provider, self.fetcher, deadline, now, fetch_budget)
        query, answer = await self._answer_one_revision(lambda: CandleQuery(request, context, reader), failure)
        if provider is None:
            return answer
        if due := query.plan.coverage.due_rechecks(now):
            with self.fetcher.rechecks_outage.recording():
                if await self._recheck(answer, due, provider, deadline):
                    answer = await CandleQuery(request, context, reader).run(None)
        return answer

    async def _answer_one_revision(
        self, begin: Callable[[], CandleQuery], failure: ProviderError | None
    ) -> tuple[CandleQuery, Answer]:
        """Answer from one revision of the provider's data; answer again if the data were replaced meanwhile."""
        query, answer = begin(), None
        await self._follow(query)
        try:
            answer = await query.run(failure)
        except Superseded as error:
            query.fetches.outcome.failure = error
        if answer is None or isinstance(query.fetches.outcome.failure, Superseded):
            query = begin()
            await self._follow(query)
            answer = await query.run(failure)
        return query, answer

    async def _follow(self, query: CandleQuery) -> None:
        """Update the stored candles to the provider's revision; also for a symbol that is no longer listed."""
        context = query.context
        record, provider = context.record, context.provider
        left = (
            max(0.0, context.deadline - asyncio.get_running_loop().time()) if query.request.wait is Wait.COMPLETE else 0
        )
        if provider is None and self._may_have_been_served(record):
            provider, _ = await self._started(record, left)
        if provider is not None:
            await self.revisions.follow(record, provider, left)

    def _may_have_been_served(self, record: InstrumentRecord) -> bool:
        """Whether a provider of revisions may have listed the instrument before."""
        if record.listed:
            return False
        status = self.providers.status(record.instrument.market, record.instrument.provider)
        return status is not None and status.capabilities.revised

    async def _recheck(self, answer: Answer, due: dict[Timeframe, Spans], provider: Upstream, deadline: float) -> bool:
        """Recheck the due spans of an answer; return whether that fetched candles.

        The stored candles and the answer stay, whatever the result.
        """
        record, answered = answer.record, Spans([_answered_span(answer)])
        pieces = [(timeframe, span) for timeframe, spans in due.items() for span in spans & answered][
            :MAX_CALLS_PER_FETCH
        ]
        if not pieces or not self.fetcher.rechecks.is_due(record.id):
            return False
        tasks = [self.fetcher.fetch(record, provider, FetchRequest(*piece, refetch=True)) for piece in pieces]
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait(tasks, timeout=left if answer.request.wait is Wait.COMPLETE else 0)
        return any(task.result().rows for task in done)

    async def _provider(
        self, record: InstrumentRecord, timeout_s: float
    ) -> tuple[Upstream | None, ProviderError | None]:
        """The provider, or None and why it failed; imported symbols have none. Stored candles are served without it."""
        return await self._started(record, timeout_s) if record.listed else (None, None)

    async def _started(
        self, record: InstrumentRecord, timeout_s: float
    ) -> tuple[Upstream | None, ProviderError | None]:
        instrument = record.instrument
        try:
            return await self.providers.get(instrument.market, instrument.provider, timeout_s=timeout_s), None
        except ProviderError as error:
            return None, error


def _answered_span(answer: Answer) -> Span:
    """The span of an answer; it begins at the beginning of time if the answer says that there is nothing older."""
    if not answer.sources:
        return Span(0, 0)
    whole = answer.request.since is None and not answer.has_more
    return Span(clock.OLDEST_MS if whole else answer.sources[0].since, answer.sources[-1].until)
