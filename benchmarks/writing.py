"""Bulk writes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np

from candlegraph import MINUTE, UTC, Candles, Instrument, Span, Spans
from candlegraph.clock import MINUTE_MS
from providers.tables.reader import read_table
from server.settings import Settings
from server.wiring import open_runtime
from storage.batches import CandleWrite
from storage.binary import copy_stream
from storage.database import SQL

ROWS = 1_000_000


def walk(rows: int) -> Candles:
    """Minutes of a random walk, without holes."""
    generator = np.random.default_rng(2)
    close = np.round(30_000 + np.cumsum(generator.normal(0, 5, rows)), 2)
    return Candles.of(
        1_420_070_400_000 + np.arange(rows) * 60_000,
        close,
        close + 3,
        close - 3,
        close,
        generator.random(rows).round(4),
    )


async def import_a_million() -> Iterable[tuple[object, ...]]:
    """A million 1m rows: a bare COPY into the table, our write of the same rows, and a whole import from a CSV."""
    candles = walk(ROWS)
    covered = Spans([Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + 60_000)])
    bare, ours, again, whole = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "million.csv"
        _write_csv(file, candles)
        async with open_runtime(Settings.read(data_dir=Path(folder) / "data"), create=True) as running:
            store = running.store
            for number in range(3):
                ids = [
                    (
                        await running.services.history.instruments.get_or_create(
                            Instrument("bench", kind, str(number)), "UTC"
                        )
                    ).id
                    for kind in ("bare", "ours", "csv")
                ]
                bare.append(await bare_copy(running.database, CandleWrite(ids[0], MINUTE, candles, covered)))
                began = time.perf_counter()
                await store.write([CandleWrite(ids[1], MINUTE, candles, covered, "i")])
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                await store.write([CandleWrite(ids[1], MINUTE, candles, covered, "i")])
                again.append(time.perf_counter() - began)
                began = time.perf_counter()
                table = read_table(file, None, UTC)
                await store.write([CandleWrite(ids[2], table.timeframe, table.candles, covered, "i")])
                whole.append(time.perf_counter() - began)
    rows: list[tuple[object, ...]] = [("what", "median rows/s", "of a bare COPY"), ("---",) * 3]
    for what, times in (
        ("bare COPY, binary, into ohlcv_data", bare),
        ("write: rows and coverage", ours),
        ("import: read and check a CSV, then write", whole),
        ("write over the same rows (merge)", again),
    ):
        rows.append((what, f"{ROWS / median(times):,.0f}", f"{median(bare) / median(times):.2f}"))
    return rows


async def bare_copy(database: object, write: CandleWrite, *, aggregates: bool = False) -> float:
    """The seconds of a COPY into the table, and of the aggregates over its rows."""
    began = time.perf_counter()
    async with database.transaction() as connection:  # type: ignore[attr-defined]
        await connection.copy_to_table(
            "ohlcv_data",
            source=copy_stream([write], lambda _: None),
            format="binary",
            columns=["instrument_id", "timeframe", "source", "timestamp", "open", "high", "low", "close", "volume"],
        )
        if aggregates:
            first, last = write.candles.timestamp[[0, -1]].tolist()
            await connection.execute(
                SQL["aggregates_update"], [write.instrument_id], [first], [last + MINUTE_MS], False, timeout=600
            )
    return time.perf_counter() - began


def _write_csv(file: Path, candles: Candles) -> None:
    columns = np.column_stack(
        [candles.timestamp, candles.open, candles.high, candles.low, candles.close, candles.volume]
    )
    np.savetxt(
        file,
        columns,
        fmt=["%d", *["%.4f"] * 5],
        delimiter=",",
        header="timestamp,open,high,low,close,volume",
        comments="",
    )
