"""The SQL functions that statements are made of, in new databases and in upgraded ones."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.aggregates import layout
from storage.aggregates.layout import AggregateLayout
from storage.aggregates.refresh import AggregateRefresher
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.migration import migrate as migrate_module
from storage.migration.migrate import migrate, migrations
from storage.relations import MADE_OF
from tests.fakes.upstream import minutes
from tests.history.world import T0
from tests.storage.aggregates.aggregated import differences

EARLIER = Path(__file__).with_name("earlier")  # the layouts as they were made before migration 11
IMITATION = Path(__file__).parent / "aggregates" / "imitation.sql"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = ((datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1) for year in (1900, 2287))


async def test_ms_is_the_same_instant_as_in_python(database: Database) -> None:
    """To the millisecond, also before 1970 and beyond 2^53 microseconds, whatever the zone of the session."""
    seed = random.SystemRandom().randrange(10**9)
    draw = random.Random(seed)
    edges = [edge + step for edge in (FIRST, 0, 2**53 // 1000, LAST) for step in (-1, 0, 1)]
    instants = edges + [draw.randint(FIRST, LAST) for _ in range(5_000)]
    async with database.transaction() as connection:
        for zone in ("UTC", "America/Havana"):
            await connection.execute(f"set local time zone '{zone}'")
            rows = await connection.fetch(
                "select ms(x) as at from unnest($1::int8[]) with ordinality t (x, k) order by k", instants
            )
            theirs = [row["at"] for row in rows]
            ours = [EPOCH + timedelta(milliseconds=instant) for instant in instants]
            assert theirs == ours, f"seed {seed}"


async def test_ms_of_null_is_null(database: Database) -> None:
    async with database.connection() as connection:
        assert await connection.fetchval("select ms(null)") is None


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_an_index_is_searched_by_ms(database: Database, mode: str) -> None:
    """PostgreSQL inlines the function, so no plan calls it row by row."""
    async with database.transaction() as connection:
        await connection.execute(
            f"set local plan_cache_mode = {mode}; set local enable_seqscan = off; set local enable_bitmapscan = off"
        )
        # By `execute`: a parameter of `explain` itself is a constant in every plan.
        await connection.execute("""
            prepare bounds (int8, int8) as select from ohlcv_data
            where instrument_id = 1 and timeframe = '1m' and "timestamp" >= ms($1) and "timestamp" < ms($2)""")
        lines = [row[0] for row in await connection.fetch("explain execute bounds (-60000, 60000)")]
        (condition,) = [line for line in lines if "Index Cond:" in line]
        assert condition.count('"timestamp"') >= 2
        assert not [line for line in lines if "Filter:" in line or "ms(" in line]


async def test_ms_is_found_in_a_schema_of_the_role_s_own(new_database: Callable[..., Awaitable[str]]) -> None:
    """It is made where the tables are: in the first schema of the search path."""
    dsn = await new_database()
    admin = await asyncpg.connect(dsn)
    try:
        await admin.execute("create schema app")
    finally:
        await admin.close()
    database = Database(f"{dsn}{'&' if '?' in dsn else '?'}search_path=app", max_connections=1)
    await database.open()
    try:
        await migrate(database)
        assert await database.read("instruments_within", 0, 1) == []
        async with database.transaction() as connection:
            assert await connection.fetchval("select to_regprocedure('public.ms(int8)')") is None
            await connection.execute("set local search_path = ''")
            assert await connection.fetchval("select app.ms(-1)") == EPOCH - timedelta(milliseconds=1)
    finally:
        await database.close()


async def migrated(
    dsn: str, kind: AggregateLayout, layouts: Callable[[str], str], numbers: slice = slice(None)
) -> list[migrate_module.Migration]:
    """Apply migrations; a new database gets its layout of ``layouts``, over an imitation of TimescaleDB where it needs one."""
    database = Database(dsn, max_connections=1)
    await database.open()

    async def lay_out(connection: asyncpg.Connection, _: AggregateLayout) -> None:
        if not await connection.fetchval("select exists (select from storage_layout)"):
            continuous = kind is AggregateLayout.CONTINUOUS
            for sql in [IMITATION.read_text(), layouts("ledger")] if continuous else [layouts("tables")]:
                await connection.execute(sql)
            await connection.execute("insert into storage_layout (kind, hypertable) values ($1, false)", kind)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrate_module, "migrations", lambda: migrations()[numbers])
            patch.setattr(migrate_module, "create_layout", lay_out)
            return await migrate(database)
    finally:
        await database.close()


def earlier(name: str) -> str:
    return (EARLIER / f"{name}.sql").read_text(encoding="utf-8")


async def functions(dsn: str) -> dict[str, str]:
    """Every function of ours by its name and arguments, with its body."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("""
            select oid::regprocedure::text as name, prosrc as body from pg_proc
            where pronamespace = 'public'::regnamespace""")
        return {row["name"]: row["body"] for row in rows}
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", [AggregateLayout.TABLES, AggregateLayout.CONTINUOUS])
async def test_a_database_of_either_layout_is_upgraded_to_the_functions_of_a_new_one(
    new_database: Callable[..., Awaitable[str]], kind: AggregateLayout
) -> None:
    """What is written after the upgrade reaches every aggregate."""
    fresh, dsn = await new_database(), await new_database()
    await migrated(fresh, kind, layout._sql)
    await migrated(dsn, kind, earlier, slice(10))
    old = await functions(dsn)
    assert (await migrated(dsn, kind, earlier))[0].number == 11
    upgraded = await functions(dsn)
    assert upgraded.keys() == (await functions(fresh)).keys()
    gone = [name.partition("(")[0] for name in old.keys() - upgraded.keys()]
    assert len(gone) == (3 if kind is AggregateLayout.TABLES else 4)
    assert not [name for name, body in upgraded.items() for word in gone if f"{word}(" in body]
    database = Database(dsn)
    await database.open()
    try:
        async with database.connection() as connection:
            one = await connection.fetchval("""
                insert into instruments (market, provider, symbol, folded) values ('m', 'p', 'S', 's') returning id""")
        span = Span(T0, T0 + 3 * HOUR_MS)
        table = minutes(T0, 3 * HOUR_MS // MINUTE_MS, holes=[5, 70])
        await CandleStore(database, ChangeFeed(database)).write([CandleWrite(one, MINUTE, table, Spans([span]))])
        if kind is AggregateLayout.CONTINUOUS:
            await AggregateRefresher(database, kind).run_once()
        async with database.connection() as connection:
            assert await differences(connection) == []
            assert await connection.fetchval("select exists (select from ohlcv_1y)")
    finally:
        await database.close()


async def test_the_relations_of_the_program_are_those_of_a_new_database(database: Database) -> None:
    """The layouts make what `preaggregation_configs` has; the program reads no other names than its own."""
    async with database.connection() as connection:
        rows = await connection.fetch("""
            select c.view_name, coalesce(b.view_name, 'ohlcv_data') as base
            from preaggregation_configs c left join preaggregation_configs b on b.target_timeframe = c.base_timeframe
            where to_regclass(c.view_name) is not null and to_regclass(c.view_name || '_flat') is not null
            order by c.config_id""")
    assert [(row["view_name"], row["base"]) for row in rows] == list(MADE_OF.items())
