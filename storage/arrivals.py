"""Pages of a series on their way into the store: while one transaction runs others arrive, and share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from candlegraph.candle import concat
from candlegraph.span import Spans
from storage.batches import Fetch, Write
from storage.candles import CandleStore
from storage.live import Held


class Arrivals:
    """Stores pages in the background, each as soon as the transaction before it has ended."""

    def __init__(self, store: CandleStore, held: Held | None) -> None:
        """Nothing has arrived; what is ``held`` must still be so when something is stored."""
        self._store = store
        self._held = held
        self._waiting: list[tuple[Write, Fetch]] = []
        self._storing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def stored(self) -> AsyncIterator[None]:
        """Whatever is added within is stored on the way out, also where that is an error; given up where it is cancelled.

        Raises what storing has raised.
        """
        try:
            yield
        except asyncio.CancelledError:
            if self._storing:
                self._storing.cancel()
            raise
        finally:
            if self._storing:
                await self._storing

    def add(self, write: Write, fetch: Fetch) -> None:
        """Have a page of the series stored, and its call logged. Raises what storing those before it has raised."""
        self._waiting.append((write, fetch))
        if self._storing is None or self._storing.done():
            if self._storing:
                self._storing.result()
            self._storing = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            pages, self._waiting = self._waiting, []
            writes, fetches = zip(*pages, strict=True)
            if self._held:
                await self._store.write_led(_joined(writes), fetches, self._held)
            else:
                await self._store.write([_joined(writes)], fetches)


def _joined(writes: tuple[Write, ...]) -> Write:
    """Pages of one series as one: the aggregates over them are made once."""
    candles = concat([write.candles for write in writes]).sorted()
    covered = Spans(span for write in writes for span in write.covered)
    return Write(writes[0].instrument_id, writes[0].timeframe, candles, covered)
