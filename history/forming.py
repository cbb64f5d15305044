"""The candles that are not final: remembered for a moment, so that queries share them, and taken from feeds where there are any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from candlegraph.candle import Candles
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.database import Database

# The 1m candles that are not final, and the span that they are all of; None while they are not known.
LiveSource = Callable[[], tuple[Candles, Span] | None]


@dataclass(frozen=True, slots=True)
class FormingCandles:
    """The rows of ``span`` that were not final when they were fetched, at ``at``; ``live``: they came from a feed."""

    candles: Candles
    span: Span
    at: float  # on the monotonic clock
    live: bool = False


class FormingCache:
    """The forming candles of every series with a query within the last two seconds."""

    def __init__(self, database: Database) -> None:
        """Nothing is remembered; the timings are the database's."""
        self._database = database
        self._entries: dict[tuple[int, Timeframe], FormingCandles] = {}
        self._sources: dict[int, LiveSource] = {}

    def recent(self, key: tuple[int, Timeframe], ahead: Spans) -> FormingCandles | None:
        """The candles of ``ahead``, none of them final, if they were fetched within two seconds; makes no call."""
        kept = self._entries.get(key)
        return kept if kept and self.serves(kept, ahead) else None

    def serves(self, forming: FormingCandles, ahead: Spans) -> bool:
        """Whether ``forming`` may stand for another fetch of ``ahead``."""
        fresh = forming.live or time.monotonic() - forming.at < self._ttl_s
        return fresh and not ahead - Spans([forming.span])

    def latest(self, key: tuple[int, Timeframe], *, leads: bool) -> FormingCandles | None:
        """The newest known: the feed's if this process has one, else what was seen last.

        A feed, which ``leads``, does not take its own candles for the provider's.
        """
        instrument_id, timeframe = key
        source = self._sources.get(instrument_id)
        if timeframe == MINUTE and not leads and source and (seen := source()):
            return FormingCandles(*seen, time.monotonic(), live=True)
        kept = self._entries.get(key)
        return None if kept and kept.live and leads else kept

    def remember(self, key: tuple[int, Timeframe], forming: FormingCandles) -> None:
        """Let ``forming`` serve the queries of the next moment."""
        self._entries[key] = forming
        asyncio.get_running_loop().call_later(self._ttl_s, self._forget, key, forming)

    def remember_live(self, instrument_id: int, minutes: Candles, span: Span) -> None:
        """Remember the message of another process's feed: the minutes of ``span``, none of them final."""
        self.remember((instrument_id, MINUTE), FormingCandles(minutes, span, time.monotonic(), live=True))

    def follow(self, instrument_id: int, source: LiveSource) -> None:
        """Ask ``source`` for the forming minute of an instrument, rather than its provider."""
        self._sources[instrument_id] = source

    def unfollow(self, instrument_id: int) -> None:
        """Ask the provider again."""
        self._sources.pop(instrument_id, None)

    @property
    def _ttl_s(self) -> float:
        return self._database.timings.forming_ttl_s

    def _forget(self, key: tuple[int, Timeframe], forming: FormingCandles) -> None:
        if self._entries.get(key) is forming:
            del self._entries[key]
