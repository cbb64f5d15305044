"""One live series: the minutes of a feed folded into the candles of a timeframe, and those who listen to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.event import Event, EventKind
from candlegraph.resample import fold
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone

MAX_QUEUED = 1_000  # closed candles a listener may be behind
_LASTING = (EventKind.CLOSE, EventKind.CORRECTION)


class Listener:
    """A bounded queue of events. The forming candle conflates; a closed candle is never dropped in silence."""

    def __init__(self) -> None:
        """Nothing is queued."""
        self._events: deque[Event] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def push(self, event: Event) -> None:
        """Queue an event; over the bound all of them give way to one RESYNC."""
        last = self._events[-1] if self._events else None
        if last and last.kind is EventKind.RESYNC:
            if event.kind in _LASTING:
                self._events[-1] = _resync([last, event])
            return
        if event.kind is EventKind.UPDATE and last and last.kind is EventKind.UPDATE:
            self._events.pop()
        elif len(self._events) >= MAX_QUEUED:
            event = _resync([*self._events, event])
            self._events.clear()
        self._events.append(event)
        if self._waiting:
            _wake(self._waiting)

    async def next(self, patience: float) -> Event | None:
        """The next event, or None after ``patience`` seconds without one. One task asks at a time."""
        if not self._events:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            # A third of what `asyncio.timeout` takes, in what every listener does at every event.
            timer = loop.call_later(patience, _wake, self._waiting)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        return self._events.popleft() if self._events else None


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _resync(missed: Iterable[Event]) -> Event:
    """What takes the place of events: where to resume from so that none of them is missed, corrections of old candles too."""
    *_, last = missed = list(missed)
    stamps = [int(event.candles.timestamp[0]) for event in missed if event.kind in _LASTING]
    stamps += [event.resync_from for event in missed if event.resync_from is not None]
    return Event(EventKind.RESYNC, last.seq, Candles.empty(), resync_from=min(stamps))


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
