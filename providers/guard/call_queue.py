"""The queue in front of an upstream: few calls at once, within its rate budget, the most urgent first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from candlegraph.errors import ProviderError, ProviderUnavailable
from candlegraph.provider import Budget, Capabilities
from candlegraph.rate_budget import BUDGET_SHARES, RateBudget
from candlegraph.upstream import Urgency

DEFAULT_BUDGET = Budget(weight=60, per_s=60, concurrent=2)  # for a provider that declares none
MAX_QUEUED_CALLS = 256  # per urgency
STARVATION_S = 30.0  # a call that has waited this long is next, at any urgency


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    urgency: Urgency
    since: float
    until: float  # the instant at which it gives up
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class CallQueue:
    """Lets calls of one upstream through, one by one. Raises ProviderError if a call's turn does not come in time."""

    def __init__(self, key: str, name: str, quota: RateBudget) -> None:
        """``key`` names the budget, which other processes may share; ``name`` names the upstream in messages."""
        self._key, self._name, self._quota = key, name, quota
        self._queues: dict[Urgency, deque[_Waiter]] = {urgency: deque() for urgency in Urgency}
        self._running = 0
        self._paused: tuple[float, ProviderError] | None = None
        self._late: tuple[float, ProviderError] | None = None

    def pause_left(self) -> tuple[float, ProviderError] | None:
        """The seconds for which calls are still refused, and the error with the reason; None if they are not."""
        for limit in (self._paused, self._late):
            if limit and (left := limit[0] - _now()) > 0:
                return left, limit[1]
        return None

    async def pause(self, error: ProviderError, seconds: float, capabilities: Capabilities) -> None:
        """Let no call through for ``seconds``, as the upstream has requested with ``error``."""
        until = _now() + seconds
        if self._paused is None or until > self._paused[0]:
            self._paused = until, error
        await self._quota.pause(self._key, budget_of(capabilities), seconds)

    async def budget_left(self, capabilities: Capabilities) -> float:
        """The weight of calls that may be made now."""
        return await self._quota.left(self._key, budget_of(capabilities))

    @asynccontextmanager
    async def slot(self, capabilities: Capabilities, urgency: Urgency, until: float) -> AsyncIterator[None]:
        """Wait for a turn, at most until ``until`` by the loop's clock, and hold the slot inside the block."""
        await self._wait(capabilities, urgency, until)
        try:
            yield
        finally:
            self._running -= 1
            self._wake()

    async def _wait(self, capabilities: Capabilities, urgency: Urgency, until: float) -> None:
        queue = self._queues[urgency]
        if len(queue) >= MAX_QUEUED_CALLS:
            raise ProviderUnavailable(f"Too many calls wait for {self._name}.", retry_after=1)
        waiter = _Waiter(urgency, _now(), until)
        queue.append(waiter)
        try:
            while pause := await self._try(waiter, capabilities):
                self._give_up(waiter, pause)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, until - _now())):
                        await waiter.woken.wait()
                waiter.woken.clear()
        finally:
            queue.remove(waiter)
            self._wake()

    async def _try(self, waiter: _Waiter, capabilities: Capabilities) -> float:
        """Return 0 if the call may go, else the instant of the next try; infinity: only when another call wakes it."""
        budget = budget_of(capabilities)
        if self._first() is not waiter or self._running >= budget.concurrent:
            return float("inf")
        self._running += 1  # takes the slot before the first await
        pause = float("inf")
        try:
            share = 1.0 if self._is_starving(waiter) else BUDGET_SHARES[waiter.urgency]
            pause = await self._quota.spend(self._key, budget, capabilities.call_weight, share)
        finally:
            if pause:
                self._running -= 1
                if self._first() is not waiter:  # a more urgent call came meanwhile, and found no free slot
                    self._wake()
        return pause

    def _give_up(self, waiter: _Waiter, pause: float) -> None:
        """Raise if the next try would be too late."""
        now = _now()
        held = self._paused
        if held and held[0] > max(now, waiter.until):
            raise type(held[1])(held[1].message, retry_after=held[0] - now)
        if pause != float("inf") and now + pause > waiter.until:
            error = ProviderUnavailable(f"{self._name} allows no more calls for now.", retry_after=pause)
            self._late = now + pause, error
            raise error
        if now >= waiter.until:
            raise ProviderUnavailable(f"{self._name} is busy: the call did not get its turn.", retry_after=1)

    def _first(self) -> _Waiter | None:
        heads = [queue[0] for queue in self._queues.values() if queue]  # in the order of urgency
        return next((head for head in heads if self._is_starving(head)), heads[0] if heads else None)

    def _is_starving(self, waiter: _Waiter) -> bool:
        return _now() - waiter.since > STARVATION_S

    def _wake(self) -> None:
        if first := self._first():
            first.woken.set()


def budget_of(capabilities: Capabilities) -> Budget:
    """The declared budget, or the default."""
    return capabilities.budget or DEFAULT_BUDGET


def _now() -> float:
    return asyncio.get_running_loop().time()
