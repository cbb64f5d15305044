"""The cost budget: it limits the estimated cost of all running operations, and so the memory of their answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from candlegraph.errors import Overloaded
from resolvers.accounts.accounts import network

RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class CostLimits:
    """The limits of all running operations together and of those of one address; `schema.cost` explains the unit."""

    total: int = 12_000_000
    per_address: int = 6_000_000


class CostBudget:
    """The estimated cost of the running operations of this process."""

    def __init__(self, limits: CostLimits | None = None) -> None:
        """Start with no operation."""
        self._limits = limits or CostLimits()
        self._total = 0
        self._of: Counter[str] = Counter()

    @property
    def reserved(self) -> int:
        """The cost of the running operations."""
        return self._total

    def reserve(self, name: str, cost: int) -> None:
        """Count an operation of an address. Overloaded if it does not fit; a single operation always fits."""
        if self._of[name] and self._of[name] + cost > self._limits.per_address:
            raise Overloaded(
                "This address has too much under way at once: wait for the answers.", retry_after=RETRY_AFTER_S
            )
        if self._total and self._total + cost > self._limits.total:
            raise Overloaded(retry_after=RETRY_AFTER_S)
        self._total += cost
        self._of[name] += cost

    def release(self, name: str, cost: int) -> None:
        """Stop counting an operation."""
        self._total -= cost
        self._of[name] -= cost
        if not self._of[name]:
            del self._of[name]


class Reservation:
    """The part of the budget that one operation holds, from before its execution until its answer has been sent."""

    def __init__(self, budget: CostBudget, address: str, *, max_cost: int | None = None) -> None:
        """Reserve nothing yet; ``max_cost`` is the highest cost of an answer that the transport can send."""
        self._budget = budget
        self._name = network(address)
        self._cost = 0
        self.max_cost = max_cost

    def take(self, cost: int) -> None:
        """Reserve ``cost``. Overloaded if it does not fit."""
        self._budget.reserve(self._name, cost)
        self._cost += cost

    def release(self) -> None:
        """Release all reserved cost."""
        if self._cost:
            self._budget.release(self._name, self._cost)
            self._cost = 0
