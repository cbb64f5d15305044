"""The workers of this process: they fetch queued parts of backfills, at the same time as those of other processes.

A worker fetches a part page by page through the fetcher, which finds the gaps in the coverage and stores each page with its
coverage in one transaction. It claims the part first, and a claim expires. So a killed process loses one page per worker,
and any other worker continues from there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections import Counter
from dataclasses import dataclass

from candlegraph.answer import Gap, GapReason
from candlegraph.backfill import BackfillState
from candlegraph.errors import CandlegraphError, FetchPaused, ProviderError, ProviderRefused, UnknownSymbol, Unsupported
from candlegraph.outage import Outage
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.supervision import Supervisor
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Urgency
from history.backfill.jobs import BackfillJobs, gaps_as_json
from history.backfill.statements import SQL
from history.fetch_request import FetchRequest, FetchResult
from storage.database import to_ms

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 40  # failures in a row, over about two hours, after which a part has failed
_CLAIMS, _WORK = "backfill claims", "backfills"  # the tasks
MAX_PROVIDERS = 8  # providers that have workers at the same time


@dataclass(slots=True)
class _ClaimedPart:
    """A part that this process has claimed; ``span`` is the rest of it."""

    id: int
    record: InstrumentRecord
    timeframe: Timeframe
    span: Span
    refetch: bool
    attempts: int


class BackfillWorkers:
    """This process's workers: at most ``workers`` for each provider, which share its rate budget."""

    def __init__(self, backfills: BackfillJobs, *, workers: int = 4, job: int | None = None) -> None:
        """Start nothing: `start` does. With ``job`` the workers run that job only."""
        self._backfills = backfills
        self._history = backfills.history
        self._database = backfills.history.store.database
        self._workers = workers
        self._job = job
        self._holder = uuid.uuid4()
        self._running: dict[asyncio.Task[None], _ClaimedPart] = {}
        self._supervisor: Supervisor | None = None
        self._claiming = Outage("claiming parts of backfills")
        self._renewing = Outage("renewing the claims of backfills")
        self._recording = Outage("recording the progress of backfills")

    def start(self, supervisor: Supervisor) -> None:
        """Fetch queued parts until `close`."""
        self._supervisor = supervisor
        supervisor.start(_CLAIMS, self._renew, self._renewing)
        supervisor.start(_WORK, self._work, self._claiming)

    async def close(self) -> None:
        """Stop the running parts, and release their claims."""
        if self._supervisor is None:
            return
        await self._supervisor.stop(_WORK)
        await self._supervisor.stop(_CLAIMS)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._execute("backfill_release", self._holder)

    async def _work(self) -> None:
        while True:
            with self._claiming.recording():
                paused = self._history.fetcher.paused
                while (
                    not paused and len(self._running) < self._workers * MAX_PROVIDERS and (part := await self._claim())
                ):
                    self._begin(part)
                await self._execute("backfills_close")  # includes jobs of a process that died before this call
            await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._history.timings.backfill_poll_interval_s):
                await self._backfills.changed.wait()
        except TimeoutError:
            return
        self._backfills.changed.clear()

    def _begin(self, part: _ClaimedPart) -> None:
        task = asyncio.create_task(self._try_part(part))
        self._running[task] = part
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._backfills.changed.set()

    async def _renew(self) -> None:
        """Renew the claims of running parts only: those that a failure left behind have to expire."""
        while True:
            with self._renewing.recording():
                if ids := [part.id for part in self._running.values()]:
                    async with self._database.connection() as connection:
                        await connection.execute(
                            SQL["backfill_renew"], ids, self._holder, self._history.timings.backfill_claim_ttl_s
                        )
            await asyncio.sleep(self._history.timings.backfill_renewal_interval_s)

    async def _claim(self) -> _ClaimedPart | None:
        busy = Counter(
            f"{part.record.instrument.market}/{part.record.instrument.provider}" for part in self._running.values()
        )
        full = [name for name, count in busy.items() if count >= self._workers]
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                SQL["backfill_claim"], self._holder, self._history.timings.backfill_claim_ttl_s, self._job, full
            )
        if row is None:
            return None
        record = (await self._history.instruments.by_id([row["instrument_id"]]))[0]
        left = Span(to_ms(row["reached"]), to_ms(row["span"].upper))
        return _ClaimedPart(row["id"], record, Timeframe.parse(row["timeframe"]), left, row["again"], row["attempts"])

    async def _try_part(self, part: _ClaimedPart) -> None:
        try:
            await self._run(part)
        except CandlegraphError as error:  # our failure, not the provider's: not counted as an attempt
            self._recording.begin(f"{part.record.instrument}: {error.message}")
            await self._execute(
                "backfill_rest",
                part.id,
                self._holder,
                2 * self._history.timings.backfill_poll_interval_s,
                0,
                0,
                error.message,
            )
        except Exception:
            log.exception("backfill of %s failed unexpectedly", part.record.instrument)
            failure = ProviderError("The server failed unexpectedly.")
            await self._end(part, BackfillState.FAILED, FetchResult(failure=failure), GapReason.OUTAGE)

    async def _run(self, part: _ClaimedPart) -> None:
        """Fetch page after page until nothing of the part is left to request."""
        name = part.record.instrument
        while True:
            try:
                provider = await self._backfills.provider(name.market, name.provider)
            except ProviderError as error:
                await self._fail(part, FetchResult(failure=error))
                return
            await self._history.revisions.follow(part.record, provider, self._history.timings.query_deadline_s)
            request = FetchRequest(part.timeframe, part.span, urgency=Urgency.BACKFILL, calls=1, refetch=part.refetch)
            result = await asyncio.shield(self._history.fetcher.fetch(part.record, provider, request))
            if result.failure:
                await self._fail(part, result)
                return
            if not result.exhausted:
                await self._end(part, BackfillState.DONE, result)
                return
            part.span, asked = Span(result.reached, part.span.until), Span(part.span.since, result.reached)
            part.attempts = 0
            holes = gaps_as_json(_part_gaps(Spans([asked]) & (result.refused | result.unavailable), result))
            progress = (
                part.id,
                self._holder,
                result.reached,
                result.calls,
                result.rows,
                holes,
                self._history.timings.backfill_claim_ttl_s,
            )
            async with self._database.connection() as connection:
                if not await connection.fetchval(SQL["backfill_progress"], *progress):
                    return  # the job was cancelled, or another worker has claimed the part after our claim expired

    async def _fail(self, part: _ClaimedPart, result: FetchResult) -> None:
        """Schedule another attempt, or end the part if another attempt is useless."""
        failure = result.failure
        assert failure  # noqa: S101
        if isinstance(failure, UnknownSymbol):  # the job goes on without it
            await self._end(part, BackfillState.DONE, result, GapReason.UNAVAILABLE)
        elif isinstance(failure, ProviderRefused | Unsupported):
            await self._end(part, BackfillState.FAILED, result, GapReason.REFUSED)
        elif isinstance(failure, FetchPaused):  # a full disk is not the provider's failure
            rest = failure.retry_after or 0
            await self._execute("backfill_rest", part.id, self._holder, rest, result.calls, 0, failure.message)
        elif part.attempts + 1 >= MAX_ATTEMPTS:
            await self._end(part, BackfillState.FAILED, result, GapReason.OUTAGE)
        else:
            rest = random.uniform(0.5, 1) * min(self._history.timings.backfill_max_backoff_s, 2.0**part.attempts)  # noqa: S311
            rest = max(rest, failure.retry_after or 0)
            await self._execute("backfill_rest", part.id, self._holder, rest, result.calls, 1, failure.message)

    async def _end(
        self, part: _ClaimedPart, state: BackfillState, result: FetchResult, reason: GapReason | None = None
    ) -> None:
        """End a part; its uncovered spans are gaps."""
        coverage = (await self._history.coverage_cache.load([part.record.id]))[0]
        left = Spans([part.span]) - coverage.final(part.timeframe)
        message = result.failure.message if result.failure else None
        holes = [Gap(s.since, s.until, reason, message) for s in left] if reason else _part_gaps(left, result)
        arguments = (state, result.calls, result.rows, gaps_as_json(holes), message)
        await self._execute("backfill_end", part.id, self._holder, *arguments)
        await self._execute("backfills_close")

    async def _execute(self, name: str, *arguments: object) -> None:
        """Run a statement that may fail: then the claim expires, and another worker does the work again."""
        with self._recording.recording():
            async with self._database.connection() as connection:
                await connection.execute(SQL[name], *arguments)


def _part_gaps(left: Spans, result: FetchResult) -> list[Gap]:
    """The gaps of ``left``, each with the reason why it is not available."""
    refused = [
        Gap(span.since, span.until, GapReason.REFUSED, "The provider sent invalid rows.")
        for span in left & result.refused
    ]
    return refused + [
        Gap(span.since, span.until, GapReason.UNAVAILABLE, "The provider does not have it.")
        for span in left - result.refused
    ]
