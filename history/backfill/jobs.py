"""Backfills: jobs in PostgreSQL that fetch missing history. This module creates them; `history.backfill.workers` runs them.

A job is split into parts. A part is a span of one symbol that takes as many upstream calls as one worker claims at a time.
The parts of all symbols take turns, the newest part of each first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from typing import Any

from candlegraph.answer import Gap, GapReason
from candlegraph.backfill import Backfill, BackfillRequest, BackfillState, SymbolProgress
from candlegraph.errors import BadUserInput, NotFound, Overloaded
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import series_zone, tradable
from candlegraph.upstream import Upstream
from candlegraph.zone import zone
from history.backfill.statements import SQL
from history.orchestrator import History
from history.plan import Plan
from history.provider_traits import ProviderTraits
from storage.coverage import Coverage
from storage.database import to_ms

MAX_PIECES = 1_000_000
MAX_PRIORITY = 1_000_000
MAX_GAPS = 1_000  # gaps of one job in an answer
MAX_OPEN_JOBS = 1_000  # unfinished jobs of one author
CALLS_PER_PART = 64


@dataclass(frozen=True, slots=True)
class BackfillPart:
    """A span of a series to fetch, in about ``pieces`` calls: its gaps, or with ``refetch`` all; ``gaps`` are not available."""

    record: InstrumentRecord
    span: Span
    pieces: int
    refetch: bool = False
    gaps: tuple[Gap, ...] = ()


class BackfillJobs:
    """The relations ``backfills`` and ``backfill_parts``."""

    def __init__(self, history: History) -> None:
        """Create jobs only: `history.backfill.workers.BackfillWorkers` runs them."""
        self.history = history
        self.changed = asyncio.Event()  # set when there is a new part to fetch
        self._database = history.store.database

    async def start(self, order: BackfillRequest) -> Backfill:
        """Queue a job for the gaps of the ordered span; a job without gaps is done at once.

        BadUserInput for a pattern without a match, a span in the future or beyond the provider's reach, a timeframe that is
        not native, or a million pieces; NotFound for an unknown symbol; Overloaded if the author has too many unfinished jobs;
        ProviderError.
        """
        check_priority(order)
        selection = order.selection
        records = await self.history.listings.select(selection)
        provider = await self.provider(
            selection.market, selection.provider, timeout_s=self.history.timings.query_deadline_s
        )
        span = reachable_span(order, provider)
        if (await self._database.fetch(SQL["backfills_open"], order.created_by))[0]["count"] >= MAX_OPEN_JOBS:
            raise Overloaded(
                f"{MAX_OPEN_JOBS:,} jobs of yours are under way: wait until some are done, or cancel them."
            )
        parts = await self._parts(records, order.timeframe, span, provider)
        async with self._database.transaction() as connection:
            job: int = await connection.fetchval(
                SQL["backfill_add"], selection.market, selection.provider,
                [record.instrument.symbol for record in records], str(order.timeframe),
                span.since, span.until, order.priority, order.created_by,
            )  # fmt: skip
            await self.enqueue(connection, parts, order.timeframe, job=job, priority=order.priority)
            await connection.execute(SQL["backfills_close"])
        self.changed.set()
        return await self.get(job)

    async def enqueue(
        self, connection: Any, parts: Iterable[BackfillPart], timeframe: Timeframe, *, job: int | None, priority: int
    ) -> None:
        """Queue parts, in this order."""
        rows = [
            (part.record.id, part.span.since, part.span.until, part.pieces, part.refetch, gaps_as_json(part.gaps))
            for part in parts
        ]
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            await connection.execute(SQL["backfill_parts_add"], job, str(timeframe), priority, *columns)

    async def cancel(self, job: int) -> Backfill:
        """Cancel a job; stored candles stay. A job that has ended does not change. NotFound."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["backfill_cancel"], _job_number(job))
        return await self.get(job)

    async def get(self, job: int) -> Backfill:
        """One job; NotFound."""
        if not (found := await self._database.fetch(SQL["backfills_by_id"], [_job_number(job)], MAX_GAPS)):
            raise _job_not_found(job)
        return _backfill(found[0])

    async def page(self, state: BackfillState | None, first: int, after: int | None) -> list[Backfill]:
        """The newest ``first`` jobs, of those before ``after`` if given."""
        ids = [row["id"] for row in await self._database.fetch(SQL["backfills_page"], state, after, first)]
        return [_backfill(row) for row in await self._database.fetch(SQL["backfills_by_id"], ids, MAX_GAPS)]

    async def parts(self, job: int) -> list[SymbolProgress]:
        """The progress of each symbol of a job."""
        return [
            SymbolProgress(
                row["symbol"],
                row["pieces"],
                row["pieces_done"],
                row["calls"],
                row["candles"],
                BackfillState.RUNNING if row["state"] == "OPEN" else BackfillState(row["state"]),
                to_ms(row["retry_at"]),
            )
            for row in await self._database.fetch(SQL["backfill_parts_of"], job)
        ]

    async def follow(self, job: int) -> AsyncIterator[Backfill]:
        """Yield the job after each change, until it has ended. NotFound."""
        before: Backfill | None = None
        while before is None or not before.state.ended:
            now = await self.get(job)
            if before is None or _visible_progress(now) != _visible_progress(before):
                yield now
            before = now
            if not now.state.ended:
                await asyncio.sleep(self.history.timings.backfill_follow_interval_s)

    async def provider(self, market: str, provider: str, *, timeout_s: float | None = None) -> Upstream:
        """The running provider. NotFound, ProviderError, ProviderStarting if it is not ready within ``timeout_s``."""
        found = await self.history.providers.get(market, provider, timeout_s=timeout_s)
        if found is None:
            raise NotFound(f"There is no provider {market[:64]}/{provider[:64]} to ask.")
        return found

    async def _parts(
        self, records: Sequence[InstrumentRecord], timeframe: Timeframe, span: Span, provider: Upstream
    ) -> list[BackfillPart]:
        """The parts that fill the gaps of all symbols, in the order of work, with the spans that are not available."""
        coverages = await self.history.coverage_cache.load([record.id for record in records])
        # In a thread: ten thousand symbols take a second.
        return await asyncio.to_thread(_planned, records, coverages, timeframe, span, provider)


def _planned(
    records: Sequence[InstrumentRecord],
    coverages: Sequence[Coverage],
    timeframe: Timeframe,
    span: Span,
    provider: Upstream,
) -> list[BackfillPart]:
    found = [
        (record, *find_missing(record, coverage, timeframe, span, provider))
        for record, coverage in zip(records, coverages, strict=True)
    ]
    page = provider.capabilities.max_rows_per_call * timeframe.nominal_ms
    pieces = sum(-(-(gap.until - gap.since) // page) for _, gaps, _ in found for gap in gaps)
    if pieces >= MAX_PIECES:
        raise BadUserInput(
            f"This would take {pieces:,} upstream calls, and a job may take {MAX_PIECES - 1:,}: "
            "order fewer symbols or a shorter span."
        )
    unavailable = [BackfillPart(record, span, 0, gaps=holes) for record, _, holes in found if holes]
    return unavailable + round_robin([split_into_parts(record, gaps, timeframe, page) for record, gaps, _ in found])


def find_missing(
    record: InstrumentRecord, coverage: Coverage, timeframe: Timeframe, span: Span, provider: ProviderTraits
) -> tuple[Spans, tuple[Gap, ...]]:
    """The final gaps of ``span`` that can be fetched, and the spans that never can, with reasons."""
    days, now = series_zone(record, timeframe), provider.now_ms()
    plan = Plan(record, provider.capabilities, coverage, {}, timeframe, days, zone(record.timezone), now)
    final = timeframe.settled(now - provider.capabilities.final_after_ms, days)
    whole = Span(timeframe.ceil(span.since, days), min(timeframe.ceil(span.until, days), final))
    unknown = tradable(record, Spans([whole]) - coverage.final(timeframe), timeframe, days)
    beyond = [
        Gap(gap.since, gap.until, reason, detail)
        for reason, part, detail in plan.unreachable(whole)
        for gap in unknown & Spans([part])
    ]
    return unknown - Spans(Span(gap.since, gap.until) for gap in beyond), tuple(beyond)


def split_into_parts(record: InstrumentRecord, gaps: Spans, timeframe: Timeframe, page: int) -> list[BackfillPart]:
    """The parts that fill ``gaps``, the newest first; one call returns about ``page`` milliseconds."""
    days = zone(record.timezone)
    parts: list[BackfillPart] = []
    for gap in gaps:
        since = gap.since
        while since < gap.until:
            until = min(gap.until, timeframe.floor(since + CALLS_PER_PART * page, days))
            pieces = -(-(until - since) // page)
            if parts and parts[-1].pieces + pieces <= CALLS_PER_PART:  # a part may include covered spans
                last = parts.pop()
                parts.append(BackfillPart(record, Span(last.span.since, until), last.pieces + pieces))
            else:
                parts.append(BackfillPart(record, Span(since, until), pieces))
            since = until
    return parts[::-1]


def round_robin(parts: Iterable[Sequence[BackfillPart]]) -> list[BackfillPart]:
    """The first part of each series, then the second of each, and so on."""
    return [part for turn in zip_longest(*parts) for part in turn if part]


def gaps_as_json(holes: Iterable[Gap]) -> str:
    """Gaps as ``backfill_parts`` stores them."""
    return json.dumps([[gap.since, gap.until, gap.reason, gap.detail] for gap in holes])


def check_priority(order: BackfillRequest) -> None:
    """BadUserInput if the priority is out of bounds."""
    if abs(order.priority) > MAX_PRIORITY:
        raise BadUserInput(f"`priority` must be between -{MAX_PRIORITY:,} and {MAX_PRIORITY:,}.")


def reachable_span(order: BackfillRequest, provider: ProviderTraits) -> Span:
    """The past part of the ordered span; BadUserInput if none of it is available, or the timeframe is not native."""
    if order.timeframe not in provider.capabilities.timeframes:
        known = ", ".join(map(str, provider.capabilities.timeframes))
        raise BadUserInput(f"{provider.name} has no {order.timeframe} candles of its own: it has {known}.")
    now = provider.now_ms()
    if order.until is not None and order.until <= order.since:
        raise BadUserInput(f"`since` ({order.since}) must lie before `until` ({order.until}).")
    span = Span(order.since, now if order.until is None else min(now, order.until))
    if not span:
        raise BadUserInput(f"`since` ({order.since}) lies in the future: there is nothing to fetch yet.")
    reach = provider.capabilities.reach_ms(order.timeframe)
    if reach is not None and span.until <= now - reach:
        raise BadUserInput(f"{provider.name} reaches back to {now - reach} only: the span ends before that.")
    return span


def _job_number(job: int) -> int:
    if not 0 < job < 2**63:
        raise _job_not_found(job)
    return job


def _job_not_found(job: int) -> NotFound:
    return NotFound(f"There is no backfill {str(job)[:32]}.")


def _visible_progress(job: Backfill) -> Backfill:
    """The job without the fields whose change alone is not worth a message to followers."""
    return replace(job, candles_per_second=0.0, estimated_end_at=None)


def _backfill(row: Any) -> Backfill:
    """A job; its rate and estimated end are computed by the database's clock, from the job's start."""
    started, ended, seen = to_ms(row["started_at"]), to_ms(row["ended_at"]), to_ms(row["seen_at"])
    elapsed = max(1, (ended or seen) - started) if started else 0
    done, total, state = row["pieces_done"], row["pieces"], BackfillState(row["state"])
    running = done and not state.ended
    return Backfill(
        id=row["id"],
        market=row["market"],
        provider=row["provider"],
        symbols=tuple(row["symbols"]),
        timeframe=Timeframe.parse(row["timeframe"]),
        span=Span(to_ms(row["span"].lower), to_ms(row["span"].upper)),
        priority=row["priority"],
        state=state,
        pieces_done=done,
        pieces_total=total,
        calls=row["calls"],
        candles_written=row["candles"],
        holes=_job_gaps(json.loads(row["holes"]), several=len(row["symbols"]) > 1),
        last_error=row["last_error"],
        created_at=to_ms(row["created_at"]),
        created_by=row["created_by"],
        started_at=started,
        ended_at=ended,
        candles_per_second=row["candles"] * 1000 / elapsed if elapsed else 0.0,
        estimated_end_at=seen + elapsed * (total - done) // done if running else None,
    )


def _job_gaps(rows: Iterable[Any], *, several: bool) -> tuple[Gap, ...]:
    """The gaps of a job, with neighbours merged; the detail names the symbol if the job has several."""
    gaps: list[Gap] = []
    rows = sorted((symbol, reason, detail or "", since, until) for symbol, (since, until, reason, detail) in rows)
    for (symbol, reason, detail), group in groupby(rows, key=lambda row: row[:3]):
        named = f"{symbol}: {detail}" if several else detail
        gaps += [Gap(s.since, s.until, GapReason(reason), named) for s in Spans(Span(*row[3:]) for row in group)]
    return tuple(gaps)
