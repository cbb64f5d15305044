"""Tries are counted: by each process, and by all of them together where there is a Redis, for as long as there is."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from candlegraph.errors import ConfigurationError
from candlegraph.provider import Budget
from candlegraph.rate_budget import LocalRateBudget, RateBudget
from storage import rate_limits as limits
from storage.rate_limits import AttemptLimit, RateLimiter
from storage.redis import Redis
from tests.fakes.valkey import Valkey
from tests.timings import PATIENT
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
FIVE = AttemptLimit(burst=5, every_s=60)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    running = Valkey()
    yield running
    running.server.stop()


@pytest.fixture
async def limiters(valkey: Valkey) -> AsyncIterator[list[RateLimiter]]:
    """Three processes, as it were."""
    clients = [Redis(valkey.url, timings=PATIENT) for _ in range(3)]
    yield [RateLimiter(client) for client in clients]
    for client in clients:
        await client.close()


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time passes where the test says so only."""
    now = 1000.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now))
    return passes


async def test_a_bucket_takes_its_burst_then_one_an_interval(time_passes: Callable[[float], None]) -> None:
    limiter = RateLimiter()
    assert [await limiter.count_attempt("a", FIVE) for _ in range(5)] == [0] * 5
    time_passes(20)
    wait = await limiter.count_attempt("a", FIVE)
    assert wait == pytest.approx(40)
    assert await limiter.count_attempt("b", FIVE) == 0, "another key is another bucket"
    time_passes(wait)
    assert await limiter.count_attempt("a", FIVE) == 0
    assert await limiter.count_attempt("a", FIVE) > 0
    await limiter.reset("a")
    assert await limiter.count_attempt("a", FIVE) == 0


async def test_a_mark_is_remembered_for_a_while(time_passes: Callable[[float], None]) -> None:
    limiter = RateLimiter()
    assert not await limiter.has_mark("a")
    await limiter.set_mark("a", 10)
    time_passes(9)
    assert await limiter.has_mark("a")
    time_passes(2)
    assert not await limiter.has_mark("a")


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 100)
    limiter = RateLimiter()
    for number in range(1000):
        for _ in range(5):
            await limiter.count_attempt(f"key {number}", FIVE)
    assert len(limiter._empty_at) == 100
    assert all([await limiter.count_attempt(f"key {number}", FIVE) for number in range(900, 1000)])
    assert await limiter.count_attempt("key 899", FIVE) == 0


async def test_processes_count_together(limiters: list[RateLimiter]) -> None:
    waits = await asyncio.gather(*(limiter.count_attempt("together", FIVE) for limiter in limiters * 4))
    assert Counter(wait == 0 for wait in waits) == {True: 5, False: 7}
    assert all(0 < wait <= 60 for wait in waits if wait)
    await limiters[0].reset("together")
    assert await limiters[0].count_attempt("together", FIVE) == 0
    await limiters[0].set_mark("mark", 60)
    assert [await limiter.has_mark("mark") for limiter in limiters] == [True] * 3


async def test_redis_forgets_what_is_over(valkey: Valkey, limiters: list[RateLimiter]) -> None:
    await limiters[0].count_attempt("passing", FIVE)
    client = valkey.server.client()
    (key,) = client.keys("*passing*")
    assert 0 < client.pttl(key) <= 60_000
    client.close()


async def test_its_sudden_death_stops_no_user_and_resets_no_count(caplog: pytest.LogCaptureFixture) -> None:
    valkey = Valkey()
    redis = Redis(valkey.url, timings=PATIENT)
    limiter = RateLimiter(redis)
    try:
        assert [await limiter.count_attempt("a", FIVE) for _ in range(4)] == [0] * 4
        valkey.signal(signal.SIGKILL)
        with caplog.at_level(logging.WARNING):
            assert await limiter.count_attempt("a", FIVE) == 0
            assert await limiter.count_attempt("a", FIVE) > 0
            await limiter.reset("a")
            assert await limiter.count_attempt("a", FIVE) == 0
            assert not await limiter.has_mark("b")
        assert len(caplog.records) == 1, "one line a second at most"
        assert valkey.url not in caplog.text
    finally:
        await redis.close()
        valkey.server.stop()


async def test_one_that_hangs_is_waited_for_once_and_comes_back(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = Redis(valkey.url, timings=replace(PATIENT, redis_probe_interval_s=0.05))
    limiter = RateLimiter(redis)
    await limiter.count_attempt("warm", FIVE)
    sent: list[object] = []
    execute = redis._client.execute_command  # type: ignore[union-attr]

    async def noted(*command: object) -> object:
        sent.extend(command[:1] if command[0] != "SET" else ())
        return await execute(*command)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(redis._client, "execute_command", noted)
    redis.timings = replace(redis.timings, redis_timeout_s=0.25)
    valkey.signal(signal.SIGSTOP)
    try:
        sent.clear()
        for _ in range(5):
            assert await limiter.count_attempt("hangs", FIVE) == 0
        assert await limiter.count_attempt("hangs", FIVE) > 0
        assert sent == ["EVAL"], "it is asked once, and then only by the probe"
        assert redis.problem
        assert "TimeoutError" in redis.problem
    finally:
        valkey.signal(signal.SIGCONT)
    async with asyncio.timeout(HANG_S):
        while redis.problem:
            await asyncio.sleep(0.01)
    assert await limiter.count_attempt("back", FIVE) == 0
    client = valkey.server.client()
    assert client.keys("*back*")
    client.close()
    await redis.close()


async def test_a_redis_that_refuses_us_is_as_good_as_none(valkey: Valkey) -> None:
    redis = Redis(valkey.url.replace("redis://", "redis://:wrong@"))
    limiter = RateLimiter(redis)
    assert [await limiter.count_attempt("refused", FIVE) for _ in range(5)] == [0] * 5
    assert await limiter.count_attempt("refused", FIVE) > 0
    await redis.close()


@pytest.mark.parametrize("url", ["canary", "http://canary", "redis://:canary@host:port/0"])
def test_what_is_no_address_of_one_is_named_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Redis(url)
    assert "REDIS_URL" in raised.value.message
    assert "canary" not in raised.value.message


# Budgets of upstreams


TEN = Budget(weight=10, per_s=0.5)


Spent = tuple[float, float]  # before it was asked for and after it was granted, by the clock that all processes share


async def spend_some(limiter: RateBudget, key: str, count: int) -> list[Spent]:
    """Spend so often, as soon as that may be."""
    spent: list[Spent] = []
    while len(spent) < count:
        before = time.time()
        if wait := await limiter.spend(key, TEN, 1.0):
            await asyncio.sleep(wait)
        else:
            spent.append((before, time.time()))
    return spent


def most_in_a_window(spent: list[Spent], per_s: float) -> int:
    """How many were surely counted within so many seconds of each other."""
    starts = [before for before, _ in spent]
    return max(sum(start <= before and after < start + per_s for before, after in spent) for start in starts)


async def test_processes_keep_one_budget_together_and_use_it_up(limiters: list[RateLimiter]) -> None:
    each = await asyncio.gather(*(spend_some(limiter, "one", 8) for limiter in limiters))
    assert most_in_a_window([one for spent in each for one in spent], TEN.per_s) <= 10


_ANOTHER_PROCESS = """
import asyncio, json, sys
from storage.rate_limits import RateLimiter
from storage.redis import Redis
from tests.storage.test_rate_limits import spend_some
async def main():
    redis = Redis(sys.argv[1])
    print(json.dumps(await spend_some(RateLimiter(redis), "processes", 15)))
    await redis.close()
asyncio.run(main())
"""


def test_two_real_processes_keep_one_budget(valkey: Valkey) -> None:
    command = [sys.executable, "-c", _ANOTHER_PROCESS, valkey.url]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    each = [json.loads(one.communicate(timeout=HANG_S)[0]) for one in running]
    assert most_in_a_window([one for spent in each for one in spent], TEN.per_s) <= 10


async def test_what_redis_refuses_is_not_counted_here_either(limiters: list[RateLimiter]) -> None:
    one, other, _ = limiters
    slow = Budget(weight=10, per_s=1000)
    assert [await one.spend("refund", slow, 2) for _ in range(5)] == [0] * 5
    for _ in range(5):
        wait = await other.spend("refund", slow, 1)
        assert 900 < wait <= 1020
    assert await other._own.spend("refund", slow, 10) == 0


async def test_each_credential_has_a_budget_of_its_own_that_all_who_hold_it_share(
    valkey: Valkey, limiters: list[RateLimiter]
) -> None:
    one, other, third = limiters
    ours, theirs = (Budget(weight=10, per_s=1000, credential=f"{whose}-canary") for whose in ("ours", "theirs"))
    assert await one.spend("whose", ours, 10) == 0
    assert await one.spend("whose", theirs, 10) == 0, "within a process"
    assert await other.spend("whose", replace(theirs, credential="another"), 10) == 0, "among processes"
    assert await third.spend("whose", Budget(weight=10, per_s=1000), 10) == 0, "a caller without a credential"
    for budget in (ours, theirs):
        assert await other.spend("whose", budget, 1) > 0
        assert await RateLimiter().spend("whose", budget, 1) == 0
    await one.pause("asked", ours, 3_000)
    assert await other.spend("asked", ours, 1) > 2_900
    assert await other.spend("asked", theirs, 1) == 0, "a caller that has to wait delays no other"
    client = valkey.server.client()
    assert len(client.keys("*budget:whose*")) == 4
    assert not client.keys("*canary*")
    client.close()
    assert "canary" not in repr(ours)


async def test_a_share_leaves_the_rest_to_others(limiters: list[RateLimiter]) -> None:
    slow = Budget(weight=10, per_s=1000)
    for limiter in (RateLimiter(), limiters[0]):
        shares = [await limiter.spend("share", slow, 1, share) == 0 for share in [0.5] * 7 + [0.8] * 5 + [1.0] * 4]
        assert shares == [True] * 5 + [False] * 2 + [True] * 3 + [False] * 2 + [True] * 2 + [False] * 2
        assert await limiter.spend("heavy", slow, 25) == 0, "what is heavier than all of it goes alone"
        assert await limiter.spend("heavy", slow, 25) > 0


async def test_a_process_that_has_to_wait_pauses_the_others(valkey: Valkey, limiters: list[RateLimiter]) -> None:
    await limiters[0].pause("held", TEN, 3_000)
    await limiters[1].pause("held", TEN, 500)
    for limiter in limiters[::2]:
        assert 2_900 < await limiter.spend("held", TEN, 1) <= 3_000
    assert await limiters[1].spend("held", TEN, 1) > 400, "it will hear of the other then"
    assert await limiters[0].spend("another", TEN, 1) == 0
    client = valkey.server.client()
    (key,) = client.keys("*budget:held*")
    assert 2_900_000 < client.pttl(key) <= 3_002_000
    client.close()


async def test_without_redis_each_process_keeps_a_budget_of_its_own() -> None:
    valkey = Valkey()
    redis = Redis(valkey.url, timings=PATIENT)
    limiter = RateLimiter(redis)
    try:
        slow = Budget(weight=10, per_s=1000)
        assert [await limiter.spend("a", slow, 1) for _ in range(9)] == [0] * 9
        valkey.signal(signal.SIGKILL)
        assert await limiter.spend("a", slow, 1) == 0
        assert await limiter.spend("a", slow, 1) > 0, "no fresh start"
        await limiter.pause("b", slow, 3_000)
        assert await limiter.spend("b", slow, 1) > 2_900
    finally:
        await redis.close()
        valkey.server.stop()


async def test_what_is_left_is_what_all_processes_have_left(limiters: list[RateLimiter]) -> None:
    one, other, third = limiters
    slow = Budget(weight=10, per_s=1000)
    assert [await limiter.left("left", slow) for limiter in limiters] == [10] * 3
    await one.spend("left", slow, 3)
    await other.spend("left", slow, 4)
    assert [await limiter.left("left", slow) for limiter in limiters] == [3] * 3
    await third.pause("left", slow, 500)
    assert [await limiter.left("left", slow) for limiter in limiters] == [0] * 3


async def test_what_was_spent_a_window_ago_is_left_again() -> None:
    budget = LocalRateBudget()
    window = budget.window("one", slow := Budget(weight=10, per_s=60))
    assert window.spend(1000, 7, 1.0) == 0
    assert window.left(1030) == 3
    assert window.left(1062) == 10
    assert await budget.left("another", slow) == 10
