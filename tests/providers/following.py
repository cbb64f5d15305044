"""Instruments followed from a provider's stream to the store, and what the suites about streams wait with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from candlegraph.candle import Candles, concat
from candlegraph.errors import ProviderUnavailable
from candlegraph.provider import Provider
from candlegraph.series import Instrument, Series
from candlegraph.span import Span
from candlegraph.supervision import Supervisor
from candlegraph.timeframe import MINUTE
from history.orchestrator import History
from providers.guard.guard import Guard
from realtime.cluster import Cluster
from storage.batches import CandleRead
from storage.database import Database
from tests.fakes.upstream import FakeProviders
from tests.waiting import HANG_S, eventually


async def first(stream: Any) -> Candles:
    return await asyncio.wait_for(anext(stream), HANG_S)  # type: ignore[no-any-return]


class Following:
    """The events that the listeners of some instruments have received."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.caught_up: set[Instrument] = set()
        self.forming: dict[Instrument, Candles] = {}  # as received last
        self._closed: dict[Instrument, list[Candles]] = {}

    def closed(self, instrument: Instrument) -> Candles:
        """The closed minutes in the order in which they were received."""
        return concat(self._closed.get(instrument, [Candles.empty()]))

    async def kept(self, instrument: Instrument, span: Span) -> Candles:
        """What is stored."""
        record = (await self.history.listings.find([instrument]))[0]
        return (await self.history.store.read([CandleRead(record.id, MINUTE, span, 1_000)]))[0]  # type: ignore[union-attr]

    async def listen(self, hub: Any, instrument: Instrument, since: int) -> None:
        """As a client: subscribe again after RESYNC. A repeated event would show."""
        while True:
            with suppress(ProviderUnavailable):
                await self._listen(hub, instrument, since)
            await asyncio.sleep(0.1)

    async def _listen(self, hub: Any, instrument: Instrument, since: int) -> None:
        async for event in hub.subscribe(Series(instrument, MINUTE), since, None):
            candles = event.candles
            self._closed.setdefault(instrument, []).append(candles[candles.closed])
            if not candles.closed.all():
                self.forming[instrument] = candles[~candles.closed]
            if event.caught_up:
                self.caught_up.add(instrument)


@asynccontextmanager
async def following(
    provider: Provider, database: Database, instruments: Sequence[Instrument], since: int
) -> AsyncIterator[Following]:
    """A server's live part over one provider, and a listener for each of the instruments that has caught up."""
    history = History.create(database, FakeProviders([Guard(provider)]))
    cluster, followed = Cluster(history), Following(history)
    supervisor = Supervisor()
    history.start(supervisor)
    cluster.start(supervisor)
    listening = [asyncio.create_task(followed.listen(cluster.hub, instrument, since)) for instrument in instruments]
    try:
        await eventually(lambda: len(followed.caught_up) == len(instruments))
        yield followed
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        await supervisor.close()
        await cluster.close()
        await history.fetcher.close()
