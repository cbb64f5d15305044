"""Fetch limits: the rows per hour for each address and account, and the deadline of an operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from candlegraph.errors import FetchLimited
from storage.rate_limits import AttemptLimit

HOUR_S = 3600


class Counter(Protocol):
    """Counts by key; `storage.rate_limits.RateLimiter` does."""

    async def count_attempt(self, key: str, bucket: AttemptLimit, weight: float = 1) -> float:
        """Count ``weight`` and return 0; over the limit, count nothing and return the seconds to wait."""
        ...


@dataclass(frozen=True, slots=True)
class FetchBudget:
    """The fetch limit of one operation. ``deadline`` is on the event loop's clock; None: each query has its own."""

    deadline: float | None = None
    key: str = ""
    rows: int | None = None  # per hour, for all operations with this key; None: no limit
    counter: Counter | None = None

    async def spend(self, rows: int) -> FetchLimited | None:
        """Count rows before they are fetched; return the refusal if there are too many."""
        if self.rows is None or self.counter is None or rows <= 0:
            return None
        message = f"This caller may fetch at most {self.rows:,} candles an hour; stored candles remain available."
        half = self.rows / 2  # in the first hour, a leaky bucket passes twice its size
        if half < 1:
            return FetchLimited(message, retry_after=HOUR_S)
        wait = await self.counter.count_attempt(self.key, AttemptLimit(half, HOUR_S / half), min(rows, half))
        return FetchLimited(message, retry_after=wait) if wait else None


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """The limits of a server: rows per hour for each anonymous address, and for each account."""

    counter: Counter | None = None
    address_rows: int | None = None
    account_rows: int | None = None

    def fetch_budget(self, account: int | None, address: str, deadline: float | None) -> FetchBudget:
        """The budget of an operation: of its account, or of its address if it is anonymous."""
        if account is None:
            return FetchBudget(deadline, f"fetch:address:{address}", self.address_rows, self.counter)
        return FetchBudget(deadline, f"fetch:account:{account}", self.account_rows, self.counter)


UNLIMITED, NO_LIMITS = FetchBudget(), FetchLimits()
