"""Imports beside polars' own read of the same file, beside `COPY` with the aggregates, and beside a command for each file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import asyncpg
import polars as pl
from pydantic import SecretStr

from benchmarks.startup import MEGABYTE
from benchmarks.writing import bare_copy, walk
from candlegraph import MINUTE, Instrument, Span, Spans
from server.settings import Settings
from server.wiring import open_runtime
from storage.batches import CandleWrite
from storage.embedded.postgres import EmbeddedPostgres
from tests.server.running import COMMAND, environment

ROWS, ROUNDS = 5_000_000, 2
FILES, COMMANDS, DAY_ROWS = 500, 25, 1_440
ISO = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Run:
    """A process that ran to its end: seconds, those of its processors, and its peak memory in MB."""

    seconds: float
    cpu: float
    peak: float


async def reading() -> Iterable[tuple[object, ...]]:
    """`read_table` and polars' own read of five million rows, in turns, a process each."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        files = list(_written(Path(folder)))
        for _ in range(ROUNDS):
            for file in files:
                for reader in ("polars", "ours"):
                    text = subprocess.check_output([sys.executable, "-m", "benchmarks.importing", reader, str(file)])
                    found[file.name, reader].append(Run(*map(float, text.split())))
    rows: list[tuple[object, ...]] = [
        ("five million rows", "polars, s", "read_table, s", "ratio", "bar", "of its CPU", "of its peak memory", "bar"),
        ("---",) * 8,
    ]
    for file in files:
        base, ours = found[file.name, "polars"], found[file.name, "ours"]
        seconds, cpu, peak = (
            median(getattr(one, name) for one in ours) / median(getattr(one, name) for one in base)
            for name in ("seconds", "cpu", "peak")
        )
        wall = [f"{median(one.seconds for one in runs):.2f}" for runs in (base, ours)]
        rows.append((file.name, *wall, f"{seconds:.2f}", 1.5, f"{cpu:.2f}", f"{peak:.2f}", 1.3))
    return rows


def _written(folder: Path) -> Iterator[Path]:
    candles = walk(ROWS)
    names = ("timestamp", "open", "high", "low", "close", "volume")
    millis = pl.DataFrame({name: getattr(candles, name) for name in names})
    iso = millis.with_columns(pl.col("timestamp").cast(pl.Datetime("ms")).dt.strftime(ISO))
    for frame, name in ((millis, "ms"), (iso, "iso")):
        frame.write_csv(folder / f"{name}.csv")
        frame.write_parquet(folder / f"{name}.parquet")
        yield from (folder / f"{name}.csv", folder / f"{name}.parquet")


def _read(reader: str, path: str) -> None:
    """Read a file in this process; print the seconds, those of its processors, and its peak memory."""
    from providers.tables.reader import read_table

    before, began = time.process_time(), time.perf_counter()
    if reader == "ours":
        count = len(read_table(Path(path)).candles)
    else:
        count = (pl.read_csv if path.endswith(".csv") else pl.read_parquet)(path).height
    took, used = time.perf_counter() - began, time.process_time() - before
    assert count == ROWS
    # VmHWM is that of this program; ru_maxrss would begin with that of its parent.
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(took, used, int(peak.split()[1]) / 1024)


async def writing() -> Iterable[tuple[object, ...]]:
    """The command over a CSV of five million rows, and `COPY` with the aggregates of the same rows."""
    candles = walk(ROWS)
    covered = Spans([Span(int(candles.timestamp[0]), int(candles.timestamp[-1]) + 60_000)])
    with _postgres() as (folder, dsn):
        pl.DataFrame(
            {n: getattr(candles, n) for n in ("timestamp", "open", "high", "low", "close", "volume")}
        ).write_csv(folder / "A_1m.csv")
        async with open_runtime(Settings.read(db_connection_string=SecretStr(dsn)), create=True) as running:
            record = await running.services.history.instruments.get_or_create(Instrument("bench", "bare", "A"), "UTC")
            bare = await bare_copy(running.database, CandleWrite(record.id, MINUTE, candles, covered), aggregates=True)
        del candles
        whole = await asyncio.to_thread(_import, dsn, str(folder / "A_1m.csv"), "--symbol", "A")
    return [
        ("five million rows", "rows/s", "of COPY and the aggregates", "bar", "peak memory, MB", "bar"),
        ("---",) * 6,
        ("COPY, binary, and the aggregates", f"{ROWS / bare:,.0f}", "1.00", "", "", ""),
        (
            "candlegraph import",
            f"{ROWS / whole.seconds:,.0f}",
            f"{bare / whole.seconds:.2f}",
            0.6,
            f"{whole.peak:.0f}",
            900,
        ),
    ]


async def folder_of_files() -> Iterable[tuple[object, ...]]:
    """One command over 500 files of a day each, and a command for each of 25 of them."""
    candles = walk(DAY_ROWS)
    with _postgres() as (folder, dsn):
        files = folder / "files"
        files.mkdir()
        frame = pl.DataFrame({n: getattr(candles, n) for n in ("timestamp", "open", "high", "low", "close", "volume")})
        for number in range(FILES):
            frame.write_csv(files / f"S{number}_1m.csv")
        every = [
            (await asyncio.to_thread(_import, dsn, str(files / f"S{n}_1m.csv"), "--symbol", f"ONE{n}")).seconds
            for n in range(COMMANDS)
        ]
        whole = await asyncio.to_thread(_import, dsn, str(files))
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("select count(*) from ohlcv_data") == (FILES + COMMANDS) * DAY_ROWS
        await connection.close()
    apart = median(every) * FILES
    return [
        ("500 files of a day", "seconds", "times as fast", "bar"),
        ("---",) * 4,
        (f"500 commands, extrapolated from {COMMANDS}", f"{apart:.0f}", "1.0", ""),
        ("one command", f"{whole.seconds:.1f}", f"{apart / whole.seconds:.1f}", 20),
    ]


@contextmanager
def _postgres() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "data")
        try:
            yield Path(folder), postgres.start().dsn
        finally:
            postgres.stop()


def _import(dsn: str, *arguments: str) -> Run:
    """Run the command to its end."""
    command = [*COMMAND, "import", *arguments, "--market", "lab", "--provider", "bench"]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(DB_CONNECTION_STRING=dsn), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return Run(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / MEGABYTE)


if __name__ == "__main__":
    _read(*sys.argv[1:3])
