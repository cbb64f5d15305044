"""Behind a pooler that gives each transaction another session, as PgBouncer does, the database does all that it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from candlegraph.errors import ConfigurationError, Unavailable
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.aggregates.layout import AggregateLayout
from storage.aggregates.refresh import AggregateRefresher
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from storage.migration.migrate import migrate
from storage.notify import CHANNEL, Notifications
from tests.fakes.pooler import Pooler
from tests.fakes.upstream import minutes
from tests.history.world import T0, rows_of
from tests.timings import PATIENT
from tests.waiting import HANG_S

MINUTE_MS = 60_000


@pytest.fixture
async def pooler(database_dsn: str) -> AsyncIterator[tuple[Pooler, str]]:
    pooler = Pooler(database_dsn)
    async with pooler.listening() as dsn:
        yield pooler, dsn


@pytest.fixture
async def pooled(pooler: tuple[Pooler, str]) -> AsyncIterator[Database]:
    database = Database(pooler[1], timings=PATIENT)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def test_the_pooler_of_these_tests_breaks_what_pgbouncer_breaks(pooler: tuple[Pooler, str]) -> None:
    with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter: jit"):
        await asyncpg.connect(pooler[1], server_settings={"jit": "off"})
    connection = await asyncpg.connect(pooler[1], server_settings={"timezone": "Asia/Tokyo"}, statement_cache_size=0)
    for _ in range(4):
        assert await connection.fetchval("show timezone", timeout=HANG_S) == "Asia/Tokyo"
    await connection.close()
    kept = await asyncpg.connect(pooler[1])
    statement = await kept.prepare("select 1")
    assert len(await statement.fetch()) == 1  # asked for in the transaction that prepared it
    with pytest.raises(asyncpg.InvalidSQLStatementNameError):
        await statement.fetch()
    await kept.close()
    kept = await asyncpg.connect(pooler[1], statement_cache_size=0)
    await kept.execute("set lock_timeout = '7s'")
    assert await kept.fetchval("show lock_timeout") != "7s"
    async with kept.transaction():
        assert len({await kept.fetchval("select pg_backend_pid()") for _ in range(3)}) == 1
    assert len({await kept.fetchval("select pg_backend_pid()") for _ in range(3)}) == 3
    await kept.close()


async def test_a_pooler_is_found_and_a_server_is_not_taken_for_one(pooled: Database, database: Database) -> None:
    assert not pooled.can_listen
    assert not pooled.dedicated_pool().can_listen
    assert database.can_listen


async def test_candles_are_written_corrected_and_read_by_many_at_once(
    pooled: Database, pooler: tuple[Pooler, str]
) -> None:
    store = CandleStore(pooled, ChangeFeed(pooled))
    instruments = Instruments(pooled)

    async def one(number: int) -> None:
        record = await instruments.get_or_create(Instrument("m", "p", f"S{number}"), "UTC")
        for seed in (number, number + 100):  # the second time they are all corrected
            candles = minutes(T0, 300, seed=seed)
            await store.write([CandleWrite(record.id, MINUTE, candles, Spans([Span(T0, T0 + 300 * MINUTE_MS)]))])
            for _ in range(3):
                answer = (await store.read([CandleRead(record.id, MINUTE, Span(T0, T0 + 300 * MINUTE_MS), 1000)]))[0]
                assert rows_of(answer) == rows_of(candles)

    await asyncio.gather(*map(one, range(12)))
    assert pooler[0].handovers > 40


async def test_time_outs_end_with_their_transaction(pooled: Database) -> None:
    settings = ("statement_timeout", "idle_in_transaction_session_timeout", "jit")
    show = "select array[" + ", ".join(f"current_setting('{name}')" for name in settings) + "] as found"
    before = (await pooled.fetch(show))[0]["found"]
    async with pooled.transaction() as connection:
        assert await connection.fetchval(show) == ["1min", "1min", "off"]
    async with pooled.snapshot() as connection:
        assert await connection.fetchval(show) == ["1min", "1min", "off"]
        assert await connection.fetchval("show transaction_read_only") == "on"
    for _ in range(6):
        assert (await pooled.fetch(show))[0]["found"] == before


async def test_no_session_holds_anything_after_a_transaction(pooled: Database, database: Database) -> None:
    store = CandleStore(pooled, ChangeFeed(pooled))
    record = await Instruments(pooled).get_or_create(Instrument("m", "p", "S"), "UTC")
    for seed in range(3):
        whole = Span(T0, T0 + 10 * MINUTE_MS)
        await store.write([CandleWrite(record.id, MINUTE, minutes(T0, 10, seed=seed), Spans([whole]))])
    await AggregateRefresher(pooled, AggregateLayout.TABLES, retention_days=10).run_once()
    held = await database.fetch(
        """select count(*) filter (where locktype = 'advisory') as locks,
                  (select count(*) from pg_class where relpersistence = 't') as tables from pg_locks"""
    )
    assert dict(held[0]) == {"locks": 0, "tables": 0}
    for _ in range(6):
        assert await pooled.fetch("select from pg_prepared_statements where name <> ''") == []


async def test_a_statement_without_an_end_is_cancelled_through_it(
    pooler: tuple[Pooler, str],
) -> None:
    database = Database(pooler[1], timings=replace(PATIENT, statement_timeout_s=0.2))
    await database.open()
    with pytest.raises(Unavailable):
        await database.fetch("select pg_sleep(60)")
    monitor = await asyncpg.connect(pooler[1], statement_cache_size=0)
    async with asyncio.timeout(HANG_S):
        while await monitor.fetchval("select count(*) from pg_stat_activity where wait_event = 'PgSleep'"):
            await asyncio.sleep(0.01)
    await monitor.close()
    await database.close()


async def test_a_database_is_made_through_it(new_database: object) -> None:
    dsn = await new_database()  # type: ignore[operator]
    async with Pooler(dsn).listening() as through:
        database = Database(through, timings=PATIENT)
        await database.open()
        assert sorted(map(len, await asyncio.gather(*(migrate(database) for _ in range(3)))))[:2] == [0, 0]
        assert (await database.read("database_name"))[0]["name"]
        await database.close()


async def test_notifications_go_past_it_where_the_server_is_named(
    pooler: tuple[Pooler, str], database_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    database = Database(pooler[1], listen_dsn=database_dsn, timings=PATIENT)
    await database.open()
    assert database.can_listen
    line = Notifications(database, heard.put_nowait)
    listening = asyncio.create_task(line.listen())
    async with asyncio.timeout(HANG_S):
        while not await database.fetch("select from pg_stat_activity where query ilike $1", f"%listen%{CHANNEL}%"):
            await asyncio.sleep(0.01)
        assert await line.send(["news"])
        assert await heard.get() == "news"
    listening.cancel()
    await asyncio.wait([listening])
    await database.close()


async def test_without_its_name_one_line_says_so(pooled: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "storage.notify")
    line = Notifications(pooled, lambda _: None)
    listening = asyncio.create_task(line.listen())
    async with asyncio.timeout(HANG_S):
        while not caplog.records:
            await asyncio.sleep(0)
    assert await line.send(["news"])
    listening.cancel()
    await asyncio.wait([listening])
    assert ["DB_LISTEN_CONNECTION_STRING" in record.message for record in caplog.records] == [True]


async def test_a_server_that_is_too_old_is_named_with_its_version(database_dsn: str) -> None:
    async with Pooler(database_dsn, status={"server_version": "13.14"}).listening() as dsn:
        database = Database(dsn, timings=PATIENT)
        await database.open()
        try:
            with pytest.raises(ConfigurationError, match=r"DB_CONNECTION_STRING.*PostgreSQL 13: 14 or newer"):
                await migrate(database)
        finally:
            await database.close()
