"""Watches the free space where the database lies: below a floor nothing is fetched, until there is clearly more again."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from candlegraph.outage import Outage
from candlegraph.timings import Timings

_RESUME_AT = 1.2  # times the floor, so that fetching does not begin and stop with every page


class FreeSpace:
    """Whether the disk of the database is nearly full."""

    def __init__(self, directory: Path, floor_mb: int, timings: Timings | None = None) -> None:
        """Look at the file system of ``directory``; ``floor_mb`` 0 lets everything be fetched."""
        self._directory = directory
        self._floor = floor_mb << 20
        self._timings = timings or Timings()
        self.is_low = False
        self.outage = Outage("fetching candles")

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.to_thread(self.check)
            await asyncio.sleep(self._timings.free_space_interval_s)

    def check(self) -> None:
        """Look now."""
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError:
            return  # it is gone with its database, which says so itself
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
    """Whether the free space of a directory can be read here; below /proc it is another process's name for it."""
    return directory.is_absolute() and not directory.is_relative_to("/proc") and os.access(directory, os.F_OK)
