"""Refreshes continuous aggregates, and drops minutes before the retention horizon: one process at a time.

A round first claims an instant: writes of older candles after that are recorded as late. It then refreshes every stale level,
the finer before the coarser, and records that it is done. An interrupted round is simply repeated.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from candlegraph import clock
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError, ConfigurationError
from candlegraph.outage import Outage
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.timings import Timings
from storage.aggregates.layout import AggregateLayout
from storage.aggregates.statements import STATEMENTS
from storage.database import SQL, Database, begun, to_ms
from storage.leases import Leases
from storage.relations import ALL_AGGREGATES

REFRESH_LAG_MS = (
    MINUTE_MS  # candles arrive seconds after their minute has ended; later ones are recorded and cost another refresh
)
MAX_LOG_ENTRIES = 10_000  # dirty hours per round
MAX_BUCKETS_PER_REFRESH = 5_000  # buckets per refresh, so that a round over years can stop in between
DAY_MS = 1440 * MINUTE_MS
LEASE, LEASE_TTL_S = "refresher", 30.0
LOCK_TIMEOUT_MS = 5_000
CALL_TIMEOUT_S = 3_600.0  # for one refresh: it cannot run in a transaction, where PostgreSQL's time-outs would apply
_EARLIEST = -(2**62)

_FIVE_MINUTES, _DAY = Timeframe.parse("5m"), Timeframe.parse("1d")


@dataclass(frozen=True, slots=True)
class AggregateRefresher:
    """The rounds of one process; with ``retention_days`` None no minute is ever dropped."""

    database: Database
    kind: AggregateLayout
    retention_days: int | None = None
    outage: Outage = field(default_factory=lambda: Outage("refreshing the aggregates"))

    async def run(self) -> None:
        """Run a round every ten seconds until cancelled, with growing pauses after failures."""
        timings = self.database.timings
        pause = timings.refresh_interval_s
        while True:
            with self.outage.recording():
                await self.run_once()
            pause = min(2 * pause, timings.refresh_max_backoff_s) if self.outage.reason else timings.refresh_interval_s
            await asyncio.sleep(pause)

    async def catch_up(self) -> int:
        """Wait for another process's round, then run one; return the instant (ms, UTC) before which aggregates are current."""
        while not await self.run_once():
            if not (await self.database.fetch(STATEMENTS["refresh_due"], self._upto()))[0]["due"]:
                break
            await asyncio.sleep(1)
        done: int = to_ms((await self.database.fetch(STATEMENTS["refresh_work"], 0))[0]["done"])
        return done

    async def rebuild(self, spans: Spans) -> Span | None:
        """Refresh every level over ``spans`` by force, the finest first; return the hull of the refreshed spans.

        This repairs wrong buckets that TimescaleDB considers valid. It refreshes them for all instruments, and from the finest
        level on, because a level above a wrong one would be wrong too. It leaves buckets before the retention horizon and the
        recorded dirty hours alone. ConfigurationError if TimescaleDB is older than 2.18.
        """
        while True:
            async with self._lease() as held:
                if held:
                    async with self.database.connect() as session:
                        work = await session.fetchrow(STATEMENTS["refresh_work"], 0)
                        return await _refresh_aggregates(session, spans, work, to_ms(work["done"]), force=True)
            await asyncio.sleep(1)  # a round of another process may take a while

    @staticmethod
    def _upto() -> int:
        return _FIVE_MINUTES.floor(clock.now_ms() - REFRESH_LAG_MS)

    async def run_once(self) -> bool:
        """Refresh all stale buckets that have ended; False if none was stale, or another process runs a round."""
        upto = self._upto()
        due = (
            self.kind is AggregateLayout.CONTINUOUS
            and (await self.database.fetch(STATEMENTS["refresh_due"], upto))[0]["due"]
        )
        if not due and self.retention_days is None:
            return False
        async with self._lease() as held:
            if not held:
                return False
            async with self.database.connect() as session:
                if due:
                    await refresh(session, upto, self.database.timings)
                if self.retention_days is not None:
                    wanted = _DAY.floor(clock.now_ms() - self.retention_days * DAY_MS)
                    await drop_expired_minutes(session, self.kind, wanted, self.database.timings)
        return True

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[bool]:
        """Yield whether this process holds the lease while the body runs. Two rounds at once would be slow, but not wrong."""
        leases, renewing = Leases(self.database, uuid.uuid4()), None
        try:
            if held := bool(await leases.acquire([LEASE], LEASE_TTL_S)):
                renewing = asyncio.create_task(self._renew(leases))
            yield held
        finally:
            if renewing:
                renewing.cancel()
                await asyncio.wait([renewing])
            with suppress(CandlegraphError):  # the lease expires
                await leases.release([LEASE])

    @staticmethod
    async def _renew(leases: Leases) -> None:
        while True:
            await asyncio.sleep(LEASE_TTL_S / 3)
            with suppress(CandlegraphError):  # the next attempt may be in time; otherwise another process takes over
                await leases.acquire([LEASE], LEASE_TTL_S)


async def refresh(session: Any, upto: int, timings: Timings) -> None:
    """Refresh the aggregates before ``upto`` (ms, UTC), and the recorded dirty hours."""
    async with _long_transaction(session, timings):
        await session.execute(STATEMENTS["refresh_claim"], upto)
    work = await session.fetchrow(STATEMENTS["refresh_work"], MAX_LOG_ENTRIES)
    until = to_ms(work["claimed"])
    stale = Spans(
        [Span(to_ms(work["done"]), until), *(Span(to_ms(r.lower), to_ms(r.upper)) for r in work["dirty"] or ())]
    )
    await _refresh_aggregates(session, stale, work, until)
    await session.execute(STATEMENTS["refresh_done"], work["ids"], work["claimed"])


async def _refresh_aggregates(session: Any, stale: Spans, work: Any, until: int, *, force: bool = False) -> Span | None:
    """Refresh each level over ``stale``, from the horizon to ``until`` (ms, UTC); return the hull of the refreshed spans."""
    known = set(await session.fetchval(STATEMENTS["refresh_parameters"]))
    if force and "force" not in known:
        raise ConfigurationError(
            "TimescaleDB older than 2.18 cannot refresh by force: update it to repair its aggregates."
        )
    there = {row["view_name"] for row in await session.fetch(SQL["levels_there"])}
    # Before the horizon there are no minutes: a refresh would erase the buckets there.
    stale &= Spans([Span(to_ms(work["horizon"]) if work["horizon"] else _EARLIEST, until)])
    done: list[Span] = []
    for timeframe, relation in ALL_AGGREGATES.items():
        if relation in there:
            statement = _refresh_statement(relation, options="options" in known, force=force)
            for window in refresh_windows(stale, timeframe, until):
                bounds = (datetime.fromtimestamp(instant / 1000, UTC) for instant in (window.since, window.until))
                await session.execute(statement, *bounds, timeout=CALL_TIMEOUT_S)
                done.append(window)
    return Span(min(done).since, max(window.until for window in done)) if done else None


def refresh_windows(stale: Spans, timeframe: Timeframe, until: int) -> Iterator[Span]:
    """The ended buckets of a level that overlap ``stale``, in parts that one refresh can do."""
    closed = timeframe.floor(until)
    for span in Spans(span.outer(timeframe) for span in stale):
        since, end = span.since, min(span.until, closed)
        while since < end:
            part = Span(since, min(end, timeframe.shift(since, MAX_BUCKETS_PER_REFRESH)))
            yield part
            since = part.until


def _long_transaction(session: Any, timings: Timings) -> AbstractAsyncContextManager[None]:
    """A long transaction with a short lock time-out, because writers queue behind a statement that waits for a lock."""
    return begun(session, timings, timeout_ms=0, lock_timeout_ms=LOCK_TIMEOUT_MS)


@lru_cache(maxsize=32)
def _refresh_statement(relation: str, *, options: bool, force: bool) -> str:
    parameters = """, options => '{"buckets_per_batch": 0}'""" if options else ""
    parameters += ", force => true" if force else ""
    return STATEMENTS["refresh_level"].replace("{relation}", relation).replace("{parameters}", parameters)


async def drop_expired_minutes(session: Any, kind: AggregateLayout, wanted: int, timings: Timings) -> None:
    """Drop the 1m candles before ``wanted`` (ms, UTC), once their aggregates exist and every process knows the horizon.

    The horizon moves first. The candles are deleted two minutes later, when no reader uses them any more.
    """
    now = await session.fetchrow(SQL["horizon"])
    if now["due"]:
        async with _long_transaction(session, timings):
            await session.execute(STATEMENTS["minutes_drop"])
    if now["horizon"] is None or to_ms(now["horizon"]) < wanted:
        async with _long_transaction(session, timings):
            await session.execute("select lock_aggregates_exclusive()")
            if kind is AggregateLayout.TABLES or not await session.fetchval(STATEMENTS["horizon_blocked"], wanted):
                await session.execute(STATEMENTS["horizon_move"], wanted)
