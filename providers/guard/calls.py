"""Makes the calls to one upstream: through the queue and the circuit breaker, with a deadline, retries and counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    wait_random_exponential,
)

from candlegraph import clock
from candlegraph.errors import ProviderError, ProviderUnavailable, RateLimited, UnknownSymbol, Unsupported
from candlegraph.provider import Provider
from candlegraph.rate_budget import RateBudget
from candlegraph.upstream import BreakerState, CallCounters, CallFailure, ProviderState, Urgency
from providers.guard.call_queue import CallQueue
from providers.guard.circuit_breaker import CircuitBreaker

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_ATTEMPTS = 3
BACKOFF_S, MAX_BACKOFF_S = 0.5, 8.0  # exponential backoff with full jitter: from 0 s to this, doubled at each attempt
BACKFILL_QUEUE_TIMEOUT_S = 120.0  # how long a background call may queue; for others it is the deadline of a call
RECENT_FAILURE_S = 60.0  # a provider is DEGRADED for this long after a failure
HOLD_S, MAX_HOLD_S = (
    2.0,
    7 * 86_400.0,
)  # the pause after a 429 without a time, doubled up to a minute; and the longest pause


class UpstreamCalls:
    """Makes the calls of one provider. Raises only ProviderError."""

    def __init__(self, provider: Provider, quota: RateBudget, backoff_s: float = BACKOFF_S) -> None:
        """Start with zero counts; ``backoff_s`` is the longest pause before the second attempt."""
        self._backoff_s = backoff_s
        self._provider = provider
        self._breaker = CircuitBreaker()
        self._queue = CallQueue(f"{provider.market.id}/{provider.id}", provider.name, quota)
        self._made = self._failures = self._retries = 0
        self._last_call_at: int | None = None
        self._failed_at = float("-inf")
        self._limits_in_a_row = 0
        self.last_failure: CallFailure | None = None

    async def make(self, ask: Callable[[], Awaitable[T]], urgency: Urgency, deadline_s: float) -> T:
        """Call until there is an answer, an error that a retry cannot fix, or no time for a retry."""
        until = _now() + (BACKFILL_QUEUE_TIMEOUT_S if urgency is Urgency.BACKFILL else deadline_s)

        def is_enough(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            retry_after = (error.retry_after or 0.0) if isinstance(error, ProviderError) else 0.0
            return state.attempt_number >= MAX_ATTEMPTS or _now() + max(state.upcoming_sleep, retry_after) > until

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_worth_a_retry),
            wait=wait_random_exponential(multiplier=self._backoff_s, max=MAX_BACKOFF_S),
            stop=is_enough,
            before_sleep=self._count_retry,
            reraise=True,
        )
        return await retrying(self.make_once, ask, urgency, until, deadline_s)

    async def make_once(self, ask: Callable[[], Awaitable[T]], urgency: Urgency, until: float, deadline_s: float) -> T:
        """Call once: its turn must come before ``until`` by the loop's clock, and then its answer within ``deadline_s``."""
        self._check_breaker()
        async with self._queue.slot(self._provider.capabilities, urgency, until):
            self._check_breaker()  # it may have opened while we waited
            with self._breaker.record():
                answer = await self._timed(ask, deadline_s)
        self._limits_in_a_row = 0
        return answer

    def _is_worth_a_retry(self, error: BaseException) -> bool:
        return isinstance(error, ProviderUnavailable | RateLimited) and self._breaker.closed

    def _count_retry(self, _: RetryCallState) -> None:
        self._retries += 1

    def _check_breaker(self) -> None:
        if seconds := self._breaker.opens_in():
            reason = f": {self.last_failure.message}" if self.last_failure else "."
            raise ProviderUnavailable(
                f"{self._provider.name} failed too often and is left alone{reason}", retry_after=seconds
            )

    async def _timed(self, ask: Callable[[], Awaitable[T]], deadline_s: float) -> T:
        self._made += 1
        self._last_call_at = clock.now_ms()
        limit = asyncio.timeout(deadline_s)
        try:
            async with limit:
                return await ask()
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            raise await self.count_failure(error) from error  # a task within the plugin was cancelled, not ours
        except Exception as error:
            known = ProviderUnavailable(f"{self._provider.name} did not answer in time.") if limit.expired() else error
            raise await self.count_failure(known) from error

    async def count_failure(self, error: BaseException) -> ProviderError:
        """Count an error and return it as a ProviderError; if it has a ``retry_after``, pause all calls until then."""
        if isinstance(error, UnknownSymbol | Unsupported):
            return error
        if not isinstance(error, ProviderError):
            name, kind = self._provider.name, type(error).__name__
            log.error("provider %s/%s failed unexpectedly", self._provider.market.id, self._provider.id, exc_info=error)
            error = ProviderUnavailable(f"{name} failed: {kind}.")
        self._failures += 1
        self._failed_at = _now()
        self.last_failure = CallFailure(error.message, clock.now_ms())
        if isinstance(error, RateLimited):
            self._limits_in_a_row += 1
            if error.retry_after is None:
                error.retry_after = min(HOLD_S * 2 ** min(self._limits_in_a_row - 1, 9), 60.0)
        if error.retry_after and error.retry_after > 0:
            error.retry_after = min(error.retry_after, MAX_HOLD_S)
            await self._queue.pause(error, error.retry_after, self._provider.capabilities)
        return error

    def counters(self, rows: int, refused: int) -> CallCounters:
        """The counts of this process, including those of refused rows."""
        return CallCounters(self._made, self._failures, self._retries, rows, refused, self._last_call_at)

    @property
    def breaker(self) -> BreakerState:
        """The state of the circuit breaker."""
        return self._breaker.state

    async def budget_left(self) -> float:
        """The weight of calls that may be made now."""
        return await self._queue.budget_left(self._provider.capabilities)

    def health(self) -> tuple[ProviderState, str | None, float | None]:
        """The state, its reason, and the seconds until the next call."""
        reason = self.last_failure.message if self.last_failure else None
        if limited := self._queue.pause_left():
            return ProviderState.RATE_LIMITED, limited[1].message, limited[0]
        if not self._breaker.closed:
            seconds = self._breaker.opens_in()
            return (ProviderState.FAILED, reason, seconds) if seconds else (ProviderState.DEGRADED, reason, None)
        if self.last_failure and _now() - self._failed_at < RECENT_FAILURE_S:
            return ProviderState.DEGRADED, reason, None
        return ProviderState.READY, None, None


def _now() -> float:
    return asyncio.get_running_loop().time()
