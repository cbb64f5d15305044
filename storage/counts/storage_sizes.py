"""How much is stored: estimates, because PostgreSQL would have to visit every row to count them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from storage.database import Database, to_ms


@dataclass(frozen=True, slots=True)
class StorageSizes:
    """The stored candles and their sizes in bytes; instants in ms, UTC. ``oldest`` and ``newest`` are None without candles."""

    rows: float
    bytes: int
    aggregate_bytes: int | None
    oldest: int | None
    newest: int | None


async def storage_sizes(database: Database) -> StorageSizes:
    """Estimate what is stored. Unavailable."""
    row = (await database.read("storage_sizes"))[0]
    found = StorageSizes(
        round(row["rows"]), row["bytes"], row["aggregate_bytes"], to_ms(row["oldest"]), to_ms(row["newest"])
    )
    if not row["hypertable"]:
        return found
    sizes = (await database.read("storage_hypertable"))[0]
    aggregate_bytes = found.aggregate_bytes if sizes["aggregate_bytes"] is None else sizes["aggregate_bytes"]
    # The planner's counts of new chunks are zero until they are analyzed.
    return replace(found, rows=sizes["rows"] or found.rows, bytes=sizes["bytes"], aggregate_bytes=aggregate_bytes)
