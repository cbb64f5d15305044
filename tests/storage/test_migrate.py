"""Migrating a database: once, for any number of processes, and whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from candlegraph.candle import Candles
from candlegraph.errors import ConfigurationError
from history.listings import Listings
from storage.database import Database
from storage.instruments import Instruments
from storage.migration import migrate as migrate_module
from storage.migration.migrate import Migration, migrate, migrations
from tests.fakes.upstream import FakeProviders, FakeUpstream
from tests.timings import PATIENT
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
# A process of its own that migrates on request, and prints what it applied.
MIGRATE = """
import asyncio, sys
from storage.database import Database
from storage.migration.migrate import migrate

async def main() -> None:
    database = Database(sys.argv[1], max_connections=1)
    await database.open()
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(await migrate(database)), flush=True)
    await database.close()

asyncio.run(main())
"""


@pytest.fixture
async def empty(new_database: Callable[..., Awaitable[str]]) -> AsyncIterator[tuple[str, Database]]:
    """An empty database and its address."""
    dsn = await new_database()
    database = Database(dsn, timings=PATIENT)
    await database.open()
    try:
        yield dsn, database
    finally:
        await database.close()


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("select relname from pg_class where relnamespace = 'public'::regnamespace")
        return {row["relname"] for row in rows}
    finally:
        await connection.close()


def process(dsn: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MIGRATE, dsn], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def test_every_file_is_applied_once_and_then_there_is_nothing_to_do(empty: tuple[str, Database]) -> None:
    dsn, database = empty
    assert await migrate(database) == migrations() != []
    assert await migrate(database) == []
    assert {"instruments", "ohlcv_data", "coverage", "fetch_log", "ohlcv_data_flat"} <= await tables(dsn)


def test_the_files_are_numbered_without_a_hole() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))


async def test_of_two_processes_at_once_exactly_one_applies(empty: tuple[str, Database]) -> None:
    dsn, _ = empty
    pair = [process(dsn) for _ in range(2)]
    try:
        for one in pair:
            assert one.stdout is not None
            assert await asyncio.to_thread(one.stdout.readline) == "ready\n"
        for one in pair:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = [(await asyncio.to_thread(one.communicate))[0] for one in pair]
    finally:
        for one in pair:
            one.kill()
            one.communicate()
    assert sorted(map(int, said)) == [0, len(migrations())]


async def test_of_many_at_once_in_one_process_exactly_one_applies(empty: tuple[str, Database]) -> None:
    applied = await asyncio.gather(*(migrate(empty[1]) for _ in range(5)))
    assert sorted(map(len, applied)) == [0, 0, 0, 0, len(migrations())]


async def wait_until(connection: asyncpg.Connection, holds: str) -> None:
    """Poll until some other session of the database is like that."""
    others = (
        "select exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(HANG_S):
        while not await connection.fetchval(f"{others} and {holds})"):
            await asyncio.sleep(0.02)


async def test_a_process_killed_in_the_middle_leaves_nothing_behind(empty: tuple[str, Database]) -> None:
    dsn, database = empty
    watcher = await asyncpg.connect(dsn)
    # Somebody holds what its last statement needs, so that the process stands in the middle of its transaction.
    async with database.transaction() as holder:
        await watcher.execute("create table schema_migrations (number int primary key, name text, checksum text)")
        await holder.execute("lock table schema_migrations in share mode")
        one = process(dsn)
        try:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
            await wait_until(watcher, "wait_event_type = 'Lock' and query like 'insert into schema_migrations%'")
            os.kill(one.pid, signal.SIGKILL)
        finally:
            one.kill()
            await asyncio.to_thread(one.communicate)
    await watcher.execute("drop table schema_migrations")  # waits for the session of the dead
    await watcher.close()
    assert await tables(dsn) == set()
    assert await migrate(database) == migrations()


async def test_a_statement_that_fails_leaves_nothing_behind(
    empty: tuple[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, database = empty
    broken = [*migrations(), Migration(99, "broken", "create table good (a int); select nonsense;")]
    monkeypatch.setattr(migrate_module, "migrations", lambda: broken)
    with pytest.raises(asyncpg.UndefinedColumnError):
        await migrate(database)
    assert await tables(dsn) == set()


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = [Migration(m.number, m.name, m.sql + "-- another word\n") for m in migrations()]
    monkeypatch.setattr(migrate_module, "migrations", lambda: changed)
    with pytest.raises(ConfigurationError, match="Migration 0001 was changed"):
        await migrate(database)


async def test_a_database_of_a_newer_candlegraph_is_refused(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("insert into schema_migrations (number, name, checksum) values (4711, 'future', '?')")
    with pytest.raises(ConfigurationError, match=r"DB_CONNECTION_STRING.*newer Candlegraph \(migration 4711\)"):
        await migrate(database)


async def test_lists_that_were_read_before_this_was_noted_are_kept_and_due(
    empty: tuple[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, database = empty
    monkeypatch.setattr(migrate_module, "migrations", lambda: migrations()[:3])
    await migrate(database)
    async with database.connection() as connection:
        await connection.execute(
            """insert into instruments (market, provider, symbol, name, listed) values
               ('fake', 'upstream', 'A/B', 'Alpha', true), ('fake', 'upstream', 'C/D', null, false)"""
        )
    monkeypatch.undo()
    assert (await migrate(database))[0].number == 4
    source = FakeUpstream({"A/B": Candles.empty(), "E/F": Candles.empty()})
    lineup = FakeProviders([source], down=True)
    instruments = Listings(Instruments(database), lineup)
    records, _ = await instruments.search("fake", "upstream", text="ALPHA", inactive=False, after=None, first=9)
    assert [record.instrument.symbol for record in records] == ["A/B"]
    await instruments.close()
    lineup.down = False
    again = Listings(Instruments(database), lineup)
    await again.search("fake", "upstream", text=None, inactive=False, after=None, first=9)
    await asyncio.gather(*(known.task for known in again._lists.values() if known.task))
    records, _ = await again.search("fake", "upstream", text=None, inactive=False, after=None, first=9)
    assert [record.instrument.symbol for record in records] == ["A/B", "C/D", "E/F"]
