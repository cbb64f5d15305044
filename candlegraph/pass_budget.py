"""The work of one kind that one pass of the event loop may do: the rest waits for later passes, in the order of requests.

A hundred answers that are ready at once, or the messages of a hundred sockets, would otherwise be one long pass, and every
other client would wait for its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class PassBudget:
    """Counts units of work, such as rows or bytes; after each pass of the event loop it is whole again."""

    def __init__(self, units: int) -> None:
        """Allow ``units`` in one pass; the last piece of work may exceed them."""
        self._units = self._left = units
        self._waiting: deque[Callable[[], int]] = deque()
        self._working = self._renewing = False

    def run(self, work: Callable[[], int]) -> None:
        """Call ``work``, which returns the units it took, after all that wait: at once if this pass has units left."""
        self._waiting.append(work)
        if not self._working:  # else this is called by a piece of work
            self._work()

    async def turn(self, units: int) -> None:
        """Wait until a pass has units left, and take some; return without waiting if this one has."""
        if self._left > 0 and not self._waiting:
            self._left -= units
            self._renew_later()
            return
        turn = asyncio.get_running_loop().create_future()

        def begin() -> int:
            if turn.done():  # it was cancelled
                return 0
            turn.set_result(None)
            return units

        self.run(begin)
        await turn

    def _work(self) -> None:
        self._working = True
        try:
            while self._waiting and self._left > 0:
                self._left -= self._waiting.popleft()()
        finally:
            self._working = False
            self._renew_later()

    def _renew_later(self) -> None:
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        self._renewing = False
        self._left = self._units
        if self._waiting:
            self._work()
