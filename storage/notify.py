"""PostgreSQL's LISTEN and NOTIFY: a line between the processes that share a database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from candlegraph.outage import Outage
from storage.database import Database

log = logging.getLogger(__name__)

CHANNEL = "candlegraph_live"


class Notifications:
    """One channel, heard on a connection of its own."""

    def __init__(self, database: Database, on_message: Callable[[str], None]) -> None:
        """Nothing is opened before `listen`."""
        self._database = database
        self._on_message = on_message
        self.outage = Outage("hearing live messages over PostgreSQL")
        self._sending = Outage("sending live messages over PostgreSQL")

    async def send(self, payloads: Sequence[str]) -> bool:
        """Notify everybody of each payload, of fewer than 8,000 bytes; False where that was lost."""
        with self._sending.recording():
            async with self._database.connection() as connection:
                await connection.execute("select pg_notify($1, x) from unnest($2::text[]) x", CHANNEL, list(payloads))
        return self._sending.reason is None

    async def listen(self) -> None:
        """Hear until cancelled; a connection that ends is opened again. Where nothing can be heard, wait.

        The hub reads from the store, each second, what it has missed.
        """
        if not self._database.can_listen:
            log.info(
                "DB_CONNECTION_STRING leads to a connection pooler, which loses notifications: closed candles of other processes "
                "are read once a second. DB_LISTEN_CONNECTION_STRING may name the server itself."
            )
            await asyncio.Event().wait()
        while True:
            with self.outage.recording():
                await self._listen_once()
            await asyncio.sleep(self._database.timings.notify_retry_s)

    async def _listen_once(self) -> None:
        ended = asyncio.Event()
        async with self._database.listening() as connection:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._on_notification)
            self.outage.end()
            await ended.wait()

    def _on_notification(self, _connection: Any, _process: int, _channel: str, payload: str) -> None:
        self._on_message(payload)
