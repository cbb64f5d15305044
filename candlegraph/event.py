"""The events of a live series, as its listeners get them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from candlegraph.candle import Candles
from candlegraph.series import Series
from candlegraph.series_candles import SeriesCandles
from candlegraph.timeframe import MINUTE
from candlegraph.trading_calendar import SessionFilter
from candlegraph.zone import UTC, Zone


class EventKind(StrEnum):
    """The kind of an event."""

    SNAPSHOT = "SNAPSHOT"
    UPDATE = "UPDATE"
    CLOSE = "CLOSE"
    CORRECTION = "CORRECTION"
    HEARTBEAT = "HEARTBEAT"
    RESYNC = "RESYNC"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Event:
    """One event of a live series. After the snapshots all listeners get the very same object.

    ``seq`` counts its closed and corrected candles, the same for every listener; an UPDATE repeats the last one.
    ``resync_from`` (ms, UTC) is where a listener that fell behind has to restart. ``zone`` is the zone of the dates.
    """

    kind: EventKind
    seq: int
    candles: Candles
    caught_up: bool = False
    resync_from: int | None = None
    series: Series | None = None
    zone: Zone = UTC

    @property
    def series_candles(self) -> SeriesCandles:
        """The candles, with the dates and ends of their buckets."""
        return SeriesCandles(self.candles, self.series.timeframe if self.series else MINUTE, self.zone)


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A series to follow, with its history from ``since`` (ms, UTC) on; None: without history."""

    series: Series
    since: int | None = None
    session: SessionFilter = SessionFilter.ALL


@dataclass(frozen=True, slots=True)
class SeriesFailure:
    """The error that ends one of many series."""

    series: Series
    error: BaseException


@lru_cache(maxsize=4096)
def heartbeat(seq: int, series: Series | None = None) -> Event:
    """The heartbeat for ``seq``, shared by all listeners so that it is encoded once."""
    return Event(EventKind.HEARTBEAT, seq, Candles.empty(), series=series)
