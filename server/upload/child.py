"""The process that imports one uploaded file, started by `server.upload.process` with a limit on its memory.

Its order is a line of JSON on stdin, its report one on stdout. It ends when stdin does: then the server is gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_ORDER_BYTES = 65_536
# Each thread of a library reserves a stack and a heap of its own, which count towards the limit.
_THREADS = ("POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h
_RETURNED_BYTES = 128 << 10  # blocks from this size on go back to the system when they are freed


def main() -> None:
    """Import the file of the order; report the lines of the importer, or its refusal."""
    report = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not get into the report
    order = json.loads(_read_line())
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    for name in _THREADS:
        os.putenv(name, "1")
    with suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _RETURNED_BYTES)
    # Memory that is written to, or may be: the limit on the address space would count the libraries' reservations too.
    resource.setrlimit(resource.RLIMIT_DATA, (order["memory_bytes"], order["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        found = asyncio.run(_import(order))
    except BaseException as error:  # noqa: BLE001 - the server logs it
        traceback.print_exc()
        found = {"failed": True, "memory": isinstance(error, MemoryError) or "start new thread" in str(error)}
    with os.fdopen(report, "wb") as out:
        out.write(json.dumps(found).encode())
    os._exit(0)  # without waiting for the thread above


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, MAX_ORDER_BYTES)
        if not part:
            os._exit(1)
        line += part
    return line


def _end_with_the_server() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


async def _import(order: dict[str, Any]) -> dict[str, Any]:
    # Imported below the limit, which has to hold for these libraries too.
    from candlegraph.errors import CandlegraphError  # noqa: PLC0415
    from providers.tables import size  # noqa: PLC0415
    from server.cli.import_options import ImportOptions  # noqa: PLC0415
    from server.cli.importing import import_candles  # noqa: PLC0415
    from server.settings import Settings  # noqa: PLC0415

    size.MAX_UNPACKED_BYTES = min(size.MAX_UNPACKED_BYTES, order["max_bytes"])  # this process imports nothing else
    file, (market, provider, symbol) = Path(order["path"]), order["target"]
    settings, options = Settings(**order["settings"]), ImportOptions(**order["options"])
    try:
        text, code = await import_candles(settings, file, (market, provider, symbol), options), None
    except CandlegraphError as error:
        text, code = error.message, error.code
    return {"code": code, "lines": text.replace(file.name, order["file"]).split("\n")}


if __name__ == "__main__":
    main()
