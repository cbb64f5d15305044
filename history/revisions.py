"""Series whose provider may replace its past data: all its stored candles have one lineage of revisions.

A covered span is not fetched again. So after a file was replaced, an answer would be half old and half new. Therefore each
write carries the revision of its candles (`candlegraph.provider.Revision`), and the store refuses a write of another
lineage. Before each answer, `Revisions` asks the provider for its present revision. If the lineage differs, it reads the
covered spans again and replaces the stored candles in one transaction: missing candles are withdrawn, different ones are
corrected. A claim on the whole series makes sure that one process does it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from candlegraph.candle import concat
from candlegraph.errors import CandlegraphError
from candlegraph.provider import Revision
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Upstream
from candlegraph.zone import UTC, zone
from history.verdict import FetchCall, judge_page
from storage.batches import CandleWrite, Superseded
from storage.candles import CandleStore
from storage.coverage import Coverage
from storage.coverage_cache import CoverageCache
from storage.fetch_claims import FetchClaims

log = logging.getLogger(__name__)

ALWAYS = Span(-(10**14), 10**14)


@dataclass(frozen=True, slots=True)
class Revisions:
    """Updates stored series to the present lineage of their provider."""

    store: CandleStore
    coverage_cache: CoverageCache
    claims: FetchClaims
    _tasks: dict[tuple[int, Timeframe], asyncio.Task[None]] = field(default_factory=dict)
    _checks: dict[int, asyncio.Task[list[asyncio.Task[None]]]] = field(default_factory=dict)
    _unknown: set[tuple[int, Timeframe]] = field(default_factory=set)  # whose revision the provider could not name

    async def follow(self, record: InstrumentRecord, provider: Upstream, wait_s: float) -> None:
        """Replace the series of an instrument whose lineage has changed; return after ``wait_s`` seconds at the latest.

        A longer replacement goes on in the background, shared by all callers. The store has one lineage of each series at any
        time: the old one until the new one is written. A provider without revisions is not called.
        """
        if not provider.capabilities.revised:
            return
        until = asyncio.get_running_loop().time() + wait_s
        coverage = (await self.coverage_cache.load([record.id]))[0]
        if not coverage.spans:
            return
        check = self._checks.get(record.id)
        if check is None:
            name = f"revisions of {record.instrument}"
            check = self._checks[record.id] = asyncio.create_task(self._check(record, provider, coverage), name=name)
            check.add_done_callback(lambda _: self._checks.pop(record.id, None))
        await asyncio.wait([check], timeout=wait_s)
        if check.done() and not check.cancelled() and (tasks := check.result()):
            await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))

    async def close(self) -> None:
        """Stop the running checks and replacements; an unfinished replacement stores nothing."""
        for task in (tasks := [*self._checks.values(), *self._tasks.values()]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _check(
        self, record: InstrumentRecord, provider: Upstream, coverage: Coverage
    ) -> list[asyncio.Task[None]]:
        """Ask for the revision of each stored series; return the tasks that replace those of another lineage."""
        tasks = []
        for timeframe in coverage.spans:
            key, stored = (record.id, timeframe), coverage.sources.get(timeframe)
            try:
                found = await provider.revision(record.instrument, timeframe, stored)
            except CandlegraphError as error:
                level = logging.DEBUG if key in self._unknown else logging.WARNING
                log.log(level, "the revision of %s %s is not known: %s", record.instrument, timeframe, error.message)
                self._unknown.add(key)
                continue
            self._unknown.discard(key)
            if _lineage(found) != _lineage(stored):
                tasks.append(self._task(record, provider, timeframe))
        return tasks

    def _task(self, record: InstrumentRecord, provider: Upstream, timeframe: Timeframe) -> asyncio.Task[None]:
        """The task that replaces a series: all callers share it, and none cancels it."""
        key = (record.id, timeframe)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._replace(record, provider, timeframe))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return task

    async def _replace(self, record: InstrumentRecord, provider: Upstream, timeframe: Timeframe) -> None:
        try:
            while not await self._replaced(record, provider, timeframe):
                continue
        except CandlegraphError as error:
            log.warning("%s %s could not be replaced: %s", record.instrument, timeframe, error.message)
        except Exception:
            log.exception("%s %s could not be replaced", record.instrument, timeframe)

    async def _replaced(self, record: InstrumentRecord, provider: Upstream, timeframe: Timeframe) -> bool:
        """Replace a series under a claim; False if another process has the claim: then check again."""
        async with self.claims.acquire((record.id, timeframe), ALWAYS, shared=True) as ours:
            if not ours:
                return False
            coverage = (await self.store.read_coverage([record.id]))[0]
            stored, covered = coverage.sources.get(timeframe), coverage.spans.get(timeframe, Spans())
            found = await provider.revision(record.instrument, timeframe, stored)
            if _lineage(found) == _lineage(stored):
                self.coverage_cache.forget(record.id)
                return True
            if stored is None and await self.store.adopted(record.id, timeframe, found):
                return True  # the candles were imported before the file existed
            write = CandleWrite(record.id, timeframe, concat([]), Spans(), revoked=covered, revision=found)
            if found is not None:
                write = await self._read_again(write, record, provider)
            await self.store.write([write])
        log.info("%s %s was replaced by its provider: %d candles", record.instrument, timeframe, len(write.candles))
        return True

    async def _read_again(self, write: CandleWrite, record: InstrumentRecord, provider: Upstream) -> CandleWrite:
        """``write`` with the provider's present candles of the revoked spans."""
        timeframe, revision = write.timeframe, write.revision
        days = UTC if timeframe.width_ms else zone(record.timezone)
        final_until = timeframe.floor(provider.now_ms() - provider.capabilities.final_after_ms, days)
        batches, covered = [], Spans()
        for span in write.revoked:
            since = span.since
            while since < span.until:
                page = await provider.fetch(record.instrument, timeframe, Span(since, span.until))
                if _lineage(page.revision) != _lineage(revision):
                    raise Superseded
                revision = page.revision
                verdict = judge_page(
                    page, FetchCall(timeframe, days, Span(since, span.until), final_until), provider.capabilities
                )
                provider.count_refused_rows(verdict.bad.count)
                batches.append(verdict.kept)
                covered |= verdict.covered
                if page.complete_to <= since:
                    break
                since = page.complete_to
        return CandleWrite(
            write.instrument_id, timeframe, concat(batches), covered, revoked=write.revoked, revision=revision
        )


def _lineage(revision: Revision | None) -> str | None:
    return revision.lineage if revision else None
