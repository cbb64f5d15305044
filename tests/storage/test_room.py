"""Rows in memory are bounded, whoever reads them; what is small never waits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from storage.candles import CandleStore
from storage.database import Database
from storage.room import FEW, Room
from tests.fakes.upstream import minutes
from tests.storage.world import DAY_MS, T0, World, stop_clock
from tests.waiting import HANG_S

BIG = FEW + 1


async def held(room: Room, rows: int, let_go: asyncio.Event, log: list[int]) -> None:
    async with room.taken(rows):
        log.append(rows)
        await let_go.wait()


async def pause() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_finds_no_room_waits_the_smallest_goes_first_and_who_wants_little_never_waits() -> None:
    room, log = Room(3 * BIG), []
    gates = [asyncio.Event() for _ in range(4)]
    sizes = (3 * BIG, 2 * BIG + 1, BIG, FEW)
    tasks = [asyncio.create_task(held(room, size, gate, log)) for size, gate in zip(sizes, gates, strict=True)]
    await pause()
    assert log == [3 * BIG, FEW]
    gates[0].set()
    await pause()
    assert log == [3 * BIG, FEW, BIG]  # beside it the larger one finds no room
    gates[2].set()
    await pause()
    assert log[3:] == [2 * BIG + 1]
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks)
    async with room.taken(100 * BIG):  # all of it is free again, and that is enough
        pass


async def test_who_does_not_wait_any_more_takes_nothing_along() -> None:
    room, log = Room(2 * BIG), []
    first, rest = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(held(room, 2 * BIG, gate, log)) for gate in (first, rest, rest)]
    await pause()
    tasks[1].cancel()  # while it waits
    await pause()
    first.set()
    await asyncio.sleep(0)
    tasks[2].cancel()  # when it was its turn, and it has not heard yet
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(HANG_S):
        async with room.taken(2 * BIG):
            pass
    assert log == [2 * BIG]


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
    object.__setattr__(world.history, "room", Room(25_000))
    question = world.question("7m", 2_000, since=T0, until=T0 + 14_000 * MINUTE_MS)
    answers = await world.history.answer([question] * 6)
    assert {len(answer.candles) for answer in answers} == {2_000}  # type: ignore[union-attr]
    assert np.max(sizes) < 25_000
