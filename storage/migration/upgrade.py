"""Checks that run once for each series of an older version: the relation ``upgrade_tasks``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from candlegraph.candle import Candles
from candlegraph.provider import Taint
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import zone
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.coverage import END_OF_TIME_MS
from storage.database import SQL, Database, to_ms
from storage.withdrawals import StoredSeries, lock_series, openings_of, withdraw_locked
from storage.write_transaction import CommittedWrite, write_candles

AHEAD = "coverage beyond the time of the upgrade"


class Step(StrEnum):
    """The kinds of checks."""

    AHEAD = "ahead"
    HOLES = "holes"
    LAST = "last"
    FILLERS = "fillers"
    COVERAGE = "coverage"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Task:
    """One step for one series; ``noted_at`` is the instant of the upgrade; buckets before ``reached`` are done (both ms)."""

    series: StoredSeries
    step: Step
    noted_at: int
    market: str
    provider: str
    reached: int | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of tasks of a step, and how many of them are done."""

    step: str
    tasks: int
    done: int


async def open_tasks(database: Database, *steps: Step) -> list[Task]:
    """The open tasks, series by series."""
    return [
        Task(
            StoredSeries(row["instrument_id"], Timeframe.parse(row["timeframe"]), row["timezone"]),
            Step(row["step"]),
            to_ms(row["noted_at"]),
            row["market"],
            row["provider"],
            to_ms(row["reached"]),
        )
        for row in await database.read("upgrade_open", [str(step) for step in steps])
    ]


async def note_taint(database: Database, market: str, provider: str, taint: Taint) -> int:
    """Create a task for each series that a fault affects, unless the fault was noted before; return the number of tasks."""
    async with database.transaction() as connection:
        # A second process waits here for the first one.
        if not await connection.fetchval(SQL["taint_note"], market, provider, taint.name):
            return 0
        rows = await connection.fetch(SQL["series_covered"], market, provider)
        found = [row for row in rows if re.search(taint.symbols, row["symbol"])]
        columns = [row["instrument_id"] for row in found], [row["timeframe"] for row in found]
        await connection.execute(SQL["upgrade_add"], *columns, str(Step(taint.kind)))
    return len(found)


async def advance_task(database: Database, task: Task, reached: int) -> None:
    """Record the progress of a task, so that another process can continue it."""
    async with database.connection() as connection:
        await connection.execute(SQL["upgrade_advance"], *_key(task), reached)


async def close_task(database: Database, task: Task) -> None:
    """Mark a task as done."""
    async with database.connection() as connection:
        await connection.execute(SQL["upgrade_close"], *_key(task))


async def task_tallies(database: Database) -> list[Tally]:
    """The progress of each step; empty if the database was created by this version."""
    return [Tally(row["step"], row["tasks"], row["done"]) for row in await database.read("upgrade_counts")]


async def withdrawal_tallies(database: Database) -> Sequence[tuple[str, int, int, int]]:
    """By reason: the number of withdrawals, the coverage (ms) and the number of candles."""
    return [
        (row["reason"], row["withdrawals"], row["uncovered"], row["candles"])
        for row in await database.read("withdrawal_counts")
    ]


async def withdraw_ahead(store: CandleStore) -> int:
    """Withdraw coverage and unfinished candles beyond the time of the upgrade; return the number of series.

    This runs before any call to a provider, because coverage that a fetch adds later is valid. A second process waits for the
    first. Each task is one transaction over one connection, and locks the series against other writes.
    """
    tasks = await open_tasks(store.database, Step.AHEAD)
    for task in tasks:
        written = None
        async with store.database.transaction() as connection:
            if await connection.fetchval(SQL["upgrade_take"], *_key(task)):
                written = await _withdraw_ahead(connection, task, store.database.timings.statement_timeout_s)
                await connection.execute(SQL["upgrade_close"], *_key(task))
        if written:
            store.change_feed.publish(written.xid, written.changes)
    return len(tasks)


async def _withdraw_ahead(connection: Any, task: Task, timeout_s: float) -> CommittedWrite | None:
    series, timeframe = task.series, task.series.timeframe
    ahead = Spans([Span(timeframe.floor(task.noted_at, zone(series.timezone)), END_OF_TIME_MS)])
    if not (covered := await lock_series(connection, series) & ahead):
        return None
    *_, last = covered
    stored = await openings_of(connection, series, Span(next(iter(covered)).since, last.until))
    gone = CandleWrite(series.instrument_id, timeframe, Candles.empty(), covered, replaces=True)
    written = await write_candles(connection, [gone], lambda _: None, None, timeout_s)
    await withdraw_locked(connection, series, covered, AHEAD, len(stored.stamps))
    return written


def _key(task: Task) -> tuple[int, str, str]:
    return task.series.instrument_id, str(task.series.timeframe), str(task.step)
