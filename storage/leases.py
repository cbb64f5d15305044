"""Leases: rows that expire by the database's clock, for tasks that only one process of the cluster may do at a time."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from candlegraph.errors import Unavailable
from storage.database import SQL, Database


class LeaseLost(Unavailable):
    """Another process holds the lease now."""


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """A lease with the epoch at which we acquired it: a fencing token, which every write under the lease carries."""

    name: str
    epoch: int
    holder: uuid.UUID


@dataclass(frozen=True, slots=True)
class Leases:
    """The relation ``leases``, for one ``holder``."""

    database: Database
    holder: uuid.UUID

    async def acquire(self, names: Sequence[str], seconds: float) -> dict[str, LeaseToken]:
        """Acquire or renew leases for ``seconds``; return those that are ours now. Unavailable."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(SQL["leases_take"], sorted(names), self.holder, seconds)
        return {row["name"]: LeaseToken(row["name"], row["epoch"], self.holder) for row in rows}

    async def release(self, names: Sequence[str]) -> None:
        """Release leases, so that another process can acquire them at once. Unavailable."""
        async with self.database.connection() as connection:
            await connection.execute(SQL["leases_free"], list(names), self.holder)
