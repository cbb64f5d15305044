"""Exports beside `COPY ... BINARY` and beside paging of the same million rows."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlencode, urlsplit

import asyncpg
import numpy as np
import psutil
import pyarrow as pa
from pydantic import SecretStr

from benchmarks.startup import MEGABYTE
from benchmarks.writing import ROWS, walk
from candlegraph import MINUTE, Candles, Instrument, Span, Spans
from server.settings import Settings
from server.wiring import open_runtime
from storage.batches import CandleWrite
from storage.embedded.postgres import EmbeddedPostgres
from tests.server.running import serving

ROUNDS, PAGE = 3, 5_000
NAMES = {"market": "bench", "provider": "export", "symbol": "A"}
COPIED = """select timestamp, open, high, low, close, volume from ohlcv_data
  where instrument_id = (select min(id) from instruments) and timeframe = '1m' order by timestamp"""
PAGED = """query ($since: Timestamp!) { candles(market: "bench", provider: "export", symbol: "A", since: $since,
  limit: 5000) { hasMore nextSince columns { timestamp open high low close volume } } }"""

PYTHON = Path(sys.prefix) / "python-client" / "bin" / "python"  # `make check` installs it
CLIENT = {"Python client: the export": "load_export", "Python client: page by page": "load_pages"}
TIMED = """
import time, pandas, pyarrow
from candlegraph_client import Client, loading
from candlegraph_client.series import Series
client, series = Client(), Series("bench", "export", "A", "1m")
used = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
began, before = time.perf_counter(), used()
loaded = loading.%s(client.session, series, (1420070400000, 1480070400000))
assert len(loaded.candles) == 1_000_000
print(time.perf_counter() - began, used() - before)
"""


@dataclass
class Measured:
    """The rounds of one way."""

    seconds: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    bytes: int = 0
    grown_mb: float = 0.0


class Reader:
    """Reads the bytes of answers over one connection and keeps none of them."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc)
        self._buffer = memoryview(bytearray(1 << 20))

    def export(self, kind: str) -> tuple[float, int]:
        """A whole export: when its first bytes came (s after the request), and how many there are."""
        return self._read("GET", f"/export/candles.{kind}?{urlencode(NAMES)}", None)

    def paging(self, since: int) -> tuple[float, int]:
        """All pages by the query. The cursor is computed, so that no answer has to be parsed."""
        first, count = 0.0, 0
        for at in range(0, ROWS, PAGE):
            body = json.dumps({"query": PAGED, "variables": {"since": since + at * 60_000}})
            took, size = self._read("POST", "/graphql", body)
            first, count = first or took, count + size
        return first, count

    def _read(self, method: str, path: str, body: str | None) -> tuple[float, int]:
        headers = {"accept-encoding": "identity", "content-type": "application/json"}
        began = time.perf_counter()
        self._http.request(method, path, body, headers)
        response = self._http.getresponse()
        assert response.status == 200, response.read()
        count = len(response.read(1))
        first = time.perf_counter() - began
        while size := response.readinto(self._buffer):
            count += size
        return first, count


async def export_a_million() -> Iterable[tuple[object, ...]]:
    """A million 1m rows: COPY BINARY of the same, each format over HTTP, and pages of `columns`, in turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = EmbeddedPostgres(folder / "data")
        dsn = (await asyncio.to_thread(postgres.start)).dsn
        stack.callback(postgres.stop)
        candles = walk(ROWS)
        await _store(dsn, candles)
        settings = {"DB_CONNECTION_STRING": dsn, "DATA_DIR": str(folder), "EXPORT_ROWS_PER_DAY": ""}
        server = stack.enter_context(serving(folder / "log", **settings))
        process = psutil.Process(server.process.pid)
        reader = Reader(server.url)
        since = int(candles.timestamp[0])
        ways: dict[str, Callable[[], tuple[float, int]]] = {
            kind: lambda kind=kind: reader.export(kind)  # type: ignore[misc]
            for kind in ("arrow", "parquet", "csv", "jsonl")
        }
        ways["pages of `columns`"] = lambda: reader.paging(since)
        memory = [process.memory_info().rss / MEGABYTE]
        _check(server.url, candles)
        memory.append(process.memory_info().rss / MEGABYTE)
        found = {name: Measured() for name in ["COPY BINARY", *ways]}
        for _ in range(ROUNDS):
            await _copy(dsn, found["COPY BINARY"])
            for name, way in ways.items():
                await asyncio.to_thread(_measure, process, found[name], way)
            for name, loads in CLIENT.items():
                await asyncio.to_thread(_load, server.url, loads, found.setdefault(name, Measured()))
        memory.append(process.memory_info().rss / MEGABYTE)
        return _table(found, memory)


async def _store(dsn: str, candles: Candles) -> None:
    async with open_runtime(Settings.read(db_connection_string=SecretStr(dsn))) as running:
        record = await running.services.history.instruments.get_or_create(Instrument("bench", "export", "A"), "UTC")
        covered = Spans([Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + 60_000)])
        await running.store.write([CandleWrite(record.id, MINUTE, candles, covered, "i")])
    connection = await asyncpg.connect(dsn)
    await connection.execute("vacuum analyze ohlcv_data")
    await connection.close()


async def _copy(dsn: str, found: Measured) -> None:
    connection = await asyncpg.connect(dsn)
    began = time.perf_counter()
    count = 0

    async def sink(data: bytes) -> None:
        nonlocal count
        if not count:
            found.first_ms.append((time.perf_counter() - began) * 1000)
        count += len(data)

    await connection.copy_from_query(COPIED, output=sink, format="binary")
    found.seconds.append(time.perf_counter() - began)
    found.bytes = count
    await connection.close()


def _measure(process: psutil.Process, found: Measured, way: Callable[[], tuple[float, int]]) -> None:
    with _growth(process) as grown:
        began = time.perf_counter()
        first, found.bytes = way()
        found.seconds.append(time.perf_counter() - began)
    found.first_ms.append(first * 1000)
    found.grown_mb = max(found.grown_mb, *grown)


@contextmanager
def _growth(process: psutil.Process) -> Iterator[list[float]]:
    """By how much the memory of a process has grown (MB), sampled while the block runs."""
    before, done = process.memory_info().rss, threading.Event()
    grown = [0.0]

    def sample() -> None:
        while not done.wait(0.02):
            grown.append((process.memory_info().rss - before) / MEGABYTE)

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield grown
    finally:
        done.set()
        sampling.join()


def _load(url: str, loads: str, found: Measured) -> None:
    """Let the Python client read, in its own environment; it says how long it took and by how much its memory grew."""
    environ = {**os.environ, "CANDLEGRAPH_URL": url}
    done = subprocess.run([PYTHON, "-c", TIMED % loads], env=environ, capture_output=True, text=True, check=True)
    seconds, grown_mb = map(float, done.stdout.split())
    found.seconds.append(seconds)
    found.grown_mb = max(found.grown_mb, grown_mb)


def _check(url: str, candles: Candles) -> None:
    """Compare an export with what was stored, to the bit; it also loads the libraries of exports."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", f"/export/candles.arrow?{urlencode(NAMES)}", headers={"accept-encoding": "identity"})
    table = pa.ipc.open_stream(connection.getresponse()).read_all()
    assert np.array_equal(table["timestamp"].cast(pa.int64()).to_numpy(), candles.timestamp)
    for name in ("open", "high", "low", "close", "volume"):
        assert np.array_equal(table[name].to_numpy(), getattr(candles, name))
    connection.close()


def _table(found: dict[str, Measured], memory: list[float]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        ("a million rows", "rows/s", "of COPY", "times as fast as paging", "first byte, ms", "MB", "grew by, MB"),
        ("---",) * 7,
    ]
    copied = median(found["COPY BINARY"].seconds)
    for name, one in found.items():
        seconds = median(one.seconds)
        paged = found["Python client: page by page" if "client" in name else "pages of `columns`"]
        rows.append(
            (
                name,
                f"{ROWS / seconds:,.0f}",
                f"{copied / seconds:.2f}",
                f"{median(paged.seconds) / seconds:.1f}",
                f"{median(one.first_ms):.0f}" if one.first_ms else "",
                f"{one.bytes / MEGABYTE:.0f}" if one.bytes else "",
                f"{one.grown_mb:.0f}" if one.grown_mb else "",
            )
        )
    idle, loaded, after = memory
    rows.append((f"server idle {idle:.0f} MB, after one export {loaded:.0f}, after all {after:.0f}", *[""] * 6))
    return rows
