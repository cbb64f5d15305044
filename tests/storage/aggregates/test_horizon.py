"""Where minutes are not kept for ever: what is said of them, and what is answered without them."""

from __future__ import annotations

import pytest

from candlegraph.answer import GapReason, SourceKind
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Capabilities, LiveMode
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from storage.aggregates.layout import AggregateLayout
from storage.aggregates.refresh import AggregateRefresher
from storage.aggregates.verify import Verification
from storage.database import Database
from storage.relations import ALL_AGGREGATES
from tests.fakes.upstream import minutes
from tests.history.world import DAY_MS, HOUR_MS, T0, World, folded, rows_of, stop_clock

HORIZON = T0 + 4 * DAY_MS
DAYS = 6


@pytest.fixture
async def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """Ten days were known in full; six of them are kept by the minute."""
    world = World(database, now=T0 + 10 * DAY_MS + 30 * MINUTE_MS)
    world.lists(minutes(T0, 10 * 1440 + 30))
    stop_clock(monkeypatch, world)
    await world.keeps(Span(T0, world.now))
    await drop(world)
    return world


async def drop(world: World) -> None:
    keeper = AggregateRefresher(world.database, AggregateLayout.TABLES, DAYS)
    await keeper.run_once()
    async with world.database.connection() as connection:
        await connection.execute("update storage_layout set moved_at = moved_at - interval '3 minutes'")
    await keeper.run_once()


async def test_minutes_behind_the_horizon_are_a_gap_that_says_why(world: World) -> None:
    answer = await world.ask(limit=100, since=HORIZON - 60 * MINUTE_MS, until=HORIZON + 10 * MINUTE_MS)
    assert rows_of(answer.candles) == rows_of(
        world.upstream.truth[world.symbol].between(Span(HORIZON, HORIZON + 600_000))
    )
    (gap,) = answer.gaps
    assert (gap.since, gap.until, gap.reason) == (HORIZON - 60 * MINUTE_MS, HORIZON, GapReason.UNAVAILABLE)
    assert gap.detail == "1-minute candles are not kept that long."
    assert world.calls == 0


@pytest.mark.parametrize("timeframe", ["5m", "45m", "1h", "1d", "1w"])
async def test_aggregates_still_answer_before_the_horizon(world: World, timeframe: str) -> None:
    answer = await world.ask(timeframe, limit=5000, since=T0, until=HORIZON)
    kept = Timeframe.parse(timeframe)
    wanted = folded(rows_of(world.upstream.truth[world.symbol]), kept)
    assert {int(row[0]): row[1:] for row in rows_of(answer.candles)} == {
        stamp: numbers for stamp, numbers in wanted.items() if kept.ceil(T0) <= stamp < HORIZON
    }
    assert {source.source for source in answer.sources} == {SourceKind.AGGREGATE}
    assert answer.complete
    assert world.calls == 0


async def test_a_timeframe_that_no_aggregate_folds_into_ends_at_the_horizon(world: World) -> None:
    answer = await world.ask("7m", limit=5000, since=T0)
    first = Timeframe.parse("7m").ceil(HORIZON)
    assert int(answer.candles.timestamp[0]) == first
    assert [(gap.until, gap.reason) for gap in answer.gaps] == [(first, GapReason.UNAVAILABLE)]


async def test_walking_back_ends_at_the_horizon_and_asks_for_nothing_behind_it(world: World) -> None:
    answer = await world.ask(limit=20, until=HORIZON + 10 * MINUTE_MS)
    assert len(answer.candles) == 10
    assert (answer.complete, answer.has_more, world.calls) == (True, False, 0)


async def test_native_candles_are_still_fetched_behind_the_horizon(world: World) -> None:
    hour = Timeframe.parse("1h")
    world.upstream.capabilities = Capabilities((MINUTE, hour), LiveMode.POLL, max_rows_per_call=500, settle_ms=0)
    async with world.database.connection() as connection:
        await connection.execute("delete from coverage where timeframe = '1m'")
    world.restart()
    answer = await world.ask("1h", limit=30, since=T0, until=T0 + DAY_MS)
    assert len(answer.candles) == 24
    assert {call.timeframe for call in world.upstream.calls} == {hour}
    assert await world.covered(hour) != await world.covered(MINUTE)
    for question in ("1m", "30m"):  # there is nothing native to fold these of
        late = await world.ask(question, limit=30, since=T0, until=T0 + HOUR_MS)
        assert [gap.reason for gap in late.gaps] == [GapReason.UNAVAILABLE]


async def test_processes_that_run_learn_of_a_new_horizon(world: World) -> None:
    changes = world.history.store.change_feed
    await changes.poll()
    assert (await world.history.coverage_cache.load([(await world.record()).id]))[0].horizon == HORIZON
    world.now += DAY_MS
    await AggregateRefresher(world.database, AggregateLayout.TABLES, DAYS).run_once()
    await changes.poll()
    assert (await world.history.coverage_cache.load([(await world.record()).id]))[0].horizon == HORIZON + DAY_MS


async def test_verify_does_not_miss_the_minutes_that_were_dropped(world: World) -> None:
    before = await world.ask("1h", limit=5000, since=T0, until=HORIZON)
    verification = Verification(world.store, ALL_AGGREGATES, repair=True)
    tallies = [tally async for tally in verification.check((await world.record()).id)]
    assert sum(tally.checked for tally in tallies) > 6 * 1440
    assert not [tally for tally in tallies if tally.wrong]
    after = await world.ask("1h", limit=5000, since=T0, until=HORIZON)
    assert rows_of(after.candles) == rows_of(before.candles)
