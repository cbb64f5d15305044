"""Calls that come while one is under way are made as one; nobody's trouble is anybody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from candlegraph.errors import Unavailable
from storage.together import Together


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


async def asked(together: Together[str, int, int], *numbers: int, key: str = "k") -> list[asyncio.Task[int]]:
    tasks = []
    for number in numbers:
        tasks.append(asyncio.create_task(together(key, number)))
        await asyncio.sleep(0)
    return tasks


async def test_the_first_is_made_at_once_and_all_that_come_meanwhile_as_one(database: Database) -> None:
    tasks = await asked(Together(database.double), *range(100))
    database.free()
    assert await asyncio.gather(*tasks) == [2 * n for n in range(100)]
    assert database.made == [("k", [0]), ("k", list(range(1, 100)))]


async def test_keys_do_not_wait_for_each_other(database: Database) -> None:
    together = Together(database.double)
    tasks = [*await asked(together, 1, key="a"), *await asked(together, 2, key="b")]
    assert database.made == [("a", [1]), ("b", [2])]
    database.free()
    assert await asyncio.gather(*tasks) == [2, 4]
    assert not together._lines


@pytest.mark.parametrize("leaver", range(4))
async def test_whoever_leaves_takes_no_other_with_it(database: Database, leaver: int) -> None:
    together = Together(database.double)
    tasks = await asked(together, *range(4))
    tasks[leaver].cancel()
    await asyncio.sleep(0)
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(leaver), asyncio.CancelledError)
    assert results == [2 * n for n in range(4) if n != leaver]
    assert not together._lines


async def test_whoever_leaves_while_it_makes_the_calls_of_others_leaves_them_to_the_next(database: Database) -> None:
    together = Together(database.double)
    tasks = await asked(together, *range(4))
    database.free(1)
    await tasks[0]
    await asyncio.sleep(0)
    assert database.made[-1] == ("k", [1, 2, 3])
    tasks[1].cancel()
    await asyncio.sleep(0)
    database.free()
    assert await asyncio.gather(*tasks[2:]) == [4, 6]
    assert tasks[1].cancelled()


async def test_one_that_breaks_breaks_no_other(database: Database) -> None:
    tasks = await asked(Together(database.double), 1, 2, -13, 3)
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(2), ValueError)
    assert results == [2, 4, 6]


async def test_while_the_database_is_away_it_is_not_asked_for_each(database: Database) -> None:
    tasks = await asked(Together(database.double), *range(100))
    database.away = True
    database.free()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert len(database.made) == 2
