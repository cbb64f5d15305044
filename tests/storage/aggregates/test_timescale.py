"""Continuous aggregates on a real TimescaleDB: late data, corrections, compression and retention, and no stale answer."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, fields
from typing import Any

import asyncpg
import numpy as np
import pytest

from candlegraph.candle import Candle, Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.resample import fold
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC
from history.latest import LatestRequest, latest_candles
from history.orchestrator import History
from storage.aggregates.continuous import ContinuousReader
from storage.aggregates.layout import AggregateLayout, create_layout, stored_layout
from storage.aggregates.refresh import AggregateRefresher
from storage.aggregates.verify import Verification
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.counts.storage_sizes import storage_sizes
from storage.database import Database
from storage.instruments import Instruments
from storage.migration import migrate as migrate_module
from storage.migration.migrate import migrate
from storage.relations import ALL_AGGREGATES, read_aggregates
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import FakeProviders, minutes
from tests.history.world import DAY_MS, HOUR_MS, T0, rows_of
from tests.timescale.server import insert_instead_of_copy, served, stop_jobs
from tests.timings import PATIENT

NOW = T0 + 400 * DAY_MS + 7 * HOUR_MS + 13 * MINUTE_MS
_numbers = itertools.count()


@pytest.fixture(scope="module")
async def timescale_dsn(new_database: Callable[..., Awaitable[str]]) -> AsyncIterator[str]:
    if os.environ.get("TEST_TIMESCALE_DSN"):
        yield await new_database()
        return
    with served() as dsn, pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "copy_to_table", insert_instead_of_copy)
        yield dsn


@pytest.fixture(scope="module")
async def timescale(timescale_dsn: str) -> AsyncIterator[Database]:
    """A migrated database; it had candles before it had aggregates."""
    database = Database(timescale_dsn, max_connections=1, timings=PATIENT)
    await database.open()
    with pytest.MonkeyPatch.context() as patch:
        set_clock(patch, lambda: NOW)

        async def later(*_: object) -> None:
            pass

        patch.setattr(migrate_module, "create_layout", later)
        await migrate(database)
        async with database.connection() as connection:
            await connection.execute("""
                insert into instruments (market, provider, symbol, folded) values ('m', 'p', 'old', 'old');
                insert into ohlcv_data select 1, '1m', 'a', t, 1, 2, 0.5, 1.5, 3
                from generate_series(timestamptz '2023-11-05', '2023-11-07', interval '7 minutes') t;
                insert into coverage (instrument_id, timeframe, covered)
                values (1, '1m', '{[2023-11-05, 2023-11-07)}')""")
        async with database.transaction() as connection:
            await create_layout(connection, AggregateLayout.AUTO)
        await stop_jobs(database)
        yield database
    await database.close()


@dataclass
class Symbol:
    """One instrument, and what was written of it."""

    database: Database
    id: int
    truth: Candles = field(default_factory=Candles.empty)

    @property
    def store(self) -> CandleStore:
        return CandleStore(self.database, ChangeFeed(self.database), ContinuousReader(ALL_AGGREGATES))

    async def write(self, candles: Candles) -> None:
        whole = Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + MINUTE_MS)
        await self.store.write([CandleWrite(self.id, MINUTE, candles, Spans([whole]))])
        self.truth = self.truth.merge(candles)

    def wanted(self, timeframe: Timeframe, span: Span) -> list[tuple[float, ...]]:
        return rows_of(fold(self.truth, timeframe).between(span))

    async def answers_right(self) -> None:
        """Every level, whole and in part, from either end."""
        first, last = int(self.truth.timestamp[0]), int(self.truth.timestamp[-1])
        for timeframe, relation in ALL_AGGREGATES.items():
            whole = Span(first, last + 1).outer(timeframe)
            inner = Span(first + (last - first) // 3, last - (last - first) // 3).outer(timeframe)
            for span, limit in ((whole, 10**6), (inner, 10**6), (whole, 3)):
                reads = [CandleRead(self.id, timeframe, span, limit, newest, relation) for newest in (False, True)]
                oldest, newest = await self.store.read(reads)
                wanted = self.wanted(timeframe, span)
                assert same(rows_of(oldest), wanted[:limit]), (timeframe, span)
                assert same(rows_of(newest), wanted[-limit:]), (timeframe, span)

    async def materialised(self) -> dict[Timeframe, list[tuple[float, ...]]]:
        """What stands in the aggregates themselves."""
        plain = CandleStore(self.database, ChangeFeed(self.database))
        reads = [
            CandleRead(self.id, tf, Span(-(10**13), 10**13), 10**6, relation=name)
            for tf, name in ALL_AGGREGATES.items()
        ]
        return dict(zip(ALL_AGGREGATES, map(rows_of, await plain.read(reads)), strict=True))


def same(found: list[tuple[float, ...]], wanted: list[tuple[float, ...]]) -> bool:
    """To the bit but for the volume, which is summed in another order."""
    volumes = [np.array([row[5] for row in rows]) for rows in (found, wanted)]
    return [row[:5] for row in found] == [row[:5] for row in wanted] and np.allclose(*volumes, rtol=1e-9, atol=0)


@pytest.fixture
async def symbol(timescale: Database) -> Symbol:
    name = Instrument("m", "p", f"S{next(_numbers)}")
    return Symbol(timescale, (await Instruments(timescale).get_or_create(name, "UTC")).id)


async def ledger(database: Database) -> list[Any]:
    async with database.connection() as connection:
        return list(await connection.fetch("select instrument_id, span from agg_dirty order by id"))


async def refresh(database: Database) -> bool:
    return await AggregateRefresher(database, AggregateLayout.CONTINUOUS).run_once()


async def test_a_new_database_takes_continuous_aggregates_where_timescaledb_is(timescale: Database) -> None:
    assert await stored_layout(timescale) is AggregateLayout.CONTINUOUS
    assert dict(await read_aggregates(timescale)) == dict(ALL_AGGREGATES)
    async with timescale.connection() as connection:
        views = await connection.fetch(
            "select view_name, materialized_only from timescaledb_information.continuous_aggregates"
        )
        assert {(view["view_name"], view["materialized_only"]) for view in views} == {
            (n, True) for n in ALL_AGGREGATES.values()
        }
        settings = await connection.fetchrow(
            "select num_chunks, compression_enabled from timescaledb_information.hypertables where hypertable_name = 'ohlcv_data'"
        )
        assert settings["num_chunks"] >= 1
        assert settings["compression_enabled"]
        policies = await connection.fetch(
            "select * from timescaledb_information.jobs where hypertable_name = 'ohlcv_data'"
        )
        assert len(policies) == 1
    assert await migrate(timescale) == []


async def test_the_sizes_are_those_of_the_hypertables(timescale: Database) -> None:
    sizes = await storage_sizes(timescale)
    assert sizes.rows > 0
    assert sizes.bytes > 0
    assert sizes.aggregate_bytes


async def test_candles_that_were_there_before_their_aggregates_are_answered_and_then_aggregated(
    timescale: Database,
) -> None:
    old = Symbol(timescale, 1)
    old.truth = (await old.store.read([CandleRead(1, MINUTE, Span(0, 10**13), 10**6)]))[0]
    assert len(old.truth) == 412
    await old.answers_right()
    assert await refresh(timescale)
    await old.answers_right()
    assert all(same(rows, old.wanted(tf, Span(0, 10**13))) for tf, rows in (await old.materialised()).items())


async def test_late_candles_and_corrections_are_right_at_once_and_materialised_by_the_next_round(
    timescale: Database, symbol: Symbol
) -> None:
    dice = random.Random(11)
    for turn in range(4):
        since = T0 + dice.randrange(0, 395) * DAY_MS + dice.randrange(1440) * MINUTE_MS
        holes = dice.sample(range(600), 200)
        await symbol.write(minutes(since, 600, holes=holes, seed=turn))
        await symbol.answers_right()
        if turn % 2:
            # A correction of something that was final, and the row before it.
            at = int(symbol.truth.timestamp[dice.randrange(len(symbol.truth))])
            await symbol.write(minutes(at - MINUTE_MS, 2, seed=100 + turn))
            await symbol.answers_right()
            assert await refresh(timescale)
            await symbol.answers_right()
            until = NOW - MINUTE_MS
            for timeframe, rows in (await symbol.materialised()).items():
                assert same(rows, symbol.wanted(timeframe, Span(0, timeframe.floor(until)))), timeframe
            assert await ledger(timescale) == []


async def test_the_live_tail_leaves_nothing_in_the_ledger_and_late_candles_the_hours_they_are_in(
    timescale: Database, symbol: Symbol
) -> None:
    await refresh(timescale)
    await symbol.write(minutes(NOW - NOW % MINUTE_MS - MINUTE_MS, 1))
    assert await ledger(timescale) == []
    await symbol.answers_right()
    late = T0 + 65 * MINUTE_MS
    await symbol.write(minutes(late, 60))
    ((owner, span),) = await ledger(timescale)
    assert (owner, span.lower.timestamp() * 1000, span.upper.timestamp() * 1000) == (
        symbol.id, T0 + HOUR_MS, T0 + 3 * HOUR_MS,
    )  # fmt: skip
    await symbol.answers_right()


async def test_a_round_that_was_broken_off_leaves_no_stale_answer_and_is_made_up_for(
    timescale: Database, symbol: Symbol, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refresh(timescale)
    await symbol.write(minutes(T0 + 5 * DAY_MS, 3000))
    execute, calls = asyncpg.Connection.execute, itertools.count()

    async def failing(self: asyncpg.Connection, query: str, *arguments: Any, **more: Any) -> Any:
        if "refresh_continuous_aggregate" in query and next(calls) == breaks_at:
            raise asyncpg.ConnectionDoesNotExistError("the network is gone")
        return await execute(self, query, *arguments, **more)

    for breaks_at in (0, 1, 4, 8):
        await symbol.write(minutes(T0 + 5 * DAY_MS + 30 * MINUTE_MS, 3, seed=breaks_at))
        with monkeypatch.context() as patch:
            calls = itertools.count()
            patch.setattr(asyncpg.Connection, "execute", failing)
            with pytest.raises(Exception, match=r"does not answer"):
                await refresh(timescale)
        assert await ledger(timescale) != []
        await symbol.answers_right()
    assert await refresh(timescale)
    assert await ledger(timescale) == []
    await symbol.answers_right()


@pytest.mark.parametrize("name", ["15m", "1h", "1d"])
async def test_the_newest_candle_is_that_of_the_minutes_before_and_after_a_refresh(
    timescale: Database, symbol: Symbol, name: str
) -> None:
    history = History.create(timescale, FakeProviders([]), reading=ContinuousReader(ALL_AGGREGATES))
    (record,) = await history.instruments.by_id([symbol.id])
    request = LatestRequest("m", "p", Timeframe.parse(name), UTC, [record.instrument.symbol])
    await refresh(timescale)
    await symbol.write(minutes(MINUTE.floor(NOW) - 2000 * MINUTE_MS, 2000, seed=symbol.id))
    for _ in range(2):
        (found,) = await latest_candles(history, request)
        assert found.candle is not None
        numbers = [(getattr(found.candle, field.name) for field in fields(Candle)[:6])]
        newest = fold(symbol.truth, request.timeframe)[-1:]
        assert same([tuple(row) for row in numbers], rows_of(newest))
        await refresh(timescale)


async def test_compressed_candles_are_read_and_corrected_as_others_are(timescale: Database, symbol: Symbol) -> None:
    await symbol.write(minutes(T0 + 40 * DAY_MS, 2000))
    await refresh(timescale)
    async with timescale.connection() as connection:
        done = await connection.fetchval(
            "select count(compress_chunk(c, if_not_compressed => true)) from show_chunks('ohlcv_data') c"
        )
    assert done >= 1
    await symbol.answers_right()
    await symbol.write(minutes(T0 + 40 * DAY_MS + 700 * MINUTE_MS, 30, seed=9))
    await symbol.answers_right()
    assert await refresh(timescale)
    await symbol.answers_right()
    base = (await symbol.store.read([CandleRead(symbol.id, MINUTE, Span(0, 10**13), 10**6)]))[0]
    assert rows_of(base) == rows_of(symbol.truth)


async def test_a_write_may_decompress_any_number_of_rows_and_leaves_the_limit_to_others(
    timescale: Database, symbol: Symbol
) -> None:
    """A restored database has no settings of its own: the transaction that writes brings them along."""
    limit = "show timescaledb.max_tuples_decompressed_per_dml_transaction"
    async with timescale.connection() as connection:
        before = await connection.fetchval(limit)
    assert before != "0"
    seen: list[str] = []
    execute = asyncpg.Connection.execute

    async def watching(self: asyncpg.Connection, query: str, *arguments: Any, **more: Any) -> Any:
        if "update_aggregates" in query:
            seen.append(await self.fetchval(limit))
        return await execute(self, query, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", watching)
        await symbol.write(minutes(T0 + 60 * DAY_MS, 10))
    assert seen == ["0"]
    async with timescale.connection() as connection:
        assert await connection.fetchval(limit) == before


async def test_a_correction_may_decompress_more_rows_than_the_server_s_limit(
    timescale: Database, symbol: Symbol
) -> None:
    await symbol.write(minutes(T0 + 80 * DAY_MS, 3000))
    async with timescale.connection() as connection:
        await connection.execute("select compress_chunk(c, if_not_compressed => true) from show_chunks('ohlcv_data') c")
        await connection.execute("set timescaledb.max_tuples_decompressed_per_dml_transaction = 100")
    try:
        async with timescale.connection() as connection:
            with pytest.raises(asyncpg.ConfigurationLimitExceededError):
                await connection.execute("update ohlcv_data set volume = 0 where instrument_id = $1", symbol.id)
        await symbol.write(minutes(T0 + 80 * DAY_MS, 3000, seed=9))
        await symbol.answers_right()
    finally:
        async with timescale.connection() as connection:
            await connection.execute("reset timescaledb.max_tuples_decompressed_per_dml_transaction")


async def test_minutes_are_dropped_behind_the_horizon_and_their_aggregates_outlive_them(
    timescale: Database, symbol: Symbol
) -> None:
    await symbol.write(minutes(T0 + 10 * DAY_MS, 3000))
    await symbol.write(minutes(NOW - 3 * DAY_MS - NOW % MINUTE_MS, 500, seed=2))
    keeper = AggregateRefresher(timescale, AggregateLayout.CONTINUOUS, retention_days=200)
    native = CandleWrite(symbol.id, Timeframe.parse("1d"), minutes(T0, 1), Spans([Span(T0, T0 + DAY_MS)]))
    await symbol.store.write([native])
    assert await keeper.run_once()
    horizon = await symbol.store.horizon()
    assert horizon == (NOW - 200 * DAY_MS) // DAY_MS * DAY_MS
    before = await symbol.materialised()
    async with timescale.connection() as connection:
        assert await connection.fetchval(
            "select count(*) from ohlcv_data where timeframe = '1m' and timestamp < $1::text::timestamptz", "2024-06-01"
        )
        await connection.execute("update storage_layout set moved_at = moved_at - interval '3 minutes'")
    await keeper.run_once()
    async with timescale.connection() as connection:
        left = await connection.fetch(
            "select timeframe, count(*) from ohlcv_data where timestamp < '2024-08-01' group by 1"
        )
        assert [tuple(row) for row in left] == [("1d", 1)]
    assert await symbol.materialised() == before
    await symbol.answers_right()
    # What is late, but not too late, still refreshes; what is too late is neither taken nor covered.
    await symbol.write(minutes(NOW - 2 * DAY_MS - NOW % MINUTE_MS, 90, seed=3))
    refused = minutes(T0 + 12 * DAY_MS, 60, seed=4)
    whole = Span(int(refused.timestamp[0]), int(refused.timestamp[-1]) + MINUTE_MS)
    known = await symbol.store.read_coverage([symbol.id])
    await symbol.store.write([CandleWrite(symbol.id, MINUTE, refused, Spans([whole]))])
    assert await symbol.store.read_coverage([symbol.id]) == known
    async with timescale.connection() as connection:
        await connection.execute(
            "insert into agg_dirty (instrument_id, span) values ($1, '[2024-01-01, 2024-12-01)')", symbol.id
        )
    await keeper.run_once()
    await symbol.answers_right()
    after = await symbol.materialised()
    assert all(set(before[tf][:-1]) <= set(after[tf]) for tf in ALL_AGGREGATES if tf.nominal_ms <= HOUR_MS)
    # A repair makes nothing anew that has lost its minutes.
    assert await keeper.rebuild(Spans([Span(T0, NOW)])) is not None
    assert await symbol.materialised() == after


async def test_verify_lets_the_aggregates_catch_up_and_finds_nothing_wrong_then(
    timescale: Database, symbol: Symbol
) -> None:
    """What lags is no error: it is brought up to date first, and the bucket of today is left out."""
    await symbol.write(minutes(NOW - 300 * MINUTE_MS, 290, seed=6))
    refresher = AggregateRefresher(timescale, AggregateLayout.CONTINUOUS)
    found = [tally async for tally in Verification(symbol.store, ALL_AGGREGATES, refresher=refresher).check(symbol.id)]
    assert sum(tally.checked for tally in found) > 290 + 290 // 5
    assert [tally for tally in found if tally.wrong] == []


async def spoil(database: Database, relation: str, fault: str, instrument_id: int) -> None:
    """Change a materialised bucket behind TimescaleDB's back."""
    async with database.connection() as connection:
        stored = await connection.fetchval(
            """select format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
               from timescaledb_information.continuous_aggregates where view_name = $1""",
            relation,
        )
        await connection.execute(FAULTS[fault].replace("stored", stored), instrument_id)


FAULTS = {
    "different": "update stored set high = high + 1 where instrument_id = $1",
    "missing": "delete from stored where instrument_id = $1",
    "extra": """insert into stored select instrument_id, bucketed_time - interval '28 days', open, high, low, close, volume
                from stored where instrument_id = $1""",
}


async def found_wrong(symbol: Symbol, *, repair: bool = False) -> dict[str, int]:
    refresher = AggregateRefresher(symbol.database, AggregateLayout.CONTINUOUS)
    verification = Verification(symbol.store, ALL_AGGREGATES, repair=repair, refresher=refresher)
    wrong: Counter[str] = Counter()
    async for tally in verification.check(symbol.id):
        wrong[tally.relation] += tally.wrong
    return dict(+wrong)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("relation", ["ohlcv_5min", "ohlcv_4h", "ohlcv_1w"])
async def test_verify_repairs_what_timescaledb_takes_for_right(
    timescale: Database, symbol: Symbol, relation: str, fault: str
) -> None:
    await symbol.write(minutes(NOW - 100 * DAY_MS - NOW % DAY_MS, 900))
    assert await found_wrong(symbol) == {}
    await spoil(timescale, relation, fault, symbol.id)
    assert (await found_wrong(symbol)).keys() == {relation}
    assert await found_wrong(symbol, repair=True) == {}
    assert await found_wrong(symbol) == {}
    assert await ledger(timescale) == []
    await symbol.answers_right()


async def test_a_repair_reaches_every_instrument_of_its_span_and_publishes_each(
    timescale: Database, symbol: Symbol
) -> None:
    """A refresh is of all instruments: a level above a wrong one must not be made wrong as well."""
    instruments = Instruments(timescale)
    other = Symbol(timescale, (await instruments.get_or_create(Instrument("m", "p", f"{symbol.id} other"), "UTC")).id)
    for one in (symbol, other):
        await one.write(minutes(NOW - 100 * DAY_MS - NOW % DAY_MS, 900))
    assert await found_wrong(symbol) == await found_wrong(other) == {}
    revisions = [known.revision for known in await symbol.store.read_coverage([symbol.id, other.id])]
    await spoil(timescale, "ohlcv_1h", "different", symbol.id)
    await spoil(timescale, "ohlcv_5min", "different", other.id)
    assert await found_wrong(symbol, repair=True) == {}
    assert await found_wrong(other) == {}
    after = [known.revision for known in await symbol.store.read_coverage([symbol.id, other.id])]
    assert all(new > old for new, old in zip(after, revisions, strict=True))


async def test_a_repair_leaves_the_ledger_as_it_is(timescale: Database, symbol: Symbol) -> None:
    await symbol.write(minutes(NOW - 100 * DAY_MS - NOW % DAY_MS, 900))
    stale = await ledger(timescale)
    assert stale
    state = await timescale.fetch("select claimed, done from agg_state")
    await AggregateRefresher(timescale, AggregateLayout.CONTINUOUS).rebuild(Spans([Span(NOW - 110 * DAY_MS, NOW)]))
    assert await timescale.fetch("select claimed, done from agg_state") == state
    assert await ledger(timescale) == stale
