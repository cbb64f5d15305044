"""The benefit of the cache in the process, in Redis and for a watchlist, and the effect of a failing Redis under load."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import numpy as np

from benchmarks.serving import _server
from candlegraph import MINUTE, Candles, Instrument, InstrumentRecord, Series, Span, Spans
from candlegraph.answer import Answer, CandleRequest
from history.orchestrator import History
from server.settings import Settings
from server.wiring import Runtime, open_runtime
from storage.batches import CandleWrite
from storage.cache.memory import CandleCache
from storage.cache.shared import SharedCache
from storage.redis import Redis
from tests.fakes.valkey import Valkey
from tests.server.running import serving

T0, MINUTE_MS, ROWS = 1_700_000_040_000, 60_000, 6_000
ROOMY = 64 << 20
CANDLES = "timestamp open high low close volume"


def _random_candles(seed: int, rows: int) -> Candles:
    close = np.round(30_000 + np.cumsum(np.random.default_rng(seed).normal(0, 5, rows)), 2)
    return Candles.of(T0 + MINUTE_MS * np.arange(rows), close, close + 3, close - 3, close, np.abs(close % 7).round(3))


async def _furnish(running: Runtime, symbol: str, candles: Candles) -> InstrumentRecord:
    record = await running.services.history.instruments.get_or_create(Instrument("bench", "memory", symbol), "UTC")
    span = Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + MINUTE_MS)
    await running.store.write([CandleWrite(record.id, MINUTE, candles, Spans([span]))])
    return record


@asynccontextmanager
async def _machine() -> AsyncIterator[Runtime]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_runtime(Settings.read(data_dir=Path(folder) / "data"), create=True) as running:
            yield running


async def one_series() -> Iterable[tuple[object, ...]]:
    """1,000 candles through the orchestrator: from PostgreSQL, from Redis, and from memory."""
    rows: list[tuple[object, ...]] = [("1,000 candles from", "median ms", "p99 ms", "sources"), ("---",) * 4]
    valkey = Valkey()
    redis = Redis(valkey.url)
    async with _machine() as running:
        record = await _furnish(running, "A", _random_candles(3, ROWS))
        shelf = SharedCache(redis, "bench")
        ways = {"PostgreSQL": None, "Redis": CandleCache(0, shelf), "memory": CandleCache(ROOMY)}
        histories = {
            name: History.create(running.database, running.registry, cache=cache) for name, cache in ways.items()
        }
        watching = [asyncio.create_task(history.store.change_feed.run()) for history in histories.values()]
        ask = CandleRequest(Series(record.instrument, MINUTE), 1_000, until=T0 + 4_000 * MINUTE_MS)
        times: dict[str, list[float]] = {name: [] for name in histories}
        sources = {}
        for number in range(420):
            for name, history in histories.items():
                began = time.perf_counter()
                answer = await _answer(history, ask)
                if number >= 20:
                    times[name].append((time.perf_counter() - began) * 1000)
                sources[name] = "+".join(source.source for source in answer.sources)
            await asyncio.sleep(0.001)
        for name, found in times.items():
            rows.append((name, f"{median(found):.2f}", f"{quantiles(found, n=100)[98]:.2f}", sources[name]))
        await asyncio.gather(*map(_cancelled, watching))
        await shelf.close()
    await redis.close()
    valkey.server.stop()
    return rows


async def watchlist() -> Iterable[tuple[object, ...]]:
    """50 symbols x 100 candles over HTTP: one operation against 50 sequential requests; the bar is 4 times as fast."""
    rows: list[tuple[object, ...]] = [
        ("candles from", "50 requests, ms", "one operation, ms", "times as fast"),
        ("---",) * 4,
    ]
    symbols = [f"W{number}" for number in range(50)]
    async with _machine() as running:
        for number, symbol in enumerate(symbols):
            await _furnish(running, symbol, _random_candles(number, 300))
        arguments = f"until: {T0 + 250 * MINUTE_MS}, limit: 100"
        single = [
            f'{{ candles(market: "bench", provider: "memory", symbol: "{symbol}", {arguments}) {{ nodes {{ {CANDLES} }} }} }}'
            for symbol in symbols
        ]
        series = ", ".join(f'{{ market: "bench", provider: "memory", symbol: "{symbol}" }}' for symbol in symbols)
        batch = f"{{ candlesBatch(series: [{series}], {arguments}) {{ nodes {{ {CANDLES} }} }} }}"
        for source in ("postgres", "cached"):
            async with _server("ours", source, running.database.dsn) as (port, _):
                times: dict[int, list[float]] = {1: [], 50: []}
                for round_ in range(23):
                    for queries in ([batch], single):
                        began = time.perf_counter()
                        await _post(port, queries)
                        if round_ >= 3:
                            times[len(queries)].append((time.perf_counter() - began) * 1000)
            many, one = median(times[50]), median(times[1])
            rows.append((source, f"{many:.1f}", f"{one:.1f}", f"{many / one:.1f}"))
    return rows


async def _post(port: int, queries: list[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=16_000_000)
    for query in queries:
        body = json.dumps({"query": query}).encode()
        head = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        assert b'"errors"' not in (await reader.readexactly(length))[:200]
    writer.close()


@dataclass(slots=True)
class _Load:
    """200 queries per second of a series with known candles, answered from Redis if possible."""

    history: History
    record: InstrumentRecord
    truth: Candles
    counts: Counter[str]
    times: list[float]

    async def run(self, seconds: float) -> tuple[object, ...]:
        self.counts.clear()
        self.times.clear()
        dice, tasks = random.Random(1), []  # noqa: S311 - a load
        began = time.perf_counter()
        for number in range(int(200 * seconds)):
            await asyncio.sleep(max(0.0, began + number / 200 - time.perf_counter()))
            tasks.append(asyncio.create_task(self._ask(dice.randrange(ROWS - 1_000))))
        await asyncio.gather(*tasks)
        p50, p99 = median(self.times), quantiles(self.times, n=100)[98]
        return (
            *(self.counts[name] for name in ("right", "wrong", "failed")),
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"{max(self.times):.0f}",
        )

    async def _ask(self, first: int) -> None:
        began = time.perf_counter()
        ask = CandleRequest(Series(self.record.instrument, MINUTE), 500, since=T0 + first * MINUTE_MS)
        try:
            candles = (await _answer(self.history, ask)).candles
            right = np.array_equal(candles.close, self.truth.close[first : first + 500])
            self.counts["right" if right else "wrong"] += 1
        except Exception:  # noqa: BLE001 - every failure is counted
            self.counts["failed"] += 1
        self.times.append((time.perf_counter() - began) * 1000)


async def faults() -> Iterable[tuple[object, ...]]:
    """FLUSHALL, SIGSTOP and kill -9 of Valkey under 200 queries per second, none of them answered from memory."""
    rows: list[tuple[object, ...]] = [
        ("Valkey is", "right", "wrong", "failed", "p50 ms", "p99 ms", "max ms"),
        ("---",) * 7,
    ]
    valkey = Valkey()
    redis = Redis(valkey.url)
    async with _machine() as running:
        truth = _random_candles(3, ROWS)
        record = await _furnish(running, "A", truth)
        shelf = SharedCache(redis, "bench")
        history = History.create(running.database, running.registry, cache=CandleCache(0, shelf))
        watching = asyncio.create_task(history.store.change_feed.run())
        load = _Load(history, record, truth, Counter(), [])
        await load.run(2)
        rows.append(("healthy", *await load.run(5)))
        with valkey.server.client() as client:
            client.flushall()
        rows.append(("flushed", *await load.run(5)))
        valkey.signal(signal.SIGSTOP)
        rows.append(("stopped", *await load.run(5)))
        valkey.signal(signal.SIGCONT)
        rows.append(("resumed", *await load.run(5)))
        valkey.signal(signal.SIGKILL)
        rows.append(("killed", *await load.run(5)))
        successor = Valkey(valkey.port)
        began = time.perf_counter()
        while redis.problem:
            await asyncio.sleep(0.01)
        rows.append((f"another, after {time.perf_counter() - began:.1f} s", *await load.run(5)))
        await _cancelled(watching)
        await shelf.close()
    await redis.close()
    for one in (valkey, successor):
        one.server.stop()
    return rows


async def corrections() -> Iterable[tuple[object, ...]]:
    """The time from the commit of a correction until another process answers with it, 50 times; the bar is a second."""
    rows: list[tuple[object, ...]] = [
        ("the other process", "other queries", "p50 ms", "p95 ms", "longest ms", "bar"),
        ("---",) * 6,
    ]
    valkey = Valkey()
    async with _machine() as running:
        record = await _furnish(running, "A", _random_candles(3, ROWS))
        folder = running.settings.data_dir
        for redis in ({}, {"REDIS_URL": valkey.url}):
            dsn = {"DB_CONNECTION_STRING": running.database.dsn, "DATA_DIR": str(folder / "other")}
            with serving(folder / "other.log", **dsn, **redis) as other:
                for load in (0, 100):
                    took = await _correction_delays(running, record, len(rows) * 1_000, other.url, load)
                    p95 = quantiles(took, n=20)[-1]
                    rows.append(
                        (
                            "with Redis" if redis else "without Redis",
                            f"{load} a second",
                            f"{median(took):.0f}",
                            f"{p95:.0f}",
                            f"{max(took):.0f}",
                            "1,000",
                        )
                    )
    valkey.server.stop()
    return rows


async def _correction_delays(
    running: Runtime, record: InstrumentRecord, price: int, url: str, load: int
) -> list[float]:
    """Milliseconds from the commit of each correction until ``url`` answers with it, under ``load`` other queries per second."""
    dice = random.Random(1)  # noqa: S311 - a load
    took = []
    async with aiohttp.ClientSession() as http:

        async def ask(first: int, count: int) -> list[float]:
            query = (
                f'{{ candles(market: "bench", provider: "memory", symbol: "A", since: {T0 + first * MINUTE_MS}, '
                f"limit: {count}) {{ columns {{ close }} }} }}"
            )
            async with http.post(f"{url}/graphql", json={"query": query}) as response:
                return (await response.json())["data"]["candles"]["columns"]["close"]  # type: ignore[no-any-return]

        async def press() -> None:
            while True:
                await asyncio.gather(asyncio.sleep(0.1), ask(dice.randrange(ROWS - 1_000), 500))

        pressing = [asyncio.create_task(press()) for _ in range(load // 10)]
        for _ in range(50):
            await asyncio.sleep(dice.random() / 2)
            first = dice.randrange(ROWS - 1_000)
            price += 1
            stamp = T0 + first * MINUTE_MS
            right = Candles.of([stamp], *([price] for _ in range(4)), [1])
            await ask(first, 500)
            await running.store.write([CandleWrite(record.id, MINUTE, right, Spans([Span(stamp, stamp + MINUTE_MS)]))])
            began = time.perf_counter()
            while (await ask(first, 500))[0] != price:
                await asyncio.sleep(0.005)
            took.append((time.perf_counter() - began) * 1000)
        await asyncio.gather(*map(_cancelled, pressing))
    return took


async def _answer(history: History, ask: CandleRequest) -> Answer:
    (answer,) = await history.answer([ask])
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
