"""Coverage that is withdrawn: stored candles stay, the time between them is a gap, and every process is notified."""

from __future__ import annotations

import pytest

from candlegraph.errors import ProviderUnavailable
from candlegraph.resample import fold
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.aggregates.verify import Verification
from storage.batches import CandleWrite
from storage.cache.memory import CandleCache
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.coverage_cache import CoverageCache
from storage.database import Database
from storage.instruments import Instruments
from storage.relations import ALL_AGGREGATES
from storage.withdrawals import StoredSeries, newest_withdrawals, withdraw
from tests.fakes.upstream import minutes, raising
from tests.history.world import DAY_MS, HOUR_MS, T0, World, rows_of, stop_clock

MINUTE_MS = 60_000
DAY = Timeframe(1, "d")
EVER = Spans([Span(-(2**62), 2**62)])


@pytest.fixture
def store(database: Database) -> CandleStore:
    return CandleStore(database, ChangeFeed(database))


async def series_of(store: CandleStore, timezone: str = "UTC", timeframe: Timeframe = MINUTE) -> StoredSeries:
    record = await Instruments(store.database).get_or_create(Instrument("m", "p", "A"), timezone)
    return StoredSeries(record.id, timeframe, record.timezone)


async def covered(store: CandleStore, series: StoredSeries) -> Spans:
    return (await store.read_coverage([series.instrument_id]))[0].spans.get(series.timeframe, Spans())


async def test_minutes_without_a_candle_are_unknown_again_and_candles_prove_their_own(store: CandleStore) -> None:
    series = await series_of(store)
    table = minutes(T0, 300, holes=range(100, 160))
    await store.write([CandleWrite(series.instrument_id, MINUTE, table, Spans([Span(T0, T0 + 400 * MINUTE_MS)]))])
    lost = await withdraw(store, series, EVER, "why")
    hole = Span(T0 + 100 * MINUTE_MS, T0 + 160 * MINUTE_MS)
    assert lost == Spans([hole, Span(T0 + 300 * MINUTE_MS, T0 + 400 * MINUTE_MS)])
    assert await covered(store, series) == Spans([Span(T0, hole.since), Span(hole.until, T0 + 300 * MINUTE_MS)])
    (row,) = await newest_withdrawals(store.database, "m", "p", "A", 9)
    assert (row.timeframe, row.span, row.uncovered, row.candles, row.reason) == (
        "1m",
        Span(T0, T0 + 400 * MINUTE_MS),
        160 * MINUTE_MS,
        0,
        "why",
    )
    tallies = [tally async for tally in Verification(store, ALL_AGGREGATES).check(series.instrument_id)]
    assert sum(tally.checked for tally in tallies) > 240
    assert not any(tally.wrong for tally in tallies)


async def test_only_whole_buckets_of_the_span_are_withdrawn(store: CandleStore) -> None:
    series = await series_of(store, "America/New_York", DAY)
    midnight = T0 + 5 * HOUR_MS
    whole = Span(midnight, midnight + 2 * DAY_MS)  # Friday and Saturday
    await store.write([CandleWrite(series.instrument_id, DAY, minutes(T0, 0), Spans([whole]))])
    within = Spans([Span(midnight + HOUR_MS, midnight + 2 * HOUR_MS)])
    assert await withdraw(store, series, within, "why") == Spans([Span(midnight, midnight + DAY_MS)])
    assert await covered(store, series) == Spans([Span(midnight + DAY_MS, whole.until)])


async def test_nothing_is_noted_where_nothing_is_covered(store: CandleStore) -> None:
    assert await withdraw(store, await series_of(store), EVER, "why") == Spans()
    assert await newest_withdrawals(store.database, None, None, None, 9) == []


async def test_every_process_reads_the_coverage_afresh_under_another_revision(
    store: CandleStore, database: Database
) -> None:
    series = await series_of(store)
    hull = Span(T0, T0 + HOUR_MS)
    await store.write([CandleWrite(series.instrument_id, MINUTE, minutes(T0, 30), Spans([hull]))])
    here, elsewhere = CoverageCache(store), CoverageCache(CandleStore(database, ChangeFeed(database)))
    for ledgers in (here, elsewhere):
        await ledgers._store.change_feed.poll()
        (before,) = await ledgers.load([series.instrument_id])
        assert before.spans[MINUTE] == Spans([hull])
    await withdraw(store, series, EVER, "why")
    await elsewhere._store.change_feed.poll()
    for ledgers in (here, elsewhere):
        (after,) = await ledgers.load([series.instrument_id])
        assert after.spans[MINUTE] == Spans([Span(T0, T0 + 30 * MINUTE_MS)])
        assert after.revision > before.revision


async def test_an_aggregate_does_not_answer_a_bucket_that_lost_coverage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, now=T0 + DAY_MS, cache=CandleCache(10**7))
    stop_clock(monkeypatch, world)
    whole = minutes(T0, 180)
    world.lists(whole)
    await world.keeps(Span(T0, T0 + 3 * HOUR_MS), rows=minutes(T0, 180, holes=range(70, 80)))
    asked = {"timeframe": "1h", "since": T0, "until": T0 + 3 * HOUR_MS}
    before = await world.ask(**asked)
    assert before.complete
    world.upstream.always = raising(ProviderUnavailable("away"))
    record = await world.record()
    await withdraw(world.store, StoredSeries(record.id, MINUTE, record.timezone), EVER, "why")
    answer = await world.ask(**asked)
    assert answer.candles.timestamp.tolist() == [T0, T0 + 2 * HOUR_MS]
    assert [(gap.since, gap.until) for gap in answer.gaps] == [(T0 + HOUR_MS, T0 + 2 * HOUR_MS)]
    world.upstream.always = None
    answer = await world.ask(**asked)
    assert answer.complete
    assert rows_of(answer.candles) == rows_of(fold(whole, Timeframe(1, "h")))
