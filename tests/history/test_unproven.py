"""Spans that pages do not prove are requested in another way, then later; a symbol's beginning and end are found soon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candlegraph.answer import Answer, GapReason
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Capabilities, Listing, LiveMode, Page
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from history.fetch_request import MAX_CALLS_PER_FETCH
from storage.database import Database
from tests.fakes.upstream import UNLIMITED, FakeUpstream, minutes
from tests.history.world import DAY_MS, T0, World, rows_of, stop_clock
from tests.timings import PATIENT

HOUR, DAY = Timeframe.parse("1h"), Timeframe.parse("1d")
Make = Callable[..., World]


@pytest.fixture(scope="module")
async def database(new_database: Callable[..., Awaitable[str]], migrated_template: str) -> AsyncIterator[Database]:
    """One for all of them: every world has a symbol of its own."""
    opened = Database(await new_database(migrated_template), timings=PATIENT)
    await opened.open()
    yield opened
    await opened.close()


def build(database: Database, monkeypatch: pytest.MonkeyPatch, truth: Candles, now: int, **traits: Any) -> World:
    settled = {
        "timeframes": (MINUTE,), "live": LiveMode.POLL, "max_rows_per_call": 200, "settle_ms": 0, "budget": UNLIMITED,
    } | traits  # fmt: skip
    world = World(database, FakeUpstream(capabilities=Capabilities(**settled)), now).lists(truth)
    stop_clock(monkeypatch, world)
    return world


@pytest.fixture
def make(database: Database, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a world: ``make(truth, now, ...)``, the rest are capabilities."""
    return lambda truth, now, **traits: build(database, monkeypatch, truth, now, **traits)


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


async def calls_of(world: World, **question: Any) -> tuple[Answer, int]:
    """An answer, and how many upstream calls it cost."""
    before = world.calls + world.upstream.beginning_calls
    answer = await world.ask(**question)
    return answer, world.calls + world.upstream.beginning_calls - before


# What cannot be proved


@st.composite
def markets(draw: st.DrawFn) -> Candles:
    """Dense, thin and quiet stretches, one after the other."""
    start, batches = T0 + MINUTE_MS * draw(st.integers(0, 300)), []
    for seed in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 500))
        every = draw(st.sampled_from([1, 1, 3, 7, 40]))
        batches.append(minutes(start, count, seed=seed)[np.arange(0, count, every)])
        start += MINUTE_MS * (count + draw(st.sampled_from([0, 30, 150, 600, 2_000])))
    return concat(batches)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(truth=markets(), newest=st.booleans(), page=st.sampled_from([50, 200]))
async def test_of_pages_that_vouch_only_from_row_to_row_every_candle_is_there_or_honestly_missing(
    truth: Candles, newest: bool, page: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = at(9_000)
    world = build(database, monkeypatch, truth, end + 2 * DAY_MS, max_rows_per_call=page)
    world.upstream.edges_only = True
    ask = {"since": None if newest else T0, "until": end, "limit": 5_000}
    for _ in range(30):
        answer, calls = await calls_of(world, **ask)
        assert calls <= 3 * MAX_CALLS_PER_FETCH
        missing = Spans(Span(gap.since, gap.until) for gap in answer.gaps)
        first = T0 if not newest else int(answer.candles.timestamp[0]) if len(answer.candles) else end
        last = answer.next_since if answer.has_more and not newest else end
        expected = [
            row
            for row in rows_of(truth.between(Span(first, last or end)))
            if not missing & Spans([Span(int(row[0]), int(row[0]) + 1)])
        ]
        assert rows_of(answer.candles) == expected
        if not calls:
            break
    else:
        pytest.fail("a repeat never comes to cost nothing")
    again, calls = await calls_of(world, **ask)
    assert (calls, rows_of(again.candles)) == (0, rows_of(answer.candles))
    holes = [gap for gap in answer.gaps if gap.reason is not GapReason.UNAVAILABLE]
    assert not holes


async def test_a_thin_market_is_complete_between_its_candles(make: Make) -> None:
    truth = minutes(T0, 2_000)[np.arange(0, 2_000, 7)]
    world = make(truth, at(2_000) + DAY_MS)
    world.upstream.edges_only = True
    answer, calls = await calls_of(world, since=T0, until=int(truth.timestamp[-1]) + MINUTE_MS, limit=5_000)
    assert (answer.complete, rows_of(answer.candles)) == (True, rows_of(truth))
    assert calls <= 12
    assert (await calls_of(world, since=T0, until=int(truth.timestamp[-1]) + MINUTE_MS, limit=5_000))[1] == 0


async def test_what_lies_behind_a_quiet_stretch_is_fetched_and_the_quiet_is_tried_again_later_and_later(
    make: Make,
) -> None:
    truth = minutes(T0, 1_000, holes=range(100, 600))
    world = make(truth, at(1_000) + DAY_MS)
    world.upstream.edges_only = True
    ask = {"since": T0, "until": at(1_000), "limit": 5_000}
    quiet = [(at(100), at(600), GapReason.UNAVAILABLE)]
    answer, _ = await calls_of(world, **ask)
    assert rows_of(answer.candles) == rows_of(truth)
    assert [(gap.since, gap.until, gap.reason) for gap in answer.gaps] == quiet
    for wait in (10, 40, 160):  # minutes; the grid of the retries adds up to ten
        world.now += (wait - 1) * MINUTE_MS
        assert (await calls_of(world, **ask))[1] == 0
        world.now += 11 * MINUTE_MS
        answer, calls = await calls_of(world, **ask)
        assert calls > 0
        assert [(gap.since, gap.until, gap.reason) for gap in answer.gaps] == quiet
    world.upstream.edges_only = False
    world.now += 700 * MINUTE_MS
    assert (await world.ask(**ask)).complete


@pytest.mark.parametrize("cap", [20, 100])
async def test_the_head_of_a_page_that_was_cut_is_asked_for_in_a_smaller_window(make: Make, cap: int) -> None:
    """Of the window that was asked for, the newest rows come, fewer than the provider says."""
    truth = minutes(T0, 600)
    world = make(truth, at(600) + DAY_MS)
    fetch = world.upstream.fetch

    async def cut(*arguments: Any) -> Page:
        page = await fetch(*arguments)
        rows = page.candles[-cap:]
        since = int(rows.timestamp[0]) if len(page.candles) > cap else page.complete_from
        return Page(rows, since, page.complete_to)

    world.upstream.fetch = cut  # type: ignore[method-assign,assignment]
    ask, total = {"since": T0, "until": at(600), "limit": 600}, 0
    for _ in range(8):
        answer, calls = await calls_of(world, **ask)
        total += calls
        if answer.complete and not answer.has_more:
            break
    assert rows_of(answer.candles) == rows_of(truth)
    assert total <= 600 // cap * 2
    assert (await calls_of(world, **ask))[1] == 0


# The beginning and the end


@pytest.mark.parametrize("timeframes", [(MINUTE,), (MINUTE, HOUR, DAY)])
async def test_the_beginning_of_a_young_symbol_is_found_in_one_call_and_stored(
    make: Make, timeframes: tuple[Timeframe, ...]
) -> None:
    world = make(minutes(T0, 3_000), at(3_000), timeframes=timeframes, max_rows_per_call=1_000)
    world.upstream.knows_beginnings = True
    since = T0 - 2_000 * DAY_MS
    answer, calls = await calls_of(world, since=since, limit=500)
    assert rows_of(answer.candles) == rows_of(world.upstream.truth[world.symbol][:500])
    assert calls <= 4
    assert (await world.record()).first_available == T0
    assert answer.gaps[-1].reason is GapReason.BEFORE_LISTING
    world.restart()
    again, calls = await calls_of(world, since=since, limit=500)
    assert (calls, rows_of(again.candles)) == (0, rows_of(answer.candles))
    assert (await calls_of(world, limit=4_000))[1] <= 4
    assert world.upstream.beginning_calls == 1


async def test_where_a_provider_cannot_say_days_show_where_a_symbol_begins(make: Make) -> None:
    world = make(minutes(T0, 3_000), at(3_000), timeframes=(MINUTE, HOUR, DAY), max_rows_per_call=1_000)
    answer, calls = await calls_of(world, since=T0 - 2_000 * DAY_MS, limit=500)
    assert (len(answer.candles), answer.complete) == (500, True)
    assert calls <= 4
    assert (await calls_of(world, since=T0 - 2_000 * DAY_MS, limit=500))[1] == 0


async def test_a_beginning_after_a_stored_candle_is_not_believed(make: Make) -> None:
    world = make(minutes(T0, 3_000), at(3_000))
    await world.keeps(Span(T0, at(100)))
    world.lists(world.upstream.truth[world.symbol][2_000:])
    world.upstream.knows_beginnings = True
    await world.ask(since=at(200), limit=10)
    assert (world.upstream.beginning_calls, (await world.record()).first_available) == (1, None)


async def test_the_last_candles_of_a_symbol_that_ended_long_ago_come_on_the_first_page(make: Make) -> None:
    truth = minutes(T0, 3_000)
    world = make(truth, at(3_000) + 200 * DAY_MS, timeframes=(MINUTE, HOUR, DAY), max_rows_per_call=1_000)
    answer, calls = await calls_of(world, limit=50)
    assert rows_of(answer.candles) == rows_of(truth[-50:])
    assert (answer.complete, answer.has_more) == (True, True)
    assert calls <= 5
    assert (await calls_of(world, limit=50))[1] <= 1


async def test_a_window_that_has_grown_is_fetched_only_until_there_are_enough_candles(make: Make) -> None:
    truth = minutes(T0, 20_000)
    world = make(truth, at(20_000))
    world.upstream.listed = {world.symbol: Listing("", ended_at=at(20_000))}
    answer, calls = await calls_of(world, since=T0 - 100 * DAY_MS, limit=100)
    assert (len(answer.candles), answer.has_more) == (100, True)
    assert calls <= 8
    assert (await calls_of(world, since=T0 - 100 * DAY_MS, limit=100))[1] == 0


# Minutes that are not kept


async def test_minutes_that_a_provider_does_not_keep_are_not_taken_for_quiet_ones(make: Make) -> None:
    truth = minutes(T0, 10 * 1_440)
    world = make(truth, T0 + 10 * DAY_MS, timeframes=(MINUTE, HOUR, DAY), max_rows_per_call=1_000)
    fetch = world.upstream.fetch

    async def forget(instrument: Any, timeframe: Timeframe, span: Span, *more: Any) -> Page:
        page = await fetch(instrument, timeframe, span, *more)
        kept = page.candles.timestamp >= (T0 + 5 * DAY_MS if timeframe == MINUTE else 0)
        return Page(page.candles[kept], page.complete_from, page.complete_to)

    world.upstream.fetch = forget  # type: ignore[method-assign]
    ask = {"since": at(2_000), "until": at(3_000), "limit": 1_000}
    answer, _ = await calls_of(world, **ask)
    assert len(answer.candles) == 0
    assert [(gap.since, gap.until, gap.reason) for gap in answer.gaps] == [
        (at(2_000), at(3_000), GapReason.UNAVAILABLE),
    ]
    assert not await world.covered()
    assert (await calls_of(world, **ask))[1] == 0
    other = await world.ask(since=at(500), until=at(600))
    assert not other.complete, "nor are older ones believed"
    kept = await world.ask(since=T0 + 6 * DAY_MS, limit=100)
    assert (len(kept.candles), kept.complete) == (100, True)


async def test_a_quiet_stretch_on_a_day_with_trades_is_believed(make: Make) -> None:
    truth = minutes(T0, 10 * 1_440, holes=range(100, 1_000))
    world = make(truth, T0 + 10 * DAY_MS, timeframes=(MINUTE, HOUR, DAY), max_rows_per_call=1_000)
    answer, calls = await calls_of(world, since=at(100), until=at(1_000), limit=1_000)
    assert (len(answer.candles), answer.complete) == (0, True)
    assert calls <= 4
