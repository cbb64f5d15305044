"""Reads of the database for a batch of queries: each step of all of them is one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiodataloader import DataLoader

from candlegraph.candle import Candles
from candlegraph.series import Instrument, InstrumentRecord
from history.admission import RowBudget
from history.listings import Listings
from storage.batches import CandleRead
from storage.cache.chunks import Chunk
from storage.cache.memory import CacheEntry, CandleCache
from storage.candles import CandleStore
from storage.coverage import Coverage
from storage.coverage_cache import CoverageCache
from storage.relations import Aggregates


@dataclass(frozen=True, slots=True)
class ReadSources:
    """The sources of a batch's reads."""

    store: CandleStore
    coverage_cache: CoverageCache
    listings: Listings
    aggregates: Aggregates
    row_budget: RowBudget
    cache: CandleCache | None = None


class BatchReader:
    """Batches the reads of the queries of one tick of the event loop; a failed key gets its own exception as its item."""

    def __init__(self, sources: ReadSources) -> None:
        """Create the loaders. They do not cache, because a query reads its coverage again after a fetch."""
        self.row_budget = sources.row_budget
        self.levels = sources.aggregates
        self.cache = sources.cache
        self._shared: DataLoader[tuple[Chunk, ...], dict[Chunk, CacheEntry]] | None = None
        if self.cache is not None and self.cache.shared is not None:
            self._shared = DataLoader(self.cache.load, cache=False)
        find, store = sources.listings.find, sources.store
        self.record: DataLoader[Instrument, InstrumentRecord] = DataLoader(find, cache=False)  # type: ignore[arg-type]
        self.coverage: DataLoader[int, Coverage] = DataLoader(sources.coverage_cache.load, cache=False)
        self.candles: DataLoader[CandleRead, Candles] = DataLoader(store.read, cache=False)

    async def read_shared(self, chunks: Sequence[Chunk]) -> dict[Chunk, CacheEntry]:
        """Return the entries of ``chunks`` in the shared cache, and keep them in memory.

        It awaits the batch also without any chunk, so that all queries of a tick go on at once and share the next statement.
        """
        if self._shared is None or self.cache is None or not self.cache.is_shared:
            return {}
        return await self._shared.load(tuple(chunks))
