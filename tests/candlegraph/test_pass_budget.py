"""One pass of the event loop does a bounded amount of work of a kind, and what waits keeps its order."""

from __future__ import annotations

import asyncio

import pytest

from candlegraph.pass_budget import PassBudget
from tests.waiting import HANG_S


class Passes:
    """Counts the passes of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._task.cancel()


async def test_work_beyond_the_units_of_a_pass_waits_in_its_order() -> None:
    passes, budget, done = Passes(), PassBudget(10), list[tuple[int, int]]()

    def work(number: int) -> int:
        done.append((passes.count, number))
        return 5

    for number in range(7):
        budget.run(lambda number=number: work(number))  # type: ignore[misc]
    assert [number for _, number in done] == [0, 1]  # at once
    async with asyncio.timeout(HANG_S):
        while len(done) < 7:
            await asyncio.sleep(0)
    passes.stop()
    assert [number for _, number in done] == list(range(7))
    assert max([p for p, _ in done].count(one) for one in {p for p, _ in done}) == 2


async def test_work_that_asks_for_more_work_comes_behind_the_others() -> None:
    budget, done, both = PassBudget(1), list[str](), asyncio.Event()

    def first() -> int:
        done.append("first")
        if done.count("first") < 3:
            budget.run(first)
        return 1

    def other() -> int:
        done.append("other")
        both.set()
        return 1

    budget.run(first)
    budget.run(other)
    async with asyncio.timeout(HANG_S):
        await both.wait()
        while done.count("first") < 3:
            await asyncio.sleep(0)
    assert done.index("other") < len(done) - 1


async def test_a_turn_is_free_while_the_pass_has_units_left_and_a_cancelled_one_takes_none() -> None:
    budget = PassBudget(10)
    await asyncio.wait_for(budget.turn(10), HANG_S)
    cancelled, waiting = (asyncio.create_task(budget.turn(10)) for _ in range(2))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await asyncio.wait_for(waiting, HANG_S)


async def test_a_piece_that_fails_stops_no_other() -> None:
    budget, done = PassBudget(1), asyncio.Event()

    def fail() -> int:
        raise ValueError

    def work() -> int:
        done.set()
        return 1

    budget.run(lambda: 1)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    budget.run(fail)
    budget.run(work)
    await asyncio.wait_for(done.wait(), HANG_S)
