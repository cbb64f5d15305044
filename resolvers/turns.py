"""Turns: the operations of an address begin one after the other, so that those of other addresses come in between.

Parsing and validating a text takes milliseconds of the event loop, and a thousand subscriptions may arrive in one packet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from candlegraph.errors import Overloaded

PAUSE_FACTOR = 2  # after a new text, the next operation of the address waits this many times as long as the text took
MAX_WAITING_CHARS = 1_000_000  # of the new texts of an address that wait for their turns
MIN_TEXT_CHARS = 1_000  # a shorter text counts as this long: a thousand texts may wait
RETRY_AFTER_S = 5.0


@dataclass(slots=True, weakref_slot=True)
class _Queue:
    """The operations of one address that are about to begin."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    chars: int = 0


class Turn:
    """The turn of one operation, until `end`."""

    def __init__(self, queue: _Queue, pause_factor: int) -> None:
        """Begin to count its time."""
        self._queue: _Queue | None = queue
        self._pause_factor = pause_factor
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()

    def end(self) -> None:
        """Let the next operation of the address begin, after a pause; a second call does nothing."""
        if self._queue:
            pause_s = self._pause_factor * (self._loop.time() - self._began_at)
            self._loop.call_later(pause_s, _release, self._queue)
            self._queue = None


def _release(queue: _Queue) -> None:
    queue.lock.release()


class Turns:
    """The turns of all addresses."""

    def __init__(self) -> None:
        """Start with no operation."""
        self._queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()

    async def begin(self, address: str, new_text: str | None) -> Turn:
        """Wait for the turn of an operation; ``new_text`` is its document, unless that is known to be valid.

        Overloaded if too many new texts of the address are waiting.
        """
        queue = self._queues.setdefault(address, _Queue())
        chars = 0 if new_text is None else max(len(new_text), MIN_TEXT_CHARS)
        if chars and queue.chars and queue.chars + chars > MAX_WAITING_CHARS:
            raise Overloaded(
                "Too many new documents of this address are waiting: send variables instead of literals, and try again.",
                retry_after=RETRY_AFTER_S,
            )
        queue.chars += chars
        try:
            await queue.lock.acquire()
        finally:
            queue.chars -= chars
        return Turn(queue, PAUSE_FACTOR if chars else 0)
