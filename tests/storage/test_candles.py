"""Candles and what is known about them go in together, come out as they went in, and survive each other's writers."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import Unavailable
from candlegraph.provider import Revision
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage import binary
from storage.batches import CandleRead, CandleWrite, FetchLogRow, Superseded
from storage.candles import CandleStore, read_tables
from storage.change_feed import Change, ChangeFeed
from storage.database import SQL, Database
from storage.instruments import Instruments
from storage.leases import Leases
from tests.fakes.upstream import minutes
from tests.history.world import T0, rows_of
from tests.timings import PATIENT

HOUR = Timeframe.parse("1h")


@pytest.fixture
def store(database: Database) -> CandleStore:
    return CandleStore(database, ChangeFeed(database))


async def new(store: CandleStore, symbol: str = "A") -> int:
    found = await Instruments(store.database).get_or_create(Instrument("m", "p", symbol), "UTC")
    return found.id


def write(
    instrument_id: int, candles: Candles, *spans: Span, timeframe: Timeframe = MINUTE, source: str = "a"
) -> CandleWrite:
    whole = Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + MINUTE_MS) if len(candles) else Span(0, 0)
    return CandleWrite(instrument_id, timeframe, candles, Spans(spans or [whole]), source)


async def all_of(store: CandleStore, instrument_id: int, timeframe: Timeframe = MINUTE) -> Candles:
    return (await store.read([CandleRead(instrument_id, timeframe, Span(-(10**14), 10**14), 10**6)]))[0]


@pytest.mark.parametrize("broken", ["aggregates_update", "copy", "fetch_log_add"])
@pytest.mark.parametrize("first", [True, False])
async def test_rows_and_coverage_are_written_together_or_not_at_all(
    store: CandleStore, monkeypatch: pytest.MonkeyPatch, broken: str, first: bool
) -> None:
    series = await new(store)
    old = minutes(T0, 10)
    if not first:
        await store.write([write(series, old)])
    before = (rows_of(await all_of(store, series)), await store.read_coverage([series]))
    if broken == "copy":
        packed = binary._packed_rows
        monkeypatch.setattr(binary, "_packed_rows", lambda *rows: packed(*rows)[:-7])
    else:
        monkeypatch.setitem(SQL, broken, "no statement")
    fetch = FetchLogRow(series, MINUTE, Span(T0, T0 + 1), 1, "ok", 1)
    with pytest.raises(Exception, match=r"syntax error|unexpected EOF|COPY"):
        await store.write([write(series, minutes(T0 - 5 * MINUTE_MS, 40, seed=1))], [fetch])
    assert (rows_of(await all_of(store, series)), await store.read_coverage([series])) == before
    assert await logged(store) == 0


async def logged(store: CandleStore) -> int:
    async with store.database.connection() as connection:
        return int(await connection.fetchval("select count(*) from fetch_log"))


async def test_coverage_without_a_candle_is_kept(store: CandleStore) -> None:
    series = await new(store)
    await store.write([write(series, Candles.empty(), Span(T0, T0 + MINUTE_MS))])
    (coverage,) = await store.read_coverage([series])
    assert coverage.spans == {MINUTE: Spans([Span(T0, T0 + MINUTE_MS)])}
    assert len(await all_of(store, series)) == 0


floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [5e-324, -0.0, 0.0, 1.7976931348623157e308, 0.1, 2.2250738585072014e-308]
)
volumes = st.floats(0, 1e300)
row = st.tuples(st.integers(-10_000_000, 160_000_000), floats, floats, floats, floats, volumes)
tables = st.lists(row, min_size=1, max_size=20, unique_by=lambda r: r[0]).map(
    lambda rows: Candles.from_rows([(r[0] * MINUTE_MS, *r[1:]) for r in rows])
)
_count = iter(range(10**9))
FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FEW
@given(table=tables)
async def test_what_is_read_is_what_was_written_to_the_bit(store: CandleStore, table: Candles) -> None:
    series = await new(store, f"bits {next(_count)}")
    await store.write([write(series, table)])
    found = await all_of(store, series)
    assert [column.tobytes() for column in found.columns] == [column.tobytes() for column in table.columns]
    newest = (await store.read([CandleRead(series, MINUTE, Span(-(10**14), 10**14), 3, newest=True)]))[0]
    assert rows_of(newest) == rows_of(table[-3:])


@FEW
@given(old=tables, new_one=tables, data=st.data())
async def test_writing_over_what_is_there_ends_as_if_it_had_never_been_there(
    store: CandleStore, old: Candles, new_one: Candles, data: st.DataObject
) -> None:
    shared = data.draw(st.lists(st.integers(0, len(old) - 1), unique=True).map(sorted))
    again = old[np.array(shared, np.int64)]
    changed = new_one.merge(Candles.of(again.timestamp, *(column + 0.5 for column in again.columns[1:6])))
    series, fresh = await new(store, f"old {next(_count)}"), await new(store, f"fresh {next(_count)}")
    await store.write([write(series, old)])
    await store.write([write(series, changed)])
    await store.write([write(fresh, old.merge(changed))])
    merged, straight = await all_of(store, series), await all_of(store, fresh)
    assert rows_of(merged) == rows_of(straight)


async def test_equal_reads_at_once_are_one_read(database: Database) -> None:
    read_by_statement: list[int] = []

    async def counted(opened: Database, reads: Sequence[CandleRead]) -> list[Candles]:
        read_by_statement.append(len(reads))
        return await read_tables(opened, reads)

    store = CandleStore(database, ChangeFeed(database), counted)
    series, table = await new(store), minutes(T0, 20)
    await store.write([write(series, table)])
    read = CandleRead(series, MINUTE, Span(T0, T0 + 20 * MINUTE_MS), 300_000)
    answers = await asyncio.gather(*(store.read([read]) for _ in range(500)))
    assert all(rows_of(answer) == rows_of(table) for (answer,) in answers)
    assert read_by_statement == [1]


async def test_the_oldest_and_the_newest_are_limited_and_ranges_are_half_open(store: CandleStore) -> None:
    series, table = await new(store), minutes(T0, 20)
    await store.write([write(series, table)])
    span = Span(T0 + 2 * MINUTE_MS, T0 + 9 * MINUTE_MS)
    expected = rows_of(table)[2:9]
    for limit in (0, 1, 3, 7, 100):
        oldest, newest = await store.read(
            [CandleRead(series, MINUTE, span, limit), CandleRead(series, MINUTE, span, limit, newest=True)]
        )
        assert rows_of(oldest) == expected[:limit]
        assert rows_of(newest) == (expected[-limit:] if limit else [])
    nothing = await store.read(
        [
            CandleRead(series, HOUR, span, 5),
            CandleRead(series + 1, MINUTE, span, 5),
            CandleRead(series, MINUTE, Span(5, 5), 5),
        ]
    )
    assert [len(found) for found in nothing] == [0, 0, 0]


async def test_many_series_are_read_in_one_statement_each_in_its_place(
    store: CandleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = [await new(store, f"S{i}") for i in range(12)]
    tables = [minutes(T0, 5 + i, seed=i) for i in range(12)]
    await store.write([write(one, table) for one, table in zip(series, tables, strict=True)])
    statements: list[str] = []
    fetch = Database.fetch

    async def counted(self: Database, statement: str, *arguments: object) -> Any:
        if self is store.database and "from changes" not in statement:
            statements.append("ledgers" if "coverage" in statement else "newest" if " desc " in statement else "oldest")
        return await fetch(self, statement, *arguments)

    monkeypatch.setattr(Database, "fetch", counted)
    order = [*random.Random(1).sample(range(12), 12), 3, 3]
    found = await store.read([CandleRead(series[i], MINUTE, Span(0, 10**14), 100) for i in order])
    assert [rows_of(candles) for candles in found] == [rows_of(tables[i]) for i in order]
    assert statements == ["oldest"]
    both = await store.read([CandleRead(series[i], MINUTE, Span(0, 10**14), 2, newest=i % 2 == 0) for i in range(12)])
    assert [rows_of(c) for c in both] == [rows_of(t[-2:] if i % 2 == 0 else t[:2]) for i, t in enumerate(tables)]
    ledgers = await store.read_coverage([series[5], series[0], series[5]])
    assert statements[1:] == ["oldest", "newest", "ledgers"]
    assert ledgers[0].spans == ledgers[2].spans == {MINUTE: Spans([Span(T0, T0 + 10 * MINUTE_MS)])}


async def test_writers_of_the_same_series_lose_nothing(store: CandleStore) -> None:
    series, table = await new(store), minutes(T0, 400)
    dice = random.Random(7)
    spans = [(start, start + dice.randrange(1, 60)) for start in (dice.randrange(0, 380) for _ in range(60))]
    cuts = [(table[a:b], Span(T0 + a * MINUTE_MS, T0 + min(b, 400) * MINUTE_MS)) for a, b in spans]
    await asyncio.gather(*(store.write([write(series, cut, span)]) for cut, span in cuts))
    union = Spans(span for _, span in cuts)
    assert (await store.read_coverage([series]))[0].spans == {MINUTE: union}
    assert rows_of(await all_of(store, series)) == [
        r for r in rows_of(table) if union.covers(Span(int(r[0]), int(r[0]) + 1))
    ]


async def test_writers_of_many_series_in_any_order_never_lock_each_other_out(store: CandleStore) -> None:
    series = [await new(store, f"S{i}") for i in range(6)]
    dice = random.Random(3)

    async def one(turn: int) -> None:
        chosen = dice.sample(series, 4)
        span = Span(T0 + turn * MINUTE_MS, T0 + (turn + 1) * MINUTE_MS)
        await store.write(
            [write(i, minutes(span.since, 1, seed=i), span, timeframe=tf) for i in chosen for tf in (MINUTE, HOUR)]
        )
        wanted.update((i, turn) for i in chosen)

    wanted: set[tuple[int, int]] = set()
    await asyncio.gather(*(one(turn) for turn in range(60)))
    ledgers = await store.read_coverage(series)
    for instrument_id, ledger in zip(series, ledgers, strict=True):
        turns = {turn for i, turn in wanted if i == instrument_id}
        expected = Spans(Span(T0 + turn * MINUTE_MS, T0 + (turn + 1) * MINUTE_MS) for turn in turns)
        assert ledger.spans == {MINUTE: expected, HOUR: expected}
        assert [int(r[0] - T0) // MINUTE_MS for r in rows_of(await all_of(store, instrument_id))] == sorted(turns)


async def test_a_long_write_reports_its_progress(store: CandleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "COPY_ROWS", 40)
    series, steps = await new(store), list[int]()
    await store.write([write(series, minutes(T0, 100))], progress=steps.append)
    await store.write([write(series, minutes(T0, 100, seed=2))], progress=steps.append)
    assert steps == [40, 40, 20] * 2
    assert rows_of(await all_of(store, series)) == rows_of(minutes(T0, 100, seed=2))


async def test_a_long_write_is_given_more_time_than_a_question(
    store: CandleStore, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "COPY_ROWS", 1_000)
    monkeypatch.setitem(SQL, "aggregates_update", "select pg_sleep(1.5), $1::int4[], $2::int8[], $3::int8[], $4::bool")
    series, hasty = await new(store), Database(database_dsn, timings=replace(PATIENT, statement_timeout_s=1.0))
    await hasty.open()
    try:
        with pytest.raises(Unavailable):
            await CandleStore(hasty, ChangeFeed(hasty)).write([write(series, minutes(T0, 1_000))])
        await CandleStore(hasty, ChangeFeed(hasty)).write([write(series, minutes(T0, 3_000))])
        async with hasty.transaction() as connection:
            assert await connection.fetchval("show statement_timeout") == "1s"
    finally:
        await hasty.close()
    assert len(await all_of(store, series)) == 3_000


async def test_the_flat_view_shows_the_wide_shape(store: CandleStore) -> None:
    series = await new(store, "BTC/USD")
    await store.write([write(series, minutes(T0, 1), source="i")])
    await store.write([write(series, minutes(T0 + MINUTE_MS, 1), timeframe=HOUR)])
    async with store.database.connection() as connection:
        await connection.execute("update instruments set base_currency = 'BTC', quote_currency = 'USD'")
        rows = await connection.fetch("select * from ohlcv_data_flat order by timestamp")
    names = ("market", "provider", "symbol", "timeframe", "base_currency", "quote_currency", "source")
    assert [tuple(r[name] for name in names) for r in rows] == [
        ("m", "p", "BTC/USD", "1m", "BTC", "USD", "import"), ("m", "p", "BTC/USD", "1h", "BTC", "USD", "api"),
    ]  # fmt: skip
    assert rows[0]["timestamp"].timestamp() * 1000 == T0


async def test_a_series_that_was_replaced_meanwhile_keeps_no_other_from_being_written(store: CandleStore) -> None:
    held = (await Leases(store.database, uuid.uuid4()).acquire(["feed"], 600))["feed"]
    series = [await new(store, symbol) for symbol in "ABC"]
    await store.write([replace(write(series[1], minutes(T0, 1)), revision=Revision("new", "1"))])
    writes = [replace(write(one, minutes(T0, 3)), revision=Revision("old", "1")) for one in series]
    results = await asyncio.gather(*(store.write_leased(one, (), held) for one in writes), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Superseded, type(None)]
    assert [len(await all_of(store, one)) for one in series] == [3, 1, 3]


async def test_two_changes_of_one_transaction_are_both_news(database: Database) -> None:
    feed, heard = ChangeFeed(database), list[Change]()
    await feed.poll()
    feed.subscribe(lambda changes: heard.extend(changes or ()))
    corrected = Span(T0, T0 + MINUTE_MS)
    async with database.transaction() as connection:
        for one, span in ((1, corrected), (2, None)):
            steps = [[one], [span.since if span else 0], [span.until if span else 0]]
            await connection.fetchval(SQL["coverage_extend"], [], [], [], [], *steps, [])
    await feed.poll()
    assert sorted(heard, key=lambda change: change.instrument_id) == [Change(1, corrected), Change(2)]
    heard.clear()
    await feed.poll()
    assert heard == []
