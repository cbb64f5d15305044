"""Who changed what: each process is told of every write, its own at once and others' within a quarter of a second.

A write leaves a row in ``changes``, under the number of its transaction. Everybody reads the rows of transactions that
were not seen to have ended before: a counter would hide the row of a transaction that began early and ended late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from candlegraph.outage import Outage
from candlegraph.span import Span
from storage.database import SQL, Database, to_ms

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """An instrument of which something was written; ``corrected`` is the hull of the final 1m candles that changed."""

    instrument_id: int
    corrected: Span | None = None


Listener = Callable[[Sequence[Change] | None], None]


class Changes:
    """Tells its listeners what was written; None stands for anything and everything."""

    def __init__(self, database: Database) -> None:
        """Nobody looks yet."""
        self._database = database
        self._listeners: list[Listener] = []
        self._seen: str | None = None  # every transaction before this one has ended, and was told of
        self._told: set[int] = set()  # those that were told of since
        self._looked_at = 0.0
        self._swept_at = time.monotonic()
        self.outage = Outage("reading the changes of other processes")

    @property
    def fresh(self) -> bool:
        """Whether what this process keeps in memory may be believed: it would have been told if it had changed."""
        return time.monotonic() - self._looked_at < self._database.timings.change_freshness_s

    def subscribe(self, listener: Listener) -> None:
        """Call ``listener`` with every change from now on, in the event loop."""
        self._listeners.append(listener)

    def tell(self, xid: int, changes: Sequence[Change]) -> None:
        """Tell of a transaction of this process, which has just been committed."""
        self._told.add(xid)
        self._publish(changes)

    async def watch(self) -> None:
        """Look four times a second until cancelled; while the database is away, nothing kept is believed."""
        while True:
            with self.outage.watched():
                await self.look()
                await self._sweep()
            await asyncio.sleep(self._database.timings.change_poll_interval_s)

    async def look(self) -> None:
        """Read what others have written, and tell."""
        began = time.monotonic()
        rows = await self._database.read("changes_since", self._seen or "0")
        news = {int(row["xid"]): row for row in rows if row["xid"] is not None and int(row["xid"]) not in self._told}
        if self._seen is None or began - self._looked_at > self._database.timings.change_retention_s / 2:
            self._publish(None)
        elif news:
            self._publish([change for row in news.values() for change in _changes_of(row)])
        self._seen, self._looked_at = rows[0]["seen"], began
        self._told = {xid for xid in self._told | news.keys() if xid >= int(self._seen)}

    async def _sweep(self) -> None:
        """Once a minute, forget what was told long ago, and upstream calls of more than a month ago."""
        retention_s = self._database.timings.change_retention_s
        if time.monotonic() - self._swept_at > retention_s / 10:
            self._swept_at = time.monotonic()
            async with self._database.connection() as connection:
                await connection.execute(SQL["changes_forget"], retention_s)
                await connection.execute(SQL["fetches_forget"])

    def _publish(self, changes: Sequence[Change] | None) -> None:
        for listener in self._listeners:
            try:
                listener(changes)
            except Exception:
                log.exception("a listener of changes failed")


def _changes_of(row: Any) -> list[Change]:
    ids, hulls = row["instrument_ids"], row["corrected"]
    return [
        Change(i, None if h.isempty else Span(to_ms(h.lower), to_ms(h.upper))) for i, h in zip(ids, hulls, strict=True)
    ]
