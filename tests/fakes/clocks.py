"""Clocks that a test sets: the wall clock and the monotonic one, together or apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from candlegraph import clock


def set_clock(patch: pytest.MonkeyPatch, now_ms: Callable[[], int]) -> None:
    """Let both clocks of the machine show ``now_ms``."""
    patch.setattr(clock, "wall_ms", now_ms)
    patch.setattr(clock, "monotonic_ms", now_ms)


class SteppingClock:
    """A machine whose time passes on request, and whose wall clock can step while its monotonic clock goes on."""

    def __init__(self, patch: pytest.MonkeyPatch, now: int) -> None:
        """Begin at ``now`` (ms, UTC), which is the true time too."""
        self.now = now
        self.step_ms = 0
        patch.setattr(clock, "wall_ms", lambda: self.now + self.step_ms)
        patch.setattr(clock, "monotonic_ms", lambda: self.now - now)
