"""How many candles are stored is always exact, and what was counted once is not counted again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.series import Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.batches import CandleWrite
from storage.counts import candle_counts as counts_module
from storage.coverage import Coverage
from storage.database import Database
from tests.fakes.upstream import minutes
from tests.history.world import DAY_MS, T0, World, stop_clock


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """A day of minutes, one in five of them without a trade; it is a day later."""
    world = World(database, now=T0 + 2 * DAY_MS)
    world.lists(minutes(T0, 1440, holes=range(0, 1440, 5)))
    stop_clock(monkeypatch, world)
    return world


def part(since: int, until: int) -> Span:
    """A span by the numbers of its minutes."""
    return Span(T0 + since * MINUTE_MS, T0 + until * MINUTE_MS)


async def count_of(world: World, timeframe: Timeframe = MINUTE) -> int:
    return (await world.history.coverage(Series(world.instrument, timeframe))).rows


async def test_after_whatever_is_written_the_count_is_what_is_stored(world: World) -> None:
    truth, record = world.upstream.truth[world.symbol], await world.record()
    assert await count_of(world) == 0
    await world.keeps(part(500, 600))
    assert await count_of(world) == len(await world.stored()) == 80
    await world.keeps(part(600, 700))  # beside it
    await world.keeps(part(100, 200), part(900, 1000))  # and apart, on both sides
    assert await count_of(world) == len(await world.stored()) == 320
    late = Candles.of(T0 + MINUTE_MS * np.array([500, 505]), *([1.0, 1.0],) * 5)
    await world.keeps(part(500, 506), rows=late)  # two minutes that had no trade after all
    assert await count_of(world) == len(await world.stored()) == 322
    covered = Spans([part(100, 200)])
    await world.store.write([CandleWrite(record.id, MINUTE, truth.between(part(150, 160)), covered, replaces=True)])
    assert await count_of(world) == len(await world.stored()) == 322 - 72  # the others were withdrawn
    assert await count_of(world, Timeframe(1, "h")) == 7  # 2, 8 to 11, 15 and 16


async def test_candles_of_a_timeframe_that_has_an_aggregate_count_too(world: World) -> None:
    """As imported days do: there need not be any minute below them."""
    day, record = Timeframe(1, "d"), await world.record()
    days = Candles.of(T0 + DAY_MS * np.arange(-5, 1), *(np.ones(6),) * 5)
    await world.store.write([CandleWrite(record.id, day, days, Spans([Span(T0 - 5 * DAY_MS, T0 + DAY_MS)]), "i")])
    assert await count_of(world, day) == 6
    await world.keeps(part(0, 1440))
    assert await count_of(world, day) == 6, "the day that has its minutes as well is one"
    minutes_of = minutes(T0 + DAY_MS, 60)
    await world.keeps(part(1440, 1500), rows=minutes_of)
    assert await count_of(world, day) == 7


async def test_only_what_is_new_is_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[tuple[int, int]]] = []
    read = Database.read

    async def noted(self: Database, name: str, *arguments: Any) -> Sequence[Any]:
        if name == "candles_count_within":
            counted.append(list(zip(*arguments[2:], strict=True)))
        return await read(self, name, *arguments)

    monkeypatch.setattr(Database, "read", noted)
    for until in (100, 100, 110):
        await world.keeps(part(0, until))
        await count_of(world)
        await count_of(world)
    whole, new = part(0, 100), part(100, 110)
    assert counted == [[(whole.since, whole.until)], [(new.since, new.until)]]


async def test_at_the_limit_one_count_goes_and_not_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    async def noted(_: Database, name: str, instrument_id: int, *__: object) -> Sequence[Any]:
        assert name == "candles_count_within"
        counted.append(instrument_id)
        return [{"count": 7}]

    monkeypatch.setattr(Database, "read", noted)
    monkeypatch.setattr(counts_module, "MAX_ENTRIES", 3)
    counts, ledger = counts_module.CandleCounts(world.store.database), Coverage({MINUTE: Spans([part(0, 10)])})
    for number in range(5):
        await counts.count(number, MINUTE, ledger, {})
    counted.clear()
    assert [await counts.count(number, MINUTE, ledger, {}) for number in (4, 3, 2, 1)] == [7] * 4
    assert counted == [1]
