"""How a test waits: for a state, for as long as a busy machine takes to reach it, and never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

HANG_S = 180.0  # only a guard against a test that hangs: nothing that works takes this long anywhere


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds; an answer that must be awaited is. TimeoutError if it never does."""
    async with asyncio.timeout(HANG_S):
        while True:
            answer = holds()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.01)


def eventually_blocking(holds: Callable[[], object]) -> None:
    """Wait without an event loop until something holds. TimeoutError if it never does."""
    until = time.monotonic() + HANG_S
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.01)
