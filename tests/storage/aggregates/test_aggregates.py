"""The aggregates equal their minutes after every write, correction, withdrawal or kill, and at every moment in between."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candlegraph.answer import GapReason, SourceKind
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import zone
from history.orchestrator import History
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore, _read_statement
from storage.change_feed import ChangeFeed
from storage.corrections import newest_corrections
from storage.database import SQL, Database
from storage.embedded.postgres import EmbeddedPostgres
from storage.instruments import Instruments
from storage.migration.migrate import migrate
from storage.relations import ALL_AGGREGATES, BASE_RELATION, read_aggregates
from tests.fakes.upstream import minutes
from tests.history.world import DAY_MS, HOUR_MS, T0, World, folded, rows_of, stop_clock
from tests.storage.aggregates.aggregated import differences
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

ROOT = Path(__file__).parents[3]
_names = (f"A{number}" for number in count())


def instant(*date: int) -> int:
    return round(datetime(*date, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


# Where buckets of several levels end at once, leap days, clocks that go forward and back elsewhere, and before 1970 and 2000.
EDGES = [
    instant(1957, 3, 1), instant(1969, 12, 29), instant(1970, 1, 1), instant(1999, 12, 27), instant(2000, 1, 1),
    instant(2000, 1, 3), instant(2000, 2, 29), instant(2023, 2, 28), instant(2024, 2, 29), instant(2024, 3, 1),
    instant(2024, 3, 10, 7), instant(2024, 11, 3, 6), instant(2024, 12, 30), instant(2025, 1, 1), instant(2100, 3, 1),
]  # fmt: skip


@pytest.fixture
def store(database: Database) -> CandleStore:
    return CandleStore(database, ChangeFeed(database))


async def new(database: Database, symbol: str | None = None) -> int:
    instrument = Instrument("m", "p", symbol or next(_names))
    return (await Instruments(database).get_or_create(instrument, "UTC")).id


async def wrong(database: Database) -> list[str]:
    async with database.connection() as connection:
        return await differences(connection, await read_aggregates(database))


# After every kind of write


@st.composite
def batches(draw: st.DrawFn) -> list[list[CandleWrite]]:
    """Transactions of writes to two instruments, 0 and 1, of few minutes around few edges, so that they often collide."""
    edges = draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=3))
    near = st.integers(-90, 90) | st.integers(-4, 4) | st.integers(-45_000, 45_000)
    stamps = st.tuples(st.sampled_from(edges), near).map(lambda pair: pair[0] + pair[1] * MINUTE_MS)
    price = st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([0.1, 0.30000000000000004, 1e-9])
    row = st.tuples(stamps, price, price, price, price, st.floats(0, 1e9))
    rows = st.lists(row, max_size=12, unique_by=lambda one: one[0]).map(sorted)

    @st.composite
    def write(draw: st.DrawFn, series: int) -> CandleWrite:
        candles = Candles.from_rows(draw(rows))
        spans = [Span(stamp, stamp + MINUTE_MS) for stamp in candles.timestamp.tolist()]
        replaces = draw(st.booleans())
        if not len(candles) or draw(st.booleans()):
            since = draw(stamps)
            spans.append(Span(since, since + MINUTE_MS * draw(st.integers(1, 200))))
        return CandleWrite(series, MINUTE, candles, Spans(spans), draw(st.sampled_from("ai")), replaces)

    both = [st.tuples(write(0)).map(list), st.tuples(write(1)).map(list), st.tuples(write(0), write(1)).map(list)]
    return draw(st.lists(st.one_of(both), min_size=2, max_size=8))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(work=batches())
async def test_two_writers_leave_aggregates_that_equal_their_minutes_and_a_reader_sees_no_others(
    store: CandleStore, work: list[list[CandleWrite]]
) -> None:
    database = store.database
    async with database.connection() as connection:
        await connection.execute("truncate instruments, ohlcv_data, coverage, corrections, fetch_log cascade")
        await connection.execute("".join(f"truncate {relation};" for relation in ALL_AGGREGATES.values()))
    ids = [await new(database), await new(database)]
    queue = [[_of(ids[one.instrument_id], one) for one in batch] for batch in work]

    async def writer() -> None:
        while queue:
            await store.write(queue.pop())

    writers = asyncio.gather(writer(), writer())
    seen = []
    while not writers.done():
        seen += await wrong(database)
    await writers
    assert seen == []
    assert await wrong(database) == []


def _of(instrument_id: int, one: CandleWrite) -> CandleWrite:
    return CandleWrite(instrument_id, one.timeframe, one.candles, one.covered, one.source, one.replaces)


@pytest.mark.parametrize("edge", EDGES)
async def test_every_level_opens_where_the_bucket_calculus_says(store: CandleStore, edge: int) -> None:
    """Also for a session whose own zone is another one."""
    one = await new(store.database)
    table = minutes(edge - 40 * MINUTE_MS, 80, holes=[3, 40, 41])
    await store.write([CandleWrite(one, MINUTE, table, Spans([Span(edge - HOUR_MS, edge + HOUR_MS)]))])
    async with store.database.connection() as connection:
        await connection.execute("set timezone = 'America/Havana'")
        assert await differences(connection) == []
        later = minutes(edge - 20 * MINUTE_MS, 30, seed=5)
        values = [[one] * 30, [datetime.fromtimestamp(ms / 1000, UTC) for ms in later.timestamp.tolist()]]
        await connection.execute(
            """insert into ohlcv_data (instrument_id, "timestamp", open, high, low, close, volume)
               select *, 1, 2, 0.5, 1.5, 7 from unnest($1::int[], $2::timestamptz[]) on conflict do nothing""",
            *values,
        )
        hull = (values[1][0], values[1][-1])
        await connection.execute("select update_aggregates($1, $2, $3, true)", [one], [hull[0]], [hull[1]])
        assert await differences(connection) == []
        await connection.execute("reset timezone")


async def test_a_span_that_is_withdrawn_takes_its_buckets_with_it(store: CandleStore) -> None:
    one = await new(store.database)
    day = Span(T0, T0 + DAY_MS)
    await store.write([CandleWrite(one, MINUTE, minutes(T0, 1440), Spans([day]))])
    await store.write([CandleWrite(one, MINUTE, minutes(T0, 60, seed=2), Spans([day]), replaces=True)])
    assert await wrong(store.database) == []
    assert len((await store.read([CandleRead(one, MINUTE, day, 9999)]))[0]) == 60
    hours = (await store.read([CandleRead(one, Timeframe.parse("1h"), day, 99, relation="ohlcv_1h")]))[0]
    assert hours.timestamp.tolist() == [T0]
    await store.write([CandleWrite(one, MINUTE, Candles.empty(), Spans([day]), replaces=True)])
    for timeframe, relation in ALL_AGGREGATES.items():
        assert len((await store.read([CandleRead(one, timeframe, Span(0, 10**14), 99, relation=relation)]))[0]) == 0


async def test_a_native_hour_is_in_no_aggregate(store: CandleStore) -> None:
    one = await new(store.database)
    hour = Timeframe.parse("1h")
    await store.write([CandleWrite(one, hour, minutes(T0, 1), Spans([Span(T0, T0 + HOUR_MS)]))])
    await store.write([CandleWrite(one, MINUTE, minutes(T0, 5), Spans([Span(T0, T0 + 5 * MINUTE_MS)]))])
    assert await wrong(store.database) == []


async def test_four_writers_and_killed_transactions_leave_no_wrong_bucket(store: CandleStore) -> None:
    database, dice = store.database, random.Random(5)
    ids = [await new(database) for _ in range(3)]
    table = minutes(T0, 3000)
    done, failed = 0, 0

    async def writer(seed: int) -> None:
        nonlocal done, failed
        own = random.Random(seed)
        while done < 80 or failed < 3:
            turn = own.randrange(3)
            start, size = own.randrange(2900), own.randrange(1, 90)
            part = table[start : start + size]
            part = Candles.of(part.timestamp, *(column + own.randrange(4) for column in part.columns[1:6]))
            span = Span(T0 + start * MINUTE_MS, T0 + min(3000, start + size) * MINUTE_MS)
            writes = [
                CandleWrite(one, MINUTE, part[:: own.choice([1, 2])], Spans([span]), replaces=turn == 0)
                for one in own.sample(ids, 2)
            ]
            try:
                await store.write(writes)
                done += 1
            except CandlegraphError:
                failed += 1

    async def killer() -> None:
        admin = await asyncpg.connect(database.dsn)
        try:
            while True:
                await asyncio.sleep(dice.random() / 5)
                await admin.execute(
                    """select pg_terminate_backend(pid) from pg_stat_activity
                       where datname = current_database() and backend_xid is not null limit 1"""
                )
        finally:
            await admin.close()

    killing = asyncio.create_task(killer())
    try:
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*map(writer, range(4)))
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    assert await wrong(database) == []


WRITER = """
import asyncio, sys
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from tests.fakes.upstream import minutes
from tests.timings import PATIENT

async def main(dsn):
    database = Database(dsn, timings=PATIENT)
    await database.open()
    store = CandleStore(database, ChangeFeed(database))
    one = (await Instruments(database).get_or_create(Instrument("m", "p", "S"), "UTC")).id
    turn = 0
    while True:
        turn += 1
        table = minutes(1_709_856_000_000 + turn % 7 * 1_800_000, 2000, holes=range(turn % 900), seed=turn)
        span = Span(int(table.timestamp[0]), int(table.timestamp[-1]) + 60_000)
        await store.write([CandleWrite(one, MINUTE, table, Spans([span]), replaces=True)])
        print(turn, flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of its own, to be killed."""
    embedded = EmbeddedPostgres(tmp_path / "data")
    try:
        yield embedded
    finally:
        embedded.stop()


async def test_aggregates_equal_their_minutes_after_kill_9_of_the_writer_and_of_postgresql(
    postgres: EmbeddedPostgres,
) -> None:
    server = await asyncio.to_thread(postgres.start)
    database = Database(server.dsn, max_connections=2, timings=PATIENT)
    await database.open()
    await migrate(database)
    for victim in ("writer", "postgres", "writer"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, server.dsn, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout
        try:
            async with asyncio.timeout(HANG_S):
                for _ in range(3):
                    assert await process.stdout.readline()
            await asyncio.sleep(random.random() / 20)  # somewhere in the middle of the next one
            if victim == "postgres":
                postmaster = psutil.Process(server.pid)
                for one in [postmaster, *postmaster.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                await asyncio.wait_for(process.wait(), HANG_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        server = await asyncio.to_thread(postgres.start)
        assert await wrong(database) == []
        async with database.connection() as connection:
            assert await connection.fetchval("select count(*) from ohlcv_data") > 1000
    await database.close()


# Relations that are gone, switched off or with hostile names


async def test_without_a_relation_writes_go_on_and_readers_take_the_next_finer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, now=T0 + 20 * DAY_MS)
    stop_clock(monkeypatch, world)
    world.lists(minutes(T0, 10 * 1440))
    await world.keeps(Span(T0, T0 + 5 * DAY_MS))
    async with database.connection() as connection:
        await connection.execute("drop table ohlcv_1d cascade")
    await world.keeps(Span(T0 + 5 * DAY_MS, T0 + 10 * DAY_MS))
    levels = await read_aggregates(database)
    assert set(levels.values()) == {"ohlcv_5min", "ohlcv_15min", "ohlcv_30min", "ohlcv_1h", "ohlcv_4h"}
    assert await wrong(database) == []
    world.history = History.create(database, world.lineup, levels)
    reads = relations_read(monkeypatch)
    answer = await world.ask("1d", since=T0, until=T0 + 10 * DAY_MS)
    assert values_of(answer) == folded(rows_of(world.upstream.truth[world.symbol]), Timeframe.parse("1d"))
    assert set(reads) == {"ohlcv_4h"}


async def test_what_is_not_active_is_kept_up_to_date_and_not_read(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("update preaggregation_configs set is_active = false where target_timeframe = '1h'")
    assert set(ALL_AGGREGATES.values()) - set((await read_aggregates(database)).values()) == {"ohlcv_1h"}
    assert await read_aggregates(database, inactive=True) == ALL_AGGREGATES


@pytest.mark.parametrize(
    "name",
    [
        "ohlcv_1h; drop table users",
        'ohlcv_1h"',
        "users",
        "ohlcv_",
        "ohlcv_1H",
        "OHLCV_1h",
        "ohlcv_1h\n",
        "ohlcv_" + "1" * 17,
    ],
)
async def test_a_name_that_is_none_of_an_aggregate_is_refused(database: Database, name: str) -> None:
    async with database.connection() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                "update preaggregation_configs set view_name = $1 where target_timeframe = '1h'", name
            )


async def test_a_row_that_says_something_else_than_we_know_is_not_read(database: Database) -> None:
    """A foreign relation, a wrong timeframe, and hostile names that got past the check."""
    async with database.connection() as connection:
        await connection.execute(
            """create table ohlcv_evil (like ohlcv_1h);
               alter table preaggregation_configs drop constraint preaggregation_configs_view_name_check,
               drop constraint preaggregation_configs_target_timeframe_key;
               update preaggregation_configs set target_timeframe = '2h' where view_name = 'ohlcv_4h';
               update preaggregation_configs set view_name = 'ohlcv_evil' where view_name = 'ohlcv_5min';
               insert into preaggregation_configs (view_name, target_timeframe, base_timeframe, bucket_interval)
               values ('users', '1h', '1m', '1 hour'), ('ohlcv_data', '5m', '1m', '1 hour'), ('"ohlcv_1h"', '1d', '1m', '1 hour')"""
        )
    assert await read_aggregates(database) == {}  # all others are made of the 5-minute candles


# Questions


def relations_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The relations that candles are read from, from now on."""
    names: list[str] = []
    fetch = Database.fetch

    async def watched(self: Database, statement: str, *arguments: object) -> Any:
        names.extend(re.findall(r"volume from (ohlcv_\w+)", statement))
        return await fetch(self, statement, *arguments)

    monkeypatch.setattr(Database, "fetch", watched)
    return names


def values_of(answer: Any) -> dict[int, tuple[float, ...]]:
    return {int(stamp): tuple(rest) for stamp, *rest in rows_of(answer.candles)}


@pytest.mark.parametrize(
    ("timeframe", "days", "relation"),
    [
        ("1m", "UTC", BASE_RELATION), ("7m", "UTC", BASE_RELATION), ("5m", "UTC", "ohlcv_5min"), ("10m", "UTC", "ohlcv_5min"),
        ("45m", "UTC", "ohlcv_15min"), ("90m", "UTC", "ohlcv_30min"), ("2h", "UTC", "ohlcv_1h"), ("12h", "UTC", "ohlcv_4h"),
        ("1d", "UTC", "ohlcv_1d"), ("3d", "UTC", "ohlcv_1d"), ("2w", "UTC", "ohlcv_1w"), ("1mon", "UTC", "ohlcv_1mon"),
        ("1d", "America/New_York", "ohlcv_1h"), ("1w", "America/New_York", "ohlcv_1h"),
        ("1d", "Asia/Kathmandu", "ohlcv_15min"), ("1d", "Asia/Kolkata", "ohlcv_30min"),
    ],
)  # fmt: skip
async def test_a_question_reads_the_coarsest_relation_that_nests_and_answers_as_the_minutes_do(
    database: Database, monkeypatch: pytest.MonkeyPatch, timeframe: str, days: str, relation: str
) -> None:
    since, length = T0 - 9 * DAY_MS, 32
    world = World(database, now=since + 200 * DAY_MS).lists(minutes(since, length * 1440, holes=range(2000, 9000)))
    stop_clock(monkeypatch, world)
    await world.keeps(Span(since - 60 * DAY_MS, since + 200 * DAY_MS))
    reads = relations_read(monkeypatch)
    width = Timeframe.parse(timeframe)
    answer = await world.ask(
        timeframe, since=since, until=since + 2 * DAY_MS + 4 * width.nominal_ms, limit=5000, zone=zone(days)
    )
    assert set(reads) == {relation}
    assert len(reads) == 1
    expected = folded(rows_of(world.upstream.truth[world.symbol]), width, days)
    last = since + 2 * DAY_MS + 4 * width.nominal_ms
    assert values_of(answer) == {stamp: row for stamp, row in expected.items() if since <= stamp < last}
    assert (answer.complete, world.calls) == (True, 0)
    assert {source.source for source in answer.sources} == {
        SourceKind.STORE if relation == BASE_RELATION else SourceKind.AGGREGATE
    }


@pytest.mark.parametrize("timeframe", ["5m", "45m", "1h", "2h", "1d", "3d", "1w", "1mon", "1y"])
async def test_a_bucket_is_answered_only_where_all_of_it_is_covered(
    database: Database, monkeypatch: pytest.MonkeyPatch, timeframe: str
) -> None:
    """The aggregate has a row for each of them; those that are covered in part are gaps."""
    width = Timeframe.parse(timeframe)
    middle = width.next(instant(2022, 6, 1, 0, 7))
    first, last = width.shift(middle, -2), width.shift(middle, 3)
    world = World(database, now=width.shift(last, 5))
    stop_clock(monkeypatch, world)
    await world.instruments.get_or_create(world.instrument, "UTC")
    table = np.unique(np.concatenate([np.arange(edge - 3, edge + 3) for edge in _edges(width, first, last)]))
    candles = Candles.of(table * MINUTE_MS, *([np.ones(len(table))] * 5))
    await world.keeps(
        Span(first + MINUTE_MS, middle + MINUTE_MS), Span(middle + 2 * MINUTE_MS, last - MINUTE_MS), rows=candles
    )
    answer = await world.ask(timeframe, since=first, until=last)
    whole = [width.next(first), width.next(middle)]
    assert [candle.timestamp for candle in answer.candles][:2] == whole
    assert set(answer.candles.timestamp.tolist()).isdisjoint({first, middle, width.shift(last, -1)})
    assert {gap.reason for gap in answer.gaps} == {GapReason.NOT_FETCHED}
    assert [(gap.since, gap.until) for gap in answer.gaps] == [
        (first, width.next(first)), (middle, width.next(middle)), (width.shift(last, -1), last),
    ]  # fmt: skip
    assert await wrong(database) == []


def _edges(width: Timeframe, first: int, last: int) -> Iterator[int]:
    return (edge // MINUTE_MS for edge in width.edges(first, last + 1).tolist())


# Corrections


async def test_a_correction_two_years_back_is_seen_at_once_here_and_within_a_second_elsewhere(
    database: Database, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, now=T0).lists(minutes(instant(2022, 1, 1), 3 * 1440))
    stop_clock(monkeypatch, world)
    await world.keeps(Span(instant(2022, 1, 1), instant(2023, 1, 1)))
    other_database = Database(database_dsn, max_connections=2, timings=PATIENT)
    await other_database.open()
    other = History.create(other_database, world.lineup)
    watching = [asyncio.create_task(one.store.change_feed.run()) for one in (world.history, other)]
    asks = [
        world.question(tf, since=instant(2022, 1, 1), until=instant(2023, 1, 1)) for tf in ("1d", "1w", "1mon", "1y")
    ]
    try:
        await eventually(lambda: world.history.store.change_feed.is_fresh and other.store.change_feed.is_fresh)
        before = [values_of(answer) for answer in await other.answer(asks)]
        at = instant(2022, 1, 2, 3, 4)
        truth = world.upstream.truth[world.symbol]
        fixed = truth[truth.timestamp == at]
        fixed = Candles.of(fixed.timestamp, fixed.open, fixed.high + 900, fixed.low, fixed.close, fixed.volume + 5)
        await world.store.write(
            [CandleWrite((await world.record()).id, MINUTE, fixed, Spans([Span(at, at + MINUTE_MS)]), "i")]
        )
        rows = rows_of(truth.merge(fixed))
        expected = [
            {stamp: row for stamp, row in folded(rows, ask.series.timeframe).items() if stamp >= instant(2022, 1, 1)}
            for ask in asks
        ]
        assert expected != before
        assert [values_of(answer) for answer in await world.history.answer(asks)] == expected

        async def corrected() -> bool:
            return [values_of(answer) for answer in await other.answer(asks)] == expected

        await eventually(corrected)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await other_database.close()
    (found,) = await newest_corrections(database, "fake", "upstream", world.symbol, 10)
    assert (found.timestamp, found.timeframe, found.instrument) == (at, "1m", world.instrument)
    assert found.old
    assert found.new
    assert (found.old.source, found.new.source) == ("api", "import")
    assert found.new.numbers[1] == found.old.numbers[1] + 900
    assert await newest_corrections(database, "fake", "absent", None, 10) == []


async def test_what_changes_of_final_candles_is_logged_and_nothing_else(store: CandleStore) -> None:
    one = await new(store.database, "LOG")
    whole = Spans([Span(T0, T0 + 10 * MINUTE_MS)])
    table = minutes(T0, 10, holes=[4])
    await store.write([CandleWrite(one, MINUTE, table, whole)])
    await store.write([CandleWrite(one, MINUTE, table, whole, "i")])
    assert await newest_corrections(store.database, None, None, None, 10) == []
    late = minutes(T0 + 4 * MINUTE_MS, 1)
    await store.write([CandleWrite(one, MINUTE, late, Spans([Span(T0 + 4 * MINUTE_MS, T0 + 5 * MINUTE_MS)]), "i")])
    await store.write([CandleWrite(one, MINUTE, table[1:], whole, replaces=True)])
    await store.write(
        [CandleWrite(one, MINUTE, minutes(T0 + 10 * MINUTE_MS, 5), Spans([Span(T0, T0 + 15 * MINUTE_MS)]))]
    )
    found = await newest_corrections(store.database, "m", "p", "LOG", 10)
    added = tuple(rows_of(late)[0][1:])
    first = tuple(rows_of(table)[0][1:])
    said = {
        (c.timestamp, c.old and (c.old.numbers, c.old.source), c.new and (c.new.numbers, c.new.source)) for c in found
    }
    assert said == {
        (T0 + 4 * MINUTE_MS, None, (added, "import")),
        (T0 + 4 * MINUTE_MS, (added, "import"), None),
        (T0, (first, "api"), None),
    }


# Plans


def nodes(plan: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """The nodes of a plan, each with the kinds above it."""
    yield plan, above
    for below in plan.get("Plans", ()):
        yield from nodes(below, (*above, plan["Node Type"]))


def scans(plan: dict[str, Any], relation: str) -> list[dict[str, Any]]:
    """The nodes that read a relation: of a hypertable, those that read its chunks."""
    found = [node for node, _ in nodes(plan) if node.get("Relation Name")]
    chunks = [node for node in found if node["Relation Name"].startswith("_hyper_") and relation == BASE_RELATION]
    return chunks or [node for node in found if node["Relation Name"] == relation]


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("relation", [BASE_RELATION, "ohlcv_5min"])
async def test_the_hot_reads_walk_the_primary_key_and_sort_no_series(
    store: CandleStore, newest: bool, relation: str
) -> None:
    for seed in range(3):
        table = minutes(T0, 15_000, seed=seed)
        await store.write(
            [CandleWrite(await new(store.database), MINUTE, table, Spans([Span(T0, T0 + 15_000 * MINUTE_MS)]))]
        )
    async with store.database.connection() as connection:
        await connection.execute("analyze ohlcv_data; analyze ohlcv_5min")
        ids = [row["id"] for row in await connection.fetch("select id from instruments")]
        statement = _read_statement(relation, newest=newest)
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"set plan_cache_mode = {mode}")
            arguments = ids, ["1m"] * 3, [0] * 3, [T0 + 10**10] * 3, [100] * 3
            plan = json.loads(await connection.fetchval("explain (format json) " + statement, *arguments))[0]["Plan"]
            walked = {
                (s["Node Type"], s["Index Name"].lstrip("_0123456789"), s["Scan Direction"])
                for s in scans(plan, relation)
            }
            assert walked == {("Index Scan", f"{relation}_pkey", "Backward" if newest else "Forward")}
            assert not [node for node, above in nodes(plan) if "Sort" in node["Node Type"] and "Limit" in above]
        await connection.execute("reset plan_cache_mode")


async def test_a_merge_looks_its_rows_up_and_scans_no_others(store: CandleStore) -> None:
    table = minutes(T0, 15_000)
    await store.write(
        [CandleWrite(await new(store.database), MINUTE, table, Spans([Span(T0, T0 + 15_000 * MINUTE_MS)]))]
    )
    async with store.database.transaction() as connection:
        await connection.execute("analyze ohlcv_data")
        await connection.execute(SQL["candles_stage"])
        await connection.execute("insert into incoming select * from ohlcv_data limit 10000")
        plan = json.loads(await connection.fetchval("explain (format json) " + SQL["candles_correct"]))[0]["Plan"]
    assert {scan["Node Type"] for scan in scans(plan, BASE_RELATION)} == {"Index Scan"}
