"""The circuit breaker: it stops calls to a failing upstream for a while, then lets one call probe it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from candlegraph.errors import ProviderError, ProviderUnavailable
from candlegraph.upstream import BreakerState

FAILURE_THRESHOLD = 5  # failures in a row
REST_S, MAX_REST_S = 5.0, 60.0
PROBE_AFTER_S = 1.0  # the wait while another caller probes


class CircuitBreaker:
    """While closed, it passes calls; while open, none. Half open, it passes one probe.

    A successful probe closes it; a failed one opens it for longer. Only ProviderUnavailable counts as a failure: any other
    error is an answer of a working upstream.
    """

    def __init__(self) -> None:
        """Start closed."""
        self._failures = 0
        self._rest_s = REST_S
        self._open_until = 0.0
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether calls pass."""
        return self._failures < FAILURE_THRESHOLD

    @property
    def state(self) -> BreakerState:
        """Whether calls pass, none does, or a probe may."""
        if self.closed:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._open_until > _now() else BreakerState.HALF_OPEN

    def opens_in(self) -> float:
        """The seconds until a call may pass; 0 if it may now."""
        left = 0.0 if self.closed else self._open_until - _now()
        return left if left > 0 else PROBE_AFTER_S if self._probing else 0.0

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the outcome of the call inside; a cancelled call proves nothing."""
        probe = not self.closed
        self._probing |= probe
        try:
            yield
        except ProviderUnavailable:
            self._fail(probe=probe)
            raise
        except ProviderError:
            self._close()
            raise
        else:
            self._close()
        finally:
            if probe:
                self._probing = False

    def _fail(self, *, probe: bool) -> None:
        if probe:
            self._rest_s = min(self._rest_s * 2, MAX_REST_S)
        elif self.closed:
            self._failures += 1
        if probe or not (self.closed or self._open_until):
            # With jitter, so that the processes of a cluster do not probe at the same moment.
            self._open_until = _now() + self._rest_s * random.uniform(0.8, 1.0)  # noqa: S311

    def _close(self) -> None:
        self._failures, self._rest_s, self._open_until = 0, REST_S, 0.0


def _now() -> float:
    return asyncio.get_running_loop().time()
