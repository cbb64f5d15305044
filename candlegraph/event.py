"""What a listener of a live series is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from candlegraph.candle import Candles
from candlegraph.series import Series
from candlegraph.series_candles import SeriesCandles
from candlegraph.timeframe import MINUTE
from candlegraph.zone import UTC, Zone


class EventKind(StrEnum):
    """Why an event is sent."""

    SNAPSHOT = "SNAPSHOT"
    UPDATE = "UPDATE"
    CLOSE = "CLOSE"
    CORRECTION = "CORRECTION"
    HEARTBEAT = "HEARTBEAT"
    RESYNC = "RESYNC"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Event:
    """One message of a live series. After the snapshots all who follow it are handed the very same object.

    ``seq`` counts its closed and corrected candles, the same for every listener; an UPDATE repeats the last one.
    ``resync_from`` (ms, UTC) is where a listener that fell behind should start again. ``zone`` is that of the dates.
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
        """The candles, with what their buckets are."""
        return SeriesCandles(self.candles, self.series.timeframe if self.series else MINUTE, self.zone)


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A series to listen to, with its history from ``since`` (ms, UTC) on; None: with no history."""

    series: Series
    since: int | None = None


@dataclass(frozen=True, slots=True)
class SeriesFailure:
    """Why nothing more is sent of one of many series."""

    series: Series
    error: BaseException


@lru_cache(maxsize=4096)
def heartbeat(seq: int, series: Series | None = None) -> Event:
    """The HEARTBEAT of a series that has come as far: there is one, so that what it looks like is worked out once."""
    return Event(EventKind.HEARTBEAT, seq, Candles.empty(), series=series)
