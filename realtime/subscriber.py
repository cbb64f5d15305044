"""Who listens to one series or to many: a queue of events each, and one task that takes them all in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.event import Event, EventKind, LiveRequest
from candlegraph.series import InstrumentRecord
from candlegraph.zone import Zone
from realtime.topic import Listener, Topic


class ListenerGroup:
    """The listeners of one subscription: `next` takes their events in turn, one listener after the other."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self._ready: deque[Listener] = deque()  # those with events, each once
        self._waiting: asyncio.Future[None] | None = None

    def add(self, listener: Listener) -> None:
        """Take the events of one more listener."""
        listener.on_first = self._wake

    async def next(self, patience: float) -> tuple[Listener, Event] | None:
        """The next event and its listener, or None after ``patience`` seconds without one. One task asks at a time."""
        if not self._ready:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(patience, _end, self._waiting)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
            if not self._ready:
                return None
        listener = self._ready.popleft()
        event = listener.pop()
        if len(listener):
            self._ready.append(listener)
        return listener, event

    def _wake(self, listener: Listener) -> None:
        self._ready.append(listener)
        if self._waiting:
            _end(self._waiting)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


@dataclass(slots=True, eq=False)
class Subscriber:
    """One series of a subscription. ``seq``, ``forming`` and ``until`` were taken of the topic when the listener joined it."""

    request: LiveRequest
    record: InstrumentRecord
    zone: Zone
    listener: Listener
    topic: Topic
    seq: int = 0
    forming: Candles = field(default_factory=Candles.empty)
    until: int | None = None  # the history ends here; None: with all there is

    def join(self) -> None:
        """Listen from now on: whatever happens later is in the queue, whatever happened earlier is history."""
        topic = self.topic
        self.seq, self.until = topic.seq, topic.opened if topic.live else None
        self.forming = Candles.empty() if self.listener.closed_only else topic.current
        topic.listeners.add(self.listener)
        topic.left_at = None

    def leave(self) -> None:
        """Listen no longer."""
        self.topic.listeners.discard(self.listener)
        if not self.topic.listeners:
            self.topic.left_at = asyncio.get_running_loop().time()

    def snapshots(self, candles: Candles, page_rows: int, *, last: bool) -> list[Event]:
        """A page of history as events; the ``last`` of them brings the forming candle too, and says that it is the last."""
        if not last:
            return [self._snapshot(candles)] if len(candles) else []
        if len(candles) + len(self.forming) > page_rows:
            return [self._snapshot(candles), self._snapshot(self.forming, caught_up=True)]
        return [self._snapshot(candles.merge(self.forming), caught_up=True)]

    def _snapshot(self, candles: Candles, *, caught_up: bool = False) -> Event:
        return Event(EventKind.SNAPSHOT, self.seq, candles, caught_up, series=self.request.series, zone=self.zone)

    def resync(self, since: int) -> Event:
        """Resume from ``since``."""
        none = Candles.empty()
        return Event(EventKind.RESYNC, self.seq, none, resync_from=since, series=self.request.series, zone=self.zone)

    def is_known(self, event: Event) -> bool:
        """Whether a candle closed that opens before ``since``: a client that resumes may have it from a process ahead of us."""
        since = self.request.since
        return event.kind is EventKind.CLOSE and since is not None and int(event.candles.timestamp[0]) < since
