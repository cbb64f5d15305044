"""How many rows an address or an account may have fetched within an hour, and how long one operation may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from candlegraph.errors import FetchLimited
from storage.rate_limits import AttemptLimit

HOUR_S = 3600


class Counter(Protocol):
    """Counts by key; `storage.rate_limits.RateLimiter` does."""

    async def count_attempt(self, key: str, bucket: AttemptLimit, weight: float = 1) -> float:
        """Count ``weight``: 0, or how many seconds to wait, and then it was not counted."""
        ...


@dataclass(frozen=True, slots=True)
class FetchBudget:
    """What one operation may have fetched. ``deadline`` is on the event loop's clock; None: each query has its own."""

    deadline: float | None = None
    key: str = ""
    rows: int | None = None  # within an hour, of everybody with this key; None: any number
    counter: Counter | None = None

    async def spend(self, rows: int) -> FetchLimited | None:
        """Count rows that are about to be fetched; the refusal where they are too many."""
        if self.rows is None or self.counter is None or rows <= 0:
            return None
        message = f"More than {self.rows:,} candles within an hour would be fetched for this caller; what is stored is answered."
        half = self.rows / 2  # a bucket that leaks lets twice its size through in the first hour
        if half < 1:
            return FetchLimited(message, retry_after=HOUR_S)
        wait = await self.counter.count_attempt(self.key, AttemptLimit(half, HOUR_S / half), min(rows, half))
        return FetchLimited(message, retry_after=wait) if wait else None


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """The limits of a server: rows an hour for each anonymous address, and for each account."""

    counter: Counter | None = None
    address_rows: int | None = None
    account_rows: int | None = None

    def fetch_budget(self, account: int | None, address: str, deadline: float | None) -> FetchBudget:
        """That of an operation of an account, or of somebody anonymous at an address."""
        if account is None:
            return FetchBudget(deadline, f"fetch:address:{address}", self.address_rows, self.counter)
        return FetchBudget(deadline, f"fetch:account:{account}", self.account_rows, self.counter)


UNLIMITED, NO_LIMITS = FetchBudget(), FetchLimits()
