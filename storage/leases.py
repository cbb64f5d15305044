"""Leases: rows with an expiry by the database's clock, so that one process of the cluster does a task that only one may do."""

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
    """A lease at the epoch at which it became ours: a fencing token, which every write under the lease carries."""

    name: str
    epoch: int
    holder: uuid.UUID


@dataclass(frozen=True, slots=True)
class Leases:
    """The relation ``leases``, as one ``holder`` sees it."""

    database: Database
    holder: uuid.UUID

    async def acquire(self, names: Sequence[str], seconds: float) -> dict[str, LeaseToken]:
        """Take or renew leases for ``seconds``; return those that are ours now. Unavailable."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(SQL["leases_take"], sorted(names), self.holder, seconds)
        return {row["name"]: LeaseToken(row["name"], row["epoch"], self.holder) for row in rows}

    async def release(self, names: Sequence[str]) -> None:
        """Release leases, so that another process may take them at once. Unavailable."""
        async with self.database.connection() as connection:
            await connection.execute(SQL["leases_free"], list(names), self.holder)
