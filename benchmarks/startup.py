"""The time of a start, and the memory of an idle server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import psutil

from storage.embedded.postgres import EmbeddedPostgres

MEGABYTE = 1_048_576


async def start_and_rest() -> Iterable[tuple[object, ...]]:
    """Measure the import of the application, the embedded database (cold and warm), and the memory of an idle server."""
    rows: list[tuple[object, ...]] = [("what", "median", "bar"), ("---",) * 3]
    rows.append(("import server.transport.app", f"{median(_import_seconds() for _ in range(5)):.2f} s", "1 s"))
    cold, warm = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            for times in (cold, warm):
                postgres = EmbeddedPostgres(Path(folder) / "data")
                began = time.perf_counter()
                postgres.start()
                times.append(time.perf_counter() - began)
                postgres.stop()
    rows.append(("embedded database, cold", f"{median(cold):.2f} s", "4 s"))
    rows.append(("embedded database, warm", f"{median(warm):.2f} s", "1 s"))
    for ccxt in (False, True):
        what = "server, idle" if not ccxt else "server with ccxt loaded"
        rows.append((what, f"{await _resident(ccxt=ccxt):.0f} MB", "150 MB" if not ccxt else ""))
    return rows


def _import_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import server.transport.app"], check=True)
    return time.perf_counter() - began


async def _resident(*, ccxt: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {"DATA_DIR": folder + "/data", "PORT": "0"}
        command = [sys.executable, "-m", "server.cli.main", "serve"]
        if ccxt:
            command = [
                sys.executable,
                "-c",
                "import ccxt.pro, sys; sys.argv[1:] = ['serve']; import server.cli.main; server.cli.main.main()",
            ]
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
        assert process.stderr
        async for line in process.stderr:
            if b"serves" in line:
                break
        await asyncio.sleep(3)
        resident = psutil.Process(process.pid).memory_info().rss / MEGABYTE
        process.terminate()
        await process.wait()
        return resident
