"""Stores the fetched pages of a series: those that arrive while a transaction runs share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from candlegraph.batcher import Batcher
from candlegraph.candle import concat
from candlegraph.span import Spans
from storage.batches import CandleWrite, FetchLogRow, Superseded
from storage.candles import CandleStore
from storage.leases import LeaseToken


class PageWriter:
    """Stores pages in the background, each as soon as the transaction before it has ended."""

    def __init__(self, store: CandleStore, lease: LeaseToken | None) -> None:
        """Start empty; each write checks that ``lease`` is still valid."""
        self._store = store
        self._lease = lease
        self._pages: Batcher[None, tuple[CandleWrite, FetchLogRow], None] = Batcher(self._write)
        self._failure: BaseException | None = None

    @asynccontextmanager
    async def flush_on_exit(self) -> AsyncIterator[None]:
        """Store the pages added inside the block by its end, also after an error; drop them on cancellation.

        Raises the first error of storing.
        """
        try:
            try:
                yield
            except Exception:
                await self._pages.drain()
                raise
            await self._pages.drain()
        except asyncio.CancelledError:
            await self._pages.cancel()
            raise
        if self._failure:
            raise self._failure

    def add(self, write: CandleWrite, fetch: FetchLogRow) -> None:
        """Queue a page of the series and the log entry of its call. Raises the first error of storing earlier pages."""
        if self._failure:
            raise self._failure
        self._pages.submit(None, (write, fetch)).add_done_callback(self._note)

    def _note(self, stored: asyncio.Future[None]) -> None:
        if not stored.cancelled():
            self._failure = self._failure or stored.exception()

    async def _write(self, _: None, pages: Sequence[tuple[CandleWrite, FetchLogRow]]) -> list[None]:
        writes, fetches = zip(*pages, strict=True)
        if self._lease:
            await self._store.write_leased(_merge_pages(writes), fetches, self._lease)
        else:
            await self._store.write([_merge_pages(writes)], fetches)
        return [None] * len(pages)


def _merge_pages(writes: tuple[CandleWrite, ...]) -> CandleWrite:
    """Merge pages of one series, so that their aggregates are computed once."""
    candles = concat([write.candles for write in writes]).sorted()
    covered = Spans(span for write in writes for span in write.covered)
    revision = writes[-1].revision
    if revision and any(write.revision and write.revision.lineage != revision.lineage for write in writes):
        raise Superseded
    return CandleWrite(writes[0].instrument_id, writes[0].timeframe, candles, covered, revision=revision)
