"""A supervisor through which a test makes an endless loop fail at whatever it waits for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from candlegraph.outage import Outage
from candlegraph.supervision import RestartPolicy, Supervisor, Work


class Disturbing(Supervisor):
    """Counts the runs of each task; `disturb` raises an unforeseen exception in one."""

    def __init__(self, timings: RestartPolicy | None = None) -> None:
        super().__init__(timings)
        self.runs: Counter[str] = Counter()
        self._due: set[str] = set()

    def start(self, name: str, work: Work, outage: Outage | None = None) -> None:
        super().start(name, partial(self._run, name, work), outage)

    async def _run(self, name: str, work: Work) -> None:
        self.runs[name] += 1
        await _Interruptible(work(), lambda: name in self._due and not self._due.discard(name))  # type: ignore[func-returns-value]

    def disturb(self, name: str) -> None:
        self._due.add(name)
        self._tasks[name].cancel()


class _Interruptible:
    """A coroutine in which a cancellation becomes another exception where the test wants it to."""

    def __init__(self, work: Coroutine[Any, Any, None], wanted: Callable[[], bool]) -> None:
        self._work = work
        self._wanted = wanted

    def __await__(self) -> Generator[Any, Any, None]:
        proceed = partial(self._work.send, None)
        while True:
            try:
                awaited = proceed()
            except StopIteration:
                return
            try:
                proceed = partial(self._work.send, (yield awaited))
            except asyncio.CancelledError as error:
                failure: BaseException = error
                if self._wanted():
                    task = asyncio.current_task()
                    assert task
                    task.uncancel()
                    failure = RuntimeError("an unforeseen failure")
                proceed = partial(self._work.throw, failure)
            except BaseException as error:  # noqa: BLE001 - what it waited for failed: that is the coroutine's to see
                proceed = partial(self._work.throw, error)
