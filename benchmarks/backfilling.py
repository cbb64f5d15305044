"""Backfills: the speed of a backfill, the cost of fragmented coverage, many equal queries, and concurrent pages."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from candlegraph import MINUTE, Candles, Instrument, Series, Span, Spans
from candlegraph.answer import CandleRequest
from candlegraph.backfill import BackfillRequest, SymbolSelection
from candlegraph.provider import Budget, Capabilities, Listing, Market, Page
from candlegraph.supervision import Supervisor
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import ProviderState, ProviderStatus, Upstream
from history.backfill.jobs import BackfillJobs
from history.backfill.workers import BackfillWorkers
from history.fetch_request import MAX_CALLS_PER_FETCH
from history.orchestrator import History
from providers.ccxt.provider import Ccxt
from providers.guard.guard import Guard
from server.settings import Settings
from server.wiring import open_runtime
from storage.batches import CandleWrite
from tests.fakes.exchange import T0

SYMBOLS, EACH, PAGE = 20, 50_000, 1_000
SINCE = 1_577_836_800_000
MINUTE_MS = 60_000
PAGE_MS = PAGE * MINUTE_MS
PAGING_ROUNDS = 5
PAGING = ("bare ccxt, one by one", "stored, one by one", "side by side, from the oldest", "side by side, the newest")


@dataclass
class Memory:
    """An upstream without a limit, in this process."""

    candles: Candles
    latency_s: float = 0.0
    calls: int = 0
    api_version: int = 1
    market: Market = field(default_factory=lambda: Market("bench", "Bench", "Not real."))
    id: str = "memory"
    name: str = "Memory"
    description: str = ""
    version: str = "1"
    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(
            (MINUTE,), max_rows_per_call=PAGE, settle_ms=0, budget=Budget(1e9, 1, concurrent=1000)
        )
    )

    async def start(self) -> None:
        """Do nothing: there is nothing to open."""

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def listings(self) -> Sequence[Listing]:
        """The symbols."""
        return [Listing(f"S{i}") for i in range(SYMBOLS)]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """A page of candles, after ``latency_s``."""
        self.calls += 1
        await asyncio.sleep(self.latency_s)
        rows = self.candles.between(span)[:PAGE]
        cut = len(rows) == PAGE
        return Page(rows, span.since, int(rows.timestamp[-1]) + MINUTE_MS if cut else span.until)


@dataclass
class Only:
    """A registry with one provider."""

    member: Guard

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> Upstream | None:
        """The provider."""
        return self.member if (market, provider) == (self.member.market.id, self.member.id) else None

    def running(self, market: str, provider: str) -> Upstream | None:
        """The provider, which is always running."""
        return self.member if (market, provider) == (self.member.market.id, self.member.id) else None

    def status(self, market: str, provider: str) -> ProviderStatus | None:
        """The status of the provider."""
        return next((one for one in self.statuses() if (one.market.id, one.id) == (market, provider)), None)

    def statuses(self) -> Sequence[ProviderStatus]:
        """The status of the provider."""
        return [ProviderStatus(self.member.market, self.member.id, self.member.name, "", "1", ProviderState.READY)]


def _candles() -> Candles:
    generator = np.random.default_rng(2)
    close = np.round(30_000 + np.cumsum(generator.normal(0, 5, EACH)), 2)
    stamps = SINCE + np.arange(EACH) * MINUTE_MS
    return Candles.of(stamps, close, close + 3, close - 3, close, generator.random(EACH).round(4))


@asynccontextmanager
async def _history(upstream: Guard) -> AsyncIterator[History]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_runtime(Settings.read(data_dir=Path(folder) / "data"), create=True) as running:
            history = History.create(running.database, Only(upstream), running.services.history.aggregates)
            watching = asyncio.create_task(history.store.change_feed.run())
            try:
                yield history
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await history.fetcher.close()


async def a_million() -> Iterable[tuple[object, ...]]:
    """Backfill a million 1m candles of 20 symbols, with aggregates; the bar is 20,000 per second and 100 MB more memory."""
    rows: list[tuple[object, ...]] = [
        ("workers", "seconds", "rows/s", "calls", "CPU s of ours", "memory grew MB"),
        ("---",) * 6,
    ]
    for count in (1, 4, 8):
        upstream = Memory(_candles())
        async with _history(Guard(upstream)) as history:
            backfills, process = BackfillJobs(history), psutil.Process()
            order = BackfillRequest(SymbolSelection("bench", "memory", pattern="*"), SINCE, SINCE + EACH * MINUTE_MS)
            job = await backfills.start(order)
            memory, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
            peak, began = memory, time.perf_counter()
            workers = BackfillWorkers(backfills, workers=count)
            workers.start(supervisor := Supervisor())
            while not (job := await backfills.get(job.id)).state.ended:
                peak = max(peak, process.memory_info().rss)
                await asyncio.sleep(0.2)
            seconds = time.perf_counter() - began
            await workers.close()
            await supervisor.close()
            assert job.candles_written == SYMBOLS * EACH, job
            rows.append(
                (
                    count,
                    f"{seconds:.1f}",
                    f"{job.candles_written / seconds:,.0f}",
                    upstream.calls,
                    f"{sum(process.cpu_times()[:2]) - cpu:.1f}",
                    f"{(peak - memory) / 2**20:.0f}",
                )
            )
    return rows


async def ragged() -> Iterable[tuple[object, ...]]:
    """A query of a symbol whose coverage has 10,000 fragments; the bar is 30 ms more than with one fragment."""
    rows: list[tuple[object, ...]] = [("fragments", "ms, coverage cached", "ms, coverage read"), ("---",) * 3]
    upstream = Memory(_candles())
    async with _history(Guard(upstream)) as history:
        found = await history.listings.find([Instrument("bench", "memory", f"S{i}") for i in range(3)])
        for record, count in zip(found, (1, 1_000, 10_000), strict=True):
            end = SINCE + EACH * MINUTE_MS
            if count == 1:
                spans = Spans([Span(SINCE, end)])
            else:
                step = EACH // count
                spans = Spans(Span(SINCE + i * step * MINUTE_MS, SINCE + (i * step + step - 1) * MINUTE_MS) for i in range(count))  # fmt: skip
            await history.store.write([CandleWrite(record.id, MINUTE, Candles.empty(), spans)])  # type: ignore[union-attr]
            ask = CandleRequest(
                Series(Instrument("bench", "memory", f"S{len(rows) - 2}"), MINUTE),
                500,
                end - 4 * MINUTE_MS,
                end - 2 * MINUTE_MS,
            )
            times: dict[bool, list[float]] = {True: [], False: []}
            await history.answer([ask])
            for kept in (True, False):
                for _ in range(30):
                    if not kept:
                        history.coverage_cache.forget(record.id)  # type: ignore[union-attr]
                    began = time.perf_counter()
                    answer = (await history.answer([ask]))[0]
                    times[kept].append((time.perf_counter() - began) * 1000)
                    if isinstance(answer, BaseException):
                        raise answer
            rows.append((count, *(f"{np.median(times[kept]):.2f}" for kept in (True, False))))
    return rows


async def a_thousand() -> Iterable[tuple[object, ...]]:
    """A thousand identical cold queries while the upstream takes a second; the bar is a p99 of 4 s, and one call."""
    upstream = Memory(_candles(), latency_s=1.0)
    async with _history(Guard(upstream)) as history:
        await history.listings.find([Instrument("bench", "memory", "S0")])
        ask = CandleRequest(Series(Instrument("bench", "memory", "S0"), MINUTE), 500, SINCE, SINCE + 500 * MINUTE_MS)

        async def one() -> float:
            began = time.perf_counter()
            answer = (await history.answer([ask]))[0]
            if isinstance(answer, BaseException):
                raise answer
            return time.perf_counter() - began

        times = await asyncio.gather(*(one() for _ in range(1_000)))
    return [
        ("queries", "upstream calls", "p50 s", "p99 s"),
        ("---",) * 4,
        (1_000, upstream.calls, f"{np.median(times):.2f}", f"{np.quantile(times, 0.99):.2f}"),
    ]


@asynccontextmanager
async def _exchange(latency_ms: int, pages: int, symbols: int) -> AsyncIterator[tuple[Ccxt, Guard]]:
    """A ccxt provider, bare and guarded, of a local exchange whose rate budget is never exhausted."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.exchange", str(latency_ms / 1000), str(pages * PAGE), str(symbols)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    provider = Ccxt("binance", {**json.loads(await process.stdout.readline()), "rateLimit": 1})
    guard = Guard(provider)
    await guard.start()
    try:
        await guard.listings()
        yield provider, guard
    finally:
        await guard.close()
        process.stdin.close()
        await process.wait()


async def _page_bare(provider: Ccxt, pages: int) -> None:
    """Page like a script that uses ccxt: each page begins where the last one ended."""
    since, exchange = T0, provider._started()
    for _ in range(pages):
        rows = await exchange.fetch_ohlcv("S0/USDT", "1m", since, PAGE)
        assert len(rows) == PAGE
        since = int(rows[-1][0]) + MINUTE_MS


async def _page_guarded(guard: Guard, pages: int) -> None:
    instrument = Instrument(guard.market.id, guard.id, "S0/USDT")
    for since in range(T0, T0 + pages * PAGE_MS, PAGE_MS):
        page = await guard.fetch(instrument, MINUTE, Span(since, since + PAGE_MS))
        assert len(page.candles) == PAGE


async def _ask(history: History, symbol: str, spans: Sequence[Span], *, newest: bool = False) -> None:
    """A cold query for each span, one after the other; ``newest``: for the newest candles before its end."""
    for span in spans:
        series = Series(Instrument("crypto", "binance", symbol), MINUTE)
        minutes = (span.until - span.since) // MINUTE_MS
        ask = CandleRequest(series, minutes, None if newest else span.since, span.until)
        answer = (await history.answer([ask]))[0]
        if isinstance(answer, BaseException):
            raise answer
        assert len(answer.candles) == minutes


async def _timed(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


async def paging() -> Iterable[tuple[object, ...]]:
    """The guard's share in 100 pages (the bar is 10 %), then twelve pages through all layers (the bar is 3 times as fast)."""
    times: dict[str, list[float]] = defaultdict(list)
    async with _exchange(20, 100, 1) as (provider, guard):
        await _page_guarded(guard, 100)
        for _ in range(PAGING_ROUNDS):
            times["bare"].append(await _timed(_page_bare(provider, 100)))
            times["guarded"].append(await _timed(_page_guarded(guard, 100)))
    bare, guarded = (statistics.median(times[name]) for name in ("bare", "guarded"))
    rows: list[tuple[object, ...]] = [
        ("100 pages, 20 ms each", "ms", "more than bare"),
        ("---",) * 3,
        ("ccxt, bare", f"{bare:,.0f}", ""),
        ("provider with its guard", f"{guarded:,.0f}", f"{guarded / bare - 1:+.1%}"),
        ("",),
        ("12 pages, ms each", *PAGING, "from the oldest / one by one", "the newest / one by one"),
        ("---",) * (len(PAGING) + 3),
    ]
    for latency_ms in (20, 50, 100):
        found = await _twelve_pages(latency_ms)
        _, stored, oldest, newest = (found[name] for name in PAGING)
        figures = *(f"{found[name]:,.0f}" for name in PAGING), f"{stored / oldest:.1f}", f"{stored / newest:.1f}"
        rows.append((latency_ms, *figures))
    return [*rows, ("load of the machine", f"{os.getloadavg()[0]:.1f}")]


async def _twelve_pages(latency_ms: int) -> dict[str, float]:
    """Medians in milliseconds of each kind, in turn; every query is for a symbol without stored candles."""
    times: dict[str, list[float]] = defaultdict(list)
    whole = Span(T0, T0 + MAX_CALLS_PER_FETCH * PAGE_MS)
    pages = [Span(since, since + PAGE_MS) for since in range(whole.since, whole.until, PAGE_MS)]
    symbols = (f"S{number}/USDT" for number in range(3 * (PAGING_ROUNDS + 1)))
    async with (
        _exchange(latency_ms, MAX_CALLS_PER_FETCH, 3 * (PAGING_ROUNDS + 1)) as (provider, guard),
        _history(guard) as history,
    ):
        await history.listings.find([Instrument(guard.market.id, guard.id, "S0/USDT")])
        for round_ in range(PAGING_ROUNDS + 1):
            found = (
                await _timed(_page_bare(provider, MAX_CALLS_PER_FETCH)),
                await _timed(_ask(history, next(symbols), pages)),
                await _timed(_ask(history, next(symbols), [whole])),
                await _timed(_ask(history, next(symbols), [whole], newest=True)),
            )
            for name, took in zip(PAGING, found, strict=True):
                if round_:  # the first one warms up
                    times[name].append(took)
    return {name: statistics.median(took) for name, took in times.items()}


async def backfill() -> Iterable[tuple[object, ...]]:
    """All benchmarks of backfills."""
    found: list[tuple[object, ...]] = []
    for part in (a_million, ragged, a_thousand):
        found += [*([("",)] if found else []), *await part()]
    return found
