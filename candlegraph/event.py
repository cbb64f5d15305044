"""The events of a live series, as its listeners get them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from candlegraph.candle import Candles


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
    ``resync_from`` (ms, UTC) is where a listener that fell behind has to restart.
    """

    kind: EventKind
    seq: int
    candles: Candles
    caught_up: bool = False
    resync_from: int | None = None


@lru_cache(maxsize=1024)
def heartbeat(seq: int) -> Event:
    """The heartbeat for ``seq``, shared by all series so that it is encoded once."""
    return Event(EventKind.HEARTBEAT, seq, Candles.empty())
