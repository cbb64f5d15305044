"""A way to a server that counts what passes, can be cut, and can be led to another server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Cable:
    """Passes bytes to a server from a port of its own."""

    def __init__(self, url: str) -> None:
        self.connections = 0
        self.received = 0  # bytes from the server
        self._down = False
        self._budgets: list[int] = []
        self.lead_to(url)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut(down=True)
        self._listening.close()

    def lead_to(self, url: str) -> None:
        """Pass new connections to another server."""
        self._port = urlsplit(url).port or 0

    def cut(self, *, down: bool = False) -> None:
        """Reset all connections; while it is down, new ones are reset at once."""
        self._down = down
        for end in list(self._ends):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, counts: Iterable[int]) -> None:
        """Cut each of the next connections when so many bytes have come from the server."""
        self._budgets = list(counts)

    @property
    def cuts_left(self) -> int:
        """How many connections are still to be cut by `cut_after`."""
        return len(self._budgets)

    def mend(self) -> None:
        """Let connections through."""
        self._down = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self._down:
                near.close()
                continue
            self.connections += 1
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:  # the server is down
                near.close()
                continue
            self._ends |= {near, far}
            budget = self._budgets.pop(0) if self._budgets else None
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, budget, True), daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, budget: int | None = None, counted: bool = False
    ) -> None:
        """Pass bytes on; those of the server are counted, and no more than its budget."""
        with suppress(OSError):
            while data := source.recv(65_536):
                if budget is not None:
                    data, budget = data[:budget], budget - len(data)
                self.received += len(data) * counted
                sink.sendall(data)
                if budget is not None and budget <= 0:
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.discard(source)
        source.close()
