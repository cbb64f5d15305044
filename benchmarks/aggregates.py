"""The cost of aggregates for writes, and their benefit for reads."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from candlegraph import MINUTE, Candles, Instrument, Span, Spans, Timeframe, fold
from storage.aggregates.verify import Verification
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import SQL, Database
from storage.embedded.postgres import EmbeddedPostgres
from storage.instruments import Instruments
from storage.migration.migrate import migrate
from storage.relations import ALL_AGGREGATES

YEAR = 525_600
SYMBOLS = 10
LIVE = 500
SINCE = 1_672_531_200_000  # 2023-01-01
ALL_TIME = Span(0, 10**14)


class _NoProviders:
    """A registry without providers."""

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> None:
        """Return no provider."""

    def running(self, market: str, provider: str) -> None:
        """Return no provider."""

    def status(self, market: str, provider: str) -> None:
        """None."""

    def statuses(self) -> list[Any]:
        """None."""
        return []


def _random_candles(count: int, seed: int, since: int = SINCE) -> Candles:
    dice = np.random.default_rng(seed)
    close = np.round(30_000 + np.cumsum(dice.normal(0, 5, count)), 2)
    opened = np.concatenate([[30_000.0], close[:-1]])
    high, low = np.maximum(opened, close) + 1, np.minimum(opened, close) - 1
    return Candles.of(since + 60_000 * np.arange(count), opened, high, low, close, dice.random(count).round(4))


def _write(one: int, candles: Candles) -> CandleWrite:
    return CandleWrite(
        one, MINUTE, candles, Spans([Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + 60_000)])
    )


@asynccontextmanager
async def _store() -> AsyncIterator[CandleStore]:
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "data")
        database = Database((await asyncio.to_thread(postgres.start)).dsn)
        await database.open()
        await migrate(database)
        try:
            yield CandleStore(database, ChangeFeed(database))
        finally:
            await database.close()
            await asyncio.to_thread(postgres.stop)


async def _new(store: CandleStore, symbol: str) -> int:
    return (await Instruments(store.database).get_or_create(Instrument("bench", "b", symbol), "UTC")).id


async def _times(work: Callable[[], Awaitable[object]], repeats: int = 31) -> list[float]:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


@asynccontextmanager
async def _without_aggregates() -> AsyncIterator[None]:
    """Make writes skip the aggregates."""
    kept, SQL["aggregates_update"] = SQL["aggregates_update"], "select $1::int4[], $2::int8[], $3::int8[], $4::bool"
    try:
        yield
    finally:
        SQL["aggregates_update"] = kept


async def _size(store: CandleStore, *relations: str) -> float:
    async with store.database.connection() as connection:
        return float(
            await connection.fetchval(
                "select sum(pg_total_relation_size(r::regclass)) from unnest($1::text[]) r", relations
            )
        )


async def read_and_write() -> Iterable[tuple[object, ...]]:
    """5.2 million 1m candles, 10 symbols of a year: reads of minutes and aggregates, and writes with and without aggregates."""
    rows: list[tuple[object, ...]] = [("what", "median", "bar"), ("---",) * 3]
    async with _store() as store:
        ids = [await _new(store, f"S{number}") for number in range(SYMBOLS)]
        began = time.perf_counter()
        for number, one in enumerate(ids):
            await store.write([_write(one, _random_candles(YEAR, number))])
        seconds = time.perf_counter() - began
        rows.append(("fill it, rows and aggregates", f"{SYMBOLS * YEAR / seconds:,.0f} rows/s", ""))
        async with store.database.connection() as connection:
            await connection.execute("vacuum analyze")
        rows.append(("verify a symbol", f"{await _verify(store, ids[5]):.1f} s", ""))
        rows += await _sizes(store)
        rows += await _reads(store, ids)
        rows += await _live(store)
        rows += await _bulk(store)
    return rows


async def _verify(store: CandleStore, one: int) -> float:
    began = time.perf_counter()
    assert not any([tally.wrong async for tally in Verification(store, ALL_AGGREGATES).check(one)])
    return time.perf_counter() - began


async def _sizes(store: CandleStore) -> list[tuple[object, ...]]:
    rows = SYMBOLS * YEAR  # bytes per row equal megabytes per million rows
    base, above = await _size(store, "ohlcv_data"), await _size(store, *ALL_AGGREGATES.values())
    return [
        ("ohlcv_data with its index, a million rows", f"{base / rows:.0f} MB", ""),
        ("the nine aggregates with theirs, over a million rows", f"{above / rows:.0f} MB", ""),
    ]


async def _reads(store: CandleStore, ids: list[int]) -> list[tuple[object, ...]]:
    hour, day = Timeframe.parse("1h"), Timeframe.parse("1d")
    last = ids[3]

    def newest(timeframe: Timeframe, rows: int, relation: str) -> CandleRead:
        return CandleRead(last, timeframe, ALL_TIME, rows, newest=True, relation=relation)

    base = median(await _times(lambda: store.read([newest(MINUTE, 1000, "ohlcv_data")])))
    level = median(await _times(lambda: store.read([newest(hour, 1000, "ohlcv_1h")])))
    days = await _times(lambda: store.read([newest(day, 366, "ohlcv_1d")]))

    async def on_the_fly() -> Candles:
        return fold((await store.read([newest(MINUTE, 60_000, "ohlcv_data")]))[0], hour)

    flown = median(await _times(on_the_fly, 9))
    statement = """
      select date_bin('1 hour', "timestamp", timestamptz '2000-01-03 00:00+00') t, (array_agg(open order by "timestamp"))[1],
             max(high), min(low), (array_agg(close order by "timestamp" desc))[1], sum(volume)
      from (select * from ohlcv_data where instrument_id = $1 and timeframe = '1m' order by "timestamp" desc limit 60000) x
      group by 1 order by 1"""
    in_sql = median(await _times(lambda: store.database.fetch(statement, last), 9))
    return [
        ("newest 1,000 of 1m, the base", f"{base:.2f} ms", ""),
        ("newest 1,000 of 1h, the aggregate", f"{level:.2f} ms = {level / base:.2f} of the base", "3.00"),
        ("the same folded from 60,000 minutes in numpy", f"{flown:.1f} ms = {flown / level:.0f} x", "10 x"),
        ("the same folded in SQL", f"{in_sql:.1f} ms = {in_sql / level:.0f} x", "10 x"),
        ("a year of 1d", f"{median(days):.2f} ms", "5 ms"),
    ]


async def _live(store: CandleStore) -> list[tuple[object, ...]]:
    """Write one closed minute of 500 instruments, sixty times; every third time without aggregates."""
    ids = [await _new(store, f"L{number}") for number in range(LIVE)]
    past = 1440
    await store.write([_write(one, _random_candles(past, one)) for one in ids])
    async with store.database.connection() as connection:
        await connection.execute("analyze")
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for minute in range(60):
        writes = [_write(one, _random_candles(1, minute, SINCE + (past + minute) * 60_000)) for one in ids]
        began = time.perf_counter()
        if minute % 3:
            await store.write(writes)
        else:
            async with _without_aggregates():
                await store.write(writes)
        taken["with" if minute % 3 else "without"].append((time.perf_counter() - began) * 1000)
    p95 = quantiles(taken["with"], n=20)[-1]
    return [
        ("a closed minute of 500 instruments, p50", f"{median(taken['with']):.0f} ms", ""),
        ("a closed minute of 500 instruments, p95", f"{p95:.0f} ms", "250 ms"),
        ("a closed minute of 500 instruments, no aggregates, p50", f"{median(taken['without']):.0f} ms", ""),
    ]


async def _bulk(store: CandleStore) -> list[tuple[object, ...]]:
    """The same writes with and without aggregates, alternating, twice."""
    rows: list[tuple[object, ...]] = []
    for what, count, batch, other in (
        ("fresh, a year in one write", YEAR, YEAR, None),
        ("fresh, writes of 10,000", 100_000, 10_000, None),
        ("merge of the same, half a year in one write", YEAR // 2, YEAR // 2, 0),
        ("merge of the same, writes of 10,000", 100_000, 10_000, 0),
        ("merge of other prices (each is logged), half a year in one write", YEAR // 2, YEAR // 2, 10),
        ("merge of other prices (each is logged), writes of 10,000", 100_000, 10_000, 10),
    ):
        rates: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(2):
            for kept in (True, False):
                one = await _new(store, f"{what} {turn} {kept}")
                candles = _random_candles(count, turn)
                if other is not None:
                    await store.write([_write(one, candles)])
                    candles = _random_candles(count, turn + other)
                if kept:
                    rates[kept].append(await _rate(store, one, candles, batch))
                else:
                    async with _without_aggregates():
                        rates[kept].append(await _rate(store, one, candles, batch))
        on, off = median(rates[True]), median(rates[False])
        rows.append((what, f"{on:,.0f} of {off:,.0f} rows/s = {on / off:.0%}", "50%"))
    return rows


async def _rate(store: CandleStore, one: int, candles: Candles, batch: int) -> float:
    began = time.perf_counter()
    for start in range(0, len(candles), batch):
        await store.write([_write(one, candles[start : start + batch])])
    return len(candles) / (time.perf_counter() - began)
