"""Where the history of an instrument begins: asked of its provider once, and stored."""

from __future__ import annotations

from cachetools import TTLCache

from candlegraph.errors import ProviderError
from candlegraph.series import InstrumentRecord
from candlegraph.upstream import Upstream
from storage.instruments import Instruments

PAUSE_S = 86_400  # how long a provider is not asked again that does not know
MAX_PAUSED = 20_000


class FirstCandles:
    """Finds out when the first 1m candle of an instrument opens."""

    def __init__(self, instruments: Instruments) -> None:
        """Nothing was asked yet."""
        self._instruments = instruments
        self._asked: TTLCache[int, None] = TTLCache(MAX_PAUSED, PAUSE_S)

    def is_open(self, record: InstrumentRecord, provider: Upstream) -> bool:
        """Whether it is not known, and worth a call."""
        known = record.first_available is not None or record.id in self._asked
        return not known and not provider.capabilities.revised

    async def find(self, record: InstrumentRecord, provider: Upstream) -> int | None:
        """The opening of the first candle (ms, UTC), stored; None where the provider cannot say or the store knows better."""
        self._asked[record.id] = None
        try:
            first = await provider.first_available(record.instrument)
        except ProviderError:  # the question goes on without it
            return None
        if first is None or first > provider.now_ms() or not await self._instruments.note_beginning(record, first):
            return None
        return first
