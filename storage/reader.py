"""What one batch of questions reads of the database: each step of all of them in one statement."""

from __future__ import annotations

from aiodataloader import DataLoader

from candlegraph.candle import Candles
from candlegraph.series import Instrument, Record
from storage.candles import CandleStore, Ledger, Read
from storage.instruments import Instruments
from storage.ledgers import Ledgers
from storage.levels import Levels


class Reader:
    """Gathers what the questions of one tick read; an item may be the exception of its key alone."""

    def __init__(self, store: CandleStore, ledgers: Ledgers, instruments: Instruments, levels: Levels) -> None:
        """Make fresh loaders; their results are not cached, for an answer reads its ledger again after fetching."""
        self.levels = levels
        self.record: DataLoader[Instrument, Record] = DataLoader(instruments.find, cache=False)  # type: ignore[arg-type]
        self.ledger: DataLoader[int, Ledger] = DataLoader(ledgers.load, cache=False)
        self.candles: DataLoader[Read, Candles] = DataLoader(store.read, cache=False)
