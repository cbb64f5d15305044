"""How often something may be tried: buckets that leak, shared through Redis where there is one.

Each is a number, the instant at which it will be empty again (the generic cell rate algorithm, as in ITU-T I.371): nothing
has to be swept, and Redis forgets a bucket by itself. Every process counts for itself as well, so that Redis may die at any
moment without giving anybody a fresh start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from storage.redis import Redis

MAX_KEYS = 100_000

# By the clock of Redis: those of the processes may differ.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local every, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + every
local wait = empty - now - burst * every
if wait > 0.000001 then return tostring(wait) end
redis.call('SET', KEYS[1], string.format('%.6f', empty), 'PX', math.ceil((empty - now) * 1000))
return '0'
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """``burst`` tries at once, then one every ``every_s`` seconds."""

    burst: int
    every_s: float


class Limiter:
    """Counts tries by key."""

    def __init__(self, redis: Redis | None = None) -> None:
        """Count alone, or together with all who share ``redis``; closing that is for the caller."""
        self._empty_at: dict[str, float] = {}  # in the order of use
        self._ask = (redis or Redis()).ask

    async def take(self, key: str, bucket: Bucket) -> float:
        """Count a try: 0, or how many seconds to wait, and then it was not counted."""
        wait = self._take(key, bucket)
        if wait == 0 and (shared := await self._ask("EVAL", _TAKE, 1, _key(key), bucket.every_s, bucket.burst)):
            wait = float(shared)
        return wait

    async def forget(self, key: str) -> None:
        """Empty a bucket."""
        self._empty_at.pop(key, None)
        await self._ask("DEL", _key(key))

    async def mark(self, key: str, seconds: float) -> None:
        """Remember a key for a while."""
        self._keep(key, time.monotonic() + seconds)
        await self._ask("SET", _key(key), "1", "EX", int(seconds))

    async def marked(self, key: str) -> bool:
        """Whether a key is remembered."""
        return self._empty_at.get(key, 0) > time.monotonic() or bool(await self._ask("EXISTS", _key(key)))

    def _take(self, key: str, bucket: Bucket) -> float:
        now = time.monotonic()
        empty = max(self._empty_at.get(key, 0), now) + bucket.every_s
        wait = empty - now - bucket.burst * bucket.every_s
        if wait > 1e-6:
            return wait
        self._keep(key, empty)
        return 0

    def _keep(self, key: str, empty_at: float) -> None:
        self._empty_at.pop(key, None)
        self._empty_at[key] = empty_at
        while len(self._empty_at) > MAX_KEYS:
            del self._empty_at[next(iter(self._empty_at))]


def _key(key: str) -> str:
    return f"candlegraph:limit:{key}"
