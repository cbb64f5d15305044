"""What the orchestrator asks of a provider, how often, and what it says when there is less than was asked for."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from candlegraph import clock
from candlegraph.answer import Answer, Fill, Gap, GapReason, SourceKind, Wait
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import (
    NotFound,
    ProviderError,
    ProviderRefused,
    ProviderStarting,
    ProviderUnavailable,
    RateLimited,
    Unavailable,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Page
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import zone
from history import query as walk
from history.fetch_request import MAX_CALLS_PER_FETCH
from providers.guard.guard import Guard
from storage.cache.memory import CandleCache
from storage.candles import CandleStore
from storage.database import Database
from tests.fakes.starting import Starting, of, registry
from tests.fakes.upstream import (
    UNLIMITED,
    FakeUpstream,
    Fault,
    changing,
    delaying,
    emptying,
    hanging,
    lagging,
    minutes,
    proving_nothing,
    raising,
    spoiling,
)
from tests.history.world import DAY_MS, HOUR_MS, T0, World, folded, numbers, rows_of, stop_clock
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

DAY, HOUR = Timeframe.parse("1d"), Timeframe.parse("1h")
Make = Callable[..., World]


@pytest.fixture(scope="module")
async def database(new_database: Callable[..., Awaitable[str]], migrated_template: str) -> AsyncIterator[Database]:
    """One for all of them: every world has a symbol of its own."""
    opened = Database(await new_database(migrated_template), timings=PATIENT)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def make(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Make a world: ``make(truth, now, ...)``, the rest are capabilities."""
    made: list[World] = []

    def build(truth: Candles, now: int, *, guarded: bool = False, **traits: Any) -> World:
        settled = {
            "timeframes": (MINUTE,), "live": LiveMode.POLL, "max_rows_per_call": 500, "settle_ms": 0, "budget": UNLIMITED,
        } | traits  # fmt: skip
        world = World(database, FakeUpstream(capabilities=Capabilities(**settled)), now, guarded=guarded).lists(truth)
        stop_clock(monkeypatch, world)
        made.append(world)
        return world

    yield build
    for world in made:
        await world.fetcher.close()


def spans_of(answer: Answer) -> list[tuple[int, int, GapReason]]:
    return [(gap.since, gap.until, gap.reason) for gap in answer.gaps]


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


# What is asked, and how often


@pytest.mark.parametrize("listed", [True, False])
async def test_a_provider_may_have_candles_from_before_1970(make: Make, listed: bool) -> None:
    """They are asked for, kept, folded, cached, and covered; and a query without ``since`` goes back to them."""
    first, rows = -30 * HOUR_MS, 3_000
    truth = minutes(first, rows, holes=range(1_700, 1_900))
    world = make(truth, first + 60 * HOUR_MS, earliest_ms=0 if listed else clock.OLDEST_MS)
    if listed:
        world.upstream.listed = {world.symbol: Listing(world.symbol, first_available=first)}
    world.cache = CandleCache(16 << 20)
    world.restart()
    for timeframe in ("1h", "1d", "1m"):
        parsed = Timeframe.parse(timeframe)
        whole = Span(first, first + rows * MINUTE_MS).inner(parsed)
        expected = folded(rows_of(truth.between(whole)), parsed)
        for _ in range(2):
            found = await world.ask(timeframe, limit=5_000, since=whole.since, until=whole.until)
            assert {row[0]: row[1:] for row in rows_of(found.candles)} == expected
            assert found.complete
        before = await world.ask(timeframe, limit=20, until=min(HOUR_MS, whole.until))
        older = [item for item in folded(rows_of(truth), parsed).items() if item[0] < min(HOUR_MS, whole.until)]
        assert [(row[0], row[1:]) for row in rows_of(before.candles)] == older[-20:]
    assert found.sources[0].source is SourceKind.CACHE
    coverage = await world.history.coverage(world.question("1h").series)
    assert coverage.covered.covers(Span(first, first + rows * MINUTE_MS))
    assert (await world.covered()).covers(Span(first, first + rows * MINUTE_MS))


async def test_what_is_older_than_a_provider_has_is_not_asked_for(make: Make) -> None:
    """Most have nothing from before 1970: their upstreams know no negative times."""
    world = make(minutes(T0, 100), at(200))
    answer = await world.ask("1d", since=-DAY_MS, until=DAY_MS)
    assert spans_of(answer) == [(-DAY_MS, 0, GapReason.UNAVAILABLE)]
    assert all(call.span.since >= 0 for call in world.upstream.calls)
    assert len((await world.ask(limit=1_000)).candles) == 100
    assert all(call.span.since >= 0 for call in world.upstream.calls)


@pytest.mark.parametrize("rows", [100, 499, 500, 1000, 3000])
async def test_three_thousand_minutes_cost_as_many_calls_as_they_fill_pages(make: Make, rows: int) -> None:
    world = make(minutes(T0, 3000), at(4000), max_rows_per_call=rows)
    collected = 0
    since: int | None = T0
    while since is not None:
        answer = await world.ask(limit=5000, since=since, until=at(3000))
        collected += len(answer.candles)
        assert answer.complete
        since = answer.next_since
    assert (collected, world.calls) == (3000, math.ceil(3000 / rows))


async def test_what_is_covered_is_never_asked_for_again(make: Make) -> None:
    world = make(minutes(T0, 300, holes=range(50, 90)), at(400))
    first = await world.ask(since=T0, until=at(300))
    world.restart()
    second = await world.ask(since=T0, until=at(300))
    inner = await world.ask("5m", since=at(60), until=at(120))
    assert rows_of(second.candles) == rows_of(first.candles) == rows_of(world.upstream.truth[world.symbol])
    assert (world.calls, inner.complete, len(inner.candles)) == (1, True, 6)


async def test_only_the_pieces_that_are_missing_are_asked_for(make: Make) -> None:
    world = make(minutes(T0, 300), at(400))
    await world.keeps(Span(at(10), at(20)), Span(at(30), at(200)))
    answer = await world.ask(since=T0, until=at(250))
    assert answer.complete
    assert sorted(call.span for call in world.upstream.calls) == [
        Span(T0, at(10)), Span(at(20), at(30)), Span(at(200), at(250)),
    ]  # fmt: skip
    assert [(s.since, s.until, s.source) for s in answer.sources] == [
        (T0, at(10), SourceKind.PROVIDER), (at(10), at(20), SourceKind.STORE), (at(20), at(30), SourceKind.PROVIDER),
        (at(30), at(200), SourceKind.STORE), (at(200), at(250), SourceKind.PROVIDER),
    ]  # fmt: skip


async def test_the_forming_candle_is_asked_for_at_most_once_in_two_seconds(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(minutes(T0, 300), at(200) + 20_000)
    first = await world.ask(limit=50)
    assert world.calls == 1
    assert [c.closed for c in first.candles][-2:] == [True, False]
    for limit in (50, 50, 20, 50):
        again = await world.ask(limit=limit)
        assert rows_of(again.candles) == rows_of(first.candles)[-limit:]
    assert world.calls == 1
    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, forming_ttl_s=0.0))
    await world.ask(limit=50)
    assert [call.span for call in world.upstream.calls[1:]] == [Span(at(200), at(201))]


async def test_what_settles_between_two_questions_is_asked_for_and_becomes_final(make: Make) -> None:
    world = make(minutes(T0, 300), at(200) + 29_000, settle_ms=30_000)
    first = await world.ask(limit=10)
    world.now += 1_500
    second = await world.ask(limit=10)
    assert [c.closed for c in first.candles][-3:] == [True, False, False]
    assert [c.closed for c in second.candles][-3:] == [True, True, False]
    assert second.complete
    assert rows_of(second.candles)[-2] == rows_of(world.upstream.truth[world.symbol])[199]


async def test_two_hundred_cold_askers_at_once_cost_the_calls_of_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(minutes(T0, 3000), at(2900) + 1000)
    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, forming_ttl_s=60.0))
    answers = await asyncio.gather(*(world.ask(limit=1400) for _ in range(200)))
    shared = world.calls
    assert {tuple(rows_of(answer.candles)) for answer in answers} == {tuple(rows_of(answers[0].candles))}
    alone = make(minutes(T0, 3000), at(2900) + 1000)
    await alone.ask(limit=1400)
    assert shared == alone.calls == 3


async def test_different_questions_about_the_same_minutes_fetch_each_of_them_once(make: Make) -> None:
    world = make(minutes(T0, 1000), at(1100), max_rows_per_call=1000)
    await asyncio.gather(
        *(world.ask("1m" if i % 2 else "5m", limit=400, since=at(i * 10), until=at(800)) for i in range(20))
    )
    asked = [call.span for call in world.upstream.calls]
    assert sum(span.until - span.since for span in Spans(asked)) == sum(span.until - span.since for span in asked)


async def test_an_asker_that_leaves_takes_nothing_from_the_others(make: Make) -> None:
    world = make(minutes(T0, 300), at(400))
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    await world.record()
    askers = [asyncio.create_task(world.ask(since=T0, until=at(100))) for _ in range(3)]
    await eventually(lambda: world.calls)
    askers[0].cancel()
    await asyncio.wait([askers[0]])
    release.set()
    left, *stayed = await asyncio.gather(*askers, return_exceptions=True)
    assert isinstance(left, asyncio.CancelledError)
    assert [len(answer.candles) for answer in stayed if isinstance(answer, Answer)] == [100, 100]
    assert world.calls == 1


async def test_a_failed_shared_fetch_fails_for_all_and_is_repeated(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(minutes(T0, 300), at(400))
    release, joined = asyncio.Event(), 0

    async def fail(page: Page) -> Page:
        await release.wait()
        raise ProviderUnavailable

    fetch = world.fetcher.fetch

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal joined
        if (joined := joined + 1) == 20:
            release.set()
        return fetch(*arguments, **more)

    monkeypatch.setattr(world.fetcher, "fetch", counted)
    world.upstream.faults = [fail]
    failed = await asyncio.gather(*(world.try_ask(since=T0, until=at(100)) for _ in range(20)))
    assert {type(answer) for answer in failed} == {ProviderUnavailable}
    assert world.calls == 1
    answer = await world.ask(since=T0, until=at(100))
    assert (answer.complete, len(answer.candles), world.calls) == (True, 100, 2)


async def test_an_answer_that_was_long_on_its_way_is_as_final_as_when_it_was_asked_for(make: Make) -> None:
    """What was still unsettled then is read again, although it would be final by now."""
    truth = minutes(T0, 300)
    world = make(truth, at(100) + 5_000, settle_ms=30_000)

    async def arrive_late(page: Page) -> Page:
        world.now += 5 * MINUTE_MS
        return page

    world.upstream.faults = [arrive_late]
    await world.ask(since=T0, until=at(100))
    later = await world.ask(since=T0, until=at(100))
    assert later.complete
    assert rows_of(later.candles) == rows_of(truth[:100])


async def test_many_questions_fail_and_succeed_each_on_its_own(make: Make) -> None:
    world = make(minutes(T0, 300), at(400))
    lost = replace(
        world.question(), series=replace(world.question().series, instrument=replace(world.instrument, symbol="?"))
    )
    alien = replace(lost, series=replace(lost.series, instrument=replace(world.instrument, market="mars\0")))
    answers = await world.history.answer([world.question(since=T0, until=at(10)), lost, alien])
    assert [type(answer) for answer in answers] == [Answer, NotFound, NotFound]


# What goes wrong upstream


CODED = [
    (ProviderUnavailable("down"), GapReason.OUTAGE),
    (RateLimited("slow down", retry_after=7), GapReason.OUTAGE),
    (ProviderRefused("no key"), GapReason.REFUSED),
    (UnknownSymbol("who?"), GapReason.REFUSED),
    (Unsupported("never"), GapReason.REFUSED),
]


@pytest.mark.parametrize(("error", "reason"), CODED)
async def test_a_failing_provider_is_an_error_with_nothing_stored_and_a_gap_with_something(
    make: Make, error: ProviderError, reason: GapReason
) -> None:
    world = make(minutes(T0, 300), at(400))
    world.upstream.always = raising(error)
    assert await world.try_ask(since=T0, until=at(100)) is error
    await world.keeps(Span(at(20), at(50)))
    answer = await world.ask(since=T0, until=at(100))
    assert rows_of(answer.candles) == rows_of(world.upstream.truth[world.symbol])[20:50]
    assert spans_of(answer) == [(T0, at(20), reason), (at(50), at(100), reason)]
    assert {gap.detail for gap in answer.gaps} == {error.message}
    assert not answer.complete


async def test_an_outage_before_the_first_candle_is_not_taken_for_the_beginning_of_history(make: Make) -> None:
    world = make(minutes(T0, 300), at(400))
    await world.keeps(Span(at(200), at(300)))
    world.upstream.always = raising(ProviderUnavailable("down"))
    answer = await world.ask(limit=500, until=at(300))
    assert (len(answer.candles), answer.has_more, answer.next_before) == (100, True, at(200))
    assert isinstance(await world.try_ask(limit=500, until=at(200)), ProviderUnavailable)
    world.lineup.down = True
    answer = await world.ask(limit=500, until=at(300))
    assert (len(answer.candles), answer.has_more, answer.next_before) == (100, True, at(200))


async def test_a_provider_that_cannot_be_started_takes_nothing_stored_away(make: Make) -> None:
    world = make(minutes(T0, 300), at(400))
    await world.keeps(Span(T0, at(50)))
    world.lineup.down = True
    answer = await world.ask(since=T0, until=at(60))
    assert (len(answer.candles), spans_of(answer)) == (50, [(at(50), at(60), GapReason.OUTAGE)])
    assert isinstance(await world.try_ask(since=at(60), until=at(70)), ProviderUnavailable)


async def test_a_start_that_takes_longer_than_all_who_ask_succeeds_and_answers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets what is stored at its own deadline, and the start is begun once."""
    provider = Starting(slow=asyncio.Event())
    world = make(minutes(T0, 300), at(400))
    provider.truth = world.upstream.truth
    await world.keeps(Span(T0, at(50)))
    world.providers = registry(of(provider))
    world.restart()
    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, query_deadline_s=0.01))
    for _ in range(4):
        some, none = await asyncio.gather(world.ask(since=T0, until=at(60)), world.try_ask(since=at(60), until=at(70)))
        assert (len(some.candles), spans_of(some)) == (50, [(at(50), at(60), GapReason.PENDING)])
        assert isinstance(none, ProviderStarting)
        assert (none.code, none.retry_after) == ("PROVIDER_UNAVAILABLE", 5)
    assert (provider.starts, provider.ended) == (1, [])
    provider.slow.set()
    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, query_deadline_s=HANG_S))
    answer = await world.ask(since=T0, until=at(70))
    assert (len(answer.candles), answer.complete) == (70, True)
    assert (provider.starts, provider.ended) == (1, ["started"])


async def test_an_answer_of_what_is_available_does_not_wait_for_a_start(make: Make) -> None:
    provider = Starting(slow=asyncio.Event())
    world = make(minutes(T0, 300), at(400))
    provider.truth = world.upstream.truth
    await world.keeps(Span(T0, at(50)))
    world.providers = found = registry(of(provider))
    world.restart()
    some = await world.ask(since=T0, until=at(60), wait=Wait.AVAILABLE)
    none = await world.ask(since=at(60), until=at(70), wait=Wait.AVAILABLE)
    assert (len(some.candles), spans_of(some)) == (50, [(at(50), at(60), GapReason.PENDING)])
    assert (len(none.candles), spans_of(none)) == (0, [(at(60), at(70), GapReason.PENDING)])
    await found.close()


async def test_a_slow_provider_is_an_error_or_a_pending_gap_and_what_it_sends_later_is_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(minutes(T0, 300), at(400))
    await world.record()
    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, query_deadline_s=0.05))
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    error = await world.try_ask(since=T0, until=at(100))
    assert isinstance(error, ProviderUnavailable)
    assert error.retry_after
    await world.keeps(Span(at(150), at(200)))
    world.upstream.faults = [hanging(release)]
    answer = await world.ask(since=T0, until=at(200))
    assert (len(answer.candles), spans_of(answer)) == (50, [(T0, at(150), GapReason.PENDING)])
    assert answer.request.wait is Wait.COMPLETE
    release.set()
    await drain(world)
    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, query_deadline_s=HANG_S))
    calls = world.calls
    answer = await world.ask(since=T0, until=at(200))
    assert (answer.complete, len(answer.candles), world.calls) == (True, 200, calls)


async def drain(world: World) -> None:
    while tasks := list(world.fetcher._tasks.values()):
        await asyncio.wait(tasks)
        await asyncio.sleep(0)


async def test_nothing_further_back_is_asked_for_once_something_is_late(make: Make) -> None:
    world = make(minutes(T0, 3000), at(3000))
    await world.record()
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    answer = await world.ask(limit=100, wait=Wait.AVAILABLE)
    release.set()
    await drain(world)
    assert len(answer.candles) == 0
    assert world.calls == 1
    assert sum(span.until - span.since for span in await world.covered()) == 100 * MINUTE_MS


async def test_wait_available_answers_at_once_and_has_it_later(make: Make) -> None:
    world = make(minutes(T0, 300), at(400))
    await world.keeps(Span(at(50), at(100)))
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    async with asyncio.timeout(HANG_S):
        answer = await world.ask(since=T0, until=at(100), wait=Wait.AVAILABLE)
    assert (len(answer.candles), spans_of(answer)) == (50, [(T0, at(50), GapReason.PENDING)])
    before = await world.ask(limit=80, until=at(100), wait=Wait.AVAILABLE)
    assert (len(before.candles), before.has_more) == (50, True), "what is on its way is said to be more"
    release.set()
    await drain(world)
    answer = await world.ask(since=T0, until=at(100), wait=Wait.AVAILABLE)
    assert (len(answer.candles), answer.complete) == (100, True)


async def test_a_call_that_never_ends_does_not_keep_everybody_from_the_series(make: Make) -> None:
    world = make(minutes(T0, 300), at(400), guarded=True, deadline_s=0.05)
    world.upstream.faults = [hanging()]
    assert isinstance(await world.try_ask(since=T0, until=at(100)), ProviderUnavailable)
    assert len((await world.ask(since=T0, until=at(100))).candles) == 100


@pytest.mark.parametrize("mistake", ["a TypeError", "no page", "no candles"])
async def test_a_mistake_in_a_plugin_is_the_providers_failure_and_is_logged(
    make: Make, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = make(minutes(T0, 300), at(400), guarded=True, deadline_s=0.05)
    world.upstream.always = {
        "a TypeError": raising(TypeError("oops")),
        "no page": changing(lambda page: None),
        "no candles": changing(lambda page: replace(page, candles=[])),
    }[mistake]
    with caplog.at_level(logging.ERROR):
        error = await world.try_ask(since=T0, until=at(100))
    assert isinstance(error, ProviderUnavailable)
    assert "oops" not in error.message
    assert caplog.records[0].exc_info


async def test_bad_rows_are_neither_stored_nor_covered_and_are_logged(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    world = make(minutes(T0, 100), at(400))
    world.upstream.faults = [spoiling(10, 11, 40)]
    answer = await world.ask(since=T0, until=at(100))
    assert spans_of(answer) == [(at(10), at(12), GapReason.REFUSED), (at(40), at(41), GapReason.REFUSED)]
    assert len(answer.candles) == 97
    assert await world.covered() == Spans([Span(T0, at(10)), Span(at(12), at(40)), Span(at(41), at(100))])
    assert len(await world.stored()) == 97
    assert world.upstream.refusals == 3
    assert "3 bad rows" in caplog.text
    assert world.symbol in caplog.text
    hourly = await world.ask("20m", since=T0, until=at(100))
    assert (hourly.complete, len(hourly.candles)) == (True, 5), "asked again, they are good"


def with_volume(position: int, value: float) -> Callable[[Any], Any]:
    """Let one row of a page have another volume."""

    def change(page: Any) -> Any:
        volume = page.candles.volume.copy()
        volume[position] = value
        return replace(page, candles=replace(page.candles, volume=volume))

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_numbers_that_are_none_never_get_in(make: Make, value: float) -> None:
    world = make(minutes(T0, 20), at(400))

    def spoil(page: Any) -> Any:
        close = page.candles.close.copy()
        close[3] = value
        return replace(page, candles=replace(page.candles, close=close))

    world.upstream.always = changing(spoil)
    answer = await world.ask(since=T0, until=at(20))
    assert (len(answer.candles), spans_of(answer)) == (19, [(at(3), at(4), GapReason.REFUSED)])


@pytest.mark.parametrize("value", [math.inf, -math.inf])
async def test_an_infinite_volume_never_gets_in(make: Make, value: float) -> None:
    world = make(minutes(T0, 20), at(400))
    world.upstream.always = changing(with_volume(3, value))
    answer = await world.ask(since=T0, until=at(20))
    assert (len(answer.candles), spans_of(answer)) == (19, [(at(3), at(4), GapReason.REFUSED)])


async def test_an_unknown_volume_is_stored_as_0_beside_its_prices(make: Make) -> None:
    world = make(minutes(T0, 20), at(400))
    world.upstream.always = changing(with_volume(3, math.nan))
    answer = await world.ask(since=T0, until=at(20))
    truth = rows_of(world.upstream.truth[world.symbol])
    assert (rows_of(answer.candles)[3], spans_of(answer)) == ((*truth[3][:5], 0.0), [])
    assert await world.stored() == [*truth[:3], (*truth[3][:5], 0.0), *truth[4:]]


async def test_rows_off_the_grid_and_rows_outside_of_the_range_are_no_candles(make: Make) -> None:
    world = make(minutes(T0, 100), at(400))
    world.upstream.sloppy = 5

    def shift(page: Any) -> Any:
        stamps = page.candles.timestamp.copy()
        stamps[np.searchsorted(stamps, at(30))] += 1
        return replace(page, candles=replace(page.candles, timestamp=stamps))

    world.upstream.faults = [changing(shift)]
    answer = await world.ask(since=at(20), until=at(40))
    assert spans_of(answer) == [(at(30), at(31), GapReason.REFUSED)]
    assert [row[0] for row in await world.stored()] == [at(i) for i in range(20, 40) if i != 30]
    assert await world.covered() == Spans([Span(at(20), at(30)), Span(at(31), at(40))])


async def test_fillers_are_dropped_only_where_there_is_volume(make: Make) -> None:
    truth = minutes(T0, 60, holes=range(10, 30))
    world = make(truth, at(100))
    world.upstream.fillers = True
    answer = await world.ask(since=T0, until=at(60))
    assert (rows_of(answer.candles), answer.complete) == (rows_of(truth), True)
    assert len(await world.stored()) == 40
    world = make(truth, at(100), has_volume=False)
    world.upstream.fillers = True
    assert len((await world.ask(since=T0, until=at(60))).candles) == 60


async def test_a_page_that_proves_nothing_covers_nothing(make: Make) -> None:
    world = make(minutes(T0, 100), at(400))
    world.upstream.always = proving_nothing()
    answer = await world.ask(since=T0, until=at(50))
    assert (len(answer.candles), spans_of(answer)) == (0, [(T0, at(50), GapReason.UNAVAILABLE)])
    assert await world.stored() == []
    assert not await world.covered()
    assert world.calls == 3, "all of it, and each half"
    again = await world.ask(since=T0, until=at(50))
    assert (spans_of(again), world.calls) == (spans_of(answer), 3), "it is not asked again at once"
    world.upstream.always = None
    world.now += 21 * MINUTE_MS
    assert len((await world.ask(since=T0, until=at(50))).candles) == 50
    assert world.calls == 4


async def test_a_page_that_proves_nothing_is_asked_for_in_smaller_pieces(make: Make) -> None:
    world = make(minutes(T0, 100), at(400))
    world.upstream.faults = [proving_nothing()]
    answer = await world.ask(since=T0, until=at(50))
    assert (len(answer.candles), answer.complete) == (50, True)
    assert [call.span for call in world.upstream.calls] == [Span(T0, at(50)), Span(T0, at(25)), Span(at(25), at(50))]


async def test_a_provider_of_the_newest_rows_covers_nothing_before_its_first(make: Make) -> None:
    world = make(minutes(T0, 1000), at(1000), max_rows_per_call=100)
    world.upstream.newest_only = 100
    answer = await world.ask(since=at(800), until=at(1000))
    assert [c.timestamp for c in answer.candles] == [at(i) for i in range(900, 1000)]
    assert spans_of(answer) == [(at(800), at(900), GapReason.UNAVAILABLE)]
    assert await world.covered() == Spans([Span(at(900), at(1000))])
    calls = world.calls
    newest = await world.ask(limit=300)
    assert (len(newest.candles), newest.next_before) == (100, at(900))
    older = await world.ask(limit=300, until=at(900))
    assert (len(older.candles), older.has_more) == (0, False)
    assert spans_of(older) == [(0, at(900), GapReason.UNAVAILABLE)]
    assert world.calls == calls + 3, "the forming minute, and what lies before in two steps"
    assert await world.covered() == Spans([Span(at(900), at(1000))])


async def test_a_lookback_is_never_asked_beyond(make: Make) -> None:
    world = make(minutes(T0, 3000), at(3000), max_lookback_ms=600 * MINUTE_MS, timeframes=(MINUTE, HOUR))
    answer = await world.ask(since=T0, limit=5000)
    assert spans_of(answer) == [(T0, at(2400), GapReason.UNAVAILABLE)]
    assert answer.gaps[0].detail == "The provider keeps only the candles of the last 10 hours."
    assert len(answer.candles) == 600
    assert all(call.span.since >= at(2400) for call in world.upstream.calls)
    calls = world.calls
    assert spans_of(await world.ask(since=T0, until=at(1000))) == [(T0, at(1000), GapReason.UNAVAILABLE)]
    assert world.calls == calls


async def test_before_listing_and_after_delisting_no_call_is_made(make: Make) -> None:
    world = make(minutes(at(90), 600), at(5000))
    world.upstream.listed = {world.symbol: Listing("", first_available=at(90), ended_at=at(690))}
    answer = await world.ask("1h", since=at(-600), limit=100)
    assert spans_of(answer) == [
        (at(-600), at(60), GapReason.BEFORE_LISTING), (at(720), at(4980), GapReason.AFTER_DELISTING),
    ]  # fmt: skip
    assert [c.timestamp for c in answer.candles] == [at(60 * i) for i in range(1, 12)]
    assert Spans(call.span for call in world.upstream.calls) == Spans([Span(at(90), at(720))])
    newest = await world.ask("1m", limit=50)
    assert ([c.timestamp for c in newest.candles], newest.has_more) == ([at(i) for i in range(640, 690)], True)


async def test_a_page_of_something_else_is_kept_out_and_asked_for_once_more(make: Make) -> None:
    """Every row of it lies outside of what was asked, and yet it vouches for that."""
    world = make(minutes(T0, 3000), at(3000))
    before = Page(world.upstream.truth[world.symbol][:100], at(200), at(300))
    world.upstream.faults = [changing(lambda page: before)]
    answer = await world.ask(since=at(200), until=at(300))
    assert (len(answer.candles), answer.complete, await world.stored()) == (0, True, [])
    world.now += 2 * HOUR_MS
    world.restart()
    answer = await world.ask(since=at(200), until=at(300))
    assert (len(answer.candles), answer.complete, world.calls) == (100, True, 2)


async def test_rows_in_disorder_and_rows_twice_are_put_in_order_and_the_last_of_equals_wins(make: Make) -> None:
    truth = minutes(T0, 100)
    world = make(truth, at(400))

    def shuffle(page: Page) -> Page:
        wrong = replace(page.candles, close=page.candles.open)
        both = concat([wrong, page.candles])
        order = np.random.default_rng(1).permutation(100)
        return replace(page, candles=both[np.concatenate([order, order + 100])])

    world.upstream.faults = [changing(shuffle)]
    answer = await world.ask(since=T0, until=at(100))
    assert (answer.complete, world.upstream.refusals) == (True, 0)
    assert rows_of(answer.candles) == rows_of(truth)
    assert await world.stored() == rows_of(truth)


async def test_what_cannot_be_had_in_time_is_an_error_with_its_time_or_a_gap(make: Make) -> None:
    """An upstream that asks to be left alone, one whose budget is spent, and one that failed too often."""
    budget = Budget(weight=4, per_s=3600, concurrent=2)  # the list of symbols takes one
    limited, spent, broken = (
        make(minutes(T0, 300), at(400), guarded=True, budget=one) for one in (UNLIMITED, budget, UNLIMITED)
    )
    limited.upstream.always = raising(RateLimited("Slow down.", retry_after=600))
    for since in (0, 100):  # nothing is left then
        await spent.ask(since=at(since), until=at(since + 10))
    broken.upstream.always = raising(ProviderUnavailable("down"))
    for _ in range(2):
        await broken.try_ask(since=T0, until=at(10))
    for world, code in ((limited, "RATE_LIMITED"), (spent, "PROVIDER_UNAVAILABLE"), (broken, "PROVIDER_UNAVAILABLE")):
        await world.keeps(Span(at(120), at(150)))
        for _ in range(2):
            calls = world.calls
            error = await world.try_ask(since=at(50), until=at(100))
            assert isinstance(error, ProviderError)
            assert error.code == code
            assert error.retry_after
            answer = await world.ask(since=at(115), until=at(150))
            assert (len(answer.candles), spans_of(answer)) == (30, [(at(115), at(120), GapReason.OUTAGE)])
        assert world.calls == calls, "it is not even asked"


# What is empty and may not be


async def asked_again(world: World, **question: Any) -> Answer:
    """The answer a while after a restart."""
    world.restart()
    return await world.ask(**question)


@pytest.mark.parametrize(("length", "age", "doubted"), [(50, 200, True), (2000, 90_000, True), (1000, 90_000, False)])
async def test_an_empty_page_that_is_long_or_recent_is_believed_and_asked_for_once_more_an_hour_later(
    make: Make, length: int, age: int, doubted: bool
) -> None:
    truth = minutes(T0, length)
    world = make(truth, at(age), max_rows_per_call=5000)
    asking = {"since": T0, "until": at(length), "limit": 5000}
    world.upstream.faults = [emptying()]
    assert (await world.ask(**asking)).complete
    world.now += HOUR_MS - MINUTE_MS
    answer = await asked_again(world, **asking)
    assert (len(answer.candles), answer.complete, world.calls) == (0, True, 1)
    world.now += 12 * MINUTE_MS
    answer = await asked_again(world, **asking)
    assert answer.complete
    if doubted:
        assert rows_of(answer.candles) == rows_of(truth), "healed in the very answer that asked"
        assert await world.stored() == rows_of(truth)
    calls = world.calls
    assert calls == 1 + doubted
    world.now += DAY_MS
    await asked_again(world, **asking)
    assert world.calls == calls, "the second answer is final"


async def test_a_second_empty_answer_is_final(make: Make) -> None:
    world = make(minutes(T0, 100), at(200))
    world.upstream.faults = [emptying(), emptying()]
    await world.ask(since=T0, until=at(50))
    world.now += 2 * HOUR_MS
    for _ in range(3):
        answer = await asked_again(world, since=T0, until=at(50))
        assert (len(answer.candles), answer.complete, world.calls) == (0, True, 2)
        world.now += 2 * HOUR_MS


async def test_asking_again_takes_nothing_away_when_it_fails_and_is_tried_later(make: Make) -> None:
    world = make(minutes(T0, 100), at(200))
    world.upstream.faults = [emptying()]
    await world.ask(since=T0, until=at(50))
    await world.ask(since=at(50), until=at(100))
    world.now += 2 * HOUR_MS
    world.upstream.always = raising(ProviderUnavailable("down"))
    for _ in range(3):
        answer = await asked_again(world, since=T0, until=at(100))
        assert (len(answer.candles), answer.complete) == (50, True)
        again = await world.ask(since=T0, until=at(100))
        assert rows_of(again.candles) == rows_of(answer.candles)
    assert world.calls == 2 + 3, "not by every question: once in half a minute"
    world.upstream.always = None
    answer = await asked_again(world, since=T0, until=at(100))
    assert (len(answer.candles), answer.complete) == (100, True)


async def test_only_what_a_question_speaks_of_is_asked_for_again(make: Make) -> None:
    world = make(minutes(T0, 100), at(200))
    world.upstream.listed = {world.symbol: Listing("", first_available=T0)}
    world.upstream.faults = [emptying()]
    await world.ask(since=T0, until=at(100))
    assert (await world.covered()).covers(Span(T0, at(100)))
    world.now += 2 * HOUR_MS
    for since in (90, 40):
        assert len((await asked_again(world, since=at(since), until=at(since + 10))).candles) == 10
    assert [call.span for call in world.upstream.calls[1:]] == [Span(at(90), at(100)), Span(at(40), at(50))]
    world.restart()
    newest = await world.ask("1m", limit=1000, until=at(100))
    assert len(newest.candles) == 100, "it says that there is nothing older, and so that is looked at"


async def test_a_slow_second_answer_delays_no_caller_that_does_not_wait(make: Make) -> None:
    world = make(minutes(T0, 100), at(200))
    world.upstream.faults = [emptying()]
    await world.ask(since=T0, until=at(50))
    world.now += 2 * HOUR_MS
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    async with asyncio.timeout(HANG_S):
        answer = await asked_again(world, since=T0, until=at(50), wait=Wait.AVAILABLE)
    assert (len(answer.candles), answer.complete) == (0, True)
    release.set()
    await drain(world)
    assert len((await world.ask(since=T0, until=at(50))).candles) == 50


# How much, and where to go on


async def test_the_newest_and_the_oldest_are_counted_from_where_the_question_says(make: Make) -> None:
    truth = minutes(T0, 200, holes=range(95, 105))
    world = make(truth, at(300))
    stamps = truth.timestamp.tolist()
    oldest = await world.ask(limit=10, since=at(90))
    assert [c.timestamp for c in oldest.candles] == [t for t in stamps if t >= at(90)][:10]
    assert (oldest.has_more, oldest.next_since, oldest.next_before) == (True, at(110), None)
    newest = await world.ask(limit=10, until=at(110))
    assert [c.timestamp for c in newest.candles] == [t for t in stamps if t < at(110)][-10:]
    assert (newest.has_more, newest.next_since, newest.next_before) == (True, None, at(90))
    exact = await world.ask(limit=5, since=at(195))
    assert (len(exact.candles), exact.has_more, exact.next_since) == (5, False, None)
    both = await world.ask(limit=5, since=at(90), until=at(110))
    assert [c.timestamp for c in both.candles] == [at(i) for i in range(90, 95)]


async def test_the_budget_of_calls_ends_an_answer_with_a_cursor_that_makes_progress(make: Make) -> None:
    world = make(minutes(T0, 2000), at(3000), max_rows_per_call=50)
    forward = await world.ask(limit=5000, since=T0, until=at(2000))
    assert (len(forward.candles), forward.has_more, forward.next_since) == (600, True, at(600))
    assert (world.calls, spans_of(forward)) == (MAX_CALLS_PER_FETCH, [])
    backward = await world.ask(limit=1200, until=at(2000))
    assert (len(backward.candles), backward.has_more, backward.next_before) == (600, True, at(1400))
    assert world.calls == 2 * MAX_CALLS_PER_FETCH


async def test_paging_back_beyond_the_first_trade_of_a_symbol_ends_soon(make: Make) -> None:
    world = make(minutes(T0, 1), T0, max_rows_per_call=50)
    answer, pages = await world.ask(limit=40), 1
    while answer.has_more:
        answer, pages = await world.ask(limit=40, until=answer.next_before), pages + 1
    assert pages <= 3
    assert world.calls <= 3 * MAX_CALLS_PER_FETCH
    calls = world.calls
    assert not (await world.ask(limit=40, until=T0)).has_more
    assert world.calls == calls


async def test_a_symbol_that_seldom_trades_is_reached_in_few_calls(make: Make) -> None:
    truth = minutes(T0, 40_000)[np.arange(0, 40_000, 800)]
    world = make(truth, at(40_000))
    answer = await world.ask(limit=50)
    assert rows_of(answer.candles) == rows_of(truth)
    assert world.calls <= MAX_CALLS_PER_FETCH + 4


async def test_a_year_of_days_costs_two_calls(make: Make) -> None:
    truth = minutes(T0, 366 * 1440)[np.arange(0, 366 * 1440, 97)]
    world = make(truth, T0 + 366 * DAY_MS, timeframes=(MINUTE, HOUR, DAY))
    answer = await world.ask("1d", limit=366, since=T0)
    assert world.calls <= 2
    assert {call.timeframe for call in world.upstream.calls} == {DAY}
    assert {c.timestamp: numbers(c) for c in answer.candles} == folded(rows_of(truth), DAY)
    assert answer.complete
    weeks = await world.ask("1w", limit=20, since=T0 + 5 * DAY_MS)
    assert weeks.complete
    assert {call.timeframe for call in world.upstream.calls} == {DAY}


async def test_minutes_take_the_place_of_native_candles_and_no_bucket_mixes_the_two(make: Make) -> None:
    truth = minutes(T0, 20 * 1440)
    world = make(truth, T0 + 21 * DAY_MS, timeframes=(MINUTE, DAY))
    native = folded(rows_of(truth), DAY)
    marked = Candles.from_rows([(stamp, *row[:4], row[4] + 0.25) for stamp, row in sorted(native.items())])
    await world.keeps(Span(T0, T0 + 20 * DAY_MS), timeframe=DAY, rows=marked)
    await world.keeps(Span(T0 + 3 * DAY_MS - HOUR_MS, T0 + 5 * DAY_MS + HOUR_MS))
    answer = await world.ask("1d", limit=100, since=T0, until=T0 + 20 * DAY_MS)
    extra = [c.volume - native[c.timestamp][4] for c in answer.candles]
    assert extra == [0.0 if day in (3, 4) else 0.25 for day in range(20)]
    assert (world.calls, answer.complete) == (0, True)


async def test_days_of_another_zone_are_folded_from_hours_or_minutes_alone(make: Make) -> None:
    truth = minutes(T0, 6 * 1440)
    world = make(truth, T0 + 7 * DAY_MS, timeframes=(MINUTE, HOUR, DAY), max_rows_per_call=300)
    answer = await world.ask("1d", since=T0 + DAY_MS, limit=4, zone=zone("America/New_York"))
    assert [c.timestamp for c in answer.candles] == [
        T0 + day * DAY_MS + hour * HOUR_MS for day, hour in ((1, 5), (2, 5), (3, 4), (4, 4))
    ]
    expected = folded(rows_of(truth), DAY, "America/New_York")
    assert all(numbers(c) == expected[c.timestamp] for c in answer.candles)
    assert {call.timeframe for call in world.upstream.calls} == {HOUR}
    assert answer.zone.name == "America/New_York"


async def test_reads_of_more_rows_than_one_takes_lose_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_ROWS_PER_READ", 70)
    truth = minutes(T0, 1000, holes=range(300, 400))
    world = make(truth, at(1000))
    await world.keeps(Span(T0 - DAY_MS, at(1000)))
    expected = [(stamp, *row) for stamp, row in sorted(folded(rows_of(truth), Timeframe.parse("20m")).items())]
    forward = await world.ask("20m", since=T0 - DAY_MS, until=at(1000))
    backward = await world.ask("20m", limit=40, until=at(1000))
    assert rows_of(forward.candles) == expected
    assert rows_of(backward.candles) == expected[-40:]
    assert (world.calls, forward.complete, backward.complete) == (0, True, True)


# Imports


async def imported(world: World, since: int, until: int) -> World:
    """Have our symbol imported instead of listed."""
    truth = world.upstream.truth.pop(world.symbol)
    await world.instruments.get_or_create(world.instrument, "UTC")
    await world.keeps(Span(since, until), rows=truth)
    return world


async def test_an_imported_series_asks_no_provider(make: Make) -> None:
    world = await imported(make(minutes(T0, 300), at(1000)), T0, at(300))
    answer = await world.ask(since=at(-10), until=at(310))
    assert (len(answer.candles), world.calls) == (300, 0)
    assert spans_of(answer) == [
        (at(-10), T0, GapReason.NOT_FETCHED), (at(300), at(310), GapReason.NOT_FETCHED),
    ]  # fmt: skip
    newest = await world.ask(limit=500, until=at(300))
    assert (len(newest.candles), newest.has_more, newest.complete) == (300, False, True)
    assert (await world.ask(since=at(400), until=at(500))).candles.timestamp.tolist() == []


async def test_a_bucket_that_an_import_covers_in_part_is_never_given(make: Make) -> None:
    world = await imported(make(minutes(at(10), 200), at(1000)), at(10), at(210))
    answer = await world.ask("1h", since=T0, until=at(300))
    assert [c.timestamp for c in answer.candles] == [at(60), at(120)]
    assert spans_of(answer) == [(T0, at(60), GapReason.NOT_FETCHED), (at(180), at(300), GapReason.NOT_FETCHED)]
    newest = await world.ask("1h", until=at(180))
    assert (len(newest.candles), newest.has_more) == (2, False)


# Time


async def test_a_candle_that_ended_and_is_not_settled_is_shown_open_and_not_stored(make: Make) -> None:
    world = make(minutes(T0, 100), at(50) + 10_000, settle_ms=30_000)
    answer = await world.ask(since=at(45))
    assert [(c.timestamp, c.closed) for c in answer.candles] == [(at(i), i < 49) for i in range(45, 51)]
    assert [row[0] for row in await world.stored()] == [at(i) for i in range(45, 49)]
    assert answer.complete
    world.now = at(51) + 30_000
    world.restart()
    answer = await world.ask(since=at(45), until=at(51))
    assert rows_of(answer.candles) == rows_of(world.upstream.truth[world.symbol])[45:51]
    assert answer.candles.closed.all()


async def test_a_forming_hour_is_made_of_its_stored_minutes_and_the_one_under_way(make: Make) -> None:
    world = make(minutes(T0, 300), at(150) + 30_000)
    answer = await world.ask("1h", since=T0)
    assert [c.closed for c in answer.candles] == [True, True, False]
    seen = folded(rows_of(world.upstream.seen(world.symbol, world.now)), HOUR)
    assert {c.timestamp: numbers(c) for c in answer.candles} == seen
    world.now = at(181)
    world.restart()
    answer = await world.ask("1h", since=T0, until=at(180))
    assert {c.timestamp: numbers(c) for c in answer.candles} == {
        stamp: row
        for stamp, row in folded(rows_of(world.upstream.truth[world.symbol]), HOUR).items()
        if stamp < at(180)
    }


@pytest.mark.parametrize("skew_ms", [-5 * MINUTE_MS, 5 * MINUTE_MS])
async def test_what_is_final_is_final_by_the_clock_of_the_provider(make: Make, skew_ms: int) -> None:
    world = make(minutes(T0, 300), at(200) - skew_ms + 20_000, guarded=True)
    world.upstream.skew_ms = skew_ms
    (guard,) = world.lineup.members
    assert isinstance(guard, Guard)
    await guard.start()
    answer = await world.ask(limit=5)
    assert [(c.timestamp, c.closed) for c in answer.candles] == [(at(i), i < 200) for i in range(196, 201)]
    assert answer.complete
    assert [row[0] for row in await world.stored()] == [at(i) for i in range(195, 200)][-len(await world.stored()) :]
    assert (await world.covered()).covers(Span(at(196), at(200)))
    assert not (await world.covered()).covers(Span(at(200), at(201)))


async def test_late_rows_are_waited_for_and_not_taken_for_quiet_minutes(make: Make) -> None:
    world = make(minutes(T0, 100), at(100))
    world.upstream.faults = [lagging(3), lagging(3)]
    answer = await world.ask(since=at(50), until=at(100))
    assert spans_of(answer) == [(at(97), at(100), GapReason.UNAVAILABLE)]
    assert (await world.ask(since=at(50), until=at(100))).complete
    assert len(await world.stored()) == 50


async def test_an_empty_page_that_is_vouched_for_is_believed(make: Make) -> None:
    world = make(minutes(T0, 100), at(200))
    world.upstream.faults = [emptying()]
    assert (await world.ask(since=T0, until=at(50))).complete
    assert (await world.ask(since=T0, until=at(50))).complete
    assert world.calls == 1


@pytest.mark.parametrize(
    ("since", "until"), [(T0 + DAY_MS, None), (T0, T0), (0, 0), (T0 + DAY_MS, 9_999_999_999_999), (None, 0)]
)
async def test_ranges_without_a_bucket_are_empty_and_complete(make: Make, since: int | None, until: int | None) -> None:
    world = make(minutes(T0, 100), at(50))
    answer = await world.ask(since=since, until=until)
    assert (len(answer.candles), answer.complete, answer.has_more, world.calls) == (0, True, False, 0)


@pytest.mark.parametrize("timeframe", ["1m", "7m", "1d", "1w", "1mon", "1y", "10y"])
@pytest.mark.parametrize("fill", list(Fill))
async def test_the_longest_ranges_are_answered(make: Make, timeframe: str, fill: Fill) -> None:
    world = make(minutes(T0, 100), at(50))
    async with asyncio.timeout(HANG_S):
        forward = await world.ask(timeframe, since=0, until=9_999_999_999_999, fill=fill)
        backward = await world.ask(timeframe, until=9_999_999_999_999, fill=fill)
        early = await world.ask(timeframe, until=86_400_000, fill=fill)
    seen = folded(rows_of(world.upstream.seen(world.symbol, world.now)), Timeframe.parse(timeframe))
    for answer in (forward, backward):
        assert {c.timestamp: numbers(c) for c in answer.candles} == seen
        assert (answer.complete, answer.has_more) == (True, False)
    assert len(early.candles) == 0


# Filling


async def test_filled_buckets_are_flat_synthetic_closed_and_count_in_the_limit(make: Make) -> None:
    truth = minutes(T0, 60, holes=[5, 6, 7, 20])
    world = make(truth, at(60) + 1000)
    answer = await world.ask(since=at(3), limit=6, fill=Fill.PREVIOUS)
    assert [c.timestamp for c in answer.candles] == [at(i) for i in range(3, 9)]
    close = truth.close[4]
    for candle in list(answer.candles)[2:5]:
        assert numbers(candle) == (close, close, close, close, 0.0)
        assert (candle.synthetic, candle.closed) == (True, True)
    assert [c.synthetic for c in answer.candles] == [False, False, True, True, True, False]
    assert (answer.complete, answer.has_more, answer.next_since) == (True, True, at(9))
    newest = await world.ask(until=at(8), limit=3, fill=Fill.PREVIOUS)
    assert [(c.timestamp, c.close) for c in newest.candles] == [(at(i), close) for i in (5, 6, 7)]
    assert newest.next_before == at(5)
    assert {row[0] for row in await world.stored()} <= set(truth.timestamp.tolist())


async def test_the_previous_close_is_looked_up_before_the_range(make: Make) -> None:
    truth = minutes(T0, 3000, holes=range(100, 2900))
    world = make(truth, at(3000))
    answer = await world.ask(since=at(2000), until=at(2005), fill=Fill.PREVIOUS)
    assert [numbers(c) for c in answer.candles] == [(truth.close[99],) * 4 + (0.0,)] * 5
    calls = world.calls
    await world.ask(since=at(2000), until=at(2005), fill=Fill.PREVIOUS)
    assert world.calls == calls


async def test_pages_back_over_a_silence_longer_than_one_question_may_ask_for_are_filled(make: Make) -> None:
    silent = 3 * MAX_CALLS_PER_FETCH * 50
    truth = minutes(T0, silent + 1, holes=range(1, silent + 1))
    world = make(truth, at(silent))
    world.upstream.page_rows, world.upstream.fillers = 50, True
    until, pages, page = None, 0, None
    while page is None or not len(page.candles):
        page = await world.ask(until=until, limit=5, fill=Fill.PREVIOUS)
        until, pages = page.next_before, pages + 1
        assert pages < 20
    assert pages > 1
    assert [(c.timestamp, c.close, c.synthetic) for c in page.candles] == [
        (at(silent - i), truth.close[0], True) for i in (5, 4, 3, 2, 1)
    ]


async def test_nothing_is_filled_before_the_first_trade_nor_in_the_forming_bucket_nor_in_a_gap(make: Make) -> None:
    truth = minutes(T0, 60, holes=[*range(10, 20), *range(30, 40), *range(50, 60)])
    world = make(truth, at(59) + 1000)
    await world.keeps(Span(at(-100), at(15)), Span(at(25), at(59)))
    world.upstream.faults = [raising(ProviderUnavailable("down"))] * 9
    answer = await world.ask(since=at(-5), fill=Fill.PREVIOUS)
    assert [(c.timestamp, c.synthetic) for c in answer.candles] == [
        (at(i), 10 <= i < 15 or 30 <= i < 40 or i >= 50) for i in (*range(15), *range(25, 59))
    ]
    assert [(gap.since, gap.until) for gap in answer.gaps] == [(at(15), at(25))]
    assert isinstance(answer.gaps[0], Gap)


async def test_behind_a_gap_nothing_is_filled_until_the_next_trade(make: Make) -> None:
    world = make(minutes(T0, 60, holes=range(30, 40)), at(100))
    await world.keeps(Span(T0, at(20)), Span(at(30), at(60)))
    world.upstream.always = raising(ProviderUnavailable("down"))
    answer = await world.ask(since=T0, until=at(60), fill=Fill.PREVIOUS)
    assert [c.timestamp for c in answer.candles] == [at(i) for i in (*range(20), *range(40, 60))]
    assert not answer.candles.synthetic.any()


async def test_filling_half_a_century_of_quiet_minutes_costs_no_more_than_its_limit(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(concat([minutes(631_152_000_000, 3), minutes(T0, 10)]), T0 + 10 * MINUTE_MS)  # the first in 1990
    await world.keeps(Span(0, T0 + 10 * MINUTE_MS))
    widest = 0
    edges = Timeframe.edges

    def watched(self: Timeframe, since: int, until: int, *rest: Any) -> Any:
        nonlocal widest
        found = edges(self, since, until, *rest)
        widest = max(widest, len(found))
        return found

    monkeypatch.setattr(Timeframe, "edges", watched)
    for question in ({"since": 0}, {"until": T0 + 5 * MINUTE_MS}, {"until": T0}, {"since": 0, "until": T0}):
        assert len((await world.ask(limit=100, fill=Fill.PREVIOUS, **question)).candles) == 100
    assert widest <= 200
    assert clock.now_ms() == world.now


@pytest.mark.parametrize("newest", [False, True])
async def test_the_pages_of_a_symbol_that_trades_each_minute_are_asked_for_side_by_side(
    make: Make, *, newest: bool
) -> None:
    """The first page shows the density; the next ones are fetched concurrently, and each is requested once."""
    world = make(minutes(T0, 5_000), at(6_000))
    under_way, most = 0, 0

    async def slowly(page: Page) -> Page:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if world.calls > 1:  # the first one is alone
            await eventually(lambda: most == 8)
        under_way -= 1
        return page

    world.upstream.always = slowly
    limit = 4_499  # one more is looked for
    answer = await world.ask(since=None if newest else T0, until=at(4_500), limit=limit)
    assert (answer.complete, len(answer.candles)) == (True, limit)
    spans = sorted(call.span for call in world.upstream.calls)
    assert [span.since for span in spans] == [at(500 * i) for i in range(9)]
    assert most == 8


async def test_the_pages_of_a_symbol_that_seldom_trades_are_asked_for_one_after_the_other(make: Make) -> None:
    """A page of it reaches far: side by side most of them would be empty."""
    world = make(minutes(T0, 5_000, holes=[i for i in range(5_000) if i % 5]), at(6_000))
    answer = await world.ask(since=T0, until=at(4_500), limit=5_000)
    assert (answer.complete, len(answer.candles)) == (True, 900)
    assert world.calls == 2


@dataclass
class Gate:
    """Writes of candles wait for it to be opened; how many have begun."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    writes: int = 0

    @classmethod
    def before(cls, monkeypatch: pytest.MonkeyPatch) -> Gate:
        gate, write = cls(), CandleStore.write

        async def waiting(store: CandleStore, *arguments: Any, **more: Any) -> None:
            gate.writes += 1
            await gate.opened.wait()
            await write(store, *arguments, **more)

        monkeypatch.setattr(CandleStore, "write", waiting)
        return gate


async def until_asked(world: World, calls: int) -> None:
    await eventually(lambda: world.calls >= calls)
    for _ in range(50):  # the last one is answered too: nothing but turns of the loop lies between
        await asyncio.sleep(0)


async def claimed(world: World) -> int:
    record = await world.record()
    rows = await world.database.fetch("select count(*) from claims where instrument_id = $1", record.id)
    return int(rows[0]["count"])


async def logged_outcomes(world: World) -> list[str]:
    record = await world.record()
    return sorted(note.outcome for note in await world.store.recent_fetches(record.id, MINUTE, 20))


async def test_pages_that_arrive_while_one_is_stored_share_the_next_transaction(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim stands until all of them are there, and each call has its line in the log."""
    world = make(minutes(T0, 5_000), at(6_000))
    await world.record()
    gate = Gate.before(monkeypatch)
    asking = asyncio.create_task(world.ask(since=T0, until=at(4_500), limit=5_000))
    await until_asked(world, 9)
    assert (gate.writes, await claimed(world), await world.stored()) == (1, 1, [])
    gate.opened.set()
    answer = await asking
    assert (answer.complete, len(answer.candles), gate.writes, await claimed(world)) == (True, 4_500, 2, 0)
    assert await world.stored() == rows_of(minutes(T0, 5_000)[:4_500])
    assert await world.covered() == Spans([Span(T0, at(4_500))])
    assert await logged_outcomes(world) == ["ok"] * 9


@pytest.mark.parametrize("broken", [ProviderUnavailable("Not now."), RuntimeError("A bug.")])
async def test_what_arrives_beside_a_page_that_fails_is_stored(make: Make, broken: Exception) -> None:
    """Whatever the failure is, what the others brought need not be asked for again; until then the claim stands."""
    world = make(minutes(T0, 5_000), at(6_000))
    release = asyncio.Event()
    world.upstream.faults, world.upstream.always = [*[delaying(0)] * 2, raising(broken)], hanging(release)
    asking = asyncio.create_task(world.try_ask(since=T0, until=at(4_500), limit=5_000))
    await until_asked(world, 9)
    async with asyncio.timeout(HANG_S):
        while not await world.covered():
            await asyncio.sleep(0.01)
    assert (await claimed(world), asking.done()) == (1, False)
    release.set()
    await asking
    failed = world.upstream.calls[2].span
    assert world.calls == 9
    assert await world.covered() == Spans([Span(T0, at(4_500))]) - Spans([failed])
    stored = minutes(T0, 5_000)[:4_500]
    inside = (stored.timestamp >= failed.since) & (stored.timestamp < failed.until)
    assert await world.stored() == rows_of(stored[~inside])
    assert await claimed(world) == 0


async def test_a_page_that_cannot_be_stored_ends_the_asking(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot keep what comes does not ask for more, and says so."""
    world = make(minutes(T0, 5_000, holes=range(1, 5_000, 2)), at(6_000), max_rows_per_call=100)
    await world.record()

    async def fail(*_: Any, **__: Any) -> None:
        raise Unavailable

    monkeypatch.setattr(CandleStore, "write", fail)
    answer = await world.try_ask(since=T0, until=at(4_500), limit=5_000)
    assert isinstance(answer, Unavailable)
    assert 1 <= world.calls <= 3
    assert (await world.covered(), await claimed(world)) == (Spans(), 0)


@pytest.mark.parametrize("last", [delaying(0), hanging()])
async def test_who_closes_does_not_wait_for_a_page_to_be_stored(
    make: Make, monkeypatch: pytest.MonkeyPatch, last: Fault
) -> None:
    """Whether all of them have arrived or one is still on its way."""
    world = make(minutes(T0, 5_000), at(6_000))
    world.upstream.faults = [*[delaying(0)] * 8, last]
    await world.record()
    gate = Gate.before(monkeypatch)
    asking = asyncio.create_task(world.try_ask(since=T0, until=at(4_500), limit=5_000))
    await until_asked(world, 9)
    async with asyncio.timeout(HANG_S):
        await world.fetcher.close()
    await asyncio.gather(asking, return_exceptions=True)
    assert not gate.opened.is_set()
    assert (await world.stored(), await world.covered(), await claimed(world)) == ([], Spans(), 0)
