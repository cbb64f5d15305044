"""PostgreSQL LISTEN and NOTIFY: a transport between the processes that share a database."""

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
    """One channel; a connection of its own receives its messages."""

    def __init__(self, database: Database, on_message: Callable[[str], None]) -> None:
        """Open no connection yet: `listen` does."""
        self._database = database
        self._on_message = on_message
        self.outage = Outage("receiving live messages over PostgreSQL")
        self._sending = Outage("sending live messages over PostgreSQL")

    async def send(self, payloads: Sequence[str]) -> bool:
        """Send each payload, of fewer than 8,000 bytes, to every process; False if that failed."""
        with self._sending.recording():
            async with self._database.connection() as connection:
                await connection.execute("select pg_notify($1, x) from unnest($2::text[]) x", CHANNEL, list(payloads))
        return self._sending.reason is None

    async def listen(self) -> None:
        """Receive until cancelled; reopen a connection that ends. If notifications cannot arrive, only wait.

        Once a second the hub reads missed events from the store.
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
