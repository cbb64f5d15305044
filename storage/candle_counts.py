"""How many candles are stored. PostgreSQL has to visit every one: what was counted before is not counted again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from cachetools import LRUCache

from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from storage.candles import read_statement
from storage.coverage import Coverage
from storage.database import SQL, Database
from storage.relations import BASE_RELATION, Aggregates

MAX_ENTRIES = 20_000
MAX_CONCURRENT_COUNTS = 2  # a count takes a connection for a second: the others are for who asks for candles


async def count_up_to(
    database: Database, levels: Aggregates, spans: Sequence[tuple[int, Timeframe, int]], most: int
) -> int:
    """How many candles are stored of some series from an instant (ms) on, by a statement a relation; at least ``most`` is ``most``."""
    relations: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for instrument_id, timeframe, since in spans:
        relations[levels.get(timeframe, BASE_RELATION)].append((instrument_id, str(timeframe), since))
    total = 0
    for relation, rows in relations.items():
        statement = read_statement(SQL["candles_count_up_to"], relation)
        columns = [list(column) for column in zip(*rows, strict=True)]
        total += (await database.fetch(statement, *columns, most))[0]["count"]
    return total


class CandleCounts:
    """Counts over the base, kept with what was known then: while nothing final has changed, only what came since is new."""

    def __init__(self, database: Database) -> None:
        """Nothing was counted yet."""
        self._database = database
        # The revision, where, and how many.
        self._entries: LRUCache[tuple[int, Timeframe], tuple[int, Spans, int]] = LRUCache(MAX_ENTRIES)
        self._semaphore = asyncio.Semaphore(MAX_CONCURRENT_COUNTS)

    async def count(self, instrument_id: int, timeframe: Timeframe, ledger: Coverage, levels: Aggregates) -> int:
        """How many candles of a timeframe are stored: its own where ``ledger`` covers them, or those of its aggregate."""
        key, covered = (instrument_id, timeframe), ledger.spans.get(timeframe, Spans())
        async with self._semaphore:
            if (relation := levels.get(timeframe, BASE_RELATION)) != BASE_RELATION:
                statement = read_statement(SQL["candles_count"], relation)
                return int((await self._database.fetch(statement, instrument_id, str(timeframe)))[0]["count"])
            revision, known, count = self._entries.get(key, (ledger.revision, Spans(), 0))
            if revision != ledger.revision or known - covered:
                known, count = Spans(), 0
            if new := covered - known:
                edges = [span.since for span in new], [span.until for span in new]
                found = await self._database.read("candles_count_within", instrument_id, str(timeframe), *edges)
                count += int(found[0]["count"])
            self._entries[key] = ledger.revision, covered, count
        return count
