"""The layout of a database's aggregates: chosen once, when the database is created, and the same for all of them."""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from typing import Any

from candlegraph.errors import ConfigurationError
from storage.database import Database

_FOLDER = files("migrations") / "layouts"


class AggregateLayout(StrEnum):
    """The layouts of aggregates: the setting ``AGGREGATES``."""

    AUTO = "auto"  # the layout of the database; a new one gets continuous if TimescaleDB is available, else tables
    TABLES = "tables"  # plain tables, recomputed in the transaction that writes the candles
    CONTINUOUS = "continuous"  # TimescaleDB's continuous aggregates


# The scripts of each layout; both layouts also have the views.
_FILES = {AggregateLayout.TABLES: ["tables"], AggregateLayout.CONTINUOUS: ["continuous", "ledger"]}

# Unless the server has loaded the library at its start (its settings show that), `create extension` ends the session.
_TIMESCALE = """
select exists (select from pg_available_extensions where name = 'timescaledb')
       and current_setting('timescaledb.disable_load', true) is not null as available,
       exists (select from pg_extension where extname = 'timescaledb') as installed
"""


async def create_layout(connection: Any, wanted: AggregateLayout) -> None:
    """Create the aggregates of a new database; check that an existing one has the layout of the setting.

    Call it within the transaction that migrates. Raises ConfigurationError if the two differ, or if the database was created
    with TimescaleDB and TimescaleDB is no longer available.
    """
    timescale = await connection.fetchrow(_TIMESCALE)
    made = await connection.fetchrow("select kind, hypertable from storage_layout")
    if made:
        _check(
            AggregateLayout(made["kind"]), hypertable=made["hypertable"], wanted=wanted, there=timescale["installed"]
        )
        return
    available = timescale["available"]
    if wanted is AggregateLayout.CONTINUOUS and not available:
        raise ConfigurationError(
            "AGGREGATES: `continuous` needs TimescaleDB, which this PostgreSQL does not have, or does not load at its start."
        )
    whole = False
    if available:
        await connection.execute(_sql("hypertable"))
        whole = await connection.fetchval("select current_setting('timescaledb.license') = 'timescale'")
    if wanted is AggregateLayout.CONTINUOUS and not whole:
        raise ConfigurationError(
            "AGGREGATES: the Apache edition of TimescaleDB has no continuous aggregates: use `tables`."
        )
    kind = AggregateLayout.CONTINUOUS if whole and wanted is not AggregateLayout.TABLES else AggregateLayout.TABLES
    for name in [*_FILES[kind], "views"]:
        await connection.execute(_sql(name))
    await connection.execute("insert into storage_layout (kind, hypertable) values ($1, $2)", kind, available)


async def stored_layout(database: Database) -> AggregateLayout:
    """The layout of an existing database."""
    return AggregateLayout((await database.read("layout"))[0]["kind"])


def _check(kind: AggregateLayout, *, hypertable: bool, wanted: AggregateLayout, there: bool) -> None:
    if wanted not in {AggregateLayout.AUTO, kind}:
        raise ConfigurationError(
            f"AGGREGATES: this database keeps its aggregates as `{kind}`, not `{wanted}`: docs/storage.md describes how to move."
        )
    if hypertable and not there:
        raise ConfigurationError(
            "DB_CONNECTION_STRING: the database was created with TimescaleDB, which is no longer available."
        )


def _sql(name: str) -> str:
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
