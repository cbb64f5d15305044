"""The change feed: each process gets every write, its own at once and those of others within a quarter of a second.

A write adds a row to ``changes`` with the number of its transaction. A poll reads the rows of all transactions that had not
ended at the last poll. A counter would not do: it would miss the row of a transaction that began early and ended late.
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
    """An instrument with new writes; ``corrected`` is the hull of the final 1m candles that changed."""

    instrument_id: int
    corrected: Span | None = None


ChangeListener = Callable[[Sequence[Change] | None], None]


class ChangeFeed:
    """Passes changes to its listeners; None means that anything may have changed."""

    def __init__(self, database: Database) -> None:
        """Start without polling."""
        self._database = database
        self._listeners: list[ChangeListener] = []
        self._seen: str | None = None  # all transactions before this one have ended, and were published
        self._published: set[int] = set()  # the later transactions that were published
        self._polled_at = 0.0
        self._swept_at = time.monotonic()
        self.outage = Outage("reading the changes of other processes")

    @property
    def is_fresh(self) -> bool:
        """Whether this process may rely on its caches, because it has received every change."""
        return time.monotonic() - self._polled_at < self._database.timings.change_freshness_s

    def subscribe(self, listener: ChangeListener) -> None:
        """Call ``listener`` with every change from now on, in the event loop."""
        self._listeners.append(listener)

    def publish(self, xid: int, changes: Sequence[Change]) -> None:
        """Publish the changes of a transaction that this process has just committed."""
        self._published.add(xid)
        self._notify(changes)

    async def run(self) -> None:
        """Poll four times a second until cancelled; while the database is unavailable, the caches count as stale."""
        while True:
            with self.outage.recording():
                await self.poll()
                await self._sweep()
            await asyncio.sleep(self._database.timings.change_poll_interval_s)

    async def poll(self) -> None:
        """Read the changes of other processes, and publish them."""
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
        """Once a minute, delete changes that every process has read, and logged upstream calls older than a month."""
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
