"""Fetches missing candles from providers: each missing piece once, for any number of waiting callers."""

from __future__ import annotations

import asyncio
import logging

from cachetools import LRUCache

from candlegraph.errors import CandlegraphError, FetchPaused
from candlegraph.outage import Outage
from candlegraph.series import InstrumentRecord
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Upstream
from history.attempts import PagingState
from history.coarse_check import CoarseCheck
from history.fetch_job import FetchJob
from history.fetch_request import FetchRequest, FetchResult
from history.fetch_stores import FetchStores
from history.first_candles import FirstCandles
from history.forming import FormingCache
from history.free_space import FreeSpace
from storage.candles import CandleStore
from storage.coverage_cache import CoverageCache
from storage.fetch_claims import FetchClaims
from storage.instruments import Instruments
from storage.leases import LeaseLost
from storage.rechecks import Rechecks, Retries

log = logging.getLogger(__name__)

MAX_PAGING_STATES = 20_000  # a few MB; a series without one starts with small pages again
PAUSE_S = 30.0  # callers may retry after it while fetching is paused


class Fetcher:
    """Runs fetches. Equal requests at the same time share one task, which no caller cancels."""

    def __init__(self, store: CandleStore, coverage_cache: CoverageCache, instruments: Instruments) -> None:
        """Start without a fetch."""
        self.claims = FetchClaims(store.database, store.change_feed)
        self.rechecks = Rechecks(store.database)
        self.forming = FormingCache(store.database)
        self._stores = FetchStores(
            store,
            coverage_cache,
            self.claims,
            self.rechecks,
            Retries(store.database),
            FirstCandles(instruments),
            CoarseCheck(store),
            self.forming,
        )
        self._tasks: dict[tuple[int, FetchRequest], asyncio.Task[FetchResult]] = {}
        self._paging: LRUCache[tuple[int, Timeframe], PagingState] = LRUCache(MAX_PAGING_STATES)
        self.free_space: FreeSpace | None = None  # None: it cannot be read here
        self.storing = Outage("storing what was fetched")
        self.rechecks_outage = Outage("rechecking empty answers")

    @property
    def paused(self) -> bool:
        """Whether fetching is paused because the disk is nearly full; the fetches of feeds go on."""
        return self.free_space is not None and self.free_space.is_low

    def fetch(self, record: InstrumentRecord, provider: Upstream, request: FetchRequest) -> asyncio.Task[FetchResult]:
        """Start the fetch of a request's gaps, or join a running one; await it with `asyncio.shield`.

        A failure is a value of the result, beside the pages that came before it. Forming candles serve all callers for two
        seconds. Raises LeaseLost, Unavailable.
        """
        key = (record.id, request)
        task = self._tasks.get(key)
        if task is None:
            job = FetchJob(self._stores, record, provider, request)
            task = self._tasks[key] = asyncio.create_task(self._run(job))
            task.add_done_callback(lambda done: self._remove_task(key, done))
        return task

    async def close(self) -> None:
        """Stop the running fetches; stored pages stay, and a later fetch gets the rest."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.claims.close()

    def _remove_task(self, key: tuple[int, FetchRequest], task: asyncio.Task[FetchResult]) -> None:
        del self._tasks[key]
        # All callers may have left: then the error is logged here or nowhere.
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            log.warning("fetching %s of instrument %d was given up: %r", key[1].timeframe, key[0], error)
        elif isinstance(error, CandlegraphError):
            self.storing.fail(error)
        elif error:
            log.error("fetching %s of instrument %d failed", key[1].timeframe, key[0], exc_info=error)
        elif not task.cancelled():
            self.storing.end()

    async def _run(self, job: FetchJob) -> FetchResult:
        if self.paused and job.request.lease is None:
            job.result.failure = FetchPaused(retry_after=PAUSE_S)
            return job.result
        job.attempts.begin(self._paging.get(job.key, job.attempts.paging))
        while await job.step():
            self._paging[job.key] = job.attempts.paging
        if job.request.refetch:
            await job.resolve_rechecks()
        else:
            await job.note_unproven()
        return job.result
