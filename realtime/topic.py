"""A topic in one process: a series that passes its leader's events to each listener in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.errors import CandlegraphError
from candlegraph.event import Event, EventKind
from candlegraph.series import InstrumentRecord, Series
from candlegraph.timeframe import Timeframe
from candlegraph.timings import Timings
from candlegraph.zone import Zone

MAX_QUEUED_EVENTS = 1_000  # closed candles that a listener may be behind
EVENT_KINDS = {"C": EventKind.CLOSE, "X": EventKind.CORRECTION}
_DURABLE_KINDS = (EventKind.CLOSE, EventKind.CORRECTION)


class Listener:
    """A bounded queue of events. It conflates the forming candle; it never drops a closed candle silently."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: deque[Event] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def push(self, event: Event) -> None:
        """Queue an event; over the bound one RESYNC replaces all of them."""
        last = self._events[-1] if self._events else None
        if last and last.kind is EventKind.RESYNC:
            if event.kind in _DURABLE_KINDS:
                self._events[-1] = _resync([last, event])
            return
        if event.kind is EventKind.UPDATE and last and last.kind is EventKind.UPDATE:
            self._events.pop()
        elif len(self._events) >= MAX_QUEUED_EVENTS:
            event = _resync([*self._events, event])
            self._events.clear()
        self._events.append(event)
        if self._waiting:
            _wake(self._waiting)

    async def next(self, patience: float) -> Event | None:
        """The next event, or None after ``patience`` seconds without one. Only one task may wait."""
        if not self._events:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            # A third of the cost of `asyncio.timeout`, for every listener at every event.
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
    """The event that replaces others: where to resume so that none of them is missed, including corrections of old candles."""
    *_, last = missed = list(missed)
    stamps = [int(event.candles.timestamp[0]) for event in missed if event.kind in _DURABLE_KINDS]
    stamps += [event.resync_from for event in missed if event.resync_from is not None]
    return Event(EventKind.RESYNC, last.seq, Candles.empty(), resync_from=min(stamps))


@dataclass(slots=True)
class Topic:
    """A timeframe of an instrument in one time zone, at this process's position.

    ``seq`` and ``edge`` go together: these events cover every candle that opens before the bucket of ``edge``, and none
    after it. A topic that is not ``live`` never moves.
    """

    record: InstrumentRecord
    timeframe: Timeframe
    zone: Zone
    live: bool = True
    ready: bool = False  # whether the leader has sent its position
    failure: CandlegraphError | None = None  # or the reason why it cannot
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    began_at: float = 0.0
    requested_at: float = float("-inf")
    began_by: str = ""  # the address of its first listener
    joining: int = 0  # callers that listen or are about to
    left_at: float | None = None  # when the last listener left
    behind_since: float | None = None  # when a missed event was first detected
    seq: int = 0
    edge: int = 0
    epoch: int = 0
    forming: Candles = field(default_factory=Candles.empty)
    listeners: set[Listener] = field(default_factory=set)

    @property
    def series(self) -> Series:
        """Its series."""
        return Series(self.record.instrument, self.timeframe)

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.floor(self.edge, self.zone)

    def is_idle(self, now: float, timings: Timings) -> bool:
        """Whether it has had no listener for a while: as long as it had some before, but neither moments nor minutes."""
        if self.listeners or self.joining or self.left_at is None:
            return False
        lived_s = self.left_at - self.began_at
        return now - self.left_at > min(timings.topic_linger_s, max(timings.topic_min_linger_s, lived_s))

    def start(self, seq: int, edge: int, epoch: int, forming: Candles) -> None:
        """Start at a position; waiting listeners may begin."""
        self.seq, self.edge, self.epoch, self.forming, self.ready = seq, edge, epoch, forming, True
        self.answered.set()

    def fail(self, error: CandlegraphError) -> None:
        """Report to waiting listeners why it cannot begin; later ones ask again."""
        if not self.ready:
            self.failure = error
            self.answered.set()
            self.answered = asyncio.Event()

    def advance(self, edge: int) -> None:
        """Move to ``edge`` without an event."""
        self.edge = max(self.edge, edge)
        self.forming = self.forming[self.forming.timestamp >= self.opened]

    def update_forming(self, forming: Candles) -> None:
        """Publish the new state of the forming candle."""
        moved = len(forming) and not forming.same_as(self.forming)
        self.forming = forming
        if moved:
            self._publish(Event(EventKind.UPDATE, self.seq, forming))

    def append(self, kind: str, candles: Candles) -> None:
        """Publish the next closed or corrected candle: one, or none where it was withdrawn since."""
        self.seq += 1
        if kind == "C" and len(candles):
            # No further than this candle: the next one may close by the next message, and be too late for a listener that
            # takes the edge of both for the position after the first.
            self.advance(self.timeframe.next(int(candles.timestamp[-1]), self.zone))
        if len(candles):
            self._publish(Event(EVENT_KINDS[kind], self.seq, candles))

    def resync(self, seq: int, edge: int, earliest: int | None) -> None:
        """There are too many events to deliver: every listener has to restart from its last one.

        Or from the ``earliest`` candle with an event.
        """
        since = self.opened if earliest is None else min(self.opened, earliest)
        event = Event(EventKind.RESYNC, seq, Candles.empty(), resync_from=since)
        self.seq = seq
        self.advance(edge)
        self._publish(event)

    def _publish(self, event: Event) -> None:
        for listener in self.listeners:
            listener.push(event)
