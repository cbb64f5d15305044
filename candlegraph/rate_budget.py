"""Rate budgets: the weight of calls that an upstream allows, counted over a sliding window."""

from __future__ import annotations

import asyncio
from math import floor
from typing import Protocol

from candlegraph.provider import Budget
from candlegraph.upstream import Urgency

WINDOW_SLOTS = 60  # a window is counted in so many slots: a few numbers, however many calls
# The share of the budget that each urgency may use up. The rest stays free for more urgent calls of all processes.
BUDGET_SHARES = {Urgency.LIVE: 1.0, Urgency.QUERY: 0.95, Urgency.BACKFILL: 0.8}


class RateBudget(Protocol):
    """Counts spent weight by key, one for each upstream, and by the credential of a budget."""

    async def spend(self, key: str, budget: Budget, weight: float, share: float = 1.0) -> float:
        """Spend ``weight`` and return 0; or spend nothing and return the seconds to wait.

        A call that would use more than ``share`` of the budget has to wait: the rest is reserved for others.
        """
        ...

    async def pause(self, key: str, budget: Budget, seconds: float) -> None:
        """Stop all spending for ``seconds``, at the upstream's request."""
        ...

    async def left(self, key: str, budget: Budget) -> float:
        """The weight that may be spent now; 0 during a pause."""
        ...


class SlidingWindow:
    """The spent weight of one budget: at most its weight in any ``per_s`` seconds.

    A slot counts until its end is ``per_s`` old, so spent weight expires up to a sixtieth late, never early.
    """

    def __init__(self, budget: Budget) -> None:
        """Start with nothing spent."""
        self._budget = budget
        self._slot_s = budget.per_s / WINDOW_SLOTS
        self._spent: dict[int, float] = {}  # by slot, ascending
        self._held_until = 0.0

    def spend(self, now: float, weight: float, share: float) -> float:
        """As `RateBudget.spend`, at the instant ``now`` in seconds."""
        if now < self._held_until:
            return self._held_until - now
        slot = floor(now / self._slot_s)
        for old in [old for old in self._spent if old < slot - WINDOW_SLOTS]:
            del self._spent[old]
        most = max(weight, self._budget.weight * share)  # a call heavier than all of it goes alone
        used, free_at = sum(self._spent.values()), now
        if used + weight <= most:
            self._spent[slot] = self._spent.get(slot, 0) + weight
            return 0
        for old, amount in self._spent.items():
            used, free_at = used - amount, (old + 1 + WINDOW_SLOTS) * self._slot_s
            if used + weight <= most:
                break
        return max(free_at - now, 0.001)

    def refund(self, now: float, weight: float) -> None:
        """Undo what was spent at ``now``."""
        slot = floor(now / self._slot_s)
        if slot in self._spent:
            self._spent[slot] -= weight

    def pause(self, until: float) -> None:
        """Stop all spending before ``until``."""
        self._held_until = max(self._held_until, until)

    def left(self, now: float) -> float:
        """As `RateBudget.left`, at the instant ``now`` in seconds."""
        if now < self._held_until:
            return 0.0
        oldest = floor(now / self._slot_s) - WINDOW_SLOTS
        used = sum(amount for slot, amount in self._spent.items() if slot >= oldest)
        return max(0.0, self._budget.weight - used)


class LocalRateBudget:
    """Counts for this process alone; implements `RateBudget`."""

    def __init__(self) -> None:
        """Start with nothing spent."""
        self._windows: dict[tuple[str, Budget], SlidingWindow] = {}

    def window(self, key: str, budget: Budget) -> SlidingWindow:
        """The window of a key; another budget is another window."""
        return self._windows.setdefault((key, budget), SlidingWindow(budget))

    async def spend(self, key: str, budget: Budget, weight: float, share: float = 1.0) -> float:
        """As `RateBudget.spend`."""
        return self.window(key, budget).spend(_now(), weight, share)

    async def pause(self, key: str, budget: Budget, seconds: float) -> None:
        """As `RateBudget.pause`."""
        self.window(key, budget).pause(_now() + seconds)

    async def left(self, key: str, budget: Budget) -> float:
        """As `RateBudget.left`."""
        return self.window(key, budget).left(_now())


def _now() -> float:
    return asyncio.get_running_loop().time()
