"""Aggregates that lag, with many at work at once: no reader sees a stale bucket, and no round is lost."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError, ConfigurationError
from candlegraph.resample import fold
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.supervision import RestartPolicy, Supervisor
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC
from history.latest import LatestRequest, latest_candles
from history.orchestrator import History
from storage.aggregates import continuous as continuous_module
from storage.aggregates import layout
from storage.aggregates import refresh as refresher
from storage.aggregates.continuous import ContinuousReader
from storage.aggregates.layout import AggregateLayout, create_layout
from storage.aggregates.refresh import AggregateRefresher, refresh_windows
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore, read_tables
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from storage.migration import migrate as migrate_module
from storage.migration.migrate import migrate
from storage.relations import ALL_AGGREGATES
from storage.withdrawals import StoredSeries, withdraw
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import FakeProviders, minutes
from tests.history.world import DAY_MS, HOUR_MS, T0, rows_of
from tests.timescale.server import stop_jobs
from tests.timings import PATIENT
from tests.waiting import HANG_S

NOW = T0 + 40 * DAY_MS + 5 * HOUR_MS + 17 * MINUTE_MS
FOREVER = Span(0, 10**14)


@pytest.fixture(scope="module")
async def lagging_template(new_database: Callable[..., Awaitable[str]]) -> str:
    """A database whose aggregates lag as those of TimescaleDB do, or with them, where ``TEST_TIMESCALE_DSN`` names one."""
    dsn = await new_database()
    database = Database(dsn, max_connections=1, timings=PATIENT)
    await database.open()

    async def imitated(connection: Any, _: AggregateLayout) -> None:
        await connection.execute(Path(__file__).with_name("imitation.sql").read_text(encoding="utf-8"))
        await connection.execute(layout._sql("ledger"))
        await connection.execute(layout._sql("views"))
        await connection.execute("insert into storage_layout (kind, hypertable) values ('continuous', false)")

    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("TEST_TIMESCALE_DSN"):
            patch.setattr(migrate_module, "create_layout", imitated)
        await migrate(database)
    async with database.connection() as connection:
        await connection.execute("update agg_state set claimed = '2024-01-01', done = '2024-01-01'")
    await stop_jobs(database)
    await database.close()
    return urlsplit(dsn).path.removeprefix("/")


@pytest.fixture
async def lagging(
    new_database: Callable[..., Awaitable[str]], lagging_template: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    set_clock(monkeypatch, lambda: NOW)
    database = Database(await new_database(lagging_template), max_connections=10, timings=PATIENT)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def store_of(database: Database) -> CandleStore:
    return CandleStore(database, ChangeFeed(database), ContinuousReader(ALL_AGGREGATES))


async def new(database: Database, symbol: str) -> int:
    return (await Instruments(database).get_or_create(Instrument("m", "p", symbol), "UTC")).id


def write(instrument_id: int, since: int, count: int, seed: int, *, holes: int = 0) -> CandleWrite:
    candles = minutes(since, count, holes=random.Random(seed).sample(range(count), holes), seed=seed)
    return CandleWrite(instrument_id, MINUTE, candles, Spans([Span(since, since + count * MINUTE_MS)]), replaces=True)


class OneMoment:
    """A database as one transaction sees it, so that an answer can be held against its candles."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def fetch(self, statement: str, *arguments: object) -> Any:
        return await self.connection.fetch(statement, *arguments)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        yield self.connection


async def stale_answers(database: Database, instrument_ids: list[int]) -> list[tuple[int, str]]:
    """What the reader answers that is not what the candles of the same moment fold into."""
    wrong = []
    async with database.snapshot() as connection:
        moment: Any = OneMoment(connection)
        reads = [
            CandleRead(i, tf, FOREVER, 10**6, relation=name)
            for i in instrument_ids
            for tf, name in ALL_AGGREGATES.items()
        ]
        answers = await ContinuousReader(ALL_AGGREGATES)(moment, reads)
        bases = await ContinuousReader(ALL_AGGREGATES)(
            moment, [CandleRead(i, MINUTE, FOREVER, 10**6) for i in instrument_ids]
        )
        truth = dict(zip(instrument_ids, bases, strict=True))
        for read, answer in zip(reads, answers, strict=True):
            if rows_of(answer) != rows_of(fold(truth[read.instrument_id], read.timeframe)):
                wrong.append((read.instrument_id, read.relation))
    return wrong


async def test_no_reader_sees_a_stale_bucket_during_writes_and_refreshes(
    lagging: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await new(lagging, f"S{i}") for i in range(3)]
    store, over, checked = store_of(lagging), asyncio.Event(), 0
    now = T0 + 10 * DAY_MS
    set_clock(monkeypatch, lambda: now)
    await store.write([write(ids[0], T0, 2000, 1)])

    async def writes(seed: int) -> None:
        dice = random.Random(seed)
        for turn in range(25):
            since = T0 + dice.randrange(0, 40 * 1440) * MINUTE_MS
            count = dice.choice([1, 1, 3, 90, 700])
            await store.write([write(dice.choice(ids), since, count, seed * 100 + turn, holes=count // 3)])

    async def refreshes() -> None:
        # Two processes, one of which is killed now and then in the middle of a round.
        ours, theirs = (
            AggregateRefresher(lagging, AggregateLayout.CONTINUOUS),
            AggregateRefresher(lagging, AggregateLayout.CONTINUOUS),
        )
        nonlocal now
        dice = random.Random(5)
        while not over.is_set():
            now += 3 * HOUR_MS
            killed = asyncio.create_task(theirs.run_once())
            await asyncio.wait([killed], timeout=dice.random() / 20)
            killed.cancel()
            await asyncio.gather(killed, return_exceptions=True)
            await ours.run_once()

    async def reads() -> None:
        nonlocal checked
        while not over.is_set():
            assert await stale_answers(lagging, ids) == []
            checked += 1

    others = [asyncio.create_task(work()) for work in (refreshes, reads, reads)]
    try:
        await asyncio.gather(*(writes(seed) for seed in (1, 2, 3)))
    finally:
        over.set()
        await asyncio.gather(*others)
    assert checked > 2
    now = NOW + 3 * DAY_MS
    assert await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once()
    async with lagging.connection() as connection:
        assert await connection.fetchval("select count(*) from agg_dirty") == 0
    assert await stale_answers(lagging, ids) == []


async def test_a_round_waits_for_the_write_that_does_not_know_of_it(lagging: Database) -> None:
    instrument = await new(lagging, "S")
    await store_of(lagging).write([write(instrument, T0, 5, 1)])
    at = "to_timestamp($2::int8 / 1000)"
    async with lagging.connect() as writer:
        async with writer.transaction():
            await writer.execute(
                f"delete from ohlcv_data where instrument_id = $1 and timestamp = {at}", instrument, T0
            )
            await writer.execute(
                f"select update_aggregates(array[$1::int4], array[{at}], array[{at}], true)", instrument, T0
            )
            going = asyncio.create_task(AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once())
            async with asyncio.timeout(HANG_S):
                waiting = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
                while not await writer.fetchval(waiting):
                    assert not going.done()
                    await asyncio.sleep(0)
        assert await going
    assert await stale_answers(lagging, [instrument]) == []


async def test_what_is_fresh_costs_one_statement_for_each_relation(
    lagging: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await new(lagging, f"S{i}") for i in range(3)]
    await store_of(lagging).write([write(i, T0, 3000, i) for i in ids])
    await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once()
    hours, five = Timeframe.parse("1h"), Timeframe.parse("5m")
    span = Span(T0, T0 + DAY_MS)
    reads = [CandleRead(i, tf, span, 1000, relation=ALL_AGGREGATES[tf]) for i in ids for tf in (hours, five)]
    statements: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def counted(self: asyncpg.Connection, query: str, *arguments: Any, **more: Any) -> Any:
        if "bucketed_time" in query:  # whatever else of this process has something to ask, it is not candles
            statements.append(query)
        return await fetch(self, query, *arguments, **more)

    monkeypatch.setattr(asyncpg.Connection, "fetch", counted)
    answers = await store_of(lagging).read(reads)
    assert [len(answer) for answer in answers] == [24, 288] * 3
    assert len(statements) == 2
    # One hour of one of them is late: all the others are still answered by those two, and it by a snapshot.
    await store_of(lagging).write([write(ids[0], T0 + HOUR_MS, 5, 99)])
    statements.clear()
    await store_of(lagging).read(reads)
    assert len(statements) <= 6


async def test_a_long_stale_stretch_is_read_in_slices_and_is_the_same(
    lagging: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous_module, "SLICE_ROWS", 1000)
    instrument = await new(lagging, "S")
    await store_of(lagging).write([write(instrument, T0 + 7 * MINUTE_MS, 20_000, 1, holes=7000)])
    assert await stale_answers(lagging, [instrument]) == []
    for timeframe, relation in ALL_AGGREGATES.items():
        for newest in (False, True):
            some, whole = await store_of(lagging).read(
                [CandleRead(instrument, timeframe, FOREVER, limit, newest, relation) for limit in (2, 10**6)]
            )
            assert rows_of(some) == (rows_of(whole)[-2:] if newest else rows_of(whole)[:2])
    nothing = await new(lagging, "N")
    assert [
        len(c) for c in await store_of(lagging).read([CandleRead(nothing, timeframe, FOREVER, 5, relation=relation)])
    ] == [0]


async def test_only_one_process_refreshes_and_the_others_go_on(lagging: Database) -> None:
    await store_of(lagging).write([write(await new(lagging, "S"), T0, 100, 1)])
    async with AggregateRefresher(lagging, AggregateLayout.CONTINUOUS)._lease() as held:
        assert held
        assert not await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once()
    assert await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once()
    assert not await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once()


async def test_the_rounds_go_on_after_a_failure_and_end_when_stopped(
    lagging: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lagging.timings = replace(lagging.timings, refresh_interval_s=0.0, refresh_max_backoff_s=0.01)
    async with lagging.connection() as connection:
        await connection.execute("alter table agg_state rename to lost")
    rounds: asyncio.Queue[bool] = asyncio.Queue()
    one = AggregateRefresher.run_once

    async def statement(self: AggregateRefresher) -> bool:
        try:
            done = await one(self)
        except Exception:
            rounds.put_nowait(False)
            raise
        rounds.put_nowait(True)
        return done

    monkeypatch.setattr(AggregateRefresher, "run_once", statement)
    supervisor = Supervisor(RestartPolicy(first_s=0.01))
    supervisor.start("aggregates", AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run)
    async with asyncio.timeout(HANG_S):
        assert not await rounds.get()
        async with lagging.connection() as connection:
            await connection.execute("alter table lost rename to agg_state")
        while not await rounds.get():
            pass
    await supervisor.close()


def test_windows_are_whole_closed_buckets_in_parts_that_can_be_stopped() -> None:
    five, year = Timeframe.parse("5m"), Timeframe.parse("1y")
    stale = Spans([Span(T0 + 1, T0 + 2), Span(T0 + 6000 * 300_000, NOW)])
    found = list(refresh_windows(stale, five, NOW))
    assert found[0] == Span(T0, T0 + 300_000)
    assert Spans(found) == Spans([found[0], Span(T0 + 6000 * 300_000, five.floor(NOW))])
    assert max(span.until - span.since for span in found) == refresher.MAX_BUCKETS_PER_REFRESH * 300_000
    assert list(refresh_windows(stale, year, NOW)) == []  # the year is not over


@pytest.mark.parametrize("kind", [AggregateLayout.TABLES, AggregateLayout.CONTINUOUS])
async def test_minutes_behind_the_horizon_go_and_their_aggregates_stay(
    kind: AggregateLayout, lagging: Database, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, lambda: NOW)
    if kind is AggregateLayout.CONTINUOUS:
        database, store = lagging, store_of(lagging)
    else:
        store = CandleStore(database, ChangeFeed(database))
    instrument = await new(database, "S")
    await store.write([write(instrument, T0 + HOUR_MS, 39 * 1440, 1)])
    keeper = AggregateRefresher(database, kind, retention_days=10)
    every = [CandleRead(instrument, tf, FOREVER, 10**6, relation=name) for tf, name in ALL_AGGREGATES.items()]
    before = [rows_of(answer) for answer in await store.read(every)]
    await keeper.run_once()
    horizon = await store.horizon()
    assert horizon == (NOW - 10 * DAY_MS) // DAY_MS * DAY_MS
    assert (await store.read_coverage([instrument, -1]))[1].horizon == horizon
    minute = [CandleRead(instrument, MINUTE, FOREVER, 10**6)]
    assert len((await store.read(minute))[0]) == 39 * 1440  # until every process knows the horizon
    async with database.connection() as connection:
        await connection.execute("update storage_layout set moved_at = moved_at - interval '3 minutes'")
    await keeper.run_once()
    async with database.connection() as connection:
        by_chunks = await connection.fetchval("select hypertable from storage_layout")
    first = horizon - horizon % (28 * DAY_MS) if by_chunks else horizon  # TimescaleDB drops whole chunks of four weeks
    kept = rows_of((await store.read(minute))[0])
    assert kept[0][0] == first
    # A write across the horizon is cut there.
    await store.write([write(instrument, horizon - 50 * MINUTE_MS, 100, 1)])
    await store.write([write(instrument, horizon - 5 * DAY_MS, 10, 1)])
    await keeper.run_once()
    base = rows_of((await store.read(minute))[0])
    assert [row for row in base if row[0] < horizon] == [row for row in kept if row[0] < horizon]
    for (tf, _), was, now in zip(ALL_AGGREGATES.items(), before, await store.read(every), strict=True):
        assert [row for row in was if tf.next(int(row[0])) <= horizon] == [
            row for row in rows_of(now) if tf.next(int(row[0])) <= horizon
        ]


async def test_a_write_that_the_horizon_overtakes_is_refused_and_can_be_tried_again(database: Database) -> None:
    store = CandleStore(database, ChangeFeed(database))
    instrument = await new(database, "S")
    lock = asyncpg.Connection.fetchrow

    async def overtaken(self: asyncpg.Connection, query: str, *arguments: Any, **more: Any) -> Any:
        row = await lock(self, query, *arguments, **more)
        async with database.connection() as other:
            await other.execute("update storage_layout set horizon = to_timestamp($1)", (T0 + DAY_MS) / 1000)
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "fetchrow", overtaken)
        with pytest.raises(CandlegraphError) as refused:
            await store.write([write(instrument, T0, 10, 1)])
    assert refused.value.code == "UNAVAILABLE"
    await store.write([write(instrument, T0, 10, 1)])
    assert len((await store.read([CandleRead(instrument, MINUTE, FOREVER, 100)]))[0]) == 0


class Pretending:
    """A connection to a PostgreSQL that has or lacks TimescaleDB, as a layout asks it."""

    def __init__(self, *, made: tuple[str, bool] | None, available: bool, installed: bool) -> None:
        self.rows = {
            "pg_available_extensions": {"available": available, "installed": installed},
            "storage_layout": made and {"kind": made[0], "hypertable": made[1]},
        }

    async def fetchrow(self, query: str) -> Any:
        return next(row for name, row in self.rows.items() if name in query)


@pytest.mark.parametrize(
    ("made", "available", "wanted", "complaint"),
    [
        (("tables", False), True, AggregateLayout.AUTO, None),  # it was there before TimescaleDB was: it stays as it is
        (("tables", False), True, AggregateLayout.CONTINUOUS, "keeps its aggregates as `tables`, not `continuous`"),
        (("continuous", True), True, AggregateLayout.AUTO, None),
        (("continuous", True), True, AggregateLayout.TABLES, "keeps its aggregates as `continuous`, not `tables`"),
        (("continuous", True), False, AggregateLayout.AUTO, "created with TimescaleDB, which is no longer available"),
        (("tables", True), False, AggregateLayout.TABLES, "created with TimescaleDB, which is no longer available"),
        (None, False, AggregateLayout.CONTINUOUS, "needs TimescaleDB"),
    ],
)
async def test_layouts_are_never_mixed(
    made: tuple[str, bool] | None, available: bool, wanted: AggregateLayout, complaint: str | None
) -> None:
    connection = Pretending(made=made, available=available, installed=available and bool(made and made[1]))
    if complaint is None:
        await create_layout(connection, wanted)
    else:
        with pytest.raises(ConfigurationError, match=complaint):
            await create_layout(connection, wanted)


async def test_a_timescaledb_that_cannot_refresh_by_force_is_one_line() -> None:
    class Old:
        async def fetchval(self, _: str) -> list[str]:
            return ["continuous_aggregate", "window_start", "window_end"]

    with pytest.raises(ConfigurationError, match=r"older than 2\.18"):
        await refresher._refresh_aggregates(Old(), Spans(), {}, NOW, force=True)


async def test_a_plain_postgresql_gets_tables(database: Database) -> None:
    assert await layout.stored_layout(database) is AggregateLayout.TABLES


@pytest.mark.parametrize("kind", [AggregateLayout.TABLES, AggregateLayout.CONTINUOUS])
async def test_rows_written_by_hand_are_published_as_the_documentation_says(
    kind: AggregateLayout, lagging: Database, database: Database
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "storage.md").read_text(encoding="utf-8")
    statement = page.split("```sql\n")[1].split("```")[0]
    database = lagging if kind is AggregateLayout.CONTINUOUS else database
    instrument = await new(database, "S")
    await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).run_once()
    async with database.transaction() as connection:
        await connection.execute(
            """insert into ohlcv_data select $1, '1m', 'a', t, 1, 2, 0.5, 1.5, 3
               from generate_series(timestamptz '2024-03-05', '2024-03-07', interval '11 minutes') t""",
            instrument,
        )
        await connection.execute("insert into coverage values ($1, '1m', '{[2024-03-05, 2024-03-08)}')", instrument)
        await connection.execute(statement)
    reading = ContinuousReader(ALL_AGGREGATES) if kind is AggregateLayout.CONTINUOUS else read_tables
    reads = [CandleRead(instrument, tf, FOREVER, 10**6, relation=name) for tf, name in ALL_AGGREGATES.items()]
    base, *answers = await reading(database, [CandleRead(instrument, MINUTE, FOREVER, 10**6), *reads])
    for read, answer in zip(reads, answers, strict=True):
        assert rows_of(answer) == rows_of(fold(base, read.timeframe)) != []


async def test_withdrawn_coverage_leaves_lagging_aggregates_as_their_candles_are(lagging: Database) -> None:
    one, store = await new(lagging, "A"), store_of(lagging)
    await store.write([write(one, T0, 2000, 1, holes=40)])
    series = StoredSeries(one, MINUTE, "UTC")
    lost = await withdraw(store, series, Spans([FOREVER]), "why")
    assert sum(span.until - span.since for span in lost) == 40 * MINUTE_MS
    await AggregateRefresher(lagging, AggregateLayout.CONTINUOUS).catch_up()
    assert await stale_answers(lagging, [one]) == []


@pytest.mark.parametrize("name", ["15m", "1h", "4h", "1d", "1w"])
async def test_the_newest_candles_are_those_of_the_minutes_where_the_aggregates_are_behind(
    lagging: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before a refresh and between two of them, and after a late minute and a correction of the last day."""
    timeframe, now = Timeframe.parse(name), T0 + 10 * DAY_MS
    set_clock(monkeypatch, lambda: now)
    history = History.create(lagging, FakeProviders([]), reading=ContinuousReader(ALL_AGGREGATES))
    ids = {f"S{i}": await new(lagging, f"S{i}") for i in range(3)}
    refresher, count = AggregateRefresher(lagging, AggregateLayout.CONTINUOUS), 2 * 8 * 1440
    since = T0 + 10 * DAY_MS - count * MINUTE_MS
    truth = {symbol: Candles.empty() for symbol in ids}

    async def stored(symbol: str, at: int, rows: int, seed: int) -> None:
        made = write(ids[symbol], at, rows, seed)
        await history.store.write([made])
        truth[symbol] = truth[symbol].merge(made.candles)

    async def is_right() -> None:
        request = LatestRequest("m", "p", timeframe, UTC, list(ids))
        found = {one.symbol.instrument.symbol: one for one in await latest_candles(history, request)}
        for symbol, minutes_of in truth.items():
            *_, before, newest = list(fold(minutes_of, timeframe))
            one = found[symbol]
            assert one.candle is not None
            assert (one.candle.timestamp, one.candle.open, one.candle.high, one.candle.low, one.candle.close) == (
                newest.timestamp, newest.open, newest.high, newest.low, newest.close
            ), symbol  # fmt: skip
            assert one.candle.volume == pytest.approx(newest.volume)
            assert (one.current, one.previous_close) == (True, before.close)

    for symbol in ids:
        await stored(symbol, since, count, 1)
    await refresher.run_once()
    await is_right()
    for step in (1, 7, 61, 24 * 60 + 3):
        for symbol in ids:
            await stored(symbol, now, step, step)
        now += step * MINUTE_MS
        await is_right()
        await stored("S1", now - 50 * MINUTE_MS, 2, 99 + step)  # corrections
        await stored("S2", now - 20 * 60 * MINUTE_MS, 1, 199 + step)
        await is_right()
        if step != 7:
            await refresher.run_once()
            await is_right()
