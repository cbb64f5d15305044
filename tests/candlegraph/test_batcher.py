"""Calls that arrive while a batch runs form the next batch; no call runs twice, and none is lost by another's end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from candlegraph.batcher import Batcher
from candlegraph.errors import Unavailable


class Database:
    """Doubles numbers; it is busy until a test frees it."""

    def __init__(self) -> None:
        self.made: list[tuple[str, list[int]]] = []
        self.turns = asyncio.Semaphore(0)
        self.away = False

    def free(self, turns: int = 100) -> None:
        """Let it answer so often."""
        for _ in range(turns):
            self.turns.release()

    async def double(self, key: str, numbers: Sequence[int]) -> list[int]:
        self.made.append((key, list(numbers)))
        await self.turns.acquire()
        if self.away:
            raise Unavailable
        if -13 in numbers:
            raise ValueError(numbers)
        return [2 * number for number in numbers]


@pytest.fixture
async def database() -> Database:
    return Database()


@pytest.fixture
async def batcher(database: Database) -> Batcher[str, int, int]:
    return Batcher(database.double, repeats_alone=True)


async def pause() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def call(batcher: Batcher[str, int, int], key: str, number: int) -> int:
    return await batcher.submit(key, number)


async def asked(batcher: Batcher[str, int, int], *numbers: int, key: str = "k") -> list[asyncio.Task[int]]:
    """Calls one after the other: the first of them is running, the others wait."""
    tasks = []
    for number in numbers:
        tasks.append(asyncio.create_task(call(batcher, key, number)))
        await pause()
    return tasks


async def test_a_lone_call_runs_at_once_and_all_that_arrive_meanwhile_are_the_next_batch(
    database: Database, batcher: Batcher[str, int, int]
) -> None:
    tasks = await asked(batcher, *range(100))
    database.free()
    assert await asyncio.gather(*tasks) == [2 * n for n in range(100)]
    assert database.made == [("k", [0]), ("k", list(range(1, 100)))]


async def test_calls_of_one_turn_of_the_loop_share_a_batch(database: Database, batcher: Batcher[str, int, int]) -> None:
    database.free()
    assert await asyncio.gather(*(batcher.submit("k", n) for n in range(9))) == [2 * n for n in range(9)]
    assert database.made == [("k", list(range(9)))]


async def test_keys_do_not_wait_for_each_other_and_leave_nothing_behind(
    database: Database, batcher: Batcher[str, int, int]
) -> None:
    tasks = [*await asked(batcher, 1, key="a"), *await asked(batcher, 2, key="b")]
    assert database.made == [("a", [1]), ("b", [2])]
    database.free()
    assert await asyncio.gather(*tasks) == [2, 4]
    await batcher.drain()
    assert not batcher._tasks
    assert not batcher._waiting


@pytest.mark.parametrize("leaver", [1, 2, 3])
async def test_a_call_whose_caller_leaves_before_its_batch_is_not_made(
    database: Database, batcher: Batcher[str, int, int], leaver: int
) -> None:
    tasks = await asked(batcher, *range(4))
    tasks[leaver].cancel()
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(leaver), asyncio.CancelledError)
    assert results == [2 * n for n in range(4) if n != leaver]
    assert database.made == [("k", [0]), ("k", [n for n in (1, 2, 3) if n != leaver])]


@pytest.mark.parametrize("leaver", [1, 2, 3])
async def test_a_batch_that_has_begun_is_completed_once_if_callers_are_cancelled(
    database: Database, batcher: Batcher[str, int, int], leaver: int
) -> None:
    tasks = await asked(batcher, *range(4))
    database.free(1)
    await pause()
    assert database.made[-1] == ("k", [1, 2, 3])
    tasks[leaver].cancel()
    await pause()
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(leaver), asyncio.CancelledError)
    assert results == [2 * n for n in range(4) if n != leaver]
    assert database.made == [("k", [0]), ("k", [1, 2, 3])]


async def test_a_batch_that_all_its_callers_left_is_completed_too(
    database: Database, batcher: Batcher[str, int, int]
) -> None:
    (task,) = await asked(batcher, 1)
    task.cancel()
    await pause()
    again = asyncio.create_task(call(batcher, "k", 2))
    await pause()
    assert database.made == [("k", [1])]
    database.free()
    assert await again == 4
    assert database.made == [("k", [1]), ("k", [2])]


async def test_a_bad_item_fails_alone_where_calls_may_be_repeated(
    database: Database, batcher: Batcher[str, int, int]
) -> None:
    tasks = await asked(batcher, 1, 2, -13, 3)
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(2), ValueError)
    assert results == [2, 4, 6]


async def test_where_calls_may_not_be_repeated_an_error_reaches_all_callers_of_the_batch(database: Database) -> None:
    tasks = await asked(Batcher(database.double), 1, 2, -13, 3)
    database.free()
    one, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert one == 2
    assert all(isinstance(result, ValueError) for result in others)
    assert database.made == [("k", [1]), ("k", [2, -13, 3])]


async def test_while_the_database_is_away_it_is_not_asked_for_each(
    database: Database, batcher: Batcher[str, int, int]
) -> None:
    tasks = await asked(batcher, *range(100))
    database.away = True
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert len(database.made) == 2


async def test_draining_waits_for_calls_that_are_not_awaited(
    database: Database, batcher: Batcher[str, int, int]
) -> None:
    results = [batcher.submit("k", 1)]
    await pause()
    results.append(batcher.submit("k", 2))
    database.free()
    await batcher.drain()
    assert [result.result() for result in results] == [2, 4]
    await batcher.drain()  # there is nothing left, so it returns


@pytest.mark.parametrize("begun", [True, False])
async def test_cancelling_gives_up_what_runs_and_what_waits_and_the_batcher_serves_on(
    database: Database, batcher: Batcher[str, int, int], begun: bool
) -> None:
    results = [batcher.submit("k", 1)]
    if begun:
        await pause()
    results.append(batcher.submit("k", 2))
    await batcher.cancel()
    assert all(result.cancelled() for result in results)
    database.free()
    assert await batcher.submit("k", 3) == 6
    assert database.made[-1] == ("k", [3])
