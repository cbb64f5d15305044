"""Candles over HTTP: our server against the same schema with stock execution, one process each, in one run."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from candlegraph import MINUTE, Candles, Instrument, Span, Spans
from server.settings import Settings
from server.wiring import open_runtime
from storage.batches import CandleWrite

SECONDS = 1.5
ROUNDS = 3
OBJECTS = '{ candles(market: "bench", provider: "memory", symbol: "A", until: 1700300040000, limit: %d) { nodes { timestamp open high low close volume } } }'
COLUMNS = OBJECTS.replace("nodes", "columns")


async def from_memory() -> Iterable[tuple[object, ...]]:
    """Candles from memory; the bar is 15 times stock at 1,000 candles."""
    return await _compare("memory", "")


async def from_postgres() -> Iterable[tuple[object, ...]]:
    """Candles from PostgreSQL; the bar is 8 times stock at 1,000 candles."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_runtime(Settings.read(data_dir=Path(folder) / "data"), create=True) as running:
            record = await running.services.history.instruments.get_or_create(Instrument("bench", "memory", "A"), "UTC")
            stamps = 1_700_000_040_000 + np.arange(5_000) * 60_000
            close = np.round(30_000 + np.cumsum(np.random.default_rng(3).normal(0, 5, 5_000)), 2)
            candles = Candles.of(stamps, close, close + 3, close - 3, close, np.abs(close % 7).round(3))
            span = Span(int(stamps[0]), int(stamps[-1]) + 60_000)
            await running.store.write([CandleWrite(record.id, MINUTE, candles, Spans([span]))])
            return await _compare("postgres", running.database._dsn)


async def _compare(source: str, dsn: str) -> Iterable[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (
            "candles",
            "clients",
            "stock req/s (CPU ms)",
            "objects req/s (CPU ms)",
            "columns req/s (CPU ms)",
            "objects / stock",
            "columns / stock",
        ),
        ("---",) * 7,
    ]
    async with _server("stock", source, dsn) as stock, _server("ours", source, dsn) as ours:
        for limit in (100, 1_000, 5_000):
            for clients in (1, 8):
                figures: dict[str, list[tuple[float, float]]] = {"stock": [], "objects": [], "columns": []}
                for _ in range(ROUNDS):
                    figures["stock"].append(await _rate(stock, OBJECTS % limit, clients))
                    figures["objects"].append(await _rate(ours, OBJECTS % limit, clients))
                    figures["columns"].append(await _rate(ours, COLUMNS % limit, clients))
                rate = {name: median(r for r, _ in found) for name, found in figures.items()}
                cpu = {name: median(c for _, c in found) for name, found in figures.items()}
                rows.append(
                    (
                        limit,
                        clients,
                        *(f"{rate[name]:,.0f} ({cpu[name]:.2f})" for name in figures),
                        f"{rate['objects'] / rate['stock']:.1f}",
                        f"{rate['columns'] / rate['stock']:.1f}",
                    )
                )
    return rows


@asynccontextmanager
async def _server(*arguments: str) -> AsyncIterator[tuple[int, psutil.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.server", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    port = int(await process.stdout.readline())
    try:
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _rate(server: tuple[int, psutil.Process], query: str, clients: int) -> tuple[float, float]:
    """Requests per second, and the server's CPU milliseconds per request."""
    port, process = server
    body = json.dumps({"query": query}).encode()
    request = (
        b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    ) + body
    await _ask(port, request, time.perf_counter() + 0.3)
    before = sum(process.cpu_times()[:2])
    began = time.perf_counter()
    done = await asyncio.gather(*(_ask(port, request, began + SECONDS) for _ in range(clients)))
    seconds = time.perf_counter() - began
    return sum(done) / seconds, (sum(process.cpu_times()[:2]) - before) * 1000 / sum(done)


async def _ask(port: int, request: bytes, until: float) -> int:
    """One client that repeats a request: it does not parse the answers, so that the server limits the speed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4_000_000)
    done = 0
    while time.perf_counter() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        answer = await reader.readexactly(length)
        assert b"errors" not in answer[:200], answer[:400]
        done += 1
    writer.close()
    return done


async def listeners() -> Iterable[tuple[object, ...]]:
    """200 listeners of one series: count the upstream calls."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_runtime(Settings.read(data_dir=Path(folder) / "data"), create=True) as running:
            provider = await running.registry.get("demo", "synthetic")
            assert provider
            calls = {"fetch": 0, "stream": 0}
            fetch, stream = provider.fetch, provider.stream  # type: ignore[attr-defined]

            def counted(name: str, function: object) -> object:
                def call(*arguments: object) -> object:
                    calls[name] += 1
                    return function(*arguments)  # type: ignore[operator]

                return call

            provider.fetch = counted("fetch", fetch)  # type: ignore[method-assign]
            provider.stream = counted("stream", stream)  # type: ignore[attr-defined]
            from candlegraph import Series, Timeframe

            instrument = Instrument("demo", "synthetic", "BTC/USD")
            events = 0

            async def listen(number: int) -> None:
                nonlocal events
                series = Series(instrument, Timeframe.parse(("1m", "5m", "1h")[number % 3]))
                async for _ in running.services.hub.subscribe(series, None, None):
                    events += 1

            tasks = [asyncio.create_task(listen(number)) for number in range(200)]
            await asyncio.sleep(20)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return [
        ("listeners", "timeframes", "seconds", "events delivered", "streams opened", "history calls"),
        ("---",) * 6,
        (200, 3, 20, events, calls["stream"], calls["fetch"]),
    ]
