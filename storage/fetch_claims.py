"""Fetch claims: of all tasks in all processes, one at a time fetches a span of a series.

A claim is a row with an expiry, which its holder renews. So an upstream call holds no database connection, and the claims of
a dead process expire after some seconds. Claims are checked in memory first; for the forming candle that is enough.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from candlegraph.outage import Outage
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from storage.change_feed import Change, ChangeFeed
from storage.database import SQL, Database

Key = tuple[int, Timeframe]


@dataclass(slots=True)
class _SeriesClaims:
    """The claims of this process on one series, and the tasks that wait for one to end."""

    spans: list[Span] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()


class FetchClaims:
    """The claims of this process."""

    def __init__(self, database: Database, changes: ChangeFeed) -> None:
        """Start without claims; the caller runs `renew`."""
        self._database = database
        self._holder = uuid.uuid4()
        self._series: dict[Key, _SeriesClaims] = defaultdict(_SeriesClaims)
        self._claim_ids: set[int] = set()
        self._claimed = False  # whether this process ever held a claim
        self.outage = Outage("renewing the claims of fetches")
        self._releasing = Outage("releasing the claims of fetches")
        changes.subscribe(self._wake)

    @asynccontextmanager
    async def acquire(self, key: Key, span: Span, *, shared: bool) -> AsyncIterator[bool]:
        """Claim ``span`` of a series; yield False, after a short wait, if another task has claimed a part of it.

        With ``shared`` the claim holds for all processes, not only for this one. After a False, read the coverage again.
        """
        series = self._series[key]
        if any(held & span for held in series.spans):
            await self._moved(series)
            yield False
            return
        series.spans.append(span)
        claim: int | None = None
        try:
            if shared:
                claim = await self._claim(key, span)
            if shared and claim is None:
                await self._moved(series)
            yield not shared or claim is not None
        finally:
            series.spans.remove(span)
            series.wake()
            if not series.spans:
                self._series.pop(key, None)
            if claim is not None:
                await self._release(claim)

    async def renew(self) -> None:
        """Renew the claims until cancelled."""
        while True:
            with self.outage.recording():
                if self._claim_ids:
                    async with self._database.connection() as connection:
                        await connection.execute(
                            SQL["claims_renew"], list(self._claim_ids), self._database.timings.claim_ttl_s
                        )
            await asyncio.sleep(self._database.timings.claim_renewal_interval_s)

    async def close(self) -> None:
        """Release all claims, so that other processes need not wait until they expire."""
        if self._claimed:
            await self._execute("claims_drop", self._holder)

    async def _moved(self, series: _SeriesClaims) -> None:
        try:
            async with asyncio.timeout(self._database.timings.claim_poll_interval_s):
                await series.moved.wait()
        except TimeoutError:
            return

    async def _claim(self, key: Key, span: Span) -> int | None:
        async with self._database.connection() as connection:
            claim: int | None = await connection.fetchval(
                SQL["claim_take"],
                key[0],
                str(key[1]),
                span.since,
                span.until,
                self._holder,
                self._database.timings.claim_ttl_s,
            )
        if claim is not None:
            self._claim_ids.add(claim)
            self._claimed = True
        return claim

    async def _release(self, claim: int) -> None:
        self._claim_ids.discard(claim)
        await self._execute("claim_drop", claim)

    async def _execute(self, name: str, *arguments: object) -> None:
        """Run a statement that may fail, because a claim also expires."""
        with self._releasing.recording():
            async with self._database.connection() as connection:
                await connection.execute(SQL[name], *arguments)

    def _wake(self, changes: Sequence[Change] | None) -> None:
        changed = None if changes is None else {change.instrument_id for change in changes}
        for (instrument_id, _), series in list(self._series.items()):
            if changed is None or instrument_id in changed:
                series.wake()
