"""A background task that ends, however it ends, is logged, reported, and restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from candlegraph.errors import Unavailable
from candlegraph.outage import Outage
from candlegraph.supervision import RestartPolicy, Supervisor, Work
from tests.realtime.world import eventually
from tests.waiting import HANG_S

QUICK = RestartPolicy(first_s=0.01, longest_s=0.02, healthy_s=0.05)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = Supervisor(QUICK)
    yield made
    await made.close()


class Loop:
    """An endless task whose first runs end as the test says."""

    def __init__(self, *endings: BaseException | None) -> None:
        self.endings = list(endings)
        self.runs = 0

    async def work(self) -> None:
        self.runs += 1
        await asyncio.sleep(0)
        if self.endings:
            if ending := self.endings.pop(0):
                raise ending
            return
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (None, "It ended."),
        (KeyError("secret"), "It failed (KeyError)."),
        (RuntimeError("the handler is closed"), "It failed (RuntimeError)."),
        (asyncio.CancelledError(), "It was interrupted (CancelledError)."),
    ],
)
async def test_a_task_that_ends_is_logged_reported_and_restarted(
    ending: BaseException | None, reason: str, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(ending)
    supervisor.start("leases", loop.work)
    await eventually(lambda: bool(supervisor.degraded()))
    assert supervisor.degraded() == {"leases": reason}
    (record,) = caplog.records
    assert "'leases'" in record.getMessage()
    assert bool(record.exc_info) == (ending is not None)
    await eventually(lambda: loop.runs == 2)
    assert loop.runs == 2
    await eventually(lambda: not supervisor.degraded())
    assert supervisor.degraded() == {}
    assert caplog.records[-1].getMessage() == "the task 'leases' runs again"


async def test_a_task_that_keeps_failing_stays_reported_and_disturbs_no_other(supervisor: Supervisor) -> None:
    healthy, failing = Loop(), Loop(*(ValueError() for _ in range(1000)))
    supervisor.start("healthy", healthy.work)
    supervisor.start("failing", failing.work)
    await eventually(lambda: failing.runs >= 5)
    assert supervisor.degraded() == {"failing": "It failed (ValueError)."}
    assert healthy.runs == 1


async def test_the_pauses_double_up_to_a_limit_and_start_over_after_a_healthy_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[float] = []

    def longest(_: float, limit: float) -> float:
        limits.append(limit)
        return 0.0

    monkeypatch.setattr("candlegraph.supervision.random.uniform", longest)
    supervisor, runs = Supervisor(RestartPolicy(first_s=1, longest_s=5, healthy_s=0.2)), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 5:
            await eventually(lambda: not supervisor.degraded())
        elif runs == 7:
            await asyncio.Event().wait()
        raise ValueError

    supervisor.start("one", work)
    await eventually(lambda: len(limits) == 6)
    assert limits == [1, 2, 4, 5, 1, 2]
    await supervisor.close()


async def test_a_thousand_failures_are_no_number_too_large() -> None:
    supervisor = Supervisor(RestartPolicy(first_s=0, longest_s=0, healthy_s=10))
    loop = Loop(*(ValueError() for _ in range(1500)))
    supervisor.start("one", loop.work)
    await eventually(lambda: loop.runs == 1501)
    assert loop.runs == 1501
    await supervisor.close()


async def test_an_outage_of_a_running_task_is_reported_while_it_lasts(supervisor: Supervisor) -> None:
    outage = Outage("renewing the leases")
    supervisor.start("leases", Loop().work, outage)
    assert supervisor.degraded() == {}
    with outage.recording():
        raise Unavailable("The storage is away.")
    assert supervisor.degraded() == {"leases": "The storage is away."}
    outage.end()
    assert supervisor.degraded() == {}


async def test_a_name_belongs_to_one_task(supervisor: Supervisor) -> None:
    supervisor.start("one", Loop().work)
    with pytest.raises(ValueError, match="'one'"):
        supervisor.start("one", Loop().work)


async def test_closing_stops_the_last_one_first_and_waits_for_each(supervisor: Supervisor) -> None:
    order: list[str] = []

    def loop(name: str) -> Work:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append(f"{name} ends")
                for _ in range(3):
                    await asyncio.sleep(0)
                order.append(f"{name} ended")

        return work

    for name in ("first", "second"):
        supervisor.start(name, loop(name))
    await asyncio.sleep(0)
    await supervisor.close()
    assert order == ["second ends", "second ended", "first ends", "first ended"]
    assert supervisor.names == ()


async def test_a_task_that_answers_its_cancellation_with_an_error_is_not_restarted(supervisor: Supervisor) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError from None

    supervisor.start("one", work)
    await asyncio.sleep(0)
    async with asyncio.timeout(HANG_S):
        await supervisor.close()
    assert runs == 1


async def test_a_failed_task_is_closed_while_it_waits_for_its_restart() -> None:
    supervisor = Supervisor(RestartPolicy(first_s=3600, longest_s=3600))
    loop = Loop(ValueError())
    supervisor.start("one", loop.work)
    await eventually(lambda: bool(supervisor.degraded()))
    async with asyncio.timeout(HANG_S):
        await supervisor.close()
    assert supervisor.degraded() == {}
