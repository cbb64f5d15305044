"""A database that cannot be stored in stops the start with one line that says what to do."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from storage.embedded.binaries import find_binaries
from storage.embedded.os_user import os_user_of
from storage.embedded.postgres import EmbeddedPostgres
from tests.fakes.pooler import Pooler
from tests.server.running import run
from tests.waiting import HANG_S

NewDatabase = Callable[..., Awaitable[str]]


async def refused(dsn: str, *words: str, command: str = "migrate") -> None:
    """The command ends with one line, which holds ``words``, and no traceback."""
    arguments = [command, *(("--port", "0") if command == "serve" else ())]
    ended = await asyncio.to_thread(run, *arguments, DB_CONNECTION_STRING=dsn, DATA_DIR="/nonexistent")
    print(ended.stderr)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    for word in words:
        assert word in line


@asynccontextmanager
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def as_role(dsn: str, role: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(netloc=f"{role}@"))


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[str]:
    """A hot standby of a server of its own."""
    cluster = tmp_path / "standby" / "postgres"
    cluster.parent.mkdir()
    programs = find_binaries(None, cluster, os_user_of(cluster))
    primary, postgres = EmbeddedPostgres(tmp_path / "primary"), EmbeddedPostgres(cluster.parent)
    try:
        server = primary.start()
        where = ["-h", str(server.socket_dir), "-p", str(server.port), "-U", server.user, "-D", str(cluster)]
        subprocess.run(
            [str(programs / "pg_basebackup"), *where, "--write-recovery-conf", "--checkpoint=fast"],
            check=True,
            timeout=HANG_S,
        )
        owner = server.socket_dir.stat()
        for path in (cluster, *cluster.rglob("*")) if os.geteuid() == 0 else ():
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        yield postgres.start().dsn
    finally:
        postgres.stop()
        primary.stop()


async def test_a_hot_standby(standby: str) -> None:
    for command in ("migrate", "serve"):
        await refused(standby, "DB_CONNECTION_STRING", "hot standby", "name its primary", command=command)


async def test_a_database_that_only_reads(new_database: NewDatabase) -> None:
    dsn = await new_database()
    async with admin(dsn) as connection:
        name = await connection.fetchval("select current_database()")
        await connection.execute(f"alter database {name} set default_transaction_read_only = on")
    await refused(dsn, "DB_CONNECTION_STRING", "default_transaction_read_only")


async def test_a_database_that_is_not_utf8(postgres_dsn: str) -> None:
    async with admin(postgres_dsn) as connection:
        await connection.execute("create database latin encoding 'LATIN1' locale 'C' template template0")
    await refused(
        urlunsplit(urlsplit(postgres_dsn)._replace(path="/latin")), "DB_CONNECTION_STRING", "LATIN1", "'UTF8'"
    )


async def test_a_role_that_may_not_create_tables_but_may_serve_a_database_that_is_made(
    new_database: NewDatabase, migrated_template: str
) -> None:
    dsn, made = await new_database(), await new_database(migrated_template)
    async with admin(dsn) as connection, admin(made) as served:
        await connection.execute("create role plain login")
        try:
            await connection.execute("revoke create on schema public from public")
            await refused(as_role(dsn, "plain"), "role plain", "grant create on schema public to plain")
            await refused(as_role(made, "plain"), "permission denied", "docs/postgres.md")
            await served.execute("revoke create on schema public from public")
            await served.execute("grant select, insert, update, delete on all tables in schema public to plain")
            await served.execute("grant usage on all sequences in schema public to plain")
            setting = {"DB_CONNECTION_STRING": as_role(made, "plain"), "DATA_DIR": "/nonexistent"}
            for command in (("migrate",), ("candles", "demo", "synthetic", "BTC/USD", "--limit", "3")):
                ended = await asyncio.to_thread(run, *command, **setting)
                assert (ended.returncode, ended.stderr) == (0, "")
            assert await served.fetchval("select count(*) from ohlcv_data") >= 3
            await connection.execute("alter role plain set search_path = nowhere")
            await refused(as_role(dsn, "plain"), "search_path of role plain")
        finally:
            for one in (connection, served):
                await one.execute("drop owned by plain")
            await connection.execute("drop role plain")


async def test_two_rows_for_one_timeframe(new_database: NewDatabase, migrated_template: str) -> None:
    dsn = await new_database(migrated_template)
    async with admin(dsn) as connection:
        await connection.execute(
            """alter table preaggregation_configs drop constraint preaggregation_configs_target_timeframe_key;
               delete from schema_migrations where number = 10;
               update preaggregation_configs set target_timeframe = '1h' where view_name = 'ohlcv_4h'"""
        )
        await refused(dsn, "preaggregation_configs", "1h by ohlcv_1h, ohlcv_4h")
        await connection.execute(
            "update preaggregation_configs set target_timeframe = '4h' where view_name = 'ohlcv_4h'"
        )
        ended = await asyncio.to_thread(run, "migrate", DB_CONNECTION_STRING=dsn, DATA_DIR="/nonexistent")
        assert ended.returncode == 0, ended.stderr
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(
                "update preaggregation_configs set target_timeframe = '1h' where view_name = 'ohlcv_4h'"
            )


async def test_a_pooler_that_refuses_is_quoted(database_dsn: str) -> None:
    async with Pooler(database_dsn).listening() as dsn:
        await refused(
            f"{dsn}&search_path=app", "no database answers there", "unsupported startup parameter: search_path"
        )
