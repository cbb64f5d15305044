"""Limits of topics: how many there are in total and per address, and how many listeners join at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from candlegraph.errors import Overloaded
from history.fetch_limits import UNLIMITED, FetchBudget

MAX_JOINS, MAX_JOINS_PER_ADDRESS = 16, 4  # listeners that join at once; the others wait for their turn


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """The most topics of a process, and the most that one address may open."""

    total: int = 5_000
    per_address: int = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of a subscription: its topics count against its address, and fetched rows against its ``fetch_budget``."""

    address: str = ""
    fetch_budget: FetchBudget = UNLIMITED


ANYONE = Caller()


class TopicAdmission:
    """Counts topics by the address that opened them, and lets listeners join in turns."""

    def __init__(self, limits: TopicLimits | None = None) -> None:
        """Start without topics."""
        self._limits = limits or TopicLimits()
        self._of: Counter[str] = Counter()
        self._joins = asyncio.Semaphore(MAX_JOINS)
        self._joins_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def begin(self, address: str) -> None:
        """Count a topic; Overloaded if there are too many."""
        if self._of[address] >= self._limits.per_address:
            raise Overloaded(
                f"One address follows at most {self._limits.per_address} different series: end some of them.",
                retry_after=5,
            )
        if self._of.total() >= self._limits.total:
            raise Overloaded("The server follows as many different series as it can.", retry_after=5)
        self._of[address] += 1

    def end(self, address: str) -> None:
        """Stop counting a topic."""
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait until a listener of an address may begin; a flood from one address delays others by a few turns only."""
        own = self._joins_of.setdefault(address, asyncio.Semaphore(MAX_JOINS_PER_ADDRESS))
        async with own, self._joins:
            yield
