"""How far the clock of an upstream is from ours: what is final is final by its clock."""

from __future__ import annotations

import asyncio
import logging

from candlegraph import clock
from candlegraph.clock import DAY_MS
from candlegraph.provider import Clocked, Provider
from candlegraph.upstream import Urgency
from providers.guard.calls import Calls

log = logging.getLogger(__name__)

DEADLINE_S, EVERY_S = 2.0, 3600.0


class Offset:
    """The upstream's clock less ours, measured at the start and each hour while it is used; 0 where it has none."""

    def __init__(self, provider: Provider, calls: Calls) -> None:
        """Not measured yet."""
        self._provider, self._calls = provider, calls
        self._next = float("inf")
        self._task: asyncio.Task[None] | None = None
        self.ms = 0

    def keep(self) -> None:
        """Have it measured again, should it be time; nobody waits for that."""
        if asyncio.get_running_loop().time() >= self._next:
            self._next = float("inf")
            self._task = asyncio.create_task(self.measure())

    async def measure(self) -> None:
        """Ask what time it is there: the answer is as old as half of its way. Without one, the last offset stays."""
        provider, loop = self._provider, asyncio.get_running_loop()
        if not isinstance(provider, Clocked):
            return
        self._next = loop.time() + EVERY_S

        async def ask() -> int:
            began = loop.time()
            there = int(await provider.server_time())
            return there + round((loop.time() - began) * 500) - clock.now_ms()

        where = f"{provider.market.id}/{provider.id}"
        try:
            offset = await self._calls.make_once(ask, Urgency.LIVE, loop.time() + DEADLINE_S, DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, our own clock will do
            log.info("the clock of %s could not be read: %s", where, error)
            return
        if abs(offset) < DAY_MS:
            self.ms = offset
        else:
            log.warning("the clock of %s is %d ms from ours: it is not believed", where, offset)

    async def close(self) -> None:
        """Stop measuring."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
