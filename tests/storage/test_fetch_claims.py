"""Many ask at once, in one process or in several: one of them asks upstream, and all of them have the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from candlegraph.answer import Answer, GapReason, Wait
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable
from candlegraph.provider import Capabilities, LiveMode
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.coverage_cache import CoverageCache
from storage.database import Database
from tests.fakes.upstream import delaying, hanging, minutes, raising
from tests.history.world import DAY_MS, T0, World, rows_of, stop_clock
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

ASK = {"since": T0, "until": T0 + 300 * MINUTE_MS}


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(database, now=T0 + 2 * DAY_MS)
    world.upstream.capabilities = Capabilities((MINUTE,), LiveMode.NONE, max_rows_per_call=500, settle_ms=0)
    world.lists(minutes(T0, 1440))
    stop_clock(monkeypatch, world)
    return world


@asynccontextmanager
async def another_process(world: World, dsn: str) -> AsyncIterator[World]:
    """The same provider and database, and nothing else in common."""
    database = Database(dsn, timings=PATIENT)
    await database.open()
    other = World(database, upstream=world.upstream, symbol=world.symbol)
    watching = [asyncio.create_task(one.store.change_feed.run()) for one in (world, other)]
    try:
        yield other
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await other.fetcher.close()
        await database.close()


def whole(answers: list[Answer | BaseException], world: World) -> bool:
    """Whether all tasks have all of it."""
    rows = rows_of(world.upstream.truth[world.symbol].between(Span(ASK["since"], ASK["until"])))
    return all(isinstance(a, Answer) and a.complete and rows_of(a.candles) == rows for a in answers)


async def test_a_thousand_identical_cold_questions_make_one_call(world: World) -> None:
    world.upstream.always = delaying(0.2)
    answers = await world.history.answer([world.question(**ASK) for _ in range(1000)])
    assert whole(answers, world)
    assert world.calls == 1


async def test_a_thousand_identical_cold_questions_to_two_processes_make_one_call(
    world: World, database_dsn: str
) -> None:
    world.upstream.always = delaying(0.5)
    async with another_process(world, database_dsn) as other:
        batches = await asyncio.gather(
            *(one.history.answer([one.question(**ASK) for _ in range(500)]) for one in (world, other))
        )
    assert whole([*batches[0], *batches[1]], world)
    assert world.calls == 1


async def test_overlapping_questions_to_two_processes_ask_for_no_minute_twice(world: World, database_dsn: str) -> None:
    world.upstream.always = delaying(0.1)
    async with another_process(world, database_dsn) as other:
        answers = await asyncio.gather(
            world.ask(since=T0, until=T0 + 200 * MINUTE_MS),
            other.ask(since=T0 + 100 * MINUTE_MS, until=T0 + 300 * MINUTE_MS),
        )
    assert [len(answer.candles) for answer in answers] == [200, 200]
    assert all(answer.complete for answer in answers)
    asked = [call.span for call in world.upstream.calls]
    assert sum(span.until - span.since for span in asked) == 300 * MINUTE_MS
    assert Spans(asked) == Spans([Span(T0, T0 + 300 * MINUTE_MS)])


async def test_a_cancelled_caller_cancels_no_other(world: World) -> None:
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    first, second = (asyncio.create_task(world.ask(**ASK)) for _ in range(2))
    await eventually(lambda: world.calls)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    release.set()
    assert whole([await second], world)
    assert world.calls == 1


async def test_a_failed_shared_read_fails_for_all_and_the_next_query_reads_again(world: World) -> None:
    world.upstream.faults = [raising(ProviderUnavailable("Down."))]
    answers = await world.history.answer([world.question(**ASK) for _ in range(100)])
    assert {type(answer) for answer in answers} == {ProviderUnavailable}
    assert world.calls == 1
    assert whole([await world.ask(**ASK)], world)
    assert world.calls == 2


async def test_a_failure_in_one_process_leaves_the_span_to_the_other(world: World, database_dsn: str) -> None:
    world.upstream.faults = [raising(ProviderUnavailable("Down."))]
    async with another_process(world, database_dsn) as other:
        answers = await asyncio.gather(world.try_ask(**ASK), other.try_ask(**ASK))
    assert [isinstance(answer, Answer) for answer in answers].count(True) == 1
    assert world.calls == 2


async def test_what_a_dead_process_had_claimed_is_free_after_a_while(world: World, database_dsn: str) -> None:
    record = await world.record()
    async with another_process(world, database_dsn) as other:
        claims = other.fetcher.claims
        held = await claims._claim((record.id, MINUTE), Span(T0, T0 + DAY_MS))
        assert held is not None
        assert await world.fetcher.claims._claim((record.id, MINUTE), Span(T0, T0 + MINUTE_MS)) is None
        claims._claim_ids.clear()  # it is dead, and renews nothing
        async with world.database.connection() as connection:
            await connection.execute(
                f"update claims set expires_at = expires_at - interval '{world.database.timings.claim_ttl_s} s'"
            )
        assert whole([await world.ask(**ASK)], world)


async def test_available_answers_at_once_and_the_rest_is_fetched_behind(world: World) -> None:
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    answer = await world.ask(wait=Wait.AVAILABLE, **ASK)
    assert [gap.reason for gap in answer.gaps] == [GapReason.PENDING]
    release.set()
    async with asyncio.timeout(HANG_S):
        while (await world.ask(wait=Wait.AVAILABLE, **ASK)).gaps:
            await asyncio.sleep(0.02)
    assert world.calls == 1


async def test_complete_is_partial_at_the_deadline_and_says_what_is_pending(world: World) -> None:
    world.database.timings = replace(world.database.timings, query_deadline_s=0.2)
    await world.keeps(Span(T0, T0 + 100 * MINUTE_MS))
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    answer = await world.ask(**ASK)
    assert len(answer.candles) == 100
    assert [(gap.since, gap.until, gap.reason) for gap in answer.gaps] == [
        (T0 + 100 * MINUTE_MS, T0 + 300 * MINUTE_MS, GapReason.PENDING)
    ]
    release.set()
    await world.fetcher.close()


async def test_two_readers_of_one_coverage_both_see_what_changed_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await world.record()
    watching = asyncio.create_task(world.store.change_feed.run())
    try:
        await eventually(lambda: world.store.change_feed.is_fresh)
        ledgers = CoverageCache(world.store)
        read, gate = type(world.store).read_coverage, asyncio.Event()
        waits = [asyncio.Event(), asyncio.Event()]
        events = iter(waits)

        async def slowly(store: object, ids: list[int]) -> object:
            found = await read(world.store, ids)
            gate.set()
            await next(events).wait()
            return found

        monkeypatch.setattr(type(world.store), "read_coverage", slowly)
        first, second = (asyncio.create_task(ledgers.load([record.id])) for _ in range(2))
        await gate.wait()
        waits[1].set()  # the second one is back first
        await second
        monkeypatch.setattr(type(world.store), "read_coverage", read)
        await world.keeps(Span(T0, T0 + DAY_MS))
        waits[0].set()
        await first
        assert (await ledgers.load([record.id]))[0].spans[MINUTE] == Spans([Span(T0, T0 + DAY_MS)])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
