"""Leases: one holder in the cluster at a time, by the database's clock."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from candlegraph.errors import CandlegraphError
from storage.database import SQL, Database

TTL_S = 4.0  # how long after a death somebody else may take over


@dataclass(slots=True)
class Lease:
    """One process's hold on a name; ``epoch`` goes up with each new holder."""

    database: Database = field(repr=False)
    name: str
    holder: uuid.UUID = field(default_factory=uuid.uuid4)
    epoch: int | None = None  # None: it is not ours

    async def take(self) -> bool:
        """Take it where it is free or ours, and renew it; to be called at least every second. Unavailable."""
        async with self.database.connection() as connection:
            self.epoch = await connection.fetchval(SQL["lease_take"], self.name, self.holder, TTL_S)
        return self.epoch is not None

    async def free(self) -> None:
        """Give it back: somebody else may have it at once."""
        if self.epoch is not None:
            self.epoch = None
            try:
                async with self.database.connection() as connection:
                    await connection.execute(SQL["lease_free"], self.name, self.holder)
            except CandlegraphError:
                return  # it ends by itself
