"""What the suites share: one real PostgreSQL a session, from the wheel, and a clone of a migrated template a test."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import settings

from storage.aggregates.layout import AggregateLayout
from storage.database import Database
from storage.embedded import postgres as embedded
from storage.embedded.postgres import EmbeddedPostgres
from storage.migration.migrate import migrate
from tests.timescale.server import stop_jobs
from tests.timings import PATIENT

_numbers = itertools.count()

LONGEST = (
    "tests/clients/test_python_client.py",
    "tests/clients/test_recipes.py",
    "tests/schema/test_executor.py",
    "tests/test_readme.py",
    "tests/server/test_two_servers.py",
    "tests/server/test_frozen_leader.py",
    "tests/server/cli/test_importing.py",
    "tests/server/export/test_export.py",
)

# The same examples each time, so that a red run is about the change; `--hypothesis-profile=search` draws new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("fixed")


def _at(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running PostgreSQL with an empty database: one of our own, or a TimescaleDB that is named."""
    if given := os.environ.get("TEST_TIMESCALE_DSN"):
        yield given
        return
    folder = tmp_path_factory.mktemp("postgres")
    postgres = EmbeddedPostgres(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # Its databases last as long as the session. What must outlive a crash is tested on clusters of its own.
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                patch.setitem(embedded._SETTINGS, name, "off")
            server = postgres.start()
        yield server.dsn
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)  # some gigabytes of databases


@pytest.fixture(scope="session")
async def new_database(postgres_dsn: str) -> AsyncIterator[Callable[..., object]]:
    """Make databases: ``await new_database()`` is the address of an empty one. They go when the session ends."""
    run, made = secrets.token_hex(4), []  # a server that was named may be in use by other runs too

    async def make(template: str = "template0") -> str:
        name = f"test_{run}_{next(_numbers)}"
        admin = await asyncpg.connect(postgres_dsn)
        try:
            if template != "template0":
                await _leave_alone(admin, template)
            await admin.execute(f"create database {name} template {template}")
        finally:
            await admin.close()
        made.append(name)
        return _at(postgres_dsn, name)

    yield make
    if "TEST_TIMESCALE_DSN" not in os.environ:  # our own goes as a whole, in a tenth of the time
        return
    admin = await asyncpg.connect(postgres_dsn)
    try:
        for name in made:
            await admin.execute(f"drop database if exists {name} with (force)")
    finally:
        await admin.close()


async def _leave_alone(admin: asyncpg.Connection, template: str) -> None:
    """Forbid connections to a template: TimescaleDB keeps a worker in each database, and nothing in use can be copied."""
    await admin.execute(f"alter database {template} allow_connections false")
    await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", template)


@pytest.fixture(scope="session")
async def migrated_template(new_database: Callable[..., object]) -> str:
    """The name of a database that is up to date, to be cloned."""
    dsn = await new_database()
    database = Database(dsn, max_connections=1, timings=PATIENT)
    await database.open()
    # Over a TimescaleDB too, what the suite is about are the tables; what differs there has tests of its own.
    await migrate(database, AggregateLayout.TABLES)
    await stop_jobs(database)
    await database.close()
    return urlsplit(dsn).path.removeprefix("/")


@pytest.fixture
async def database_dsn(new_database: Callable[..., object], migrated_template: str) -> str:
    """The address of a fresh, migrated database."""
    return await new_database(migrated_template)


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    """A fresh, migrated database, open."""
    opened = Database(database_dsn, timings=PATIENT)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def shared_data() -> Path | None:
    """Real exchange files, if they are beside the checkout; no test may need them."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left alone with one of them in the end."""
    root = Path(__file__).parents[1]
    rank = {root / file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing is skipped in silence: where CI is set, a skip fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
