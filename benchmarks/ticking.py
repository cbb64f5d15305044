"""A provider for measurements of live subscriptions: its symbols tick by the clock, and the volume is the time of the tick.

It is a plugin of a server process (see `benchmarks.load`). The volume of a candle is the instant (ms, UTC) of its last tick,
so that a receiver can compute the delay. On SIGUSR1 the process writes its resources to a file.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from candlegraph import MINUTE, Candles, Instrument, Span, clock
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Market, Page
from candlegraph.timeframe import Timeframe
from realtime.topic import Listener, Topic

SYMBOLS, TICK_MS, PAGE = 50, 2_000, 1_000


class Ticking:
    """The provider ``bench/ticking``."""

    api_version = 1
    market = Market("bench", "Bench", "Not real.")
    id, name, description, version = "ticking", "Ticking", "Not real: it moves by the clock.", "1"
    capabilities = Capabilities(
        (MINUTE,), LiveMode.STREAM, max_rows_per_call=PAGE, settle_ms=0, budget=Budget(1e9, 1, concurrent=1000)
    )

    def __init__(self, folder: Path) -> None:
        """``folder`` gets the file with the resources of the process."""
        self._file = folder / f"{os.getpid()}.json"

    async def start(self) -> None:
        """Handle the signal."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._write_resources)

    async def close(self) -> None:
        """Stop handling the signal."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    def _write_resources(self) -> None:
        gc.collect()
        things = gc.get_objects()
        held = {
            "tasks": len(asyncio.all_tasks()),
            "listeners": sum(isinstance(thing, Listener) for thing in things),
            "topics": sum(isinstance(thing, Topic) for thing in things),
            "objects": len(things),
        }
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(held), encoding="utf-8")
        part.rename(self._file)

    async def listings(self) -> Sequence[Listing]:
        """The symbols."""
        return [Listing(f"S{i}") for i in range(SYMBOLS)]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """The minutes of ``span`` until now, including the forming one up to its last tick."""
        now, phase = clock.now_ms(), _phase(instrument)
        first = timeframe.ceil(span.since)
        until = min(span.until, first + PAGE * MINUTE_MS)
        opened = np.arange(first, min(until, now + 1), MINUTE_MS, dtype=np.int64)
        ticked = (np.minimum(opened + MINUTE_MS - 1, now) - phase) // TICK_MS * TICK_MS + phase
        opened, ticked = opened[ticked >= opened], ticked[ticked >= opened]
        price = 100 + ticked // TICK_MS % 97 / 10
        forming = MINUTE.floor(now)
        candles = Candles.of(opened, price, price, price, price, ticked, closed=opened < forming)
        return Page(candles, span.since, min(until, forming))

    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        """Yield the forming minute at every tick; each symbol ticks at its own offset within the two seconds."""
        phase = _phase(instrument)
        due = (clock.now_ms() - phase) // TICK_MS * TICK_MS + phase
        while True:
            due += TICK_MS
            while (early := due - clock.now_ms()) > 0:  # repeat, because the event loop rounds to whole milliseconds
                await asyncio.sleep(early / 1000)
            minute = MINUTE.floor(clock.now_ms())
            page = await self.fetch(instrument, MINUTE, Span(minute, minute + MINUTE_MS))
            if len(page.candles):
                yield page.candles


def _phase(instrument: Instrument) -> int:
    return int(instrument.symbol[1:]) * TICK_MS // SYMBOLS


def create(environ: Mapping[str, str]) -> Iterable[Ticking]:
    """The provider, for the entry point ``bench.ticking``."""
    return [Ticking(Path(environ["DATA_DIR"]))]
