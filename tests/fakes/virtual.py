"""Time that passes only when all tasks wait for it: an hour of backoff is tested in a millisecond, and exactly."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from tests.fakes.clocks import set_clock

P = ParamSpec("P")
EPOCH_MS, BEGINS_AT = 1_709_856_000_000, 1000.0  # when a virtual loop begins: by the wall, and by its own clock


def now() -> float:
    """The seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


class _Selector(selectors.DefaultSelector):
    """Does not wait: it reports to the loop how long it would have waited."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise AssertionError("all tasks wait for something that will never happen")
            self.waited += max(timeout, 0)
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return BEGINS_AT + self._virtual.waited


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in virtual time, by `candlegraph.clock` too; no task may be left when it ends."""

    async def main(*args: P.args, **kwargs: P.kwargs) -> None:
        with pytest.MonkeyPatch.context() as patch:
            set_clock(patch, lambda: EPOCH_MS + round((now() - BEGINS_AT) * 1000))
            await test(*args, **kwargs)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(main(*args, **kwargs))

    return run
