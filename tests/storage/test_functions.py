"""The SQL functions that statements are made of."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from storage.database import Database
from storage.migrate import migrate

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = (
    (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1) for year in (1900, 2287)
)


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
