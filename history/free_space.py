"""Watches the free space on the disk of the database: below a limit the server fetches nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from candlegraph.outage import Outage
from candlegraph.timings import Timings

_RESUME_AT = 1.2  # times the limit, so that fetching does not start and stop with every page


class FreeSpace:
    """Whether the disk of the database is nearly full."""

    def __init__(self, directory: Path, floor_mb: int, timings: Timings | None = None) -> None:
        """Watch the file system of ``directory``; with ``floor_mb`` 0 the disk never counts as full."""
        self._directory = directory
        self._floor = floor_mb << 20
        self._timings = timings or Timings()
        self.is_low = False
        self.outage = Outage("fetching candles")

    async def free_bytes(self) -> int | None:
        """The free bytes of the file system; None where they cannot be read."""
        try:
            return (await asyncio.to_thread(shutil.disk_usage, self._directory)).free
        except OSError:
            return None

    async def run(self) -> None:
        """Check repeatedly until cancelled."""
        while True:
            await asyncio.to_thread(self.check)
            await asyncio.sleep(self._timings.free_space_interval_s)

    def check(self) -> None:
        """Check once."""
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError:
            return  # the directory is gone, and so is the database, whose outage is logged
        if free >= self._floor * (_RESUME_AT if self.is_low else 1):
            self.is_low = False
            self.outage.end()
            return
        self.is_low = True
        self.outage.begin(
            f"Only {free >> 20:,} MB are free in {self._directory}, and MIN_FREE_DISK_MB is {self._floor >> 20:,}: "
            "stored candles are answered, and nothing is fetched."
        )


def is_readable(directory: Path) -> bool:
    """Whether the free space of a directory can be read here; a path below /proc belongs to another process."""
    return directory.is_absolute() and not directory.is_relative_to("/proc") and os.access(directory, os.F_OK)
