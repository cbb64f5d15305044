"""A topic in one process: a series that passes its leader's events to each listener in order."""

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
from candlegraph.timings import Timings
from candlegraph.zone import UTC, Zone
from storage.topics import TopicKey

MAX_QUEUED_EVENTS = 1_000  # closed candles that a listener may be behind
EVENT_KINDS = {"C": EventKind.CLOSE, "X": EventKind.CORRECTION}
_DURABLE_KINDS = (EventKind.CLOSE, EventKind.CORRECTION)


class Listener:
    """A bounded queue of events. It conflates the forming candle; it never drops a closed candle silently."""

    def __init__(self, zone: Zone = UTC, *, closed_only: bool = False) -> None:
        """Start empty. ``zone`` is the zone of the dates; ``closed_only`` leaves the forming candle out."""
        self.zone = zone
        self.closed_only = closed_only
        self.on_first: Callable[[Listener], None] = _ignore  # called when an event comes into the empty queue
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        """How many events are queued."""
        return len(self._events)

    def push(self, event: Event) -> None:
        """Queue an event; over the bound one RESYNC replaces all of them."""
        if self.closed_only and event.kind is EventKind.UPDATE:
            return
        last = self._events[-1] if self._events else None
        if last and last.kind is EventKind.RESYNC:
            if event.kind in _DURABLE_KINDS:
                self._events[-1] = _resync([last, event])
            return
        if last and _is_newer_state(event, last):
            self._events.pop()
        elif len(self._events) >= MAX_QUEUED_EVENTS:
            event = _resync([*self._events, event])
            self._events.clear()
        self._events.append(event)
        if last is None:
            self.on_first(self)

    def pop(self) -> Event:
        """Take the oldest event; the queue must not be empty."""
        return self._events.popleft()


def _ignore(_: Listener) -> None:
    """Do nothing: no task waits for this listener yet."""


def _is_newer_state(event: Event, last: Event) -> bool:
    """Whether both are updates of the candle of one bucket."""
    kinds, stamps = {event.kind, last.kind}, (event.candles.timestamp, last.candles.timestamp)
    return kinds == {EventKind.UPDATE} and bool(stamps[0][-1] == stamps[1][-1])


def _resync(missed: Iterable[Event]) -> Event:
    """The event that replaces others: where to resume so that none of them is missed, including corrections of old candles."""
    *_, last = missed = list(missed)
    stamps = [int(event.candles.timestamp[0]) for event in missed if len(event.candles)]
    stamps += [event.resync_from for event in missed if event.resync_from is not None]
    return replace(last, kind=EventKind.RESYNC, candles=Candles.empty(), resync_from=min(stamps))


@dataclass(slots=True)
class Topic:
    """A timeframe of an instrument in one time zone, at this process's position.

    ``seq`` and ``edge`` go together: these events cover every candle that opens before the bucket of ``edge``, and none
    after it. A topic that is not ``live`` never moves. One that is ``in_order`` shows the candle of a bucket only after the
    bucket before has closed.
    """

    record: InstrumentRecord
    timeframe: Timeframe
    zone: Zone
    live: bool = True
    in_order: bool = True
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
    forming: Candles = field(default_factory=Candles.empty)  # of each bucket that is not settled yet
    shown: Candles = field(default_factory=Candles.empty)  # the one of them that was published last, as it was then
    listeners: set[Listener] = field(default_factory=set)

    @property
    def series(self) -> Series:
        """Its series."""
        return Series(self.record.instrument, self.timeframe)

    @property
    def key(self) -> TopicKey:
        """Its key in the store and on the bus."""
        return TopicKey(self.record.id, str(self.timeframe), self.zone.key)

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.settled(self.edge, self.zone)

    @property
    def current(self) -> Candles:
        """The forming candles as far as they are shown, ascending: at most one where the topic is in order."""
        stamps = self.forming.timestamp
        return self.forming[(stamps >= self.opened) & (stamps <= self._newest)]

    @property
    def _newest(self) -> int:
        """The opening of the newest bucket that is shown."""
        return max(self.opened, int(self.shown.timestamp[0])) if len(self.shown) else self.opened

    def is_idle(self, now: float, timings: Timings) -> bool:
        """Whether it has had no listener for as long as it had some before, within the bounds of `Timings`."""
        if self.listeners or self.joining or self.left_at is None:
            return False
        lived_s = self.left_at - self.began_at
        return now - self.left_at > min(timings.topic_linger_s, max(timings.topic_min_linger_s, lived_s))

    def start(self, seq: int, edge: int, epoch: int, forming: Candles) -> None:
        """Start at a position; waiting listeners may begin."""
        self.seq, self.edge, self.epoch, self.forming, self.ready = seq, edge, epoch, forming, True
        self._show()
        self.answered.set()

    def fail(self, error: CandlegraphError) -> None:
        """Report to waiting listeners why it cannot begin; later ones ask again."""
        if not self.ready:
            self.failure = error
            self.answered.set()
            self.answered = asyncio.Event()

    def advance(self, edge: int) -> None:
        """Move to ``edge`` without a closed candle."""
        self._advance(edge)
        self._show_waiting()

    def update_forming(self, edge: int, forming: Candles) -> None:
        """Publish the new state of the forming candle. A new leader may not know the newest one yet: it stays."""
        self.forming = self.forming.merge(forming)
        self._advance(edge)
        self._show()

    def append(self, kind: str, candles: Candles) -> None:
        """Publish the next closed or corrected candle: one, or none where it was withdrawn since."""
        self.seq += 1
        if kind == "C" and len(candles):
            # No further than this candle: the next one may close by the next message, and be too late for a listener that
            # takes the edge of both for the position after the first.
            self._advance(self.timeframe.next(int(candles.timestamp[-1]), self.zone))
        if len(candles):
            self._publish(self._event(EVENT_KINDS[kind], candles))
        self._show_waiting()

    def resync(self, seq: int, edge: int, earliest: int | None) -> None:
        """Make every listener restart, because there are too many events to deliver.

        It restarts from the ``earliest`` candle with an event, or from the current bucket if that is earlier.
        """
        since = self.opened if earliest is None else min(self.opened, earliest)
        self.seq = seq
        self._advance(edge)
        self._publish(self._event(EventKind.RESYNC, Candles.empty(), since))

    def _advance(self, edge: int) -> None:
        self.edge = max(self.edge, edge)
        self.forming = self.forming[self.forming.timestamp >= self.opened]

    def _show(self) -> None:
        """Publish the forming candles that have moved, from the newest shown one on: no UPDATE goes back in time."""
        for at in range(int(self.forming.timestamp.searchsorted(self._newest)), len(self.forming)):
            candle = self.forming[at : at + 1]
            # Beyond the bucket after the newest one, candles may be missing that are about to close.
            last = self.opened if self.in_order else self.timeframe.next(self._newest, self.zone)
            if int(candle.timestamp[0]) > last:
                break
            if not candle.same_as(self.shown):
                self.shown = candle
                self._publish(self._event(EventKind.UPDATE, candle))

    def _show_waiting(self) -> None:
        """In order, show the candle that waited. Else the leader's next state: more candles may be about to close before it."""
        if self.in_order:
            self._show()

    def _event(self, kind: EventKind, candles: Candles, resync_from: int | None = None) -> Event:
        return Event(kind, self.seq, candles, resync_from=resync_from, series=self.series, zone=self.zone)

    def _publish(self, event: Event) -> None:
        """Queue the event for every listener; those with the same zone share one object."""
        events = {self.zone.name: event}
        for listener in self.listeners:
            shown = events.get(listener.zone.name)
            if shown is None:
                shown = events[listener.zone.name] = replace(event, zone=listener.zone)
            listener.push(shown)
