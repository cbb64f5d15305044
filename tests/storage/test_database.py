"""A database that is away, full or misnamed says so in our words, and never in the driver's."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

from candlegraph.errors import CandlegraphError, ConfigurationError, Overloaded, Unavailable
from candlegraph.series import Instrument
from storage.candles import read_statement
from storage.database import SQL, Database, _Outages
from storage.embedded.postgres import EmbeddedPostgres, PostgresServer
from storage.relations import ALL_AGGREGATES, BASE_RELATION
from tests.timings import PATIENT
from tests.waiting import HANG_S


@pytest.fixture
async def doomed(tmp_path: Path) -> AsyncIterator[tuple[PostgresServer, Database]]:
    """A server of its own, to be killed, and a database open on it."""
    postgres = EmbeddedPostgres(tmp_path)
    server = await asyncio.to_thread(postgres.start)
    database = Database(server.dsn, max_connections=3)
    await database.open()
    try:
        yield server, database
    finally:
        await database.close()
        await asyncio.to_thread(postgres.stop)


async def test_what_a_process_had_locked_when_it_froze_is_free_again(database_dsn: str) -> None:
    """PostgreSQL ends a transaction that stands still; its connection lives."""
    hasty = replace(PATIENT, statement_timeout_s=0.5)
    frozen, locked, thawed = Database(database_dsn, timings=hasty), asyncio.Event(), asyncio.Event()
    await frozen.open()

    async def stand_still() -> None:
        async with frozen.transaction() as connection:
            await connection.execute("lock table fetch_log")
            locked.set()
            await thawed.wait()
            await connection.execute("select 1")

    standing = asyncio.create_task(stand_still())
    await locked.wait()
    other = await asyncpg.connect(database_dsn)
    async with other.transaction():
        await other.execute("lock table fetch_log", timeout=HANG_S)
    await other.close()
    thawed.set()
    with pytest.raises(Unavailable):
        await standing
    await frozen.close()


async def sleep_in(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("select pg_sleep(30)")


async def sleep_in_transaction(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("select pg_sleep(30)")


@pytest.mark.parametrize("crash", [True, False])
async def test_a_server_killed_in_the_middle_of_a_statement_is_unavailable(
    doomed: tuple[PostgresServer, Database], crash: bool
) -> None:
    server, database = doomed
    running = [asyncio.create_task(sleep_in(database)), asyncio.create_task(sleep_in_transaction(database))]
    async with database.connection() as connection, asyncio.timeout(HANG_S):
        asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        while await connection.fetchval(asleep) < 2:
            await asyncio.sleep(0.01)
    postmaster = psutil.Process(server.pid)
    for process in [postmaster, *postmaster.children()] if crash else ():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    if not crash:
        postmaster.send_signal(signal.SIGQUIT)  # an immediate shutdown
    results = await asyncio.gather(*running, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    for ask in (database.read("instrument_pairs"), sleep_in(database), sleep_in_transaction(database)):
        with pytest.raises(Unavailable) as caught:
            await ask
        assert caught.value.retry_after


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    for dsn in (f"postgresql://postgres@/postgres?host={tmp_path}", "postgresql://postgres@127.0.0.1:1/postgres"):
        with pytest.raises(Unavailable):
            await Database(dsn).open()


async def test_reads_survive_the_death_of_every_connection_of_the_pool(database: Database, postgres_dsn: str) -> None:
    async def borrow() -> None:
        async with database.connection() as connection:
            await connection.execute("select pg_sleep(0.05)")

    for _ in range(3):
        await asyncio.gather(*(borrow() for _ in range(10)))
        admin = await asyncpg.connect(postgres_dsn)
        name = await database.read("instrument_pairs")
        async with database.connection() as connection:
            name = await connection.fetchval("select current_database()")
        killed = await admin.fetch("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        await admin.close()
        assert len(killed) == 10
        assert await asyncio.gather(*(database.read("instrument_pairs") for _ in range(20))) == [[]] * 20


async def test_a_read_is_tried_twice_and_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    monkeypatch.setitem(SQL, "suicide", "select pg_terminate_backend(pg_backend_pid())")
    connect = database.connection

    def counted() -> object:
        nonlocal tries
        tries += 1
        return connect()

    monkeypatch.setattr(database, "connection", counted)
    with pytest.raises(Unavailable):
        await database.read("suicide")
    assert tries == 2


async def test_a_statement_that_takes_too_long_is_unavailable(database_dsn: str) -> None:
    database = Database(database_dsn, timings=replace(PATIENT, statement_timeout_s=0.1))
    await database.open()
    with pytest.raises(Unavailable):
        await sleep_in(database)
    await database.close()


async def test_a_pool_without_a_free_connection_is_overloaded(database_dsn: str) -> None:
    database = Database(database_dsn, max_connections=1, timings=replace(PATIENT, acquire_timeout_s=0.05))
    await database.open()
    async with database.connection():
        with pytest.raises(Overloaded) as caught:
            await database.read("instrument_pairs")
        assert caught.value.retry_after
    assert await database.read("instrument_pairs") == []
    await database.close()


async def test_a_server_that_gives_fewer_connections_than_the_pool_wants_answers_by_those_it_gives(
    database_dsn: str,
) -> None:
    admin, role = await asyncpg.connect(database_dsn), f"crowded_{secrets.token_hex(4)}"  # of the whole server
    await admin.execute(f"create role {role} login connection limit 3")
    parts = urlsplit(database_dsn)
    database = Database(urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")))
    try:
        await database.open()
        answers = await asyncio.gather(*(database.fetch("select pg_sleep(0.01), 1 as one") for _ in range(50)))
        assert [answer[0]["one"] for answer in answers] == [1] * 50
        await database.close()
    finally:
        await admin.execute(f"drop role {role}")
        await admin.close()


@pytest.mark.parametrize(
    "dsn",
    [
        "nonsense-s3cret",
        "mysql://root:s3cret@localhost/db",
        "postgresql://u:s3cret@localhost:port/db",
        "postgresql://u:s3cret@localhost/db?sslmode=s3cret",
    ],
)
async def test_an_address_that_is_none_names_the_setting_and_no_secret(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="DB_CONNECTION_STRING") as caught:
        await Database(dsn).open()
    assert "s3cret" not in caught.value.message


async def test_a_database_that_refuses_us_names_the_setting_and_no_secret(postgres_dsn: str) -> None:
    parts = urlsplit(postgres_dsn)
    lost = urlunsplit(parts._replace(path="/s3cret"))
    stranger = urlunsplit(parts._replace(netloc="nobody:s3cret@" + parts.netloc.rpartition("@")[2]))
    for dsn in (lost, stranger):
        with pytest.raises(ConfigurationError, match="DB_CONNECTION_STRING") as caught:
            await Database(dsn).open()
        assert "s3cret" not in caught.value.message


async def test_a_mistake_of_ours_is_not_taken_for_an_outage(database: Database) -> None:
    for statement, argument in (
        ("select nonsense", ()),
        ("select $1::int4", (2**40,)),
        ("select $1::text", ("\ud800",)),
    ):
        with pytest.raises((asyncpg.PostgresError, asyncpg.DataError)) as caught:
            async with database.connection() as connection:
                await connection.fetch(statement, *argument)
        assert not isinstance(caught.value, CandlegraphError)


async def test_a_misuse_of_a_connection_is_not_taken_for_an_outage(database: Database) -> None:
    async def ask_twice_at_once() -> None:
        async with database.connection() as connection:
            both = (connection.fetchval("select pg_sleep(0.1)"), connection.fetchval("select 1"))
            for result in await asyncio.gather(*both, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
        await ask_twice_at_once()
    assert await database.read("instrument_pairs") == []


@pytest.mark.parametrize("error", [OSError("a file of ours"), TimeoutError("a wait of ours"), ConnectionResetError()])
async def test_what_a_borrower_raises_is_not_taken_for_an_outage(database: Database, error: Exception) -> None:
    for borrow in (database.connection, database.transaction, database.snapshot, database.connect):
        with pytest.raises(type(error)) as caught:
            async with borrow():
                raise error
        assert caught.value is error
    with pytest.raises(TimeoutError):
        async with database.connection(), asyncio.timeout(0):
            await asyncio.Event().wait()
    assert await database.read("instrument_pairs") == []


async def test_what_the_source_of_a_copy_raises_is_not_taken_for_an_outage(database: Database) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b""
        raise OSError("a file of ours")

    with pytest.raises(OSError, match="a file of ours"):
        async with database.transaction() as connection:
            await connection.copy_to_table("fetch_log", source=source())


async def test_a_database_that_takes_no_writes_is_unavailable_and_logged_once_a_minute(
    database: Database, database_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    database._outages = _Outages(lambda: now)
    name = urlsplit(database_dsn).path.removeprefix("/")

    async def switch(state: str) -> None:
        connection = await asyncpg.connect(database_dsn)
        await connection.execute("set default_transaction_read_only = off")
        await connection.execute(f"alter database {name} set default_transaction_read_only = {state}")
        await connection.close()
        assert database._pool
        await database._pool.expire_connections()

    async def write() -> None:
        async with database.transaction() as connection:
            await connection.execute("insert into listings values ('m', 'p', now()) on conflict do nothing")

    await switch("on")
    for _ in range(130):  # two minutes and ten seconds
        with pytest.raises(Unavailable, match="is read-only") as caught:
            await write()
        assert caught.value.retry_after
        assert await database.read("instrument_pairs") == []
        now += 1
    assert len(caplog.records) == 3
    assert "120 s: cannot execute INSERT in a read-only transaction" in caplog.records[-1].message
    await switch("off")
    for _ in range(20):
        await write()
        now += 1
    assert [record.message for record in caplog.records[3:]] == ["writing to the database works again after 139 s"]


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "53000", "58030"])
async def test_a_server_without_space_is_unavailable(database: Database, sqlstate: str) -> None:
    raising = f"do $$ begin raise exception 'could not extend file' using errcode = '{sqlstate}'; end $$"
    with pytest.raises(Unavailable, match="disk space or memory") as caught:
        async with database.transaction() as connection:
            await connection.execute(raising)
    assert caught.value.retry_after
    assert await database.read("instrument_pairs") == []


async def test_every_statement_is_one_that_the_database_understands(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(SQL["candles_stage"])
        # TimescaleDB's views are missing here: test_timescale.py executes the statement that reads them.
        for statement in (one for one in SQL.values() if "timescaledb_information" not in one):
            of_aggregates = "bucketed_time" in statement
            for relation in (
                (*ALL_AGGREGATES.values(), *(() if of_aggregates else (BASE_RELATION,)))
                if "{relation}" in statement
                else (BASE_RELATION,)
            ):
                await connection.prepare(read_statement(statement, relation).replace("{edge}", '"timestamp"'))
    assert Instrument("m", "p", "s").symbol == "s"
