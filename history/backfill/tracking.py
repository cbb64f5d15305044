"""Tracking: series that the server keeps complete. One process looks for the gaps of each, and all processes fill them.

There is no leader: the process that updates ``checked_at`` checks the series, and no other does for half a minute. If it
dies, another process does the next check.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from candlegraph.answer import Gap, GapReason
from candlegraph.backfill import SymbolSelection, TrackedSeries
from candlegraph.clock import DAY_MS, MINUTE_MS, OLDEST_MS
from candlegraph.errors import BadUserInput, ProviderError
from candlegraph.outage import Outage
from candlegraph.provider import LiveMode
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import Upstream
from history.backfill.jobs import BackfillJobs, BackfillPart, find_missing, round_robin, split_into_parts
from history.backfill.statements import SQL
from storage.coverage import Coverage
from storage.database import to_ms

MAX_TRACKED = 10_000  # of all providers; each series has a feed
BATCH_SIZE = 200  # series checked at once
DEFAULT_DAYS = 30  # how far back a series is tracked by default
LIVE_GRACE_MS = 2 * MINUTE_MS  # leave younger minutes to the feed
TRACKING_PRIORITY = -1  # below the backfills that users order
_DAY = Timeframe(1, "d")
_END = 2**53


class Tracking:
    """The relation ``tracked``, and this process's share of the checks of its series."""

    def __init__(self, backfills: BackfillJobs) -> None:
        """Start nothing: `run` does."""
        self._backfills = backfills
        self._history = backfills.history
        self._database = backfills.history.store.database
        self.outage = Outage("checking the tracked series")

    async def track(self, selection: SymbolSelection, since: int | None, by: str | None) -> list[TrackedSeries]:
        """Keep the 1m candles of these symbols complete from ``since`` on; by default from 30 days ago.

        A symbol that is tracked already gets the earlier ``since`` of the two. BadUserInput, NotFound, ProviderError.
        """
        records = await self._history.listings.select(selection)
        timeout_s = self._history.timings.query_deadline_s
        provider = await self._backfills.provider(selection.market, selection.provider, timeout_s=timeout_s)
        if MINUTE not in provider.capabilities.timeframes:
            raise BadUserInput(f"{provider.name} has no 1m candles, and only these can be tracked.")
        now = provider.now_ms()
        if since is not None and since > now:
            raise BadUserInput(f"`since` ({since}) lies in the future.")
        start = _DAY.floor(now - DEFAULT_DAYS * DAY_MS) if since is None else MINUTE.ceil(since)
        ids = [record.id for record in records]
        beside = (await self._database.fetch(SQL["tracked_beside"], ids))[0]["count"]
        if beside + len(ids) > MAX_TRACKED:
            raise BadUserInput(
                f"At most {MAX_TRACKED:,} symbols can be tracked: beside these {len(ids):,} there are {beside:,}."
            )
        async with self._database.connection() as connection:
            await connection.execute(SQL["tracked_add"], ids, start, by)
        return await self._tracked(records)

    async def untrack(self, selection: SymbolSelection) -> int:
        """Stop tracking these symbols; return their number. Stored candles stay. BadUserInput, NotFound, ProviderError."""
        records = await self._history.listings.select(selection)
        async with self._database.connection() as connection:
            return int(await connection.fetchval(SQL["tracked_remove"], [record.id for record in records]))

    async def page(self, first: int, after: int = 0) -> list[TrackedSeries]:
        """Tracked series in the order of their instruments' ids, those after the id ``after``."""
        rows = await self._database.fetch(SQL["tracked_page"], after, first)
        return await self._tracked(await self._history.instruments.by_id([row["instrument_id"] for row in rows]))

    async def run(self) -> None:
        """Check every series twice a minute, together with the other processes, until cancelled."""
        while True:
            with self.outage.recording():
                while await self.check_batch():
                    pass
            await asyncio.sleep(self._history.timings.tracking_poll_interval_s)

    async def check_batch(self) -> int:
        """Fill the gaps of series that no process has checked lately; return the number of these series."""
        if self._history.fetcher.paused:
            return 0
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["tracked_take"], self._history.timings.tracking_interval_s, BATCH_SIZE)
        if not rows:
            return 0
        records = await self._history.instruments.by_id([row["instrument_id"] for row in rows])
        coverages = await self._history.coverage_cache.load([record.id for record in records])
        tried = await self._recent_attempts(records)
        providers = await self._providers(records)
        fill, again, complete, read = [], [], [], {}
        for row, record, coverage in zip(rows, records, coverages, strict=True):
            if (provider := providers[record.instrument.market, record.instrument.provider]) is None:
                continue  # it is down or still starting: the gaps of its series stay until it is available
            holes = _series_gaps(row, record, coverage, provider)
            if not holes:
                complete.append(record.id)
            page = provider.capabilities.max_rows_per_call * MINUTE_MS
            later = coverage.postponed(MINUTE, provider.now_ms())
            due = holes - Spans(span for span, _, _ in tried[record.id]) - later
            fill.append(split_into_parts(record, due, MINUTE, page))
            if late := _correctable(row, coverage, provider):
                again += [
                    BackfillPart(record, span, -(-(span.until - span.since) // page), refetch=True) for span in late
                ]
                read[record.id] = provider.now_ms()
        async with self._database.transaction() as connection:
            await self._backfills.enqueue(
                connection, [*round_robin(fill), *again], MINUTE, job=None, priority=TRACKING_PRIORITY
            )
            await connection.execute(SQL["tracked_complete"], complete)
            for instrument_id, at in read.items():
                await connection.execute(SQL["tracked_reread"], [instrument_id], at)
            await connection.execute(SQL["tracked_sweep"])
        self._backfills.changed.set()
        return len(rows)

    async def _recent_attempts(
        self, records: Sequence[InstrumentRecord]
    ) -> dict[int, list[tuple[Span, str, list[Any]]]]:
        """The parts of each series that are running or were tried lately: span, state and gaps."""
        tried: dict[int, list[tuple[Span, str, list[Any]]]] = defaultdict(list)
        for row in await self._database.fetch(SQL["tracked_parts"], [record.id for record in records]):
            span = Span(to_ms(row["since"]), to_ms(row["until"]))
            tried[row["instrument_id"]].append((span, row["state"], json.loads(row["holes"])))
        return tried

    async def _tracked(self, records: Sequence[InstrumentRecord]) -> list[TrackedSeries]:
        ids = [record.id for record in records]
        rows = {row["instrument_id"]: row for row in await self._database.fetch(SQL["tracked_by_id"], ids)}
        coverages = dict(zip(ids, await self._history.coverage_cache.load(ids), strict=True))
        tried = await self._recent_attempts(records)
        providers = await self._providers(records)
        found = []
        for record in records:
            if row := rows.get(record.id):
                provider = providers[record.instrument.market, record.instrument.provider]
                holes = _series_gaps(row, record, coverages[record.id], provider) if provider else Spans()
                gaps = _explain(holes, tried[record.id])
                found.append(TrackedSeries(record, to_ms(row["since"]), tuple(gaps), to_ms(row["complete_at"])))
        return found

    async def _providers(self, records: Sequence[InstrumentRecord]) -> dict[tuple[str, str], Upstream | None]:
        """The providers of these records; None for one that is not available now."""
        pairs = {(record.instrument.market, record.instrument.provider) for record in records}
        return dict(zip(pairs, await asyncio.gather(*(self._provider(*pair) for pair in pairs)), strict=True))

    async def _provider(self, market: str, provider: str) -> Upstream | None:
        try:
            timeout_s = self._history.timings.query_deadline_s
            return await self._history.providers.get(market, provider, timeout_s=timeout_s)
        except ProviderError:
            return None


def _series_gaps(row: Any, record: InstrumentRecord, coverage: Coverage, provider: Upstream) -> Spans:
    """The gaps of a tracked series that can be fetched."""
    holes, _ = find_missing(record, coverage, MINUTE, Span(to_ms(row["since"]), _END), provider)
    if provider.capabilities.live is LiveMode.NONE:
        return holes
    return holes & Spans(
        [Span(OLDEST_MS, provider.now_ms() - provider.capabilities.final_after_ms - LIVE_GRACE_MS)]
    ).inner(MINUTE)


def _correctable(row: Any, coverage: Coverage, provider: Upstream) -> Spans:
    """Once a day: the covered part of the last whole days, to fetch again if the provider corrects candles late."""
    late, reread_at = provider.capabilities.corrects_within_ms, to_ms(row["reread_at"])
    today = _DAY.floor(provider.now_ms())
    if late is None or (reread_at is not None and reread_at >= today):
        return Spans()
    # Includes one day more than the provider corrects: its last fetch comes after its last correction.
    span = Span(today - (-(-late // DAY_MS) + 1) * DAY_MS, today)
    return coverage.spans.get(MINUTE, Spans()) & Spans([span])


def _explain(holes: Spans, tried: list[tuple[Span, str, list[Any]]]) -> list[Gap]:
    """The gaps, each with the reason why it is still there; neighbours with the same reason are merged."""
    lacking: dict[tuple[str, str | None], Spans] = {}
    for _, _, lacked in tried:
        for since, until, reason, detail in lacked:
            hit = holes & Spans([Span(since, until)])
            lacking[reason, detail] = lacking.get((reason, detail), Spans()) | hit
            holes -= hit
    gaps = [Gap(s.since, s.until, GapReason(reason), detail) for (reason, detail), at in lacking.items() for s in at]
    under_way = holes & Spans(span for span, state, _ in tried if state == "OPEN")
    gaps += [Gap(s.since, s.until, GapReason.PENDING, "It is being fetched.") for s in under_way]
    gaps += [Gap(s.since, s.until, GapReason.NOT_FETCHED, "It has not been fetched yet.") for s in holes - under_way]
    return sorted(gaps, key=lambda gap: gap.since)
