"""What one batch of questions reads of the database: each step of all of them in one statement."""

from __future__ import annotations

from collections.abc import Sequence

from aiodataloader import DataLoader

from candlegraph.candle import Candles
from candlegraph.series import Instrument, Record
from storage.admission import RowBudget
from storage.cache import Cache
from storage.candles import CandleStore, Ledger, Read
from storage.chunks import Chunk, Rows
from storage.instruments import Instruments
from storage.ledgers import Ledgers
from storage.levels import Levels


class Reader:
    """Gathers what the questions of one tick read; an item may be the exception of its key alone."""

    def __init__(
        self,
        store: CandleStore,
        ledgers: Ledgers,
        instruments: Instruments,
        levels: Levels,
        row_budget: RowBudget,
        cache: Cache | None = None,
    ) -> None:
        """Make fresh loaders; their results are not cached, for an answer reads its ledger again after fetching."""
        self.row_budget = row_budget
        self.levels = levels
        self.cache = cache
        self._shelved: DataLoader[tuple[Chunk, ...], dict[Chunk, Rows]] | None = None
        if cache is not None and cache.shelf is not None:
            self._shelved = DataLoader(cache.shelf.load, cache=False)
        self.record: DataLoader[Instrument, Record] = DataLoader(instruments.find, cache=False)  # type: ignore[arg-type]
        self.ledger: DataLoader[int, Ledger] = DataLoader(ledgers.load, cache=False)
        self.candles: DataLoader[Read, Candles] = DataLoader(store.read, cache=False)

    async def shelved(self, chunks: Sequence[Chunk]) -> dict[Chunk, Rows]:
        """What the processes share of some chunks, kept from now on.

        Who asks for none waits as well, so that what all questions of a tick read of the database stays one statement.
        """
        if self._shelved is None or self.cache is None or self.cache.shelf is None or not self.cache.shelf.open:
            return {}
        found = await self._shelved.load(tuple(chunks))
        self.cache.keep_shelved(found)
        return found
