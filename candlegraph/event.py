"""What a listener of a live series is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from candlegraph.candle import Candles


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
    ``resync_from`` (ms, UTC) is where a listener that fell behind should start again.
    """

    kind: EventKind
    seq: int
    candles: Candles
    caught_up: bool = False
    resync_from: int | None = None


@lru_cache(maxsize=1024)
def heartbeat(seq: int) -> Event:
    """The HEARTBEAT of every series that has come as far: there is one, so that what it looks like is worked out once."""
    return Event(EventKind.HEARTBEAT, seq, Candles.empty())
