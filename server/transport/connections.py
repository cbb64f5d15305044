"""Long-lived connections (WebSockets, event streams): limits and graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from candlegraph.errors import CandlegraphError, Overloaded, TooManyAttempts
from resolvers.accounts.accounts import network

log = logging.getLogger(__name__)

LeaveCallback = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The most connections of a process and of an address, and the most operations of a socket."""

    connections: int = 10_000
    per_address: int = 100
    operations_per_socket: int = 100


class Connections:
    """The sockets and event streams of this process."""

    def __init__(self, caps: ConnectionLimits = ConnectionLimits()) -> None:
        """Start without connections."""
        self.caps = caps
        self._leave: set[LeaveCallback] = set()
        self._of: Counter[str] = Counter()
        self._closed = False

    def __len__(self) -> int:
        """The number of connections."""
        return len(self._leave)

    @contextmanager
    def admit(self, address: str, leave: LeaveCallback) -> Iterator[None]:
        """Count a connection for as long as it lasts; ``leave`` asks it to go. Overloaded or TooManyAttempts."""
        name = network(address)
        if self._closed:
            raise Overloaded("The server is stopping: connect again in a moment.", retry_after=1)
        if len(self._leave) >= self.caps.connections:
            raise Overloaded("The server has as many connections as it can carry.", retry_after=5)
        if self._of[name] >= self.caps.per_address:
            raise TooManyAttempts(f"An address has at most {self.caps.per_address} connections.", retry_after=5)
        self._of[name] += 1
        self._leave.add(leave)
        try:
            yield
        finally:
            self._leave.discard(leave)
            self._of[name] -= 1
            if not self._of[name]:
                del self._of[name]

    async def close(self) -> None:
        """Admit no more connections, and close all of them."""
        self._closed = True
        for failure in await asyncio.gather(*(leave() for leave in list(self._leave)), return_exceptions=True):
            if isinstance(failure, Exception):
                log.error("a connection did not leave", exc_info=failure)


def status_of(refusal: CandlegraphError) -> int:
    """The HTTP status that a connection is refused with."""
    return 503 if isinstance(refusal, Overloaded) else 429
