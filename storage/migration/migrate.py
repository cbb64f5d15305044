"""Applies the numbered files of ``migrations/`` to a database: each once, in order, by one process at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import asyncpg

from candlegraph.errors import ConfigurationError
from storage.aggregates.layout import AggregateLayout, create_layout
from storage.database import Database, begun
from storage.migration.requirements import check_configs, check_create, check_server

_LOCK = 0x6361_6E64_6C65  # "candle"; any number that no other lock uses
_UNIQUE_TIMEFRAMES = 10  # the migration since which `preaggregation_configs.target_timeframe` is unique
_MIGRATIONS_TABLE = """
create table schema_migrations (
  number int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of its text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The files of ``migrations/``, by number."""
    found = [path for path in files("migrations").iterdir() if path.name.endswith(".sql")]
    return sorted(
        (Migration(int(path.name[:4]), path.name[5:-4], path.read_text(encoding="utf-8")) for path in found),
        key=lambda migration: migration.number,
    )


async def migrate(database: Database, aggregates: AggregateLayout = AggregateLayout.AUTO) -> list[Migration]:
    """Apply the missing migrations, all in one transaction, and return them; then create or check the aggregate layout.

    If the process is killed in between, nothing is applied; a second process waits, then finds nothing to do.
    ConfigurationError if the server does not meet the requirements, if a newer Candlegraph made the database, or if an
    applied file was changed.
    """
    async with database.connect() as connection:
        await check_server(connection)
        try:
            async with begun(connection, database.timings, timeout_ms=0):
                return await _apply(connection, aggregates)
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"DB_CONNECTION_STRING: {error}: docs/postgres.md lists what the role needs."
            ) from error


async def _apply(connection: Any, aggregates: AggregateLayout) -> list[Migration]:
    known = migrations()
    await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
    made = await connection.fetchval("select to_regclass('schema_migrations') is not null")
    applied = {row["number"]: row for row in await connection.fetch("select * from schema_migrations")} if made else {}
    _check(known, {number: row["checksum"] for number, row in applied.items()})
    missing = [migration for migration in known if migration.number not in applied]
    if missing:
        await check_create(connection)
    if not made:
        await connection.execute(_MIGRATIONS_TABLE)
    for migration in missing:
        if migration.number == _UNIQUE_TIMEFRAMES:
            await check_configs(connection)
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into schema_migrations (number, name, checksum) values ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.checksum,
        )
    await create_layout(connection, aggregates)
    return missing


def _check(known: list[Migration], applied: dict[int, str]) -> None:
    ours = {migration.number: migration.checksum for migration in known}
    if newer := sorted(applied.keys() - ours.keys()):
        raise ConfigurationError(
            f"DB_CONNECTION_STRING: the database was made by a newer Candlegraph (migration {newer[-1]:04d})."
        )
    for number, checksum in applied.items():
        if ours[number] != checksum:
            raise ConfigurationError(f"Migration {number:04d} was changed after it had been applied to this database.")
