"""How a database keeps its aggregates: chosen once, when it is made, and never mixed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

from candlegraph.errors import ConfigurationError

_FOLDER = Path(__file__).parents[1] / "migrations" / "layouts"


class Aggregates(StrEnum):
    """The ways to keep aggregates: the setting ``AGGREGATES``."""

    AUTO = "auto"  # as the database was made; a new one: continuous where TimescaleDB is there, else tables
    TABLES = "tables"  # plain tables, recomputed in the transaction that writes the candles
    CONTINUOUS = "continuous"  # TimescaleDB's continuous aggregates


async def lay_out(connection: Any, wanted: Aggregates) -> None:
    """Make the aggregates of a new database; of an existing one, see that it is what the setting wants.

    To be called within the transaction that migrates. ConfigurationError where the two differ, or where TimescaleDB is
    gone that the database was made with.
    """
    available = await connection.fetchval(
        "select exists (select from pg_available_extensions where name = 'timescaledb')"
    )
    made = await connection.fetchrow("select kind, hypertable from storage_layout")
    if made:
        _check(Aggregates(made["kind"]), hypertable=made["hypertable"], wanted=wanted, available=available)
        return
    if wanted is Aggregates.CONTINUOUS and not available:
        raise ConfigurationError("AGGREGATES: `continuous` needs TimescaleDB, which this PostgreSQL does not have.")
    kind = Aggregates.CONTINUOUS if available and wanted is not Aggregates.TABLES else Aggregates.TABLES
    if available:
        await connection.execute(_sql("hypertable"))
    await connection.execute(_sql(kind))
    await connection.execute(_sql("views"))
    await connection.execute("insert into storage_layout (kind, hypertable) values ($1, $2)", kind, available)


def _check(kind: Aggregates, *, hypertable: bool, wanted: Aggregates, available: bool) -> None:
    if wanted not in {Aggregates.AUTO, kind}:
        raise ConfigurationError(
            f"AGGREGATES: this database keeps its aggregates as `{kind}`, not `{wanted}`: docs/storage.md says how to move."
        )
    if hypertable and not available:
        raise ConfigurationError(
            "DB_CONNECTION_STRING: the database was made with TimescaleDB, which is not there any more."
        )


def _sql(name: str) -> str:
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
