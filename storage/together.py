"""Group commit: what comes while the database is busy with its like goes to it together, in the next statement."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from candlegraph.errors import CandlegraphError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Call(Generic[T, R]):
    """A call, and what came of it: one of the two, once somebody has made it."""

    what: T
    results: Sequence[R] = ()
    error: Exception | None = None

    @property
    def made(self) -> bool:
        return bool(self.results) or self.error is not None


@dataclass(slots=True)
class _Line(Generic[T, R]):
    """The calls that wait for the one before them."""

    waiting: list[_Call[T, R]] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Together(Generic[K, T, R]):
    """Calls by key: the first is made at once, and those that come meanwhile as one after it."""

    def __init__(self, make: Callable[[K, Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        """``make`` makes calls of one key: a result for each, in their order."""
        self._make = make
        self._lines: dict[K, _Line[T, R]] = defaultdict(_Line)

    async def __call__(self, key: K, what: T) -> R:
        """Make a call, or have it made with others; one that is cancelled takes nobody else's with it.

        An error of our tree is told to all who were in it. After any other each call is made once more, alone.
        """
        line, call = self._lines[key], _Call[T, R](what)
        line.waiting.append(call)
        try:
            async with line.turn:
                if not call.made:
                    await self._make_waiting(key, line)
        finally:
            if call in line.waiting:
                line.waiting.remove(call)
            if not line.waiting and not line.turn.locked():
                self._lines.pop(key, None)
        if call.error:
            raise call.error
        return call.results[0]

    async def _make_waiting(self, key: K, line: _Line[T, R]) -> None:
        calls, line.waiting = line.waiting, []
        try:
            await self._make_all(key, calls)
        finally:
            line.waiting[:0] = [call for call in calls if not call.made]  # cancelled: whoever comes next makes them

    async def _make_all(self, key: K, calls: Sequence[_Call[T, R]]) -> None:
        try:
            results = await self._make(key, [call.what for call in calls])
        except Exception as error:  # noqa: BLE001 - it is raised where the call was made
            if len(calls) > 1 and not isinstance(error, CandlegraphError):
                for call in calls:
                    await self._make_all(key, [call])
                return
            for call in calls:
                call.error = error
        else:
            for call, result in zip(calls, results, strict=True):
                call.results = [result]
