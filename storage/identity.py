"""Which database this is."""

from __future__ import annotations

from uuid import UUID

from storage.database import Database


async def server_id(database: Database) -> UUID:
    """A UUID that stays for the life of a database; a copy, which goes its own way from then on, has another."""
    found: UUID = (await database.read("server_id"))[0]["id"]
    return found
