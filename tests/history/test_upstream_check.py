"""`verify --upstream`: stored days are compared with the provider's, and corrected by the way of every write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from history.upstream_check import DayCheck, check_day, stored_days
from storage.batches import CandleWrite
from storage.corrections import newest_corrections
from storage.database import Database
from tests.fakes.upstream import minutes
from tests.history.world import DAY_MS, HOUR_MS, T0, World, rows_of, stop_clock

DAY = Span(T0, T0 + DAY_MS)


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(database, now=T0 + 9 * DAY_MS)
    stop_clock(monkeypatch, made)
    return made


async def check(world: World, day: Span = DAY) -> DayCheck:
    return await check_day(world.store, await world.record(), world.upstream, day)


async def test_a_day_that_is_the_providers_is_left_as_it_is(world: World) -> None:
    world.lists(minutes(T0, 1440, holes=range(50, 90)))
    await world.keeps(DAY)
    assert await check(world) == DayCheck(DAY, 1400)
    assert await newest_corrections(world.database, None, None, None, 9) == []


async def test_what_differs_is_counted_and_corrected(world: World) -> None:
    truth = minutes(T0, 1440)
    world.lists(truth[np.setdiff1d(np.arange(1440), [700])])  # the provider has taken it back
    stored = concat([truth[:10], replace(truth[10:11], high=truth.high[10:11] + 1), truth[12:]])
    await world.keeps(DAY, rows=stored)
    assert await check(world) == DayCheck(DAY, 1439, missing=1, extra=1, different=1)
    assert await world.stored() == rows_of(world.upstream.truth[world.symbol])
    assert len(await newest_corrections(world.database, None, None, None, 9)) == 3
    hour = (await world.ask("1h", since=T0, until=T0 + HOUR_MS)).candles
    assert hour.high.tolist() == [float(truth.high[:60].max())]
    assert (await check(world)).wrong == 0


async def test_only_what_is_covered_is_compared(world: World) -> None:
    world.lists(minutes(T0, 1440))
    part = Span(T0 + HOUR_MS, T0 + 2 * HOUR_MS)
    await world.keeps(part)
    assert await check(world) == DayCheck(DAY, 60)
    assert await world.covered() == Spans([part])


async def test_a_day_that_the_provider_has_forgotten_is_told_and_stays(world: World) -> None:
    rows = minutes(T0, 100)
    world.lists(minutes(T0 + 5 * DAY_MS, 100))
    await world.keeps(DAY, rows=rows)
    assert await check(world) == DayCheck(DAY, 100, extra=100, kept=100)
    assert await world.stored() == rows_of(rows)


async def test_minutes_without_a_trade_that_were_imported_on_purpose_stay(world: World) -> None:
    truth = minutes(T0, 100, holes=[40])
    world.lists(truth)
    flat = Candles.of([T0 + 40 * MINUTE_MS], *[[5.0]] * 4, [0.0])
    await world.store.write([CandleWrite((await world.record()).id, MINUTE, truth.merge(flat), Spans([DAY]), "i")])
    assert await check(world) == DayCheck(DAY, 100)
    assert len(await world.stored()) == 100


def test_the_newest_stored_days_come_first() -> None:
    covered = Spans([Span(T0 - 5 * DAY_MS, T0 - 4 * DAY_MS), Span(T0 + HOUR_MS, T0 + DAY_MS + HOUR_MS)])
    days = [(day.since - T0) // DAY_MS for day in stored_days(covered, 9)]
    assert days == [1, 0, -5]
    assert len(stored_days(covered, 2)) == 2
