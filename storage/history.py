"""The orchestrator: one question about a series, answered from what is stored and, where that ends, from its provider.

Where 1m candles are covered, the coarsest of their aggregates that nests in the timeframe answers; elsewhere the coarsest
native timeframe that does. A bucket is only ever built from a source that covers the whole of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from candlegraph.answer import Answer, Ask
from candlegraph.errors import ProviderError, ProviderUnavailable
from candlegraph.provider import Provider, Providers
from candlegraph.series import Record
from storage.cache import Cache
from storage.candles import CandleStore
from storage.changes import Changes
from storage.collector import Collector
from storage.database import Database
from storage.instruments import Instruments
from storage.ledgers import Ledgers
from storage.levels import ALL, Levels
from storage.reader import Reader
from storage.walk import Walk

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of every series, and the way to more."""

    store: CandleStore
    ledgers: Ledgers
    instruments: Instruments
    collector: Collector
    providers: Providers
    levels: Levels
    cache: Cache | None = None

    @classmethod
    def over(cls, database: Database, providers: Providers, levels: Levels = ALL, cache: Cache | None = None) -> Self:
        """Put it together over a database and its providers; `storage.changes.Changes.watch` is for the caller to run."""
        store = CandleStore(database, Changes(database))
        return cls(store, Ledgers(store), Instruments(database, providers), Collector(store), providers, levels, cache)

    async def answer(self, asks: Sequence[Ask]) -> list[Answer | BaseException]:
        """Answer many questions at once: what they need of the database is read in one statement a step.

        An item that fails is its exception (NotFound, BadUserInput, ProviderError, Unavailable) and disturbs no other.
        """
        reader = Reader(self.store, self.ledgers, self.instruments, self.levels, self.cache)
        return await asyncio.gather(*(self._answer(ask, reader) for ask in asks), return_exceptions=True)

    async def _answer(self, ask: Ask, reader: Reader) -> Answer:
        record: Record = await reader.record.load(ask.series.instrument)
        provider, failure = await self._provider(record)
        walk = Walk(ask, record, provider, reader, self.collector, asyncio.get_running_loop().time() + DEADLINE_S)
        return await walk.run(failure)

    async def _provider(self, record: Record) -> tuple[Provider | None, ProviderError | None]:
        """The provider to ask for more; none for what was imported, and a failed one takes nothing away."""
        if not record.listed:
            return None, None
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self.providers.get(record.instrument.market, record.instrument.provider), None
        except ProviderError as error:
            return None, error
        except TimeoutError:
            return None, ProviderUnavailable(f"{record.instrument.provider} did not start in time.", retry_after=5)
