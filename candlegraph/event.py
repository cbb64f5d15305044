"""What a listener of a live series is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from candlegraph.candle import Candles


class EventKind(StrEnum):
    """Why an event is sent."""

    SNAPSHOT = "SNAPSHOT"
    UPDATE = "UPDATE"
    CLOSE = "CLOSE"
    CORRECTION = "CORRECTION"
    HEARTBEAT = "HEARTBEAT"
    RESYNC = "RESYNC"


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a live series.

    ``seq`` counts its closed and corrected candles, the same for every listener; an UPDATE repeats the last one.
    ``resync_from`` (ms, UTC) is where a listener that fell behind should start again.
    """

    kind: EventKind
    seq: int
    candles: Candles
    caught_up: bool = False
    resync_from: int | None = None
