"""Rows in memory are bounded; small reads never wait, large ones are neither starved nor kept past their deadline."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from candlegraph.answer import Answer
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import Overloaded
from candlegraph.span import Span
from history.admission import EXEMPT_ROWS, RowBudget
from storage.candles import CandleStore
from storage.database import Database
from tests.fakes.upstream import minutes
from tests.fakes.virtual import virtual
from tests.history.world import DAY_MS, T0, World, stop_clock
from tests.waiting import HANG_S

BIG = EXEMPT_ROWS + 1


async def held(budget: RowBudget, rows: int, let_go: asyncio.Event, log: list[int]) -> None:
    async with budget.reserve(rows):
        log.append(rows)
        await let_go.wait()


async def pause() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiters_are_served_smallest_first_and_the_smallest_reads_never_wait() -> None:
    budget, log = RowBudget(3 * BIG), []
    gates = [asyncio.Event() for _ in range(4)]
    sizes = (3 * BIG, 2 * BIG + 1, BIG, EXEMPT_ROWS)
    tasks = [asyncio.create_task(held(budget, size, gate, log)) for size, gate in zip(sizes, gates, strict=True)]
    await pause()
    assert log == [3 * BIG, EXEMPT_ROWS]
    gates[0].set()
    await pause()
    assert log == [3 * BIG, EXEMPT_ROWS, BIG]  # beside it the larger one does not fit
    gates[2].set()
    await pause()
    assert log[3:] == [2 * BIG + 1]
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks)
    async with budget.reserve(100 * BIG):  # all of it is free again, and that is enough
        pass


async def test_a_waiter_that_is_cancelled_takes_no_rows_along() -> None:
    budget, log = RowBudget(2 * BIG), []
    first, rest = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(held(budget, 2 * BIG, gate, log)) for gate in (first, rest, rest)]
    await pause()
    tasks[1].cancel()  # while it waits
    await pause()
    first.set()
    await asyncio.sleep(0)
    tasks[2].cancel()  # when it was its turn, and it has not heard yet
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(HANG_S):
        async with budget.reserve(2 * BIG):
            pass
    assert log == [2 * BIG]


READ_S = 0.25  # of virtual time


async def read_steadily(budget: RowBudget, log: list[int]) -> None:
    """Two seconds of reads, one begun every 0.1 s and each 0.25 s long: there is always one that holds rows."""

    async def read() -> None:
        async with budget.reserve(BIG):
            log.append(BIG)
            await asyncio.sleep(READ_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(read())
            await asyncio.sleep(0.1)


@virtual
async def test_a_large_read_is_served_amid_a_steady_stream_of_small_ones() -> None:
    budget, log = RowBudget(10 * BIG, patience_s=1.0), []
    async with asyncio.TaskGroup() as group:
        group.create_task(read_steadily(budget, log))
        await asyncio.sleep(0.05)
        group.create_task(held(budget, 10 * BIG, done := asyncio.Event(), log))
        done.set()
    large = log.index(10 * BIG)
    assert 0 < large < len(log) - 1
    assert len(log) == 21  # the small ones were all served, before it and after it


@virtual
async def test_no_read_overtakes_a_waiter_that_has_aged() -> None:
    budget, log = RowBudget(4 * BIG, patience_s=1.0), []
    gates = [asyncio.Event() for _ in range(2)]
    tasks = [asyncio.create_task(held(budget, size, gates[0], log)) for size in (2 * BIG, 4 * BIG)]
    await pause()
    tasks.append(asyncio.create_task(held(budget, BIG, gates[1], log)))  # fits, and no waiter has aged yet
    await asyncio.sleep(1)
    tasks += [asyncio.create_task(held(budget, BIG + n, gates[0], log)) for n in (2, 1)]  # fits one of them, and waits
    await pause()
    assert log == [2 * BIG, BIG]
    gates[1].set()
    await pause()
    assert log == [2 * BIG, BIG]
    gates[0].set()
    await asyncio.gather(*tasks)
    assert log == [2 * BIG, BIG, 4 * BIG, BIG + 1, BIG + 2]


@virtual
async def test_those_behind_an_aged_waiter_go_on_when_it_leaves() -> None:
    budget, log = RowBudget(2 * BIG, patience_s=1.0), []
    gate = asyncio.Event()
    tasks = [asyncio.create_task(held(budget, size, gate, log)) for size in (BIG, 2 * BIG)]
    await asyncio.sleep(1)
    tasks.append(asyncio.create_task(held(budget, BIG, gate, log)))
    await pause()
    assert log == [BIG]
    tasks[1].cancel()
    await pause()
    assert log == [BIG, BIG]
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)


@virtual
async def test_waiting_ends_by_the_deadline_with_when_to_come_back_and_leaves_the_budget_whole() -> None:
    loop = asyncio.get_running_loop()
    budget, log = RowBudget(2 * BIG), []
    gate = asyncio.Event()
    holder = asyncio.create_task(held(budget, BIG, gate, log))
    await pause()
    began = loop.time()
    with pytest.raises(Overloaded) as caught:
        async with budget.reserve(2 * BIG, began + 10):
            raise AssertionError
    assert caught.value.retry_after
    assert loop.time() == began + 10
    async with budget.reserve(BIG, began):  # it is late, but what it needs is free
        pass
    gate.set()
    await holder
    async with budget.reserve(2 * BIG, loop.time() + 1):
        pass


async def test_a_query_without_rows_by_its_deadline_gets_a_retry_after(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, now=T0 + 20 * DAY_MS)
    stop_clock(monkeypatch, world)
    world.lists(minutes(T0, 15 * 1440))
    await world.keeps(Span(T0, T0 + 15 * DAY_MS))
    database.timings = replace(database.timings, query_deadline_s=0.05)
    large = world.question("7m", 2_000, since=T0, until=T0 + 14_000 * MINUTE_MS)
    async with world.history.row_budget.reserve(10**9), asyncio.timeout(HANG_S):
        refused, small = await world.history.answer([large, world.question("7m", 10, since=T0)])
    assert isinstance(refused, Overloaded)
    assert refused.retry_after
    assert isinstance(small, Answer)
    assert isinstance((await world.history.answer([large]))[0], Answer)


async def test_questions_of_many_rows_are_not_read_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(database, now=T0 + 20 * DAY_MS)
    stop_clock(monkeypatch, world)
    world.lists(minutes(T0, 15 * 1440))
    await world.keeps(Span(T0, T0 + 15 * DAY_MS))
    sizes: list[int] = []
    read = CandleStore.read

    async def noted(self: CandleStore, reads):  # type: ignore[no-untyped-def]
        found = await read(self, reads)
        sizes.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(CandleStore, "read", noted)
    object.__setattr__(world.history, "row_budget", RowBudget(25_000))
    question = world.question("7m", 2_000, since=T0, until=T0 + 14_000 * MINUTE_MS)
    answers = await world.history.answer([question] * 6)
    assert {len(answer.candles) for answer in answers} == {2_000}  # type: ignore[union-attr]
    assert np.max(sizes) < 25_000
