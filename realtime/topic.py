"""A series that somebody in this process listens to: what its leader says, handed on to each listener in order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.event import Event, EventKind
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone

MAX_QUEUED = 1_000  # closed candles a listener may be behind


class Listener:
    """A bounded queue of events. The forming candle conflates; a closed candle is never dropped in silence."""

    def __init__(self) -> None:
        """Nothing is queued."""
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def push(self, event: Event) -> None:
        """Queue an event; over the bound all of them give way to one RESYNC."""
        if event.kind is EventKind.UPDATE and self._events and self._events[-1].kind is EventKind.UPDATE:
            self._events.pop()
        elif self._events and self._events[-1].kind is EventKind.RESYNC:
            return
        elif len(self._events) >= MAX_QUEUED:
            missed = next(e for e in self._events if e.kind is not EventKind.UPDATE)
            self._events.clear()
            event = Event(EventKind.RESYNC, event.seq, Candles.empty(), resync_from=int(missed.candles.timestamp[0]))
        self._events.append(event)
        self._arrived.set()

    async def next(self, patience: float) -> Event | None:
        """The next event, or None after ``patience`` seconds without one."""
        if not self._events:
            self._arrived.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._events.popleft()


@dataclass(slots=True)
class Topic:
    """A timeframe of an instrument in one time zone, as far as this process was told: ``seq`` events, up to ``edge``.

    A topic that is not ``live`` never moves.
    """

    timeframe: Timeframe
    zone: Zone
    edge: int = 0
    seq: int = 0
    epoch: int = 0
    live: bool = True
    forming: Candles = field(default_factory=Candles.empty)
    listeners: set[Listener] = field(default_factory=set)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    behind_since: float | None = None  # when it was first seen that something was missed
    left_at: float | None = None  # when the last listener went

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.floor(self.edge, self.zone)

    def publish(self, event: Event) -> None:
        """Hand an event to every listener."""
        for listener in self.listeners:
            listener.push(event)
