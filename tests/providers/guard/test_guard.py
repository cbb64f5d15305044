"""What a guarded provider does when its upstream fails, hangs, or asks to be left alone; in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import (
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Page, Revision
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import CallCounters, CallFailure, ProviderState, Urgency
from candlegraph.upstream import Upstream as GuardedUpstream
from providers.guard import call_queue as turnstile
from providers.guard import circuit_breaker as breaker
from providers.guard.calls import MAX_ATTEMPTS
from providers.guard.guard import Guard
from tests.fakes.upstream import UNLIMITED, FakeUpstream, changing, hanging, minutes, raising
from tests.fakes.virtual import EPOCH_MS, now, virtual

SPAN = Span(EPOCH_MS - 100 * MINUTE_MS, EPOCH_MS)
X = Instrument("fake", "upstream", "X")
DOWN = ProviderUnavailable("It is down.")


def made(budget: Budget | None = UNLIMITED, **traits: Any) -> tuple[FakeUpstream, Guard]:
    """A provider whose upstream has a hundred minutes of X, and its guard."""
    upstream = FakeUpstream({"X": minutes(SPAN.since, 100)})
    upstream.capabilities = Capabilities((MINUTE,), LiveMode.POLL, max_rows_per_call=500, budget=budget, **traits)
    return upstream, Guard(upstream)


async def ask(guard: Guard, urgency: Urgency = Urgency.QUERY, symbol: str = "X") -> Page:
    return await guard.fetch(Instrument("fake", "upstream", symbol), MINUTE, SPAN, urgency)


async def failure(awaitable: Awaitable[object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await awaitable
    return caught.value


def times(upstream: FakeUpstream) -> list[float]:
    """When it was asked, in seconds since the beginning."""
    return [(call.at - EPOCH_MS) / 1000 for call in upstream.calls]


FAULTS: dict[str, Callable[[], Any]] = {
    "down": lambda: raising(ProviderUnavailable("down")),
    "bug": lambda: raising(TypeError("secret")),
    "no page": lambda: changing(lambda page: None),
    "no candles": lambda: changing(lambda page: replace(page, candles=[])),
    "uneven": lambda: changing(lambda page: replace(page, candles=replace(page.candles, open=page.candles.open[1:]))),
    "vague": lambda: changing(lambda page: replace(page, complete_to=1.5)),
    "limited": lambda: raising(RateLimited("slow down", retry_after=1.5)),
    "cancelled": lambda: raising(asyncio.CancelledError()),
}


# Retries


@pytest.mark.parametrize("fault", FAULTS)
@virtual
async def test_a_fault_that_passes_is_not_noticed_by_who_asked(fault: str) -> None:
    upstream, guard = made()
    upstream.faults = [FAULTS[fault]()]
    assert len((await ask(guard)).candles) == 100
    assert len(upstream.calls) == 2
    assert guard.status().counters == CallCounters(2, 1, 1, 100, 0, upstream.calls[-1].at)


@pytest.mark.parametrize("fault", FAULTS)
@virtual
async def test_a_fault_that_stays_is_a_provider_error_after_a_few_tries(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    upstream, guard = made()
    upstream.always = FAULTS[fault]()
    error = await failure(ask(guard))
    assert isinstance(error, RateLimited if fault == "limited" else ProviderUnavailable)
    assert "secret" not in error.message
    assert len(upstream.calls) == MAX_ATTEMPTS
    if fault not in {"down", "limited"}:
        record = caplog.records[0]
        assert record.levelno == logging.ERROR
        assert record.exc_info, "with its traceback"


@virtual
async def test_between_tries_is_a_pause_of_random_length_that_may_double() -> None:
    pauses: list[tuple[float, float]] = []
    for _ in range(200):
        upstream, guard = made()
        upstream.always = raising(DOWN)
        await failure(ask(guard))
        first, second, third = times(upstream)
        pauses.append((second - first, third - second))
    for position, bound in ((0, 0.5), (1, 1.0)):
        drawn = [pause[position] for pause in pauses]
        assert max(drawn) <= bound + 0.002
        assert min(drawn) < bound / 4
        assert max(drawn) > bound * 3 / 4, "full jitter, so that a thousand clients do not come back at once"


@pytest.mark.parametrize("error", [ProviderRefused("No key."), UnknownSymbol("Who?"), Unsupported("Never.")])
@virtual
async def test_what_another_try_would_not_mend_is_not_tried_again_and_opens_no_breaker(error: ProviderError) -> None:
    upstream, guard = made()
    upstream.always = raising(error)
    for _ in range(20):
        assert await failure(ask(guard)) is error
    assert len(upstream.calls) == 20
    counters = guard.status().counters
    is_answer = not isinstance(error, ProviderRefused)
    assert (counters.failures, counters.retries) == (0 if is_answer else 20, 0)
    assert guard.status().state is (ProviderState.READY if is_answer else ProviderState.DEGRADED)


@given(st.lists(st.sampled_from(["good", "hang", "refused", *FAULTS]), max_size=25), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_answer_is_the_page_or_a_provider_error(faults: list[str], askers: int) -> None:
    """Faults alone, in bursts, and mixed with good answers, for several askers at a time; no task is left."""

    @virtual
    async def run() -> None:
        upstream, guard = made(deadline_s=2.0)
        _, its_guard = made()
        script = {"good": None, "hang": hanging(), "refused": raising(ProviderRefused("no"))}
        for fault in faults:
            # A fault that changes nothing stands for a good answer.
            upstream.faults.append(script[fault] or changing(lambda page: page) if fault in script else FAULTS[fault]())
        while upstream.faults:
            answers = await asyncio.gather(*(ask(guard) for _ in range(askers)), return_exceptions=True)
            for answer in answers:
                assert isinstance(answer, ProviderError) or len(answer.candles) == 100  # type: ignore[union-attr]
            assert len((await ask(its_guard)).candles) == 100, "another provider is untouched"
            assert guard._calls._queue._running == 0
            await asyncio.sleep(random.uniform(0, 30))
        await asyncio.sleep(3600)
        assert len((await ask(guard)).candles) == 100, "it comes back by itself"
        assert guard.status().state is ProviderState.READY
        assert its_guard.status().counters.failures == 0

    logging.disable(logging.CRITICAL)
    try:
        run()
    finally:
        logging.disable(logging.NOTSET)


# Being asked to wait


@virtual
async def test_after_a_429_with_retry_after_no_call_is_made_before_it() -> None:
    upstream, guard = made()
    upstream.faults = [raising(RateLimited("Slow down.", retry_after=3))]
    first = asyncio.create_task(ask(guard))
    await asyncio.sleep(0.1)
    status = guard.status()
    assert (status.state, status.reason, status.retry_at) == (ProviderState.RATE_LIMITED, "Slow down.", EPOCH_MS + 3000)
    others = [asyncio.create_task(ask(guard, urgency)) for urgency in Urgency for _ in range(5)]
    pages = await asyncio.gather(first, *others)
    assert all(len(page.candles) == 100 for page in pages)
    assert times(upstream)[0] == 0
    assert min(times(upstream)[1:]) >= 3


@virtual
async def test_a_call_that_cannot_wait_so_long_fails_at_once_with_retry_after() -> None:
    upstream, guard = made()
    upstream.faults = [raising(RateLimited("Banned.", retry_after=60))]
    for later in (0, 20, 39):
        await asyncio.sleep(later and later - now() + 1000)
        began = now()
        error = await failure(ask(guard))
        assert now() == began
        assert isinstance(error, RateLimited)
        assert error.message == "Banned."
        assert error.retry_after == pytest.approx(60 - (now() - 1000))
    assert len(upstream.calls) == 1
    assert len((await ask(guard, Urgency.BACKFILL)).candles) == 100, "a backfill can wait"
    assert times(upstream)[1] >= 60


@virtual
async def test_a_503_with_retry_after_is_obeyed_too() -> None:
    upstream, guard = made()
    upstream.faults = [raising(ProviderUnavailable("Maintenance.", retry_after=30))]
    assert (await failure(ask(guard))).retry_after == 30
    assert isinstance(await failure(ask(guard)), ProviderUnavailable)
    assert len(upstream.calls) == 1
    await asyncio.sleep(30)
    assert len((await ask(guard)).candles) == 100


@virtual
async def test_429s_that_do_not_say_how_long_are_left_longer_each_time() -> None:
    upstream, guard = made()

    async def limited(page: Page) -> Page:
        raise RateLimited("Slow down.")

    upstream.always = limited
    for _ in range(8):
        error = await failure(ask(guard))
        assert error.retry_after is not None
        await asyncio.sleep(error.retry_after)
    pauses = [later - earlier for earlier, later in pairwise(times(upstream))]
    for pause, least in zip(pauses, (2, 4, 8, 16, 32, 60, 60, 60), strict=False):
        assert least <= pause <= least + 1.1
    upstream.always = None
    await ask(guard)


# The circuit breaker


async def opened(upstream: FakeUpstream, guard: Guard) -> None:
    """Fail until the breaker opens."""
    upstream.always = raising(DOWN)
    while guard.status().state is not ProviderState.FAILED:
        await failure(ask(guard))


@virtual
async def test_five_failures_in_a_row_and_it_is_left_alone_for_a_while() -> None:
    upstream, guard = made()
    await opened(upstream, guard)
    assert len(upstream.calls) == breaker.FAILURE_THRESHOLD
    began = now()
    error = await failure(ask(guard))
    assert now() == began
    assert isinstance(error, ProviderUnavailable)
    assert "It is down." in error.message
    assert error.retry_after is not None
    assert 0 < error.retry_after <= breaker.REST_S
    assert len(upstream.calls) == breaker.FAILURE_THRESHOLD
    status = guard.status()
    assert (status.state, status.reason) == (ProviderState.FAILED, "It is down.")
    assert status.retry_at == pytest.approx(clock.now_ms() + error.retry_after * 1000, abs=2)


@virtual
async def test_half_open_it_lets_exactly_one_through_and_the_others_fail_at_once() -> None:
    upstream, guard = made()
    await opened(upstream, guard)
    await asyncio.sleep(breaker.REST_S)
    assert guard.status().state is ProviderState.DEGRADED
    release, asked = asyncio.Event(), len(upstream.calls)
    upstream.always = hanging(release)
    askers = [asyncio.create_task(ask(guard)) for _ in range(20)]
    await asyncio.sleep(0.5)
    assert len(upstream.calls) == asked + 1
    refused = [asker for asker in askers if asker.done()]
    assert len(refused) == 19
    assert {(await failure(asker)).retry_after for asker in refused} == {breaker.PROBE_AFTER_S}
    release.set()
    (probe,) = set(askers) - set(refused)
    assert len((await probe).candles) == 100
    upstream.always = None
    assert [len(page.candles) for page in await asyncio.gather(*(ask(guard) for _ in range(20)))] == [100] * 20
    await asyncio.sleep(60)
    assert guard.status().state is ProviderState.READY


@virtual
async def test_a_probe_that_fails_doubles_the_rest_up_to_a_minute() -> None:
    upstream, guard = made()
    await opened(upstream, guard)
    rests = []
    for _ in range(7):
        rest = (await failure(ask(guard))).retry_after
        assert rest is not None
        rests.append(rest)
        await asyncio.sleep(rest)
        asked = len(upstream.calls)
        await failure(ask(guard))
        assert len(upstream.calls) == asked + 1, "a probe is not tried again"
    for rest, most in zip(rests, (5, 10, 20, 40, 60, 60, 60), strict=True):
        assert most * 0.8 <= rest <= most


@virtual
async def test_a_probe_whose_asker_leaves_makes_room_for_another() -> None:
    upstream, guard = made()
    await opened(upstream, guard)
    await asyncio.sleep(breaker.REST_S)
    upstream.always = None
    upstream.faults = [hanging()]
    probe = asyncio.create_task(ask(guard))
    await asyncio.sleep(0.1)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert len((await ask(guard)).candles) == 100


@virtual
async def test_an_answer_that_was_under_way_closes_it() -> None:
    upstream, guard = made()
    release = asyncio.Event()
    upstream.faults = [hanging(release)]
    slow = asyncio.create_task(ask(guard))
    await asyncio.sleep(0)
    await opened(upstream, guard)
    release.set()
    await slow
    upstream.always = None
    assert len((await ask(guard)).candles) == 100


# Deadlines, places and turns


@virtual
async def test_a_call_that_never_ends_is_given_up_at_its_deadline() -> None:
    upstream, guard = made(deadline_s=4.0)
    upstream.always = hanging()
    error = await failure(ask(guard))
    assert now() == 1004
    assert isinstance(error, ProviderUnavailable)
    assert "in time" in error.message
    assert len(upstream.calls) == 1, "there was no time for another try"


@pytest.mark.parametrize("concurrent", [1, 3])
@virtual
async def test_no_more_calls_than_allowed_are_under_way_at_once(concurrent: int) -> None:
    upstream, guard = made(replace(UNLIMITED, concurrent=concurrent))
    under_way = most = 0

    async def slow(page: Page) -> Page:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        under_way -= 1
        return page

    upstream.always = slow
    await asyncio.gather(*(ask(guard) for _ in range(30)))
    assert most == concurrent
    assert now() == pytest.approx(1000 + 3.0 / concurrent)


@virtual
async def test_who_does_not_get_a_turn_in_time_fails_and_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "MAX_QUEUED_CALLS", 5)
    upstream, guard = made(replace(UNLIMITED, concurrent=1), deadline_s=2.0)
    upstream.faults = [hanging()]
    upstream.always = changing(lambda page: page)
    askers = [asyncio.create_task(ask(guard)) for _ in range(8)]
    await asyncio.sleep(1.2)
    assert sum(asker.done() for asker in askers) <= 2
    live = asyncio.create_task(ask(guard, Urgency.LIVE))
    answers = await asyncio.gather(*askers, return_exceptions=True)
    assert all(isinstance(answer, ProviderUnavailable | Page) for answer in answers)
    assert sum(isinstance(answer, Page) for answer in answers) < 8
    assert isinstance(await live, Page), "each urgency has a queue of its own"


@virtual
async def test_the_urgent_go_first() -> None:
    upstream, guard = made(replace(UNLIMITED, concurrent=1))
    release = asyncio.Event()
    upstream.faults = [hanging(release)]
    upstream.truth |= {str(urgency): upstream.truth["X"] for urgency in Urgency}
    first = asyncio.create_task(ask(guard))
    await asyncio.sleep(0.1)
    waiting = [
        asyncio.create_task(ask(guard, urgency, str(urgency)))
        for urgency in (Urgency.BACKFILL, Urgency.QUERY, Urgency.LIVE) * 4
    ]
    await asyncio.sleep(0.1)
    release.set()
    await asyncio.gather(first, *waiting)
    assert [call.symbol for call in upstream.calls] == ["X", *["LIVE"] * 4, *["QUERY"] * 4, *["BACKFILL"] * 4]


@virtual
async def test_a_live_call_overtakes_those_that_wait_for_the_budget() -> None:
    upstream, guard = made(Budget(weight=10, per_s=10, concurrent=4))
    upstream.truth |= {str(urgency): upstream.truth["X"] for urgency in Urgency}
    for _ in range(9):
        await ask(guard)
    waiting = [asyncio.create_task(ask(guard, Urgency.BACKFILL, "BACKFILL"))]
    await asyncio.sleep(0.5)
    live = asyncio.create_task(ask(guard, Urgency.LIVE, "LIVE"))
    await asyncio.sleep(0.1)
    assert live.done(), "what it needs was kept for it"
    more = [asyncio.create_task(ask(guard, urgency, str(urgency))) for urgency in (Urgency.QUERY, Urgency.LIVE)]
    await asyncio.gather(*waiting, *more)
    assert [call.symbol for call in upstream.calls[10:]] == ["LIVE", "QUERY", "BACKFILL"]


@virtual
async def test_a_backfill_starves_no_query_and_is_not_starved_itself() -> None:
    upstream, guard = made(Budget(weight=20, per_s=1, concurrent=4))
    upstream.truth |= {str(urgency): upstream.truth["X"] for urgency in Urgency}

    async def flood(urgency: Urgency) -> None:
        while True:
            await ask(guard, urgency, str(urgency))

    backfills = [asyncio.create_task(flood(Urgency.BACKFILL)) for _ in range(10)]
    await asyncio.sleep(5)
    for _ in range(20):
        began = now()
        await ask(guard)
        assert now() - began <= 0.2
        await asyncio.sleep(0.5)
    queries = [asyncio.create_task(flood(Urgency.LIVE)) for _ in range(30)]
    await asyncio.sleep(5)
    done = len([call for call in upstream.calls if call.symbol == "BACKFILL"])
    await asyncio.sleep(70)
    assert len([call for call in upstream.calls if call.symbol == "BACKFILL"]) > done
    for task in backfills + queries:
        task.cancel()
    await asyncio.gather(*backfills, *queries, return_exceptions=True)


@virtual
async def test_a_waiter_that_leaves_frees_its_place() -> None:
    upstream, guard = made(replace(UNLIMITED, concurrent=1))
    release = asyncio.Event()
    upstream.faults = [hanging(release)]
    askers = [asyncio.create_task(ask(guard)) for _ in range(6)]
    await asyncio.sleep(0.1)
    for asker in askers[:4]:  # the one that is being answered among them
        asker.cancel()
    pages = await asyncio.gather(*askers, return_exceptions=True)
    assert [isinstance(page, Page) for page in pages] == [False] * 4 + [True] * 2
    assert len(upstream.calls) == 3
    gate = guard._calls._queue
    assert (gate._running, [len(queue) for queue in gate._queues.values()]) == (0, [0, 0, 0])


# The budget


arrivals = st.lists(
    st.tuples(st.floats(0, 3), st.sampled_from(list(Urgency)), st.floats(0, 1)), min_size=1, max_size=60
)


@given(arrivals, st.integers(1, 12), st.floats(0.1, 20), st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=150, deadline=None)
def test_in_no_window_more_is_spent_than_the_budget_has(
    arriving: list[tuple[float, Urgency, float]], weight: int, per_s: float, call_weight: float
) -> None:
    @virtual
    async def run() -> None:
        budget = Budget(weight=weight, per_s=per_s, concurrent=50)
        upstream, guard = made(budget, call_weight=call_weight)
        starts: list[float] = []

        async def slow(page: Page) -> Page:
            starts.append(now())
            await asyncio.sleep(0.3)
            return page

        upstream.always = slow
        tasks = []
        for pause, urgency, leaves in arriving:
            await asyncio.sleep(pause / 10)
            tasks.append(asyncio.create_task(ask(guard, urgency)))
            if leaves < 0.1:
                asyncio.get_running_loop().call_later(leaves * 10, tasks[-1].cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        await ask(guard, Urgency.BACKFILL)
        most = max(weight, call_weight)
        for start in starts:
            spent = call_weight * len([one for one in starts if start <= one < start + per_s])
            assert spent <= most
        assert starts

    run()


@virtual
async def test_all_of_a_budget_can_be_spent_at_once_and_again_after_its_window() -> None:
    upstream, guard = made(Budget(weight=30, per_s=60, concurrent=50))
    await asyncio.gather(*(ask(guard, Urgency.LIVE) for _ in range(30)))
    assert now() == 1000
    error = await failure(ask(guard, Urgency.LIVE))
    assert now() == 1000, "at once: it could not go within its deadline"
    assert isinstance(error, ProviderUnavailable)
    assert error.retry_after is not None
    assert 59 < error.retry_after <= 62
    status = guard.status()
    assert (status.state, status.reason) == (ProviderState.RATE_LIMITED, error.message)
    assert status.counters.failures == 0, "that was not its fault"
    await asyncio.sleep(error.retry_after)
    assert guard.status().state is ProviderState.READY
    await asyncio.gather(*(ask(guard, Urgency.LIVE) for _ in range(30)))
    assert len(upstream.calls) == 60


@virtual
async def test_an_upstream_that_names_no_budget_gets_a_cautious_one() -> None:
    upstream, guard = made(None)
    answers = await asyncio.gather(*(ask(guard) for _ in range(200)), return_exceptions=True)
    assert len(upstream.calls) <= turnstile.DEFAULT_BUDGET.weight
    assert sum(isinstance(answer, Page) for answer in answers) == len(upstream.calls) > 50
    assert guard.status().budget == turnstile.DEFAULT_BUDGET


# Its clock


class Ticking(FakeUpstream):
    """Reports the time that the test sets."""

    asked = 0
    takes = 0.0
    reports: int | Exception | None = None

    async def server_time(self) -> int:
        self.asked += 1
        there = self.now_ms()
        await asyncio.sleep(self.takes)
        if isinstance(self.reports, Exception):
            raise self.reports
        return there + round(self.takes * 500) if self.reports is None else self.reports


def ticking() -> tuple[Ticking, Guard]:
    upstream = Ticking({"X": minutes(SPAN.since, 100)})
    upstream.capabilities = replace(upstream.capabilities, budget=UNLIMITED)
    return upstream, Guard(upstream)


@virtual
async def test_the_time_is_that_of_the_upstream_less_half_of_the_way() -> None:
    upstream, guard = ticking()
    upstream.skew_ms, upstream.takes = -7_000, 0.8
    assert guard.now_ms() == clock.now_ms()
    await guard.start()
    assert guard.now_ms() == clock.now_ms() - 7_000
    await guard.close()


@virtual
async def test_it_is_measured_again_each_hour_at_the_next_use() -> None:
    upstream, guard = ticking()
    await guard.start()
    upstream.skew_ms = 2_500
    for _ in range(10):
        await asyncio.sleep(600)
        await ask(guard)
    await asyncio.sleep(1)
    assert upstream.asked == 2
    assert guard.now_ms() == clock.now_ms() + 2_500
    await guard.close()


@pytest.mark.parametrize("reports", [ProviderUnavailable("no"), KeyError("t"), 1_700_000_000, 17])
@virtual
async def test_a_clock_that_cannot_be_read_does_no_harm(reports: int | Exception) -> None:
    upstream, guard = ticking()
    upstream.reports = reports
    await guard.start()
    assert guard.now_ms() == clock.now_ms()
    upstream.takes = 30.0
    await asyncio.sleep(4000)
    assert len((await ask(guard)).candles) == 100
    await asyncio.sleep(0)
    await guard.close()


# What else it passes on


class Streamed(FakeUpstream):
    """Streams what it is given."""

    given: tuple[object, ...] = ()
    closed = 0

    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:  # type: ignore[override]
        try:
            for one in self.given:
                await asyncio.sleep(1)
                if isinstance(one, Exception):
                    raise one
                yield one  # type: ignore[misc]
        finally:
            self.closed += 1


async def streamed(*given: object) -> tuple[list[int], Streamed, Guard, ProviderError | None]:
    upstream = Streamed()
    upstream.given = given
    upstream.capabilities = replace(upstream.capabilities, live=LiveMode.STREAM)
    guard = Guard(upstream)
    stream, lengths = guard.stream(X), list[int]()
    assert stream is not None
    try:
        async for candles in stream:
            lengths.append(len(candles))
    except ProviderError as error:
        return lengths, upstream, guard, error
    return lengths, upstream, guard, None


@pytest.mark.parametrize("error", [ProviderUnavailable("cut"), ConnectionResetError("secret"), "no candles"])
@virtual
async def test_a_stream_is_passed_on_until_it_breaks_with_a_provider_error(error: object) -> None:
    candles = minutes(0, 3)
    lengths, upstream, guard, raised = await streamed(candles, candles[:1], error)
    assert lengths == [3, 1]
    assert isinstance(raised, ProviderUnavailable)
    assert "secret" not in raised.message
    assert upstream.closed == 1
    assert guard.status().last_failure == CallFailure(raised.message, clock.now_ms())
    assert (await streamed(candles))[3] is None, "one that ends is no failure"


@virtual
async def test_a_symbol_that_the_stream_does_not_know_is_polled_for_an_hour_and_the_others_are_streamed_still() -> None:
    _, _, guard, raised = await streamed(UnknownSymbol("Not on the wire."))
    assert isinstance(raised, ProviderUnavailable), "its history knows the symbol, so no caller gets UnknownSymbol"
    assert guard.stream(X) is None
    assert guard.stream(replace(X, symbol="Y")) is not None
    assert (guard.status().state, guard.status().last_failure) == (ProviderState.READY, None)
    await asyncio.sleep(3_600)
    assert guard.stream(X) is not None, "it may know it by now"


@virtual
async def test_a_stream_without_readers_is_closed() -> None:
    upstream = Streamed()
    upstream.given = (minutes(0, 3),) * 10
    upstream.capabilities = replace(upstream.capabilities, live=LiveMode.STREAM)
    stream: Any = Guard(upstream).stream(X)

    async def read() -> None:
        async for _ in stream:
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(2.5)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert upstream.closed == 1


@virtual
async def test_who_does_not_stream_is_polled_and_who_cannot_probe_is_not_asked() -> None:
    upstream, guard = made()
    upstream.knows_beginnings = True
    assert guard.stream(X) is None
    assert await guard.first_available(X) == SPAN.since
    assert isinstance(guard, GuardedUpstream)

    class Plain:
        """Neither."""

        api_version, market, id, name = 1, upstream.market, "plain", "Plain"
        description = version = ""
        capabilities = replace(upstream.capabilities, live=LiveMode.STREAM)

    plain = Guard(Plain())  # type: ignore[arg-type]
    assert plain.stream(X) is None
    assert await plain.first_available(X) is None


@virtual
async def test_a_list_of_symbols_is_asked_for_as_everything_else_is() -> None:
    upstream, guard = made()
    mistakes = [TypeError("secret"), ProviderUnavailable("down")]

    async def fail() -> None:
        if mistakes:
            raise mistakes.pop()

    upstream.listing_fault = fail
    assert [item.symbol for item in await guard.listings()] == ["X"]
    assert upstream.listing_calls == 3

    async def rubbish() -> list[object]:
        return [Listing("X"), {"symbol": "Y"}]

    upstream.listings = rubbish  # type: ignore[method-assign,assignment]
    assert isinstance(await failure(guard.listings()), ProviderUnavailable)


# How it is


@virtual
async def test_a_failure_shows_for_a_minute_and_its_message_for_good() -> None:
    upstream, guard = made()
    assert guard.status().state is ProviderState.READY
    assert guard.status().last_failure is None
    upstream.faults = [raising(DOWN)]
    await ask(guard)
    failed = CallFailure("It is down.", EPOCH_MS)
    status = guard.status()
    assert (status.state, status.reason, status.last_failure) == (ProviderState.DEGRADED, "It is down.", failed)
    await asyncio.sleep(60)
    status = guard.status()
    assert (status.state, status.reason, status.last_failure) == (ProviderState.READY, None, failed)
    guard.count_refused_rows(3)
    assert guard.status().counters.refused_rows == 3


class Chatty(FakeUpstream):
    """Answers with something else than it should."""

    def __init__(self) -> None:
        super().__init__(capabilities=Capabilities((MINUTE,), LiveMode.NONE, revised=True))

    async def inspect(self) -> Any:
        return ["not", "a", "text"]

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Any:
        return "not a revision"


async def test_what_a_plugin_says_of_its_own_data_is_checked() -> None:
    guard = Guard(Chatty())
    assert "TypeError" in (await failure(guard.inspect())).message
    assert "TypeError" in (await failure(guard.revision(X, MINUTE, None))).message
