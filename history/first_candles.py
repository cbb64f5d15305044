"""The first candle of an instrument: one call to its provider, then stored."""

from __future__ import annotations

from cachetools import TTLCache

from candlegraph.errors import ProviderError
from candlegraph.series import InstrumentRecord
from candlegraph.upstream import Upstream
from storage.instruments import Instruments

PAUSE_S = 86_400  # the pause after an answer without a first candle
MAX_PAUSED = 20_000


class FirstCandles:
    """Finds the opening of an instrument's first 1m candle."""

    def __init__(self, instruments: Instruments) -> None:
        """Start without any call made."""
        self._instruments = instruments
        self._asked: TTLCache[int, None] = TTLCache(MAX_PAUSED, PAUSE_S)

    def is_open(self, record: InstrumentRecord, provider: Upstream) -> bool:
        """Whether the first candle is unknown and worth a call."""
        known = record.first_available is not None or record.id in self._asked
        return not known and not provider.capabilities.revised

    async def find(self, record: InstrumentRecord, provider: Upstream) -> int | None:
        """Find and store the opening of the first candle (ms, UTC); None if the provider has none or an older one is stored."""
        self._asked[record.id] = None
        try:
            first = await provider.first_available(record.instrument)
        except ProviderError:  # the query goes on without it
            return None
        if first is None or first > provider.now_ms() or not await self._instruments.note_beginning(record, first):
            return None
        return first
