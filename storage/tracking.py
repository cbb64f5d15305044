"""Series that are kept complete for ever: one process of the cluster looks for their holes, and all of them fill these."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from candlegraph.clock import DAY_MS
from candlegraph.errors import BadUserInput, CandlegraphError
from candlegraph.job import Selection, Tracked
from candlegraph.provider import Upstream, Urgency
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.backfill import PART_CALLS, Backfills, missing
from storage.collector import Want
from storage.database import SQL, to_ms
from storage.history import History
from storage.lease import Lease

log = logging.getLogger(__name__)

EVERY_S = 30.0
BATCH = 200  # series looked at in one go
LISTED_SINCE_DAYS = 30  # how far back a series is kept where nobody says
_DAY = Timeframe(1, "d")


class Tracking:
    """The relation ``tracked``, and the scheduler that keeps its series complete."""

    def __init__(self, history: History, backfills: Backfills) -> None:
        """Nothing runs before `keep`."""
        self._history = history
        self._backfills = backfills
        self._database = history.store.database
        self._lease = Lease(self._database, "tracking")
        self._news = asyncio.Event()

    async def track(self, selection: Selection, since: int | None, by: str | None) -> list[Tracked]:
        """Keep the 1m candles of these symbols complete from ``since`` on; by default the last 30 days and what comes.

        A symbol that is tracked already takes the earlier of the two. BadUserInput, NotFound, ProviderError.
        """
        provider = await self._history.providers.get(selection.market, selection.provider)
        now = provider.now_ms() if provider else 0
        if provider is None or MINUTE not in provider.capabilities.timeframes:
            raise BadUserInput(f"{selection.market}/{selection.provider} has no 1m candles to be kept complete.")
        if since is not None and since > now:
            raise BadUserInput(f"`since` ({since}) lies in the future.")
        records = await self._history.instruments.select(selection)
        start = _DAY.floor(now - LISTED_SINCE_DAYS * DAY_MS) if since is None else MINUTE.ceil(since)
        ids = [record.id for record in records]
        async with self._database.connection() as connection:
            await connection.execute(SQL["tracked_add"], ids, start, by)
        self._news.set()
        return await self._tracked(records)

    async def untrack(self, selection: Selection) -> int:
        """Stop keeping these symbols; how many were. What is stored stays."""
        records = await self._history.instruments.select(selection)
        async with self._database.connection() as connection:
            return int(await connection.fetchval(SQL["tracked_remove"], [record.id for record in records]))

    async def page(self, first: int, after: int) -> list[Tracked]:
        """Tracked series in the order in which they were instruments, those behind number ``after``."""
        rows = await self._database.read("tracked_page", after, first)
        return await self._tracked(await self._history.instruments.by_id([row["instrument_id"] for row in rows]))

    async def holes(self, records: Sequence[Record]) -> list[Spans]:
        """What is missing of tracked series, as far as it may be had; nothing of one that is not tracked."""
        since = {row["instrument_id"]: to_ms(row["since"]) for row in await self._rows(records)}
        ledgers = await self._history.ledgers.load([record.id for record in records])
        found = []
        for record, ledger in zip(records, ledgers, strict=True):
            provider = await self._provider(record)
            known = ledger.spans.get(MINUTE, Spans())
            whole = Span(since.get(record.id, 2**62), 2**62)
            found.append(missing(record, known, MINUTE, whole, provider) if provider else Spans())
        return found

    async def keep(self) -> None:
        """Look for holes every half minute while this process holds the lease, until cancelled."""
        looked_at = 0.0
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    if await self._lease.take() and (loop.time() - looked_at > EVERY_S or self._news.is_set()):
                        self._news.clear()
                        looked_at = loop.time()
                        await self._look()
                except CandlegraphError as error:
                    log.debug("tracked series cannot be looked after: %s", error.message)
                except Exception:
                    log.exception("looking after tracked series failed")
                await asyncio.sleep(1)
        finally:
            await self._lease.free()

    async def _look(self) -> None:
        after = 0
        while rows := await self._database.read("tracked_page", after, BATCH):
            records = await self._history.instruments.by_id([row["instrument_id"] for row in rows])
            found = await self.holes(records)
            for record, holes in zip(records, found, strict=True):
                if holes:
                    await self._queue(record, holes)
            async with self._database.connection() as connection:
                await connection.execute(
                    SQL["tracked_checked"], [r.id for r in records], [len(holes) for holes in found]
                )
            for row, record in zip(rows, records, strict=True):
                await self._reread(record, to_ms(row["reread_at"]))
            after = rows[-1]["instrument_id"]
            await self._lease.take()  # many series take longer than the lease lasts
        self._backfills.wake()

    async def _queue(self, record: Record, holes: Spans) -> None:
        """Have the holes filled, the newest first; those that are being filled already are left alone."""
        provider = await self._provider(record)
        assert provider  # noqa: S101 - otherwise there would be no holes
        page = provider.capabilities.max_rows_per_call * MINUTE.nominal_ms
        parts = []
        for hole in reversed(list(holes)):
            until = hole.until
            while until > hole.since:
                since = max(hole.since, MINUTE.floor(until - PART_CALLS * page))
                parts.append((since, until, -(-(until - since) // page)))
                until = since
        async with self._database.connection() as connection:
            columns = [list(column) for column in zip(*parts, strict=True)]
            await connection.execute(SQL["tracked_fill"], record.id, *columns)

    async def _reread(self, record: Record, reread_at: int | None) -> None:
        """Read the last days once more, once a day, of a provider that corrects them late."""
        provider = await self._provider(record)
        late = provider.capabilities.corrects_within_ms if provider else None
        if provider is None or late is None:
            return
        today = _DAY.floor(provider.now_ms())
        if reread_at is not None and reread_at >= today:
            return
        span = Span(today - -(-late // DAY_MS) * DAY_MS, today)
        known = (await self._history.ledgers.load([record.id]))[0].spans.get(MINUTE, Spans()) & Spans([span])
        for part in known:
            want = Want(MINUTE, part, urgency=Urgency.BACKFILL, again=True)
            result = await asyncio.shield(self._history.collector.collect(record, provider, want))
            if result.failure:
                return  # once more in half a minute
        async with self._database.connection() as connection:
            await connection.execute(SQL["tracked_reread"], record.id)

    async def _provider(self, record: Record) -> Upstream | None:
        try:
            return await self._history.providers.get(record.instrument.market, record.instrument.provider)
        except CandlegraphError:
            return None  # it is down: its holes stay until it is back

    async def _rows(self, records: Sequence[Record]) -> Sequence[Any]:
        return await self._database.read("tracked_by_id", [record.id for record in records])

    async def _tracked(self, records: Sequence[Record]) -> list[Tracked]:
        rows = {row["instrument_id"]: row for row in await self._rows(records)}
        holes = await self.holes(records)
        return [
            Tracked(record, to_ms(rows[record.id]["since"]), len(spans), to_ms(rows[record.id]["complete_at"]))
            for record, spans in zip(records, holes, strict=True)
            if record.id in rows
        ]
