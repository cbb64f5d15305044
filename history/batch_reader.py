"""What one batch of queries reads of the database: each step of all of them in one statement."""

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
    """What a batch reads from."""

    store: CandleStore
    coverage_cache: CoverageCache
    listings: Listings
    aggregates: Aggregates
    row_budget: RowBudget
    cache: CandleCache | None = None


class BatchReader:
    """Gathers what the queries of one tick read; an item may be the exception of its key alone."""

    def __init__(self, sources: ReadSources) -> None:
        """Make fresh loaders; their results are not cached, for a query reads its coverage again after fetching."""
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
        """Return what the processes share of some chunks; it is kept in memory from now on.

        Awaits the batch for no chunks as well: the queries of a tick go on together, and read the database in one statement.
        """
        if self._shared is None or self.cache is None or not self.cache.is_shared:
            return {}
        return await self._shared.load(tuple(chunks))
