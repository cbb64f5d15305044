"""Backfills: jobs in PostgreSQL that fetch missing history, worked on by every process.

A job is cut into parts, one stretch of one symbol each, and a part is fetched page by page through the collector: what is
missing is asked of the ledger before every page, each page is stored with its coverage in one transaction, and a claim on
the part ends by itself. So a killed process costs one page a worker, and anybody goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from candlegraph import clock
from candlegraph.answer import Gap, GapReason
from candlegraph.errors import (
    BadUserInput,
    CandlegraphError,
    NotFound,
    ProviderError,
    ProviderRefused,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.job import Backfill, BackfillOrder, BackfillPart, BackfillState
from candlegraph.provider import Upstream, Urgency
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import zone
from storage.collector import Collected, Want
from storage.database import SQL, to_ms
from storage.history import History

log = logging.getLogger(__name__)

MAX_PIECES = 1_000_000
PART_CALLS = 64  # upstream calls of one part: what two workers of one symbol divide between them
MAX_ATTEMPTS = 10  # failures in a row before a part is given up
LONGEST_REST_S = 300.0
CLAIM_S = 10.0
RENEW_S = 2.5
LOOK_S = 1.0
FOLLOW_S = 0.5


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that this process works on."""

    id: int
    backfill_id: int | None
    record: Record
    timeframe: Timeframe
    span: Span
    attempts: int


class Backfills:
    """The jobs, and this process's share of the work."""

    def __init__(self, history: History, *, workers: int = 4) -> None:
        """Nothing runs before `work`."""
        self._history = history
        self._database = history.store.database
        self._workers = workers
        self._holder = uuid.uuid4()
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    # Orders

    async def start(self, order: BackfillOrder) -> Backfill:
        """Queue a job for what is missing of what is ordered.

        BadUserInput for a pattern that matches nothing, a span in the future or beyond the provider's reach, a timeframe that
        is not native, or a million pieces; NotFound for a symbol the provider does not have; ProviderError.
        """
        selection = order.selection
        provider = await self._provider(selection.market, selection.provider)
        traits = provider.capabilities
        if order.timeframe not in traits.timeframes:
            known = ", ".join(map(str, traits.timeframes))
            raise BadUserInput(f"{provider.name} has no {order.timeframe} candles of its own: it has {known}.")
        records = await self._history.instruments.select(selection)
        span = _reachable(order, provider)
        parts = [
            part
            for record, gaps in await self._missing(records, order, span, provider)
            for part in _cut(record, gaps, order, provider)
        ]
        pieces = sum(part[3] for part in parts)
        if pieces >= MAX_PIECES:
            raise BadUserInput(
                f"This would take {pieces:,} upstream calls, and a job may take {MAX_PIECES - 1:,}: order fewer symbols or a shorter span."
            )
        async with self._database.transaction() as connection:
            symbols = [record.instrument.symbol for record in records]
            job: int = await connection.fetchval(
                SQL["backfill_add"], selection.market, selection.provider, symbols, str(order.timeframe),
                span.since, span.until, order.priority, order.created_by,
            )  # fmt: skip
            if parts:
                columns = [list(column) for column in zip(*parts, strict=True)]
                await connection.execute(SQL["backfill_parts_add"], job, str(order.timeframe), order.priority, *columns)
            else:
                await connection.execute(
                    "update backfills set state = 'DONE', started_at = now(), ended_at = now() where id = $1", job
                )
        self._news.set()
        return await self.get(job)

    async def cancel(self, job: int) -> Backfill:
        """End a job; what it has stored stays. One that has ended is left as it is. NotFound."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["backfill_cancel"], job)
        return await self.get(job)

    async def get(self, job: int) -> Backfill:
        """One job; NotFound."""
        if not 0 < job < 2**63 or not (found := await self._database.read("backfills_by_id", [job])):
            raise NotFound(f"There is no backfill {job}.")
        return _backfill(found[0])

    async def page(self, state: BackfillState | None, first: int, after: int | None) -> list[Backfill]:
        """The newest jobs, or those before ``after``."""
        ids = [row["id"] for row in await self._database.read("backfills_page", state, after, first)]
        return [_backfill(row) for row in await self._database.read("backfills_by_id", ids)]

    async def parts(self, job: int) -> list[BackfillPart]:
        """How far each symbol of a job is."""
        return [
            BackfillPart(
                row["symbol"],
                row["pieces"],
                row["pieces_done"],
                row["calls"],
                row["candles"],
                row["state"],
                to_ms(row["retry_at"]),
            )
            for row in await self._database.read("backfill_parts_of", job)
        ]

    async def follow(self, job: int) -> AsyncIterator[Backfill]:
        """The job whenever something of it has changed; ends when the job has. NotFound."""
        before: Backfill | None = None
        while before is None or not before.state.ended:
            now = await self.get(job)
            if before is None or _told(now) != _told(before):
                yield now
            before = now
            await asyncio.sleep(FOLLOW_S if not now.state.ended else 0)

    # Work

    async def work(self) -> None:
        """Work on whatever is queued, until cancelled."""
        renewing = asyncio.create_task(self._renew())
        try:
            while True:
                try:
                    if len(self._running) < self._workers and (part := await self._claim()):
                        task = asyncio.create_task(self._try(part))
                        self._running.add(task)
                        task.add_done_callback(self._done)
                        continue
                except CandlegraphError as error:
                    log.debug("no part of a backfill can be claimed: %s", error.message)
                await self._wait()
        finally:
            for task in (*self._running, renewing):
                task.cancel()
            await asyncio.gather(*self._running, renewing, return_exceptions=True)
            await self._execute("backfill_release", self._holder)

    def wake(self) -> None:
        """There is something to do."""
        self._news.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._news.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            if self._running:
                await self._execute("backfill_renew", self._holder, CLAIM_S)

    async def _claim(self) -> _Part | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["backfill_claim"], self._holder, CLAIM_S)
        if row is None:
            return None
        record = (await self._history.instruments.by_id([row["instrument_id"]]))[0]
        span = Span(to_ms(row["span"].lower), to_ms(row["span"].upper))
        return _Part(row["id"], row["backfill_id"], record, Timeframe.parse(row["timeframe"]), span, row["attempts"])

    async def _try(self, part: _Part) -> None:
        try:
            await self._run(part)
        except CandlegraphError as error:
            log.warning("backfill of %s stopped: %s", part.record.instrument, error.message)
            await self._execute("backfill_retry", part.id, self._holder, LOOK_S, 0, error.message)
        except Exception:
            log.exception("backfill of %s failed unexpectedly", part.record.instrument)
            await self._end(
                part, "FAILED", [Gap(*_ends(part.span), GapReason.OUTAGE, "The server failed.")], "INTERNAL", 0
            )

    async def _run(self, part: _Part) -> None:
        """Page after page until nothing is missing that can be had."""
        name = part.record.instrument
        while True:
            try:
                provider = await self._provider(name.market, name.provider)
            except ProviderError as error:
                await self._fail(part, Collected(failure=error))
                return
            want = Want(part.timeframe, part.span, urgency=Urgency.BACKFILL, calls=1)
            result = await asyncio.shield(self._history.collector.collect(part.record, provider, want))
            if result.failure:
                await self._fail(part, result)
                return
            left = Spans([part.span]) - (await self._history.ledgers.load([part.record.id]))[0].final(part.timeframe)
            if not result.exhausted:
                holes = _holes(left, result)
                await self._end(part, "DONE", holes, None, result.calls, result.rows)
                return
            page = provider.capabilities.max_rows_per_call * part.timeframe.nominal_ms
            pieces = -(-sum(gap.until - gap.since for gap in left) // page)
            progress = (part.id, self._holder, pieces, result.calls, result.rows, CLAIM_S)
            async with self._database.connection() as connection:
                if not await connection.fetchval(SQL["backfill_progress"], *progress):
                    return  # cancelled, or somebody took it for dead and goes on with it

    async def _fail(self, part: _Part, result: Collected) -> None:
        """Try again later, or give the part up where that is of no use."""
        failure = result.failure
        assert failure  # noqa: S101
        attempts = (await self._database.read("backfill_attempts", part.id))[0]["attempts"]
        if isinstance(failure, UnknownSymbol):  # the job goes on without it
            await self._end(
                part,
                "DONE",
                [Gap(*_ends(part.span), GapReason.UNAVAILABLE, failure.message)],
                failure.message,
                result.calls,
            )
        elif isinstance(failure, ProviderRefused | Unsupported):
            await self._end(
                part,
                "FAILED",
                [Gap(*_ends(part.span), GapReason.REFUSED, failure.message)],
                failure.message,
                result.calls,
            )
        elif attempts + 1 >= MAX_ATTEMPTS:
            await self._end(
                part,
                "FAILED",
                [Gap(*_ends(part.span), GapReason.OUTAGE, failure.message)],
                failure.message,
                result.calls,
            )
        else:
            rest = random.uniform(0.5, 1) * min(LONGEST_REST_S, 2.0**attempts)  # noqa: S311
            rest = max(rest, failure.retry_after or 0)
            await self._execute("backfill_retry", part.id, self._holder, rest, result.calls, failure.message)

    async def _end(
        self, part: _Part, state: str, holes: Iterable[Gap], error: str | None, calls: int, candles: int = 0
    ) -> None:
        rows = json.dumps([[gap.since, gap.until, gap.reason, gap.detail] for gap in holes])
        await self._execute("backfill_end", part.id, self._holder, state, rows, error, calls, candles)
        if part.backfill_id is not None:
            await self._execute("backfill_close", part.backfill_id)

    async def _execute(self, name: str, *arguments: object) -> None:
        """Run a statement that need not succeed: without it the claim ends, and somebody does it again."""
        try:
            async with self._database.connection() as connection:
                await connection.execute(SQL[name], *arguments)
        except CandlegraphError as error:
            log.debug("%s: %s", name, error.message)

    # What is missing

    async def _provider(self, market: str, provider: str) -> Upstream:
        found = await self._history.providers.get(market, provider)
        if found is None:
            raise NotFound(f"There is no provider {market[:64]}/{provider[:64]} to ask.")
        return found

    async def _missing(
        self, records: Sequence[Record], order: BackfillOrder, span: Span, provider: Upstream
    ) -> list[tuple[Record, Spans]]:
        """What is not known of each symbol, within the time it was listed."""
        ledgers = await self._history.ledgers.load([record.id for record in records])
        return [
            (record, missing(record, ledger.final(order.timeframe), order.timeframe, span, provider))
            for record, ledger in zip(records, ledgers, strict=True)
        ]


def missing(record: Record, known: Spans, timeframe: Timeframe, span: Span, provider: Upstream) -> Spans:
    """What is not known of ``span`` and final, and may be had at all."""
    days = zone(record.timezone)
    final = timeframe.floor(provider.now_ms() - provider.capabilities.final_after_ms, days)
    reach = provider.capabilities.reach_ms(timeframe)
    listed = Span(
        max(record.first_available or 0, 0 if reach is None else provider.now_ms() - reach),
        min(final, record.ended_at or final),
    )
    return Spans([Span(timeframe.ceil(max(span.since, listed.since), days), min(span.until, listed.until))]) - known


def _reachable(order: BackfillOrder, provider: Upstream) -> Span:
    """The span that is ordered, as far as it lies in the past; BadUserInput where nothing of it can be had."""
    now = provider.now_ms()
    span = Span(order.since, min(now, now if order.until is None else order.until))
    if order.until is not None and order.until <= order.since:
        raise BadUserInput(f"`since` ({order.since}) must lie before `until` ({order.until}).")
    if not span:
        raise BadUserInput(f"`since` ({order.since}) lies in the future: there is nothing to fetch yet.")
    reach = provider.capabilities.reach_ms(order.timeframe)
    if reach is not None and span.until <= now - reach:
        raise BadUserInput(f"{provider.name} reaches back to {now - reach} only: the span ends before that.")
    return span


def _cut(record: Record, gaps: Spans, order: BackfillOrder, provider: Upstream) -> list[tuple[int, int, int, int]]:
    """The parts of one symbol: (instrument, since, until, calls), each of as many calls as one worker takes at a time."""
    page = provider.capabilities.max_rows_per_call * order.timeframe.nominal_ms
    days = zone(record.timezone)
    parts = []
    for gap in gaps:
        since = gap.since
        while since < gap.until:
            until = min(gap.until, order.timeframe.floor(since + PART_CALLS * page, days))
            parts.append((record.id, since, until, -(-(until - since) // page)))
            since = until
    return parts


def _holes(left: Spans, result: Collected) -> list[Gap]:
    reasons = ((GapReason.REFUSED, result.refused, "The provider sent rows that are no candles."),)
    gaps = []
    for reason, spans, detail in reasons:
        gaps += [Gap(span.since, span.until, reason, detail) for span in left & spans]
        left -= spans
    return gaps + [
        Gap(span.since, span.until, GapReason.UNAVAILABLE, "The provider does not have it.") for span in left
    ]


def _ends(span: Span) -> tuple[int, int]:
    return span.since, span.until


def _told(job: Backfill) -> Backfill:
    """What of a job is worth another message."""
    return replace(job, candles_per_second=0.0, estimated_end_at=None)


def _backfill(row: Any) -> Backfill:
    started, ended, now = to_ms(row["started_at"]), to_ms(row["ended_at"]), clock.now_ms()
    elapsed = max(1, (ended or now) - started) if started else 0
    done, total = row["pieces_done"], row["pieces"]
    state = BackfillState(row["state"])
    ahead = None if not done or state.ended else now + elapsed * (total - done) // done
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
        holes=tuple(
            Gap(since, until, GapReason(reason), detail) for since, until, reason, detail in json.loads(row["holes"])
        ),
        last_error=row["last_error"],
        created_at=to_ms(row["created_at"]),
        created_by=row["created_by"],
        started_at=started,
        ended_at=ended,
        candles_per_second=row["candles"] * 1000 / elapsed if elapsed else 0.0,
        estimated_end_at=ahead,
    )
