"""Checks that run once, at the first start after an upgrade: of series that an older version imported, and of series whose
provider had a known fault (`candlegraph.provider.Taint`).

Each task is a row of ``upgrade_tasks``, closed when it is done: if a process is killed, the next one does the rest.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import numpy as np

from candlegraph.candle import Candles
from candlegraph.errors import ProviderError, ProviderUnavailable, RateLimited
from candlegraph.evidence import NO_HOLE_MS, bucket_ends, longest_hole, runs
from candlegraph.outage import Outage
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.upstream import Upstream, Urgency
from candlegraph.zone import zone
from history.fetch_request import FetchRequest
from history.orchestrator import History
from history.volume_upgrade import ALL_TIME, VolumeCorrection
from storage.batches import CandleRead, CandleWrite
from storage.leases import LeaseLost, Leases, LeaseToken
from storage.migration.upgrade import Step, Task, advance_task, close_task, note_taint, open_tasks
from storage.withdrawals import Openings, StoredSeries, has_imports, note, openings, withdraw

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE = "upgrade"
FILLERS_AT_ONCE = 20_000
MAX_RUNS = 200  # the newest imported runs of a series; the last candle of each is fetched again
IMPORTED = (Step.HOLES, Step.LAST, Step.FILLERS)  # the steps for series with imported candles
COVERAGE = "an older version did not prove that there were no trades"
HOLES = "a hole between imported candles longer than an import covers"
LAST_CANDLE = "the last candle of an imported run was fetched again"
FILLERS = "imported minutes without a trade"


@dataclass(slots=True)
class Upgrade:
    """The open tasks; one process of the cluster at a time works on them."""

    history: History
    outage: Outage = field(default_factory=lambda: Outage("checking what an older version has stored"))
    _counts: Counter[Step] = field(default_factory=Counter)
    _leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        """Choose a random name as the holder of the lease."""
        self._leases = Leases(self.history.store.database, uuid.uuid4())

    async def run(self) -> None:
        """Do all tasks, then wait until cancelled. Tasks whose provider is not available are tried again later."""
        left = 1
        while left:
            with self.outage.recording():
                left = await self.work()
            if left:
                await asyncio.sleep(self.history.timings.upgrade_retry_s)
        await asyncio.Event().wait()

    async def work(self) -> int:
        """Do the possible tasks; return the number of tasks left. Unavailable."""
        store = self.history.store
        await self._note_taints()
        tasks = await open_tasks(store.database, *IMPORTED, Step.COVERAGE, Step.VOLUME)
        known = {(status.market.id, status.id) for status in self.history.providers.statuses()}
        tasks = [task for task in tasks if task.step is not Step.VOLUME or (task.market, task.provider) in known]
        left = len(tasks)
        for series, group in groupby(tasks, key=lambda task: task.series):
            try:
                await self._hold()
            except LeaseLost:  # another process does it
                return left
            imported = await has_imports(store.database, series)
            for task in group:
                if (task.step in IMPORTED and not imported) or await self._does(task):
                    await close_task(store.database, task)
                    left -= 1
        await self._leases.release([LEASE])
        if counts := +self._counts:
            summary = ", ".join(f"{step}: {count:,}" for step, count in counts.items())
            log.warning("checked what an older version has stored (%s); `candlegraph coverage log` lists it", summary)
            self._counts.clear()
        return left

    async def _note_taints(self) -> None:
        """Create tasks for faults that are new to this database."""
        for status in self.history.providers.statuses():
            for taint in status.taints:
                names = status.market.id, status.id
                if count := await note_taint(self.history.store.database, *names, taint):
                    log.warning("%s/%s: %d series of an older version are checked: %s", *names, count, taint.reason)

    async def _hold(self) -> LeaseToken:
        """Acquire or renew the lease. LeaseLost if another process has it."""
        if held := (await self._leases.acquire([LEASE], self.history.timings.upgrade_lease_ttl_s)).get(LEASE):
            return held
        raise LeaseLost

    async def _does(self, task: Task) -> bool:
        """Do a task; False if its provider is not available now."""
        try:
            if task.step is Step.COVERAGE:
                self._counts[task.step] += await self._withdraw_coverage(task.series)
                return True
            if task.step is Step.HOLES:
                self._counts[task.step] += await self._withdraw_holes(task.series)
                return True
            provider = await self.history.providers.get(
                task.market, task.provider, timeout_s=self.history.timings.query_deadline_s
            )
            if provider and task.step is Step.VOLUME:
                await self._correct_volumes(task, provider)
            elif provider and task.step is Step.LAST:
                self._counts[task.step] += await self._ask_last(task.series, provider)
            elif provider and provider.capabilities.has_volume:
                self._counts[task.step] += await self._withdraw_fillers(task.series)
        except (ProviderUnavailable, RateLimited) as error:
            log.info(
                "%s/%s is not available for the checks after the upgrade yet: %s",
                task.market,
                task.provider,
                error.message,
            )
            return False
        except ProviderError as error:  # a later call would fail too: the candle stays as it is
            log.info("%s/%s does not answer for an imported candle: %s", task.market, task.provider, error.message)
        return True

    async def _withdraw_coverage(self, series: StoredSeries) -> int:
        """Withdraw the coverage of buckets without a stored candle; return the number of spans."""
        store = self.history.store
        coverage = (await store.read_coverage([series.instrument_id]))[0]
        covered = coverage.spans.get(series.timeframe, Spans())
        found = await openings(store.database, series, ALL_TIME)
        empty = covered - runs(found.stamps, series.timeframe, zone(series.timezone), NO_HOLE_MS)
        return len(await withdraw(store, series, empty, COVERAGE)) if empty else 0

    async def _withdraw_holes(self, series: StoredSeries) -> int:
        """Withdraw the coverage of long gaps between the first and the last imported candle; return their number."""
        found = await openings(self.history.store.database, series, ALL_TIME)
        days, imported = zone(series.timezone), found.stamps[found.imported]
        within = found.stamps[(found.stamps >= imported[0]) & (found.stamps <= imported[-1])]
        longest = longest_hole(imported, series.timeframe, days)
        whole = Spans([Span(int(imported[0]), series.timeframe.next(int(imported[-1]), days))])
        holes = whole - runs(within, series.timeframe, days, longest)
        return len(await withdraw(self.history.store, series, holes, HOLES)) if holes else 0

    async def _ask_last(self, series: StoredSeries, provider: Upstream) -> int:
        """Fetch the last candle of each imported run again; return the number of corrections. ProviderError."""
        store = self.history.store
        found = await openings(store.database, series, ALL_TIME)
        record: InstrumentRecord = (await self.history.instruments.by_id([series.instrument_id]))[0]
        if not record.listed or series.timeframe not in provider.capabilities.timeframes:
            return 0
        corrected = 0
        for span in list(_last_buckets(series, found))[-MAX_RUNS:]:
            await self._hold()
            read = CandleRead(series.instrument_id, series.timeframe, span, 1)
            before = (await store.read([read]))[0]
            request = FetchRequest(series.timeframe, span, urgency=Urgency.BACKFILL, refetch=True)
            result = await self.history.fetcher.fetch(record, provider, request)
            if result.failure:
                raise result.failure
            corrected += await _finished(self._note_asked(series, read, before))
        return corrected

    async def _note_asked(self, series: StoredSeries, read: CandleRead, before: Candles) -> int:
        """Log that a candle was fetched again; return 1 if it was corrected, else 0."""
        store = self.history.store
        changed = int(not before.same_as((await store.read([read]))[0]))
        await note(store, series, read.span, LAST_CANDLE, changed)
        return changed

    async def _correct_volumes(self, task: Task, provider: Upstream) -> None:
        """Fetch the volumes of a series again, call by call. ProviderError."""
        store, reached = self.history.store, task.reached
        record: InstrumentRecord = (await self.history.instruments.by_id([task.series.instrument_id]))[0]
        correction = VolumeCorrection(store, task, record, provider)
        while True:
            reached, changed = await correction.step(reached, await self._hold())
            self._counts[task.step] += changed
            if reached is None:
                return
            await advance_task(store.database, task, reached)

    async def _withdraw_fillers(self, series: StoredSeries) -> int:
        """Withdraw imported candles without a trade, as corrections; their buckets stay covered. Return their number."""
        store, days, count = self.history.store, zone(series.timezone), 0
        key, after = (series.instrument_id, str(series.timeframe)), ALL_TIME.since
        while rows := await store.database.read("fillers_imported", *key, after, FILLERS_AT_ONCE):
            after = rows[-1]["opened"]
            stamps = np.array([row["opened"] for row in rows], np.int64)
            spans = Spans(map(Span, stamps.tolist(), bucket_ends(stamps, series.timeframe, days).tolist()))
            gone = CandleWrite(series.instrument_id, series.timeframe, Candles.empty(), spans, replaces=True)
            await _finished(self._withdraw_noted(series, gone, len(rows), await self._hold()))
            count += len(rows)
        return count

    async def _withdraw_noted(self, series: StoredSeries, gone: CandleWrite, rows: int, held: LeaseToken) -> None:
        """Withdraw the candles of some buckets, and log the withdrawal."""
        *_, last = gone.covered
        await self.history.store.write([gone], held=held)
        hull = Span(next(iter(gone.covered)).since, last.until)
        await note(self.history.store, series, hull, FILLERS, rows)


async def _finished(work: Coroutine[Any, Any, T]) -> T:
    """Run a step to its end, even if the caller is cancelled meanwhile: half of it would be wrong."""
    task = asyncio.create_task(work, name="a step after an upgrade")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _last_buckets(series: StoredSeries, found: Openings) -> Spans:
    """The buckets of imported candles that no imported candle of the same run follows."""
    days, stamps = zone(series.timezone), found.stamps
    longest = longest_hole(stamps[found.imported], series.timeframe, days)
    ends = {run.until for run in runs(stamps[found.imported], series.timeframe, days, longest)}
    imported = found.imported
    followed = np.append(imported[1:], True)
    last = stamps[imported & ~followed].tolist()
    buckets = [Span(at, series.timeframe.next(at, days)) for at in last]
    return Spans([*buckets, *(Span(series.timeframe.floor(end - 1, days), end) for end in ends)])
