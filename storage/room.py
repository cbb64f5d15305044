"""How many stored rows may be in memory at a time, whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

ROWS = 1_500_000  # 72 MB, and about as much again while they are unpacked
FEW = 10_000  # who reads no more never waits: what charts ask for lies below


class Room:
    """Room for so many rows. Who finds none waits; the smallest goes first, so that a few huge questions hold up no other."""

    def __init__(self, rows: int = ROWS) -> None:
        """All of it is free."""
        self._free = self._all = rows
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap, by rows and then by who came first
        self._numbers = count()

    @asynccontextmanager
    async def taken(self, rows: int) -> AsyncIterator[None]:
        """Hold room for ``rows``, all of it where there are more; nothing is awaited where it is free."""
        if rows <= FEW:
            yield
            return
        rows = min(rows, self._all)
        if rows > self._free:
            await self._wait(rows)
        else:
            self._free -= rows
        try:
            yield
        finally:
            self._give(rows)

    async def _wait(self, rows: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (rows, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            self._give(0 if turn.cancelled() else rows)  # it may have been this one's turn just then
            raise

    def _give(self, rows: int) -> None:
        self._free += rows
        while self._waiting and (self._waiting[0][2].done() or self._waiting[0][0] <= self._free):
            rows, _, turn = heappop(self._waiting)
            if not turn.done():
                self._free -= rows
                turn.set_result(None)
