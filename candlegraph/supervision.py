"""Background tasks: one that ends or fails is logged, restarted with backoff, and reported until it runs again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from candlegraph.outage import Outage

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a failed task is restarted, and when it counts as running again, in seconds."""

    first_s: float = 1.0  # the longest pause after the first failure; it doubles with each further one
    longest_s: float = 60.0
    healthy_s: float = 10.0  # a run of this length clears the report and resets the backoff


class Supervisor:
    """Runs named endless tasks until it is closed."""

    def __init__(self, policy: RestartPolicy | None = None) -> None:
        """Start without tasks."""
        self._policy = policy or RestartPolicy()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outages: dict[str, Outage] = {}
        self._down: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, in the order in which they were started."""
        return tuple(self._tasks)

    def start(self, name: str, work: Work, outage: Outage | None = None) -> None:
        """Call ``work`` and keep it running. While ``outage`` lasts, the task is reported too. ValueError: the name is taken."""
        if name in self._tasks:
            raise ValueError(f"The task {name!r} was started before.")
        if outage:
            self._outages[name] = outage
        self._tasks[name] = asyncio.create_task(self._run_forever(name, work), name=name)

    async def stop(self, name: str) -> None:
        """Cancel a task and wait until it has ended; a task that is not there is no error."""
        task = self._tasks.pop(name, None)
        self._outages.pop(name, None)
        if task:
            task.cancel()
            await asyncio.wait([task])
        self._down.pop(name, None)

    async def close(self) -> None:
        """Stop every task, the last one first."""
        while self._tasks:
            await self.stop(next(reversed(self._tasks)))

    def degraded(self) -> dict[str, str]:
        """The tasks that do not work at present, each with the reason."""
        away = {name: outage.reason for name, outage in self._outages.items() if outage.reason}
        return away | self._down

    async def _run_forever(self, name: str, work: Work) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        while not _cancelled():
            began = loop.time()
            recovering = loop.call_later(self._policy.healthy_s, self._recovered, name)
            try:
                reason = await _ending(name, work)
            finally:
                recovering.cancel()
            self._down[name] = reason
            healthy = loop.time() - began >= self._policy.healthy_s
            failures = 1 if healthy else min(failures + 1, 32)
            pause = min(self._policy.longest_s, self._policy.first_s * 2 ** (failures - 1))
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - full jitter, no secret

    def _recovered(self, name: str) -> None:
        if self._down.pop(name, None):
            log.warning("the task %r runs again", name)


async def _ending(name: str, work: Work) -> str:
    """Run ``work`` to its end, which is always a failure, log it, and return the reason."""
    try:
        await work()
    except asyncio.CancelledError:
        if _cancelled():
            raise
        # An awaited task was cancelled, not this one.
        log.exception("the task %r was interrupted; it is restarted", name)
        return "It was interrupted (CancelledError)."
    except Exception as error:
        log.exception("the task %r failed; it is restarted", name)
        return f"It failed ({type(error).__name__})."
    log.error("the task %r ended; it is restarted", name)
    return "It ended."


def _cancelled() -> bool:
    """Whether the current task was cancelled; it may have answered that with another error."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
