"""Backfills: the ordered span is stored, each page is requested once, and a worker that dies is replaced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candlegraph.answer import GapReason
from candlegraph.backfill import Backfill, BackfillRequest, BackfillState, SymbolSelection
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import BadUserInput, NotFound, Overloaded, ProviderRefused, ProviderUnavailable, UnknownSymbol
from candlegraph.provider import Capabilities, Listing, LiveMode
from candlegraph.span import Span, Spans
from candlegraph.supervision import Supervisor
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import Urgency
from history.backfill import workers as working
from history.backfill.jobs import BackfillJobs, find_missing
from history.backfill.tracking import Tracking
from history.backfill.workers import BackfillWorkers
from history.fetch_request import FetchRequest
from storage.database import Database
from tests.fakes.upstream import (
    Fault,
    changing,
    hanging,
    lagging,
    minutes,
    proving_nothing,
    raising,
    spoiling,
)
from tests.history.world import DAY_MS, HOUR_MS, T0, World, folded, rows_of, stop_clock
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

PAGE = 50
BRISK = replace(
    PATIENT,
    backfill_poll_interval_s=0.02,
    backfill_follow_interval_s=0.02,
    backfill_max_backoff_s=0.02,
    claim_poll_interval_s=0.02,
)


@pytest.fixture(autouse=True)
def brisk(database: Database) -> None:
    """What waits for seconds in life waits for moments here."""
    database.timings = BRISK


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """A provider with a day of minutes of one symbol, 50 to a page; it is a day later."""
    world = World(database, now=T0 + 2 * DAY_MS)
    world.upstream.capabilities = Capabilities((MINUTE,), LiveMode.NONE, max_rows_per_call=PAGE, settle_ms=0)
    world.lists(minutes(T0, 1440))
    stop_clock(monkeypatch, world)
    return world


def order(world: World, since: int, until: int | None, **more: object) -> BackfillRequest:
    return BackfillRequest(SymbolSelection("fake", "upstream", (world.symbol,)), since, until, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def at_work(backfills: BackfillJobs, count: int = 2) -> AsyncIterator[BackfillWorkers]:
    """Somebody works on the jobs meanwhile."""
    workers = BackfillWorkers(backfills, workers=count)
    workers.start(supervisor := Supervisor())
    try:
        yield workers
    finally:
        await workers.close()
        await supervisor.close()


async def done(backfills: BackfillJobs, job: int, seconds: float = 20) -> Backfill:
    """The job when it has ended."""
    async with asyncio.timeout(HANG_S):
        return [update async for update in backfills.follow(job)][-1]


async def run(world: World, since: int, until: int | None, **more: object) -> Backfill:
    backfills = BackfillJobs(world.history)
    job = await backfills.start(order(world, since, until, **more))
    async with at_work(backfills):
        return await done(backfills, job.id)


def truth(world: World, since: int, until: int) -> list[tuple[float, ...]]:
    return rows_of(world.upstream.truth[world.symbol].between(Span(since, until)))


def repeated(world: World) -> list[int]:
    """From where more than one page was asked for."""
    starts = [call.span.since for call in world.upstream.calls]
    return sorted({start for start in starts if starts.count(start) > 1})


def hours(count: float) -> int:
    return T0 + round(count * 60) * MINUTE_MS


async def test_what_is_ordered_is_stored_with_each_page_asked_for_once(world: World) -> None:
    job = await run(world, T0, hours(10))
    assert job.state is BackfillState.DONE
    assert (job.pieces_done, job.pieces_total, job.calls) == (12, 12, 12)
    assert (job.candles_written, job.holes, job.last_error) == (600, (), None)
    assert await world.stored() == truth(world, T0, hours(10))
    assert await world.covered() == Spans([Span(T0, hours(10))])
    assert world.calls == 12
    assert {call.urgency for call in world.upstream.calls} == {Urgency.BACKFILL}


async def test_what_is_older_than_a_provider_has_is_a_hole(world: World) -> None:
    job = await run(world, -6 * HOUR_MS, 6 * HOUR_MS)
    assert [(gap.since, gap.until, gap.reason) for gap in job.holes] == [(-6 * HOUR_MS, 0, GapReason.UNAVAILABLE)]
    assert world.calls
    assert all(call.span.since >= 0 for call in world.upstream.calls)


async def test_a_backfill_reaches_over_1970_where_the_listing_does(world: World) -> None:
    first, end = -3 * HOUR_MS, 3 * HOUR_MS
    world.lists(minutes(first, 360))
    world.upstream.listed = {world.symbol: Listing(world.symbol, first_available=first)}
    job = await run(world, first, end)
    assert (job.state, job.span, job.candles_written) == (BackfillState.DONE, Span(first, end), 360)
    assert await world.stored() == truth(world, first, end)
    assert await world.covered() == Spans([Span(first, end)])


async def test_the_same_order_again_makes_no_call(world: World) -> None:
    await run(world, T0, hours(10))
    again = await BackfillJobs(world.history).start(order(world, T0, hours(10)))
    assert (again.state, again.pieces_total) == (BackfillState.DONE, 0)
    assert world.calls == 12


async def test_only_holes_are_fetched_and_imported_history_is_no_hole(world: World) -> None:
    await world.keeps(Span(hours(1), hours(3)), Span(hours(5), hours(5.5)))
    job = await run(world, T0, hours(6))
    assert await world.covered() == Spans([Span(T0, hours(6))])
    assert await world.stored() == truth(world, T0, hours(6))
    asked = Spans(call.span for call in world.upstream.calls)
    assert not asked & Spans([Span(hours(1), hours(3)), Span(hours(5), hours(5.5))])
    assert job.candles_written == 210


async def test_a_long_job_is_divided_among_processes_and_no_page_is_asked_for_twice(
    world: World, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("history.backfill.jobs.CALLS_PER_PART", 7)
    world.lists(minutes(T0 - 2 * DAY_MS, 2 * 1440))
    other = Database(database_dsn, timings=BRISK)
    await other.open()
    second = World(other, upstream=world.upstream, symbol=world.symbol)
    try:
        backfills = BackfillJobs(world.history)
        job = await backfills.start(order(world, T0 - 2 * DAY_MS, T0))
        async with at_work(backfills), at_work(BackfillJobs(second.history)):
            job = await done(backfills, job.id)
    finally:
        await second.fetcher.close()
        await other.close()
    assert job.state is BackfillState.DONE
    assert job.pieces_total <= world.calls == job.calls <= job.pieces_total + 1
    assert not repeated(world)
    assert len(await world.stored()) == 2_880


async def test_the_newest_history_comes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("history.backfill.jobs.CALLS_PER_PART", 4)
    world.lists(minutes(T0 - DAY_MS, 1440))
    backfills = BackfillJobs(world.history)
    job = await backfills.start(order(world, T0 - DAY_MS, T0))
    async with at_work(backfills, 1):
        await done(backfills, job.id)
    first, last = world.upstream.calls[0].span, world.upstream.calls[-1].span
    assert first.since >= T0 - 4 * PAGE * MINUTE_MS > last.since


async def test_what_the_provider_cannot_prove_is_a_hole_and_does_not_hold_up_the_rest(world: World) -> None:
    world.upstream.faults = [spoiling(3), proving_nothing(), proving_nothing()]
    job = await run(world, T0, hours(10))
    holes = {(gap.reason, (gap.since - T0) // MINUTE_MS, (gap.until - T0) // MINUTE_MS) for gap in job.holes}
    assert holes == {(GapReason.REFUSED, 3, 4), (GapReason.UNAVAILABLE, PAGE, PAGE + PAGE // 2)}
    assert job.state is BackfillState.DONE
    assert world.calls <= 15


async def test_a_page_that_cannot_be_proved_whole_is_proved_by_halves(world: World) -> None:
    world.upstream.faults = [proving_nothing()]
    job = await run(world, T0, hours(4))
    assert (job.state, job.holes) == (BackfillState.DONE, ())
    assert await world.stored() == truth(world, T0, hours(4))


async def test_what_a_page_leaves_open_at_its_beginning_is_asked_for_once_more(world: World) -> None:
    world.upstream.faults = [changing(lambda page: replace(page, complete_from=page.complete_from + 20 * MINUTE_MS))]  # type: ignore[attr-defined,type-var]
    job = await run(world, T0, hours(4))
    assert (job.state, job.holes) == (BackfillState.DONE, ())
    assert await world.stored() == truth(world, T0, hours(4))


async def test_a_hole_in_the_middle_is_asked_for_in_halves_and_the_pages_behind_it_come(world: World) -> None:
    cut = hours(2)

    def late(page: object) -> object:
        return replace(page, complete_from=max(page.complete_from, cut))  # type: ignore[attr-defined,type-var]

    world.upstream.always = changing(late)
    job = await run(world, T0, hours(6))
    assert job.state is BackfillState.DONE
    assert [(gap.since, gap.until, gap.reason) for gap in job.holes] == [(T0, cut, GapReason.UNAVAILABLE)]
    assert await world.covered() == Spans([Span(cut, hours(6))])
    assert world.calls == 12  # one page, five halves, the rest of the last of them, and five pages


async def test_before_the_listing_and_after_the_end_no_call_is_made_and_the_gaps_have_the_reason(world: World) -> None:
    world.upstream.listed = {world.symbol: Listing(world.symbol, first_available=hours(2), ended_at=hours(8))}
    job = await run(world, T0, hours(10))
    assert [(gap.since, gap.until, gap.reason) for gap in job.holes] == [
        (hours(8), hours(10), GapReason.AFTER_DELISTING),
        (T0, hours(2), GapReason.BEFORE_LISTING),
    ]
    assert await world.covered() == Spans([Span(hours(2), hours(8))])
    assert job.state is BackfillState.DONE


async def test_a_symbol_that_is_gone_ends_its_part_and_not_the_job(world: World) -> None:
    world.upstream.truth["GONE"] = minutes(T0, 1440)
    backfills = BackfillJobs(world.history)
    job = await backfills.start(BackfillRequest(SymbolSelection("fake", "upstream", pattern="*"), T0, hours(4)))
    assert sorted(job.symbols) == sorted(["GONE", world.symbol])
    del world.upstream.truth["GONE"]
    async with at_work(backfills):
        job = await done(backfills, job.id)
    assert job.state is BackfillState.DONE
    assert [(gap.reason, (gap.detail or "").partition(":")[0]) for gap in job.holes] == [
        (GapReason.UNAVAILABLE, "GONE")
    ]
    assert job.last_error == UnknownSymbol().message
    assert await world.stored() == truth(world, T0, hours(4))
    parts = {part.symbol: part for part in await backfills.parts(job.id)}
    assert parts[world.symbol].candles == 240
    assert parts["GONE"].state is BackfillState.DONE


async def test_an_outage_is_waited_out(world: World) -> None:
    world.upstream.faults = [raising(ProviderUnavailable("Closed for repairs.")) for _ in range(5)]
    job = await run(world, T0, hours(10))
    assert job.state is BackfillState.DONE
    assert (job.holes, job.last_error) == ((), "Closed for repairs.")
    assert job.calls == 17
    assert await world.stored() == truth(world, T0, hours(10))


async def test_a_refusal_fails_the_job_and_an_endless_outage_does_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.upstream.always = raising(ProviderRefused("Your plan does not cover this."))
    job = await run(world, T0, hours(2))
    assert (job.state, job.last_error) == (BackfillState.FAILED, "Your plan does not cover this.")
    assert [gap.reason for gap in job.holes] == [GapReason.REFUSED]
    monkeypatch.setattr(working, "MAX_ATTEMPTS", 3)
    world.upstream.always = raising(ProviderUnavailable("Gone."))
    calls = world.calls
    job = await run(world, T0, hours(2))
    assert (job.state, [gap.reason for gap in job.holes]) == (BackfillState.FAILED, [GapReason.OUTAGE])
    assert world.calls == calls + 3
    world.upstream.always = None
    assert (await run(world, T0, hours(2))).state is BackfillState.DONE


async def test_a_cancelled_job_asks_for_nothing_more_and_keeps_what_it_has(world: World) -> None:
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    backfills = BackfillJobs(world.history)
    job = await backfills.start(order(world, T0, hours(10)))
    async with at_work(backfills, 1):
        await eventually(lambda: world.calls)
        cancelled = await backfills.cancel(job.id)
        release.set()
        other = await backfills.start(order(world, hours(20), hours(20) + PAGE * MINUTE_MS))
        await done(backfills, other.id)  # the one worker is through with the first
    assert cancelled.state is BackfillState.CANCELLED
    assert [call.span.since for call in world.upstream.calls] == [T0, hours(20)]
    assert len(await world.stored()) == 2 * PAGE
    assert (await backfills.cancel(job.id)).state is BackfillState.CANCELLED


async def test_a_job_is_cancelled_while_a_part_of_it_ends(world: World) -> None:
    backfills = BackfillJobs(world.history)
    job = await backfills.start(order(world, T0, hours(1)))
    async with world.database.transaction() as connection:  # as `backfill_end`: the part, then its job
        await connection.execute("update backfill_parts set calls = 1 where backfill_id = $1", job.id)
        cancelling = asyncio.create_task(backfills.cancel(job.id))
        async with asyncio.timeout(HANG_S):
            while not await connection.fetchval("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.01)
        await connection.execute("update backfills set last_error = 'x' where id = $1", job.id)
    assert (await cancelling).state is BackfillState.CANCELLED


async def test_a_question_is_answered_while_a_backfill_waits_for_the_provider(world: World) -> None:
    release = asyncio.Event()
    world.upstream.faults = [hanging(release)]
    backfills = BackfillJobs(world.history)
    await backfills.start(order(world, T0, hours(2)))
    async with at_work(backfills, 1):
        await eventually(lambda: world.calls)
        answer = await world.ask(limit=5, since=hours(20), until=hours(21))
        assert len(answer.candles) == 5
        assert world.upstream.calls[-1].urgency is Urgency.QUERY
        release.set()


async def test_a_higher_priority_goes_first(world: World) -> None:
    backfills = BackfillJobs(world.history)
    late = await backfills.start(order(world, T0, hours(1)))
    soon = await backfills.start(order(world, hours(10), hours(11), priority=5))
    async with at_work(backfills, 1):
        await done(backfills, late.id)
    assert (await backfills.get(soon.id)).state is BackfillState.DONE
    assert world.upstream.calls[0].span.since >= hours(10)


async def test_a_killed_worker_costs_one_page_and_somebody_else_goes_on(world: World, database_dsn: str) -> None:
    doomed_database = Database(database_dsn, timings=BRISK)
    await doomed_database.open()
    doomed = World(doomed_database, upstream=world.upstream, symbol=world.symbol)
    pages = 0

    async def dies(page: object) -> object:
        nonlocal pages
        pages += 1
        if pages == 5:
            assert doomed_database._pool
            doomed_database._pool.terminate()  # it writes nothing, and gives nothing back
        return page

    world.upstream.always = dies  # type: ignore[assignment]
    backfills = BackfillJobs(world.history)
    job = await backfills.start(order(world, T0, hours(10)))
    async with at_work(BackfillJobs(doomed.history), 1):
        while pages < 5:
            await asyncio.sleep(0.01)
    await doomed.fetcher.close()
    async with at_work(backfills, 1):
        job = await done(backfills, job.id)
    assert await world.stored() == truth(world, T0, hours(10))
    assert world.calls == 13
    assert job.state is BackfillState.DONE


async def test_a_database_that_dies_under_a_worker_is_waited_for(world: World, database_dsn: str) -> None:
    world.database.timings = replace(
        world.database.timings,
        backfill_claim_ttl_s=3.0,
        claim_ttl_s=3.0,
        backfill_renewal_interval_s=0.5,
        claim_renewal_interval_s=0.5,
    )

    async def cuts(page: object) -> object:
        if world.calls in {2, 5}:
            admin = await asyncpg.connect(database_dsn)
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
                "and datname = current_database()"
            )
            await admin.close()
        return page

    world.upstream.always = cuts  # type: ignore[assignment]
    job = await run(world, T0, hours(10))
    assert job.state is BackfillState.DONE
    assert await world.stored() == truth(world, T0, hours(10))
    assert world.calls <= 14


async def test_a_job_whose_last_worker_died_before_it_was_closed_is_closed(world: World) -> None:
    backfills = BackfillJobs(world.history)
    job = await backfills.start(order(world, T0, hours(1)))
    async with world.database.connection() as connection:
        await connection.execute("update backfill_parts set state = 'DONE'")
        await connection.execute("update backfills set state = 'RUNNING', started_at = now()")
    async with at_work(backfills):
        assert (await done(backfills, job.id)).state is BackfillState.DONE


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"selection": SymbolSelection("fake", "upstream", pattern="NOPE*")},
            BadUserInput,
            "No symbol of fake/upstream",
        ),
        ({"selection": SymbolSelection("fake", "upstream", ("NOPE",))}, NotFound, "has no symbol 'NOPE'"),
        ({"selection": SymbolSelection("fake", "upstream", ())}, BadUserInput, "`symbols` is empty"),
        ({"selection": SymbolSelection("fake", "upstream")}, BadUserInput, "either `symbols` or a `pattern`"),
        ({"selection": SymbolSelection("fake", "absent", ("X",))}, NotFound, "has no provider 'absent'"),
        ({"since": T0 + 3 * DAY_MS, "until": None}, BadUserInput, "in the future"),
        ({"until": T0}, BadUserInput, "must lie before `until`"),
        ({"since": 0, "until": T0 - 400 * DAY_MS}, BadUserInput, "reaches back to"),
        ({"timeframe": Timeframe(7, "m")}, BadUserInput, "has no 7m candles of its own: it has 1m"),
        ({"priority": 2**40}, BadUserInput, "`priority` must be between"),
    ],
)
async def test_a_bad_order_is_refused_with_the_reason(
    world: World, change: dict[str, object], error: type[Exception], said: str
) -> None:
    world.upstream.capabilities = replace(world.upstream.capabilities, max_lookback_ms=300 * DAY_MS)
    with pytest.raises(error, match=said):
        await BackfillJobs(world.history).start(replace(order(world, T0, hours(1)), **change))  # type: ignore[arg-type]
    assert await BackfillJobs(world.history).page(None, 10, None) == []


async def test_a_million_pieces_are_refused_with_the_figure(world: World) -> None:
    world.upstream.capabilities = replace(world.upstream.capabilities, max_rows_per_call=1)
    with pytest.raises(BadUserInput, match=r"would take 1,000,000 upstream calls"):
        await BackfillJobs(world.history).start(order(world, T0 - 1_000_000 * MINUTE_MS, T0))
    job = await BackfillJobs(world.history).start(order(world, T0 - 999_999 * MINUTE_MS, T0))
    assert job.pieces_total == 999_999


async def test_the_limit_of_jobs_is_that_of_one_author(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("history.backfill.jobs.MAX_OPEN_JOBS", 2)
    backfills = BackfillJobs(world.history)
    for author in ("ada", None):
        jobs = [await backfills.start(order(world, T0, hours(1), created_by=author)) for _ in range(2)]
        with pytest.raises(Overloaded, match="2 jobs of yours are under way"):
            await backfills.start(order(world, T0, hours(1), created_by=author))
        await backfills.cancel(jobs[0].id)
        await backfills.start(order(world, T0, hours(1), created_by=author))


async def test_a_long_order_is_planned_beside_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def noted(*given: object) -> object:
        threads.append(threading.current_thread())
        return find_missing(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("history.backfill.jobs.find_missing", noted)
    await BackfillJobs(world.history).start(order(world, T0, hours(1)))
    assert threads
    assert threading.current_thread() not in threads


async def test_an_unknown_job_is_not_found(world: World) -> None:
    backfills = BackfillJobs(world.history)
    for call in (backfills.get, backfills.cancel):
        for number in (77, 0, -1, 2**70):
            with pytest.raises(NotFound, match="There is no backfill"):
                await call(number)


async def test_jobs_are_listed_by_state_the_newest_first(world: World) -> None:
    backfills = BackfillJobs(world.history)
    ids = [(await backfills.start(order(world, T0, hours(n)))).id for n in (1, 2, 3)]
    await backfills.cancel(ids[1])
    assert [job.id for job in await backfills.page(None, 2, None)] == ids[:0:-1]
    assert [job.id for job in await backfills.page(None, 2, ids[1])] == ids[:1]
    assert [job.id for job in await backfills.page(BackfillState.CANCELLED, 5, None)] == [ids[1]]


# In all cases the coverage is the requested span without the provider's gaps, and nothing is requested twice


FAULTS: list[Callable[[], Fault]] = [
    lambda: raising(ProviderUnavailable()),
    lambda: spoiling(0),
    proving_nothing,
    lambda: lagging(3),
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    known=st.lists(st.tuples(st.integers(0, 600), st.integers(1, 200)), max_size=5),
    untraded=st.sets(st.integers(0, 599), max_size=50),
    faults=st.lists(st.one_of(st.none(), st.sampled_from(range(len(FAULTS)))), max_size=12),
    kills=st.sets(st.integers(1, 12), max_size=3),
    workers=st.integers(1, 3),
)
async def test_after_any_faults_and_kills_the_ledger_is_what_was_asked_less_what_there_is_not(
    database: Database,
    known: list[tuple[int, int]],
    untraded: set[int],
    faults: list[int | None],
    kills: set[int],
    workers: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(database, now=T0 + 2 * DAY_MS)
        stop_clock(patch, world)
        world.upstream.capabilities = Capabilities((MINUTE,), LiveMode.NONE, max_rows_per_call=PAGE, settle_ms=0)
        world.lists(minutes(T0, 720, holes=sorted(untraded)))
        imported = Spans(Span(T0 + a * MINUTE_MS, T0 + (a + n) * MINUTE_MS) for a, n in known)
        await world.keeps(*imported)
        asked = Span(T0, T0 + 600 * MINUTE_MS)
        world.upstream.faults = [
            FAULTS[fault]() if fault is not None else changing(lambda page: page) for fault in faults
        ]
        job = await BackfillJobs(world.history).start(order(world, asked.since, asked.until))
        for kill in sorted(kills):  # each time after so many more calls
            before = world.calls
            killed = BackfillWorkers(BackfillJobs(world.history), workers=workers)
            killed.start(Supervisor())
            while world.calls < before + kill and not (await BackfillJobs(world.history).get(job.id)).state.ended:
                await asyncio.sleep(0.001)
            await killed.close()
            await world.fetcher.close()
            world.restart()
        backfills = BackfillJobs(world.history)
        async with at_work(backfills, workers):
            job = await done(backfills, job.id)
        assert job.state is BackfillState.DONE
        holes = Spans(Span(gap.since, gap.until) for gap in job.holes)
        covered = await world.covered()
        assert covered | holes == Spans([asked]) | imported
        assert not covered & holes
        kept = world.upstream.truth[world.symbol]
        expected = rows_of(concat([Candles.empty(), *(kept.between(span) for span in covered)]))
        assert await world.stored() == expected
        # Each kill costs a page a worker at most, each fault a call; the rest is requested once.
        fresh = Spans([asked]) - imported
        pages = sum(-(-(gap.until - gap.since) // (PAGE * MINUTE_MS)) for gap in fresh)
        assert world.calls <= pages + 2 * len(faults) + len(kills) * workers
        hour = Timeframe(1, "h")
        async with database.connection() as connection:
            rows = await connection.fetch(
                """select (extract(epoch from bucketed_time) * 1000)::int8 as opened, open, high, low, close, volume
                   from ohlcv_1h where instrument_id = $1 order by 1""",
                (await world.record()).id,
            )
        assert {row[0]: tuple(row[1:]) for row in rows} == folded(expected, hour)
        await world.fetcher.close()


# Tracked series


@pytest.fixture
def tracking(world: World) -> Iterator[tuple[Tracking, BackfillJobs]]:
    backfills = BackfillJobs(world.history)
    return Tracking(backfills), backfills  # type: ignore[return-value]


async def look_again(world: World, tracking: Tracking) -> int:
    """As half a minute later."""
    async with world.database.connection() as connection:
        await connection.execute("update tracked set checked_at = '-infinity'")
    return await tracking.check_batch()


async def settled(world: World) -> None:
    """Wait until no part is open."""
    async with asyncio.timeout(HANG_S):
        while True:
            async with world.database.connection() as connection:
                if not await connection.fetchval("select count(*) from backfill_parts where state = 'OPEN'"):
                    return
            await asyncio.sleep(0.01)


def selected(world: World) -> SymbolSelection:
    return SymbolSelection("fake", "upstream", (world.symbol,))


async def test_the_holes_of_a_tracked_series_are_filled_the_newest_first(
    world: World, tracking: tuple[Tracking, BackfillJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("history.backfill.jobs.CALLS_PER_PART", 4)
    keeper, backfills = tracking
    start = T0 + DAY_MS
    world.lists(minutes(start, 1440))
    (tracked,) = await keeper.track(selected(world), start, "ada")
    assert [(gap.since, gap.until, gap.reason) for gap in tracked.gaps] == [(start, world.now, GapReason.NOT_FETCHED)]
    assert await keeper.check_batch() == 1
    assert [gap.reason for gap in (await keeper.page(10))[0].gaps] == [GapReason.PENDING]
    async with at_work(backfills, 1):
        await settled(world)
    assert world.upstream.calls[0].span.since >= world.now - 4 * PAGE * MINUTE_MS
    assert await look_again(world, keeper) == 1
    (kept,) = await keeper.page(10)
    assert kept.gaps == ()
    assert kept.complete_at is not None
    calls = world.calls
    world.now += 10 * MINUTE_MS
    world.lists(minutes(start, 1440 + 10))
    assert await look_again(world, keeper) == 1
    async with at_work(backfills, 1):
        await settled(world)
    assert world.calls == calls + 1
    assert await world.covered() == Spans([Span(start, world.now)])


async def test_one_process_at_a_time_looks_after_a_series(
    world: World, tracking: tuple[Tracking, BackfillJobs]
) -> None:
    keeper, _ = tracking
    await keeper.track(selected(world), None, None)
    looked = await asyncio.gather(
        keeper.check_batch(), Tracking(BackfillJobs(world.history)).check_batch(), keeper.check_batch()
    )
    assert sorted(looked) == [0, 0, 1]


async def test_a_hole_that_cannot_be_filled_is_not_asked_for_again_at_once(
    world: World, tracking: tuple[Tracking, BackfillJobs]
) -> None:
    keeper, backfills = tracking
    world.upstream.always = proving_nothing()
    await keeper.track(selected(world), T0, None)
    calls = []
    for _ in range(3):
        await look_again(world, keeper)
        async with at_work(backfills, 1):
            await settled(world)
        calls.append(world.calls)
    assert calls == [calls[0]] * 3
    assert calls[0] <= 2 * 1440 / PAGE + 4  # half a page each, and what has no rows as a whole
    (tracked,) = await keeper.page(10)
    assert [gap.reason for gap in tracked.gaps] == [GapReason.UNAVAILABLE]


async def test_the_last_days_are_read_again_where_the_provider_corrects_late(
    world: World, tracking: tuple[Tracking, BackfillJobs]
) -> None:
    keeper, backfills = tracking
    late = replace(world.upstream.capabilities, corrects_within_ms=DAY_MS, max_rows_per_call=1000)
    world.upstream.capabilities = late
    world.lists(minutes(T0, 2 * 1440))
    await keeper.track(selected(world), T0, None)
    await keeper.check_batch()
    async with at_work(backfills, 1):
        await settled(world)
    corrected = minutes(T0, 2 * 1440, seed=1)
    world.lists(corrected)
    world.now += DAY_MS
    await look_again(world, keeper)
    async with at_work(backfills, 1):
        await settled(world)
    calls = world.calls
    assert (await world.stored())[1440:] == rows_of(corrected)[1440:]
    assert (await world.stored())[:1440] != rows_of(corrected)[:1440]  # it is too old to change
    await look_again(world, keeper)
    async with at_work(backfills, 1):
        await settled(world)
    assert world.calls == calls  # once a day


async def test_an_untracked_series_is_left_alone(world: World, tracking: tuple[Tracking, BackfillJobs]) -> None:
    keeper, backfills = tracking
    await keeper.track(selected(world), T0, None)
    await keeper.check_batch()
    assert await keeper.untrack(selected(world)) == 1
    assert await keeper.untrack(selected(world)) == 0
    async with at_work(backfills):
        await settled(world)
    assert world.calls == 0
    assert await keeper.page(10) == []


async def test_what_cannot_be_kept_complete_is_refused(world: World, tracking: tuple[Tracking, BackfillJobs]) -> None:
    keeper, _ = tracking
    with pytest.raises(NotFound, match="has no provider"):
        await keeper.track(SymbolSelection("fake", "absent", ("X",)), None, None)
    with pytest.raises(BadUserInput, match="in the future"):
        await keeper.track(selected(world), world.now + 1, None)
    world.upstream.capabilities = replace(world.upstream.capabilities, timeframes=(Timeframe(1, "d"),))
    with pytest.raises(BadUserInput, match="has no 1m candles"):
        await keeper.track(selected(world), None, None)


async def test_so_many_symbols_can_be_tracked_and_no_more(
    world: World, tracking: tuple[Tracking, BackfillJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, _ = tracking
    world.upstream.truth["OTHER"] = minutes(T0, 10)
    monkeypatch.setattr("history.backfill.tracking.MAX_TRACKED", 1)
    for _ in range(2):
        assert len(await keeper.track(selected(world), None, None)) == 1
    with pytest.raises(BadUserInput, match=r"At most 1 symbols can be tracked: beside these 1 there are 1\."):
        await keeper.track(SymbolSelection("fake", "upstream", ("OTHER",)), None, None)


async def test_a_backfill_and_a_question_for_the_same_page_make_one_call(world: World) -> None:
    record = await world.record()
    span = Span(T0, T0 + PAGE * MINUTE_MS)
    wants = [FetchRequest(MINUTE, span, urgency=urgency) for urgency in (Urgency.QUERY, Urgency.BACKFILL)]
    results = await asyncio.gather(*(world.fetcher.fetch(record, world.upstream, want) for want in wants))
    assert world.calls == 1
    assert sorted(result.calls for result in results) == [0, 1]
