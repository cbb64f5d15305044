"""Admission control: limits the stored rows that a process holds in memory, and those that it folds in one pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from candlegraph.errors import Overloaded
from candlegraph.pass_budget import PassBudget

MAX_ROWS = 1_500_000  # 72 MB, and about as much again while they are unpacked
EXEMPT_ROWS = 10_000  # smaller reads never wait: charts need no more
ROWS_PER_PASS = 100_000  # folded in one pass of the event loop: about 5 ms


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    rows: int
    since: float  # in loop time
    granted: asyncio.Future[None]


class RowBudget:
    """A budget of rows. Waiters are served smallest first, so that a few large reads do not block small ones.

    Ageing keeps the large ones from starving: once the oldest waiter has waited for ``patience_s``, it is served next, and
    no other read overtakes it.
    """

    def __init__(self, rows: int = MAX_ROWS, *, patience_s: float = 2.0) -> None:
        """Start with all rows free."""
        self._free = self._all = rows
        self._patience_s = patience_s
        self._waiting: list[_Waiter] = []  # the oldest first
        self.folding = PassBudget(ROWS_PER_PASS)

    @asynccontextmanager
    async def reserve(self, rows: int, deadline: float | None = None) -> AsyncIterator[None]:
        """Hold ``rows`` of the budget, at most all of it; wait until they are free.

        Overloaded if they are not free by ``deadline`` (loop time).
        """
        if rows <= EXEMPT_ROWS:
            yield
            return
        rows = min(rows, self._all)
        if rows <= self._free and not self._has_aged():
            self._free -= rows
        else:
            await self._wait(rows, deadline)
        try:
            yield
        finally:
            self._release(rows)

    async def _wait(self, rows: int, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(rows, loop.time(), loop.create_future())
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter.granted
        except TimeoutError:
            self._leave(waiter)
            raise Overloaded("Too many large queries are running: try again later.", retry_after=5) from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        self._release(0 if waiter.granted.cancelled() else waiter.rows)  # the rows may have been granted at this moment

    def _release(self, rows: int) -> None:
        self._free += rows
        while self._waiting:
            waiter = self._waiting[0] if self._has_aged() else min(self._waiting, key=lambda one: one.rows)
            if waiter.rows > self._free and not waiter.granted.done():
                return
            self._waiting.remove(waiter)
            if not waiter.granted.done():
                self._free -= waiter.rows
                waiter.granted.set_result(None)

    def _has_aged(self) -> bool:
        """Whether the oldest waiter has waited so long that no other may overtake it."""
        now = asyncio.get_running_loop().time()
        return bool(self._waiting) and now - self._waiting[0].since >= self._patience_s
