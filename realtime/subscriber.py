"""The listeners of a subscription to one or many series: one queue each, and one task that takes from them in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.event import Event, EventKind, LiveRequest, SeriesFailure
from candlegraph.series import InstrumentRecord
from candlegraph.zone import Zone
from realtime.topic import Listener, Topic


class ListenerGroup:
    """The listeners of one subscription; `next` takes one event from each in turn (round robin)."""

    def __init__(self) -> None:
        """Start without listeners."""
        self._ready: deque[Listener] = deque()  # those with events, each once
        self._waiting: asyncio.Future[None] | None = None

    def add(self, listener: Listener) -> None:
        """Add a listener, whose queue has to be empty."""
        listener.on_first = self._wake

    async def next(self, timeout_s: float) -> tuple[Listener, Event] | None:
        """The next event and its listener, or None after ``timeout_s`` without one. Only one task may wait."""
        if not self._ready:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            # This costs a third of `asyncio.timeout`, and runs for every listener at every event.
            timer = loop.call_later(timeout_s, _end, self._waiting)
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
    """One series of a subscription; its topic stays until `leave`.

    ``seq``, ``forming`` and ``until`` are the state of the topic at the moment when the listener joined it.
    """

    request: LiveRequest
    record: InstrumentRecord
    zone: Zone
    listener: Listener
    topic: Topic
    seq: int = 0
    forming: Candles = field(default_factory=Candles.empty)
    until: int | None = None  # where the history to send ends; None: it has no live part, send all

    def __post_init__(self) -> None:
        """Keep the topic while this listener is about to join."""
        self.topic.joining += 1
        self.topic.left_at = None

    def join(self) -> None:
        """Listen from now on: later events go to the queue, and earlier ones are part of the history."""
        topic = self.topic
        self.seq, self.until = topic.seq, topic.opened if topic.live else None
        self.forming = Candles.empty() if self.listener.closed_only else topic.current
        topic.listeners.add(self.listener)

    def leave(self) -> None:
        """Stop listening, and release the topic; call it once."""
        self.topic.listeners.discard(self.listener)
        self.topic.joining -= 1
        if not self.topic.joining:
            self.topic.left_at = asyncio.get_running_loop().time()

    def snapshots(self, candles: Candles, page_rows: int, *, last: bool) -> list[Event]:
        """A page of history as events; the ``last`` one also brings the forming candle, and has `caught_up`."""
        if not last:
            return [self._snapshot(candles)] if len(candles) else []
        if len(candles) + len(self.forming) > page_rows:
            return [self._snapshot(candles), self._snapshot(self.forming, caught_up=True)]
        return [self._snapshot(candles.merge(self.forming), caught_up=True)]

    def _snapshot(self, candles: Candles, *, caught_up: bool = False) -> Event:
        return Event(EventKind.SNAPSHOT, self.seq, candles, caught_up, series=self.request.series, zone=self.zone)

    def resync(self, since: int) -> Event:
        """The event after which the subscriber has to resume from ``since``."""
        none = Candles.empty()
        return Event(EventKind.RESYNC, self.seq, none, resync_from=since, series=self.request.series, zone=self.zone)

    def is_known(self, event: Event) -> bool:
        """Whether a closed candle lies before ``since``: a resuming client may have it from a process that was ahead of us."""
        since = self.request.since
        return event.kind is EventKind.CLOSE and since is not None and int(event.candles.timestamp[0]) < since


async def join(
    subscribers: Sequence[Subscriber], begin: Callable[[Topic], Coroutine[None, None, None]]
) -> AsyncGenerator[tuple[list[Subscriber], list[SeriesFailure]], None]:
    """Join each subscriber to its topic after ``begin`` has made that ready; yield joined ones in groups, with failures.

    The caller must read the history of a subscriber only after it has joined.
    """
    new = {one.topic.key: one.topic for one in subscribers if not one.topic.ready}
    starting = {asyncio.create_task(begin(topic), name=f"begin {key}"): key for key, topic in new.items()}
    try:
        waiting = list(subscribers)
        while waiting:
            errors = {key: error for task, key in starting.items() if task.done() and (error := task.exception())}
            failed = [one for one in waiting if one.topic.key in errors]
            joined = [one for one in waiting if one.topic.ready and one not in failed]
            for one in joined:
                one.join()
            waiting = [one for one in waiting if one not in joined and one not in failed]
            yield joined, [SeriesFailure(one.request.series, errors[one.topic.key]) for one in failed]
            if waiting and (unfinished := [task for task in starting if not task.done()]):
                await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
