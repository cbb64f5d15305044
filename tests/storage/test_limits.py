"""Tries are counted: by each process, and by all of them together where there is a Redis, for as long as there is."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from candlegraph.errors import ConfigurationError
from storage import limits
from storage import redis as shared
from storage.limits import Bucket, Limiter
from storage.redis import Redis
from tests.fakes.valkey import Valkey

FIVE = Bucket(burst=5, every_s=60)
FAST = Bucket(burst=2, every_s=0.2)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    running = Valkey()
    yield running
    running.server.stop()


@pytest.fixture
async def limiters(valkey: Valkey) -> AsyncIterator[list[Limiter]]:
    """Three processes, as it were."""
    clients = [Redis(valkey.url) for _ in range(3)]
    yield [Limiter(client) for client in clients]
    for client in clients:
        await client.close()


async def test_a_bucket_takes_its_burst_then_one_an_interval() -> None:
    limiter = Limiter()
    assert [await limiter.take("a", FAST) for _ in range(2)] == [0, 0]
    wait = await limiter.take("a", FAST)
    assert 0.1 < wait <= 0.2
    assert await limiter.take("b", FAST) == 0, "another key is another bucket"
    await asyncio.sleep(wait)
    assert await limiter.take("a", FAST) == 0
    assert await limiter.take("a", FAST) > 0
    await limiter.forget("a")
    assert await limiter.take("a", FAST) == 0


async def test_a_mark_is_remembered_for_a_while() -> None:
    limiter = Limiter()
    assert not await limiter.marked("a")
    await limiter.mark("a", 0.1)
    assert await limiter.marked("a")
    await asyncio.sleep(0.12)
    assert not await limiter.marked("a")


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 100)
    limiter = Limiter()
    for number in range(1000):
        await limiter.take(f"key {number}", FIVE)
    assert len(limiter._empty_at) == 100


async def test_processes_count_together(limiters: list[Limiter]) -> None:
    waits = await asyncio.gather(*(limiter.take("together", FIVE) for limiter in limiters * 4))
    assert Counter(wait == 0 for wait in waits) == {True: 5, False: 7}
    assert all(0 < wait <= 60 for wait in waits if wait)
    await limiters[0].forget("together")
    assert await limiters[0].take("together", FIVE) == 0
    await limiters[0].mark("mark", 60)
    assert [await limiter.marked("mark") for limiter in limiters] == [True] * 3


async def test_redis_forgets_what_is_over(valkey: Valkey, limiters: list[Limiter]) -> None:
    await limiters[0].take("passing", FAST)
    client = valkey.server.client()
    (key,) = client.keys("*passing*")
    assert 0 < client.pttl(key) <= 200
    client.close()


async def test_its_sudden_death_stops_nobody_and_gives_nobody_a_fresh_start(caplog: pytest.LogCaptureFixture) -> None:
    valkey = Valkey()
    redis = Redis(valkey.url)
    limiter = Limiter(redis)
    try:
        assert [await limiter.take("a", FIVE) for _ in range(4)] == [0] * 4
        valkey.signal(signal.SIGKILL)
        with caplog.at_level(logging.WARNING):
            assert await limiter.take("a", FIVE) == 0
            assert await limiter.take("a", FIVE) > 0
            await limiter.forget("a")
            assert await limiter.take("a", FIVE) == 0
            assert not await limiter.marked("b")
        assert len(caplog.records) == 1, "one line a second at most"
        assert valkey.url not in caplog.text
    finally:
        await redis.close()
        valkey.server.stop()


async def test_one_that_hangs_costs_a_quarter_of_a_second_once_and_comes_back(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PROBE_EVERY_S", 0.05)
    redis = Redis(valkey.url)
    limiter = Limiter(redis)
    await limiter.take("warm", FIVE)
    valkey.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await limiter.take("hangs", FIVE) == 0
        assert time.monotonic() - began < 0.7
        began = time.monotonic()
        for _ in range(4):
            assert await limiter.take("hangs", FIVE) == 0
        assert await limiter.take("hangs", FIVE) > 0
        assert time.monotonic() - began < 0.1
        assert redis.problem
        assert "TimeoutError" in redis.problem
    finally:
        valkey.signal(signal.SIGCONT)
    async with asyncio.timeout(5):
        await redis._probing
    assert redis.problem is None
    assert await limiter.take("back", FIVE) == 0
    client = valkey.server.client()
    assert client.keys("*back*")
    client.close()
    await redis.close()


async def test_a_redis_that_refuses_us_is_as_good_as_none(valkey: Valkey) -> None:
    redis = Redis(valkey.url.replace("redis://", "redis://:wrong@"))
    limiter = Limiter(redis)
    assert [await limiter.take("refused", FIVE) for _ in range(5)] == [0] * 5
    assert await limiter.take("refused", FIVE) > 0
    await redis.close()


@pytest.mark.parametrize("url", ["canary", "http://canary", "redis://:canary@host:port/0"])
def test_what_is_no_address_of_one_is_named_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Redis(url)
    assert "REDIS_URL" in raised.value.message
    assert "canary" not in raised.value.message
