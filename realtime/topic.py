"""One live series: the minutes of a feed folded into the candles of a timeframe, and those who listen to it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.event import Event, EventKind
from candlegraph.resample import fold
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
    """A timeframe of an instrument that somebody follows, in one time zone.

    ``settled`` is the candle of the current bucket as far as its minutes are final (before ``edge``): none or one row.
    A topic that is not ``live`` never moves.
    """

    timeframe: Timeframe
    zone: Zone
    edge: int
    live: bool = True
    settled: Candles = field(default_factory=Candles.empty)
    forming: Candles = field(default_factory=Candles.empty)
    seq: int = 0
    listeners: set[Listener] = field(default_factory=set)

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.floor(self.edge, self.zone)

    def advance(self, minutes: Candles, edge: int) -> None:
        """Take final minutes in, up to ``edge``; candles whose bucket has ended with them are closed."""
        folded = fold(concat([self.settled, minutes]), self.timeframe, self.zone)
        self.edge = edge
        for position in range(len(folded)):
            candle = folded[position : position + 1]
            if candle.timestamp[0] < self.opened:
                self.seq += 1
                self._publish(Event(EventKind.CLOSE, self.seq, candle))
        self.settled = folded[folded.timestamp >= self.opened]

    def move(self, minutes: Candles) -> None:
        """Show how the minutes that are not final yet stand; nothing is said where nothing moved."""
        live = fold(concat([self.settled, minutes]), self.timeframe, self.zone)
        live = live.with_closed(np.zeros(len(live), np.bool_))
        if len(live) and not _same(live, self.forming):
            self._publish(Event(EventKind.UPDATE, self.seq, live))
        self.forming = live

    def _publish(self, event: Event) -> None:
        for listener in self.listeners:
            listener.push(event)


def _same(a: Candles, b: Candles) -> bool:
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a.columns, b.columns, strict=True))
