"""`verify --upstream`: stored days are compared with the provider's, and corrected by the way of every write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable
from candlegraph.provider import Capabilities, LiveMode, Page, Revision
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from history.upstream_check import DayCheck, check_day, check_days, stored_days
from storage.batches import CandleWrite, Superseded
from storage.corrections import newest_corrections
from storage.database import Database
from tests.fakes.upstream import FakeUpstream, changing, minutes, raising
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


async def test_a_day_that_the_provider_has_deleted_is_reported_and_stays(world: World) -> None:
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


async def test_the_days_compared_before_an_error_are_kept(world: World) -> None:
    world.lists(minutes(T0, 2 * 1440))
    await world.keeps(Span(T0, T0 + 2 * DAY_MS))
    world.upstream.faults = [changing(lambda page: page)] * 3 + [raising(ProviderUnavailable("It is away."))]
    days = [Span(T0 + DAY_MS, T0 + 2 * DAY_MS), DAY]
    checks, error = await check_days(world.history.revisions, await world.record(), world.upstream, days)
    assert checks == [DayCheck(days[0], 1440)]
    assert error is not None
    assert error.message == "It is away."


class Revising(FakeUpstream):
    """One whose candles are of the newest of its revisions, and are replaced after so many calls."""

    def __init__(self, *replaced_after: int) -> None:
        super().__init__(capabilities=Capabilities((MINUTE,), LiveMode.NONE, max_rows_per_call=500, revised=True))
        self.replaced_after = set(replaced_after)
        self.version = "0"

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision:
        return Revision(self.version, "any")

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span, *rest: Any) -> Page:
        page = replace(await super().fetch(instrument, timeframe, span, *rest), revision=Revision(self.version, "any"))
        if len(self.calls) in self.replaced_after:
            self.version = str(len(self.calls))
            self.truth = {symbol: minutes(T0 + 700 * MINUTE_MS, 740) for symbol in self.truth}
        return page


@pytest.fixture
async def revised(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """A day of minutes of the first revision, stored."""
    world = World(database, upstream=Revising(), now=T0 + 9 * DAY_MS)
    stop_clock(monkeypatch, world)
    world.lists(minutes(T0, 1440))
    whole, record = world.upstream.truth[world.symbol], await world.record()
    await world.store.write([CandleWrite(record.id, MINUTE, whole, Spans([DAY]), revision=Revision("0", "any"))])
    return world


async def test_two_revisions_of_a_source_are_never_compared_as_one(revised: World) -> None:
    """The candles of the newer one would be missing from the pages of the older one, and be withdrawn."""
    revised.upstream.replaced_after = {1}  # type: ignore[attr-defined]
    before = await revised.stored()
    with pytest.raises(Superseded):
        await check_day(revised.store, await revised.record(), revised.upstream, DAY)
    assert await revised.stored() == before


async def test_a_source_that_is_replaced_meanwhile_is_compared_once_more(revised: World) -> None:
    revised.upstream.replaced_after = {1}  # type: ignore[attr-defined]
    checks, error = await check_days(revised.history.revisions, await revised.record(), revised.upstream, [DAY])
    assert (checks, error) == ([DayCheck(DAY, 740)], None)
    assert await revised.stored() == rows_of(revised.upstream.truth[revised.symbol])


async def test_a_source_that_is_replaced_all_the_time_is_not_compared(revised: World) -> None:
    revised.upstream.replaced_after = set(range(1, 999))  # type: ignore[attr-defined]
    revised.database.timings = replace(revised.database.timings, query_deadline_s=0.05)
    checks, error = await check_days(revised.history.revisions, await revised.record(), revised.upstream, [DAY])
    assert checks == []
    assert error is not None
    assert "replaced while they were compared" in error.message
    await revised.history.revisions.close()
