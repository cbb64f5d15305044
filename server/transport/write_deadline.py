"""The deadline for writing: a peer stalls when it takes no byte of its buffered data. A slow reader is never cut off."""

from __future__ import annotations

import array
import asyncio
import sys
from collections.abc import Callable

_SIOCOUTQ = 0x5411  # Linux: the bytes of a socket that its peer has not acknowledged, tcp(7)


class WriteDeadline:
    """Watches a transport whose buffer is full, and calls ``stalled`` once nothing has left it for ``timeout_s``."""

    def __init__(self, transport: asyncio.Transport, timeout_s: float, stalled: Callable[[], None]) -> None:
        """Watch nothing yet."""
        self._transport = transport
        self._timeout_s = timeout_s
        self._stalled = stalled
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def start(self) -> None:
        """The buffer is full: check it again after a while."""
        self.cancel()
        self._unsent = unsent_bytes(self._transport)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._check)

    def cancel(self) -> None:
        """The buffer has room again, or the connection is gone."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        if unsent_bytes(self._transport) < self._unsent:
            self.start()
        else:
            self._timer = None
            self._stalled()


def unsent_bytes(transport: asyncio.Transport) -> int:
    """The bytes that the peer has not taken: in our buffer and, on Linux, in the kernel's.

    The kernel takes nothing more before a third of its megabytes is free, which takes a slow peer longer than our deadline.
    """
    buffered = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if connection is None or not sys.platform.startswith("linux"):
        return buffered
    import fcntl  # noqa: PLC0415 - not on every platform

    queued = array.array("i", [0])
    try:
        fcntl.ioctl(connection.fileno(), _SIOCOUTQ, queued)
    except (OSError, ValueError):  # closed meanwhile
        return buffered
    return buffered + queued[0]
