"""The forming candles: kept for two seconds, so that queries share them, and taken from a feed if there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from candlegraph.candle import Candles
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.database import Database

# Returns the 1m candles that are not final, and the span for which they are complete; None while they are unknown.
LiveSource = Callable[[], tuple[Candles, Span] | None]


@dataclass(frozen=True, slots=True)
class FormingCandles:
    """The rows of ``span`` that were not final when they were fetched, at ``at``; ``live``: a feed has sent them."""

    candles: Candles
    span: Span
    at: float  # on the monotonic clock
    live: bool = False


class FormingCache:
    """The forming candles of every series with a query within the last two seconds."""

    def __init__(self, database: Database) -> None:
        """Start empty; the timings are those of ``database``."""
        self._database = database
        self._entries: dict[tuple[int, Timeframe], FormingCandles] = {}
        self._sources: dict[int, LiveSource] = {}

    def recent(self, key: tuple[int, Timeframe], ahead: Spans) -> FormingCandles | None:
        """The forming candles of ``ahead`` if they were fetched within two seconds, else None; makes no call."""
        kept = self._entries.get(key)
        return kept if kept and self.serves(kept, ahead) else None

    def serves(self, forming: FormingCandles, ahead: Spans) -> bool:
        """Whether ``forming`` is fresh enough to replace a fetch of ``ahead``."""
        fresh = forming.live or time.monotonic() - forming.at < self._ttl_s
        return fresh and not ahead - Spans([forming.span])

    def latest(self, key: tuple[int, Timeframe], *, leads: bool) -> FormingCandles | None:
        """The newest forming candles: those of this process's feed if there is one, else the last ones remembered.

        With ``leads`` the caller is the feed itself: it does not get back the candles that it has published.
        """
        instrument_id, timeframe = key
        source = self._sources.get(instrument_id)
        if timeframe == MINUTE and not leads and source and (seen := source()):
            return FormingCandles(*seen, time.monotonic(), live=True)
        kept = self._entries.get(key)
        return None if kept and kept.live and leads else kept

    def remember(self, key: tuple[int, Timeframe], forming: FormingCandles) -> None:
        """Keep ``forming`` for the queries of the next two seconds."""
        self._entries[key] = forming
        asyncio.get_running_loop().call_later(self._ttl_s, self._forget, key, forming)

    def remember_live(self, instrument_id: int, minutes: Candles, span: Span) -> None:
        """Keep the forming minutes of ``span`` that another process's feed has published."""
        self.remember((instrument_id, MINUTE), FormingCandles(minutes, span, time.monotonic(), live=True))

    def follow(self, instrument_id: int, source: LiveSource) -> None:
        """From now on get the forming minute of an instrument from ``source`` instead of its provider."""
        self._sources[instrument_id] = source

    def unfollow(self, instrument_id: int) -> None:
        """Get the forming minute from the provider again."""
        self._sources.pop(instrument_id, None)

    @property
    def _ttl_s(self) -> float:
        return self._database.timings.forming_ttl_s

    def _forget(self, key: tuple[int, Timeframe], forming: FormingCandles) -> None:
        if self._entries.get(key) is forming:
            del self._entries[key]
