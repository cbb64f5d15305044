"""Rate limits of users' attempts and of upstream calls, shared through Redis if there is one.

Attempts use leaky buckets. A bucket is one number, the instant at which it will be empty again (the generic cell rate
algorithm, as in ITU-T I.371); so it needs no sweep, and expires in Redis. While a full bucket leaks, it passes almost twice
its burst; so the budget of an upstream is a sliding window instead.

Every process also counts on its own, so that the counts do not start at zero when Redis dies.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from hashlib import blake2b

from cachetools import LRUCache

from candlegraph.provider import Budget
from candlegraph.rate_budget import WINDOW_SLOTS, LocalRateBudget
from storage.redis import Redis

MAX_KEYS = 100_000

# By the clock of Redis, because the clocks of the processes may differ.
_ATTEMPT_SCRIPT = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local every, burst, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + every * weight
local wait = empty - now - burst * every
if wait > 0.000001 then return tostring(wait) end
redis.call('SET', KEYS[1], string.format('%.6f', empty), 'PX', math.ceil((empty - now) * 1000))
return '0'
"""

# The same as `candlegraph.rate_budget.Window`: a hash of the spent weight by slot, and the end of a pause ('held').
_SPEND_SCRIPT = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local slot_s, slots, most, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local slot = math.floor(now / slot_s)
local spent, used, all = {}, 0, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local value = tonumber(all[i + 1])
  if all[i] == 'held' then
    if value > now then return tostring(value - now) end
  elseif tonumber(all[i]) < slot - slots then
    redis.call('HDEL', KEYS[1], all[i])
  else
    used = used + value
    spent[#spent + 1] = {tonumber(all[i]), value}
  end
end
if used + weight <= most then
  redis.call('HINCRBYFLOAT', KEYS[1], string.format('%.0f', slot), weight)
  redis.call('PEXPIRE', KEYS[1], math.ceil((slots + 2) * slot_s * 1000))
  return '0'
end
table.sort(spent, function(a, b) return a[1] < b[1] end)
local free_at = now
for _, one in ipairs(spent) do
  used = used - one[2]
  free_at = (one[1] + 1 + slots) * slot_s
  if used + weight <= most then break end
end
return tostring(math.max(free_at - now, 0.001))
"""
_PAUSE_SCRIPT = """
local t = redis.call('TIME')
local until_s = t[1] + t[2] / 1000000 + tonumber(ARGV[1])
if until_s > tonumber(redis.call('HGET', KEYS[1], 'held') or 0) then
  redis.call('HSET', KEYS[1], 'held', string.format('%.6f', until_s))
end
local lives_ms = math.ceil((tonumber(ARGV[1]) + tonumber(ARGV[2])) * 1000)
if lives_ms > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], lives_ms) end
"""
_LEFT_SCRIPT = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local oldest, left, all = math.floor(now / tonumber(ARGV[1])) - ARGV[2], tonumber(ARGV[3]), redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] == 'held' then
    if tonumber(all[i + 1]) > now then return '0' end
  elseif tonumber(all[i]) >= oldest then
    left = left - tonumber(all[i + 1])
  end
end
return tostring(math.max(left, 0))
"""


@dataclass(frozen=True, slots=True)
class AttemptLimit:
    """``burst`` attempts at once, then one every ``every_s`` seconds."""

    burst: float
    every_s: float


class RateLimiter:
    """Counts by key; implements `candlegraph.rate_budget.RateBudget` too."""

    def __init__(self, redis: Redis | None = None) -> None:
        """Count alone, or together with all processes that share ``redis``, which the caller closes."""
        self._empty_at: LRUCache[str, float] = LRUCache(MAX_KEYS)
        self._own = LocalRateBudget()
        self._ask = (redis or Redis()).ask

    async def count_attempt(self, key: str, bucket: AttemptLimit, weight: float = 1) -> float:
        """Count an attempt, or ``weight`` of them, and return 0; over the limit, return the seconds to wait, uncounted."""
        wait = self._count_locally(key, bucket, weight)
        if wait == 0 and (
            shared := await self._ask("EVAL", _ATTEMPT_SCRIPT, 1, _key(key), bucket.every_s, bucket.burst, weight)
        ):
            wait = float(shared)
        return wait

    async def spend(self, key: str, budget: Budget, weight: float, share: float = 1.0) -> float:
        """As `RateBudget.spend`, for all processes together."""
        now, window = asyncio.get_running_loop().time(), self._own.window(key, budget)
        if wait := window.spend(now, weight, share):
            return wait
        most = max(weight, budget.weight * share)
        shared = await self._ask(
            "EVAL", _SPEND_SCRIPT, 1, _budget_key(key, budget), budget.per_s / WINDOW_SLOTS, WINDOW_SLOTS, most, weight
        )
        if wait := float(shared or 0):
            window.refund(now, weight)
        return wait

    async def pause(self, key: str, budget: Budget, seconds: float) -> None:
        """As `RateBudget.pause`, for all processes."""
        await self._own.pause(key, budget, seconds)
        await self._ask("EVAL", _PAUSE_SCRIPT, 1, _budget_key(key, budget), seconds, budget.per_s * 2)

    async def left(self, key: str, budget: Budget) -> float:
        """As `RateBudget.left`, for all processes together."""
        own = await self._own.left(key, budget)
        slots = budget.per_s / WINDOW_SLOTS, WINDOW_SLOTS
        shared = await self._ask("EVAL", _LEFT_SCRIPT, 1, _budget_key(key, budget), *slots, budget.weight)
        return own if shared is None else min(own, float(shared))

    async def reset(self, key: str) -> None:
        """Empty a bucket."""
        self._empty_at.pop(key, None)
        await self._ask("DEL", _key(key))

    async def set_mark(self, key: str, seconds: float) -> None:
        """Mark a key for ``seconds``."""
        self._empty_at[key] = time.monotonic() + seconds
        await self._ask("SET", _key(key), "1", "EX", int(seconds))

    async def has_mark(self, key: str) -> bool:
        """Whether a key is marked."""
        return self._empty_at.get(key, 0) > time.monotonic() or bool(await self._ask("EXISTS", _key(key)))

    def _count_locally(self, key: str, bucket: AttemptLimit, weight: float) -> float:
        now = time.monotonic()
        empty = max(self._empty_at.get(key, 0), now) + bucket.every_s * weight
        wait = empty - now - bucket.burst * bucket.every_s
        if wait > 1e-6:
            return wait
        self._empty_at[key] = empty
        return 0


def _key(key: str) -> str:
    return f"candlegraph:limit:{key}"


def _budget_key(key: str, budget: Budget) -> str:
    # 32 bits of a digest reveal nothing of a credential. The window is part of the key, because its slots depend on it.
    owner = blake2b(budget.credential.encode(), digest_size=4).hexdigest() if budget.credential else ""
    return f"candlegraph:budget:{key}:{owner}:{budget.per_s:g}"
