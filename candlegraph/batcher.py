"""Batches calls: those that arrive while a batch of the same key runs go into the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from candlegraph.errors import CandlegraphError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Call(Generic[T, R]):
    """An item and its result. If the result is done already, its caller has given the call up."""

    item: T
    result: asyncio.Future[R]


class Batcher(Generic[K, T, R]):
    """Runs one batch of a key at a time, in a task of its own, and keys side by side.

    Over a database this is group commit: when five hundred callers write at once, the first statement takes those of one
    turn of the event loop, the next one all that arrived meanwhile. A single call does not wait.

    No caller runs a batch, so a cancelled caller affects no other. Its own call is left out if the batch has not begun, and
    completed by the batch otherwise; it never runs twice.
    """

    def __init__(self, run: Callable[[K, Sequence[T]], Awaitable[Sequence[R]]], *, repeats_alone: bool = False) -> None:
        """``run`` takes the items of one batch and returns a result for each, in their order.

        A CandlegraphError reaches every caller of the batch. After any other exception, with ``repeats_alone``, each call
        runs once more on its own, so that one bad item fails alone. The batch may have committed before it failed: use this
        only if a second run of an item changes nothing.
        """
        self._run = run
        self._repeats_alone = repeats_alone
        self._waiting: dict[K, list[_Call[T, R]]] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}

    def submit(self, key: K, item: T) -> asyncio.Future[R]:
        """Queue a call. Awaiting the future raises what ``run`` raised; cancelling it gives the call up."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(_Call(item, result))
        task = self._tasks.get(key)
        if task is None or task.done():
            task = self._tasks[key] = asyncio.create_task(self._run_waiting(key))
            task.add_done_callback(lambda done: self._end(key, done))
        return result

    async def drain(self) -> None:
        """Wait until every call has run."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def cancel(self) -> None:
        """Give up the running batches and all calls that wait; their futures are cancelled."""
        for task in self._tasks.values():
            task.cancel()
        await self.drain()

    async def _run_waiting(self, key: K) -> None:
        while calls := [call for call in self._waiting.pop(key, ()) if not call.result.done()]:
            try:
                await self._run_batch(key, calls)
            finally:
                for call in calls:
                    call.result.cancel()  # has no effect on a result that is done

    async def _run_batch(self, key: K, calls: Sequence[_Call[T, R]]) -> None:
        try:
            results = list(zip(calls, await self._run(key, [call.item for call in calls]), strict=True))
        except Exception as error:  # noqa: BLE001 - it is raised where the call was made
            if self._repeats_alone and len(calls) > 1 and not isinstance(error, CandlegraphError):
                for call in calls:
                    await self._run_batch(key, [call])
                return
            for call in calls:
                if not call.result.done():
                    call.result.set_exception(error)
        else:
            for call, result in results:
                if not call.result.done():
                    call.result.set_result(result)

    def _end(self, key: K, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
            for call in self._waiting.pop(key, ()):  # there are some only if the task was cancelled
                call.result.cancel()
