"""A series that somebody in this process listens to: what its leader says, handed on to each listener in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from candlegraph.candle import Candles
from candlegraph.errors import CandlegraphError
from candlegraph.event import Event, EventKind
from candlegraph.series import InstrumentRecord, Series
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone
from storage.topics import TopicKey

MAX_QUEUED_EVENTS = 1_000  # closed candles a listener may be behind
EVENT_KINDS = {"C": EventKind.CLOSE, "X": EventKind.CORRECTION}
_DURABLE_KINDS = (EventKind.CLOSE, EventKind.CORRECTION)


class Listener:
    """A bounded queue of events. The forming candle conflates; a closed candle is never dropped in silence."""

    def __init__(self, zone: Zone = UTC, *, closed_only: bool = False) -> None:
        """Nothing is queued. ``zone`` is that of the dates; ``closed_only``: without the forming candle."""
        self.zone = zone
        self.closed_only = closed_only
        self.on_first: Callable[[Listener], None] = _ignore  # called when there is something to take after nothing was
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        """How many events are queued."""
        return len(self._events)

    def push(self, event: Event) -> None:
        """Queue an event; over the bound all of them give way to one RESYNC."""
        if self.closed_only and event.kind is EventKind.UPDATE:
            return
        last = self._events[-1] if self._events else None
        if last and last.kind is EventKind.RESYNC:
            if event.kind in _DURABLE_KINDS:
                self._events[-1] = _resync([last, event])
            return
        if event.kind is EventKind.UPDATE and last and last.kind is EventKind.UPDATE:
            self._events.pop()
        elif len(self._events) >= MAX_QUEUED_EVENTS:
            untold = [_opening_of(e) for e in (*self._events, event) if e.kind is not EventKind.UPDATE]
            self._events.clear()
            event = replace(event, kind=EventKind.RESYNC, candles=Candles.empty(), resync_from=min(untold))
        self._events.append(event)
        if last is None:
            self.on_first(self)

    def pop(self) -> Event:
        """Take the oldest event; there is one."""
        return self._events.popleft()


def _ignore(_: Listener) -> None:
    """Nobody waits."""


def _resync(missed: Iterable[Event]) -> Event:
    """What takes the place of events: where to resume from so that none of them is missed, corrections of old candles too."""
    *_, last = missed = list(missed)
    stamps = [int(event.candles.timestamp[0]) for event in missed if event.kind in _DURABLE_KINDS]
    stamps += [event.resync_from for event in missed if event.resync_from is not None]
    return replace(last, kind=EventKind.RESYNC, candles=Candles.empty(), resync_from=min(stamps))


@dataclass(slots=True)
class Topic:
    """A timeframe of an instrument in one time zone, as far as this process was told.

    ``seq`` and ``edge`` go together: these events brought every candle that opens before the bucket of ``edge``, and none
    of a later one. A topic that is not ``live`` never moves.
    """

    record: InstrumentRecord
    timeframe: Timeframe
    zone: Zone
    live: bool = True
    ready: bool = False  # whether the leader has said how it stands
    failure: CandlegraphError | None = None  # or why it cannot
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    began_at: float = 0.0
    requested_at: float = float("-inf")
    left_at: float | None = None  # when the last listener went
    behind_since: float | None = None  # when it was first seen that something was missed
    seq: int = 0
    edge: int = 0
    epoch: int = 0
    forming: Candles = field(default_factory=Candles.empty)
    shown: Candles = field(default_factory=Candles.empty)  # the forming candle as it was published last
    listeners: set[Listener] = field(default_factory=set)

    @property
    def series(self) -> Series:
        """What it is of."""
        return Series(self.record.instrument, self.timeframe)

    @property
    def key(self) -> TopicKey:
        """What it is followed as."""
        return TopicKey(self.record.id, str(self.timeframe), self.zone.name)

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.floor(self.edge, self.zone)

    @property
    def current(self) -> Candles:
        """The forming candle of the bucket that is not settled yet, or none.

        A candle of the next bucket waits until this one has closed, so that no event goes back in time.
        """
        return self.forming[self.forming.timestamp == self.opened]

    def start(self, seq: int, edge: int, epoch: int, forming: Candles) -> None:
        """Go on from here; whoever waits may begin."""
        self.seq, self.edge, self.epoch, self.forming, self.ready = seq, edge, epoch, forming, True
        self.shown = self.current
        self.answered.set()

    def fail(self, error: CandlegraphError) -> None:
        """Tell whoever waits why it cannot begin; who comes later asks anew."""
        if not self.ready:
            self.failure = error
            self.answered.set()
            self.answered = asyncio.Event()

    def advance(self, edge: int) -> None:
        """Nothing more has happened up to ``edge``."""
        self._advance(edge)
        self._show()

    def update_forming(self, forming: Candles) -> None:
        """The forming candle stands so now."""
        self.forming = forming
        self._show()

    def append(self, kind: str, candles: Candles) -> None:
        """The next candle was closed or corrected: one, or none where it was withdrawn since."""
        self.seq += 1
        if kind == "C" and len(candles):
            # No further than this candle: the next one may close by the next message, and come too late for a listener
            # who takes the edge of both for what the first one brought.
            self._advance(self.timeframe.next(int(candles.timestamp[-1]), self.zone))
        if len(candles):
            self._publish(self._event(EVENT_KINDS[kind], candles))
        self._show()

    def resync(self, seq: int, edge: int, earliest: int | None) -> None:
        """More happened than can be told: whoever listens has to start again from the last that was.

        Or from the ``earliest`` candle that something happened to.
        """
        since = self.opened if earliest is None else min(self.opened, earliest)
        self.seq = seq
        self._advance(edge)
        self._publish(self._event(EventKind.RESYNC, Candles.empty(), since))

    def _advance(self, edge: int) -> None:
        self.edge = max(self.edge, edge)
        self.forming = self.forming[self.forming.timestamp >= self.opened]

    def _show(self) -> None:
        """Publish the forming candle where it has moved."""
        current = self.current
        if len(current) and not current.same_as(self.shown):
            self.shown = current
            self._publish(self._event(EventKind.UPDATE, current))

    def _event(self, kind: EventKind, candles: Candles, resync_from: int | None = None) -> Event:
        return Event(kind, self.seq, candles, resync_from=resync_from, series=self.series, zone=self.zone)

    def _publish(self, event: Event) -> None:
        """Queue one event object for all listeners whose dates are of one zone."""
        events = {self.zone.name: event}
        for listener in self.listeners:
            shown = events.get(listener.zone.name)
            if shown is None:
                shown = events[listener.zone.name] = replace(event, zone=listener.zone)
            listener.push(shown)


def _opening_of(event: Event) -> int:
    """The opening of the candle that an event is about."""
    return int(event.candles.timestamp[0]) if event.resync_from is None else event.resync_from
