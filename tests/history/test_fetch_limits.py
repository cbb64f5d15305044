"""What may be fetched is bounded: by caller and hour, by the deadline of an operation, and by the room on the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from candlegraph import MINUTE
from candlegraph.answer import Answer, GapReason
from candlegraph.backfill import BackfillRequest, BackfillState, SymbolSelection
from candlegraph.errors import FetchLimited, FetchPaused, Overloaded
from candlegraph.provider import Budget, Capabilities, LiveMode
from candlegraph.span import Span
from candlegraph.supervision import Supervisor
from candlegraph.upstream import Urgency
from history import free_space, orchestrator
from history.backfill.jobs import BackfillJobs
from history.backfill.tracking import Tracking
from history.backfill.workers import BackfillWorkers
from history.fetch_job import FetchRequest
from history.fetch_limits import HOUR_S, UNLIMITED, FetchBudget, FetchLimits
from history.free_space import FreeSpace
from storage.database import Database
from storage.rate_limits import RateLimiter
from tests.fakes.upstream import FakeUpstream, minutes
from tests.history.world import T0, World, stop_clock
from tests.waiting import HANG_S, eventually

MINUTE_MS = 60_000


class Usage(NamedTuple):
    """As shutil says it."""

    total: int
    used: int
    free: int


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


@pytest.fixture
async def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Ten thousand minutes of one symbol, of which the provider sends 500 a call; nothing is stored."""
    budget = Budget(1e9, 1.0, concurrent=100)
    capabilities = Capabilities((MINUTE,), live=LiveMode.POLL, max_rows_per_call=500, settle_ms=0, budget=budget)
    made = World(database, FakeUpstream(capabilities=capabilities), at(10_100)).lists(minutes(T0, 10_000))
    stop_clock(monkeypatch, made)
    yield made
    await made.fetcher.close()


async def ask(world: World, fetch_budget: FetchBudget, since: int, until: int) -> Answer | BaseException:
    question = world.question(since=at(since), until=at(until), limit=5000)
    return (await world.history.answer([question], fetch_budget))[0]


def _overdue() -> FetchBudget:
    """That of an operation whose deadline has just passed."""
    return replace(UNLIMITED, deadline=asyncio.get_running_loop().time())


def limits(rows: int | None, account_rows: int | None = None) -> FetchLimits:
    return FetchLimits(RateLimiter(), rows, account_rows)


async def test_a_caller_has_so_many_candles_fetched_an_hour_and_what_is_stored_is_still_answered(world: World) -> None:
    mine = limits(2000).fetch_budget(None, "192.0.2.1", None)  # half of an hour's at once
    first = await ask(world, mine, 0, 900)
    assert isinstance(first, Answer)
    assert (len(first.candles), first.complete) == (900, True)
    calls = world.calls
    partly = await ask(world, mine, 500, 1100)
    assert isinstance(partly, Answer)
    assert (len(partly.candles), len(partly.gaps)) == (400, 1)
    gap = partly.gaps[0]
    assert (gap.since, gap.until, gap.reason) == (at(900), at(1100), GapReason.NOT_FETCHED)
    assert "at most 2,000 candles an hour" in (gap.detail or "")
    nothing = await ask(world, mine, 2000, 2500)
    assert isinstance(nothing, FetchLimited)
    assert nothing.code == "RATE_LIMITED"
    assert 0 < (nothing.retry_after or 0) <= HOUR_S
    assert world.calls == calls
    assert len(await world.stored()) == 900
    again = await ask(world, mine, 0, 900)
    assert isinstance(again, Answer)
    assert again.complete


async def test_other_addresses_and_accounts_have_limits_of_their_own(world: World) -> None:
    of = limits(1000, 4000)
    assert isinstance(await ask(world, of.fetch_budget(None, "192.0.2.1", None), 0, 500), Answer)
    assert isinstance(await ask(world, of.fetch_budget(None, "192.0.2.1", None), 1000, 1500), FetchLimited)
    for allowed in (of.fetch_budget(None, "192.0.2.2", None), of.fetch_budget(7, "192.0.2.1", None)):
        assert isinstance(await ask(world, allowed, 1000, 1400), Answer)
    assert isinstance(await ask(world, of.fetch_budget(7, "192.0.2.1", None), 2000, 3500), Answer)
    assert isinstance(await ask(world, of.fetch_budget(7, "192.0.2.1", None), 4000, 5000), FetchLimited)
    assert isinstance(await ask(world, limits(None).fetch_budget(None, "192.0.2.1", None), 5000, 9000), Answer)


async def test_nothing_is_fetched_for_callers_with_no_allowance_at_all(world: World) -> None:
    anonymous = limits(0).fetch_budget(None, "192.0.2.1", None)
    assert isinstance(await ask(world, anonymous, 0, 1), FetchLimited)
    assert world.calls == 0


async def test_all_questions_of_an_operation_share_what_may_be_fetched(world: World) -> None:
    """As many aliases as one likes bring no more rows than the limit."""
    fetch_budget = limits(4000).fetch_budget(None, "192.0.2.1", None)
    questions = [world.question(since=at(i * 500), until=at(i * 500 + 500)) for i in range(18)]
    answers = await world.history.answer(questions, fetch_budget)
    assert sum(isinstance(answer, Answer) for answer in answers) == 4
    assert all(isinstance(answer, Answer | FetchLimited) for answer in answers)
    assert len(await world.stored()) == 2000


async def test_an_operation_has_one_deadline_whatever_it_asks_for_later(world: World) -> None:
    """A query that begins after the deadline of its operation does not wait."""
    release = asyncio.Event()

    async def hangs(*_: object) -> None:
        await release.wait()

    world.upstream.faults = [hangs]  # type: ignore[list-item]
    await world.keeps(Span(T0, at(100)))
    answer = await ask(world, _overdue(), 0, 200)
    assert isinstance(answer, Answer)
    assert (len(answer.candles), [gap.reason for gap in answer.gaps]) == (100, [GapReason.PENDING])
    release.set()
    await eventually(lambda: not world.fetcher._tasks)


async def test_a_question_that_reads_on_after_its_deadline_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.keeps(Span(T0, at(100)))

    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.database, "timings", replace(world.database.timings, query_finish_s=0.05))
    monkeypatch.setattr(orchestrator.CandleQuery, "_read_parts", stuck)
    questions = [world.question(since=at(i), until=at(100), limit=50) for i in range(30)]
    answers = await world.history.answer(questions, _overdue())
    assert all(isinstance(answer, Overloaded) and answer.retry_after for answer in answers)


@pytest.fixture
def disk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], FreeSpace]:
    """Say how many megabytes are free; a floor of 100 is watched."""
    space = world.fetcher.free_space = FreeSpace(tmp_path, 100)

    def left(megabytes: int) -> FreeSpace:
        monkeypatch.setattr(free_space.shutil, "disk_usage", lambda _: Usage(1 << 40, 0, megabytes << 20))
        space.check()
        return space

    return left


async def test_below_the_floor_nothing_is_fetched_until_there_is_clearly_more_room(
    world: World, disk: Callable[[int], FreeSpace], caplog: pytest.LogCaptureFixture
) -> None:
    await world.keeps(Span(T0, at(100)))
    assert not disk(100).is_low
    assert disk(99).is_low
    for _ in range(5):
        assert disk(50).is_low
    partly, nothing = await ask(world, UNLIMITED, 0, 200), await ask(world, UNLIMITED, 300, 400)
    assert isinstance(partly, Answer)
    assert (len(partly.candles), [gap.reason for gap in partly.gaps]) == (100, [GapReason.NOT_FETCHED])
    assert isinstance(nothing, FetchPaused)
    assert (nothing.code, nothing.retry_after) == ("UNAVAILABLE", 30)
    assert world.calls == 0
    assert "Only 50 MB are free" in (disk(50).outage.reason or "")
    assert disk(119).is_low  # a little more than the floor: fetching would stop again at once
    assert not disk(121).is_low
    assert disk(121).outage.reason is None
    assert not disk(110).is_low
    assert [record.levelno for record in caplog.records if "fetching candles" in record.message] == [
        logging.WARNING
    ] * 2
    answer = await ask(world, UNLIMITED, 300, 400)
    assert isinstance(answer, Answer)
    assert answer.complete


async def test_a_full_disk_pauses_backfills_and_tracking(world: World, disk: Callable[[int], FreeSpace]) -> None:
    record, jobs = await world.record(), BackfillJobs(world.history)
    disk(1)
    assert await Tracking(jobs).check_batch() == 0
    provider, _ = await world.history._started(record, HANG_S)
    assert provider is not None
    job = await jobs.start(BackfillRequest(SymbolSelection("fake", "upstream", (world.symbol,)), T0, at(1000)))
    workers, supervisor = BackfillWorkers(jobs), Supervisor()
    workers.start(supervisor)
    waiting = FetchRequest(MINUTE, Span(T0, at(10)), urgency=Urgency.BACKFILL)
    assert isinstance((await world.fetcher.fetch(record, provider, waiting)).failure, FetchPaused)
    assert world.calls == 0
    assert (await jobs.get(job.id)).state is BackfillState.QUEUED
    disk(1000)

    async def done() -> bool:
        return (await jobs.get(job.id)).state is BackfillState.DONE

    try:
        await eventually(done)
    finally:
        await workers.close()
        await supervisor.close()
    assert len(await world.stored()) == 1000


async def test_a_disk_that_cannot_be_looked_at_stops_nothing(world: World, tmp_path: Path) -> None:
    space = FreeSpace(tmp_path / "gone", 1 << 30)
    space.check()
    assert not space.is_low
    assert not free_space.is_readable(tmp_path / "gone")
    assert free_space.is_readable(tmp_path)
