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


ChangeListener = Callable[[Sequence[Change] | None], None]


class ChangeFeed:
    """Tells its listeners what was written; None stands for anything and everything."""

    def __init__(self, database: Database) -> None:
        """Nobody looks yet."""
        self._database = database
        self._listeners: list[ChangeListener] = []
        self._seen: str | None = None  # every transaction before this one has ended, and was told of
        self._published: set[int] = set()  # those that were told of since
        self._polled_at = 0.0
        self._swept_at = time.monotonic()
        self.outage = Outage("reading the changes of other processes")

    @property
    def is_fresh(self) -> bool:
        """Whether what this process keeps in memory may be believed: it would have been told if it had changed."""
        return time.monotonic() - self._polled_at < self._database.timings.change_freshness_s

    def subscribe(self, listener: ChangeListener) -> None:
        """Call ``listener`` with every change from now on, in the event loop."""
        self._listeners.append(listener)

    def publish(self, xid: int, changes: Sequence[Change]) -> None:
        """Tell of a transaction of this process, which has just been committed."""
        self._published.add(xid)
        self._notify(changes)

    async def run(self) -> None:
        """Look four times a second until cancelled; while the database is away, nothing kept is believed."""
        while True:
            with self.outage.recording():
                await self.poll()
                await self._sweep()
            await asyncio.sleep(self._database.timings.change_poll_interval_s)

    async def poll(self) -> None:
        """Read what others have written, and tell."""
        began = time.monotonic()
        rows = await self._database.read("changes_since", self._seen or "0")
        news = [row for row in rows if row["xid"] is not None and int(row["xid"]) not in self._published]
        if self._seen is None or began - self._polled_at > self._database.timings.change_retention_s / 2:
            self._notify(None)
        elif news:
            self._notify([change for row in news for change in _changes_of(row)])
        self._seen, self._polled_at = rows[0]["seen"], began
        self._published = {xid for xid in self._published | {int(row["xid"]) for row in news} if xid >= int(self._seen)}

    async def _sweep(self) -> None:
        """Once a minute, forget what was told long ago, and upstream calls of more than a month ago."""
        retention_s = self._database.timings.change_retention_s
        if time.monotonic() - self._swept_at > retention_s / 10:
            self._swept_at = time.monotonic()
            async with self._database.connection() as connection:
                await connection.execute(SQL["changes_forget"], retention_s)
                await connection.execute(SQL["fetches_forget"])

    def _notify(self, changes: Sequence[Change] | None) -> None:
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
