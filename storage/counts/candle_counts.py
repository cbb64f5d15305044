"""Counts stored candles. PostgreSQL has to visit every row, so this caches counts and extends them."""

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
MAX_CONCURRENT_COUNTS = 2  # a count holds a connection for a second; the other connections are left for candle queries


async def count_up_to(
    database: Database, levels: Aggregates, spans: Sequence[tuple[int, Timeframe, int]], most: int
) -> int:
    """The number of stored candles of some series from an instant (ms) on, at most ``most``; one statement per relation."""
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
    """Counts over the base, cached with their coverage: if no final candle has changed since, only new rows are counted."""

    def __init__(self, database: Database) -> None:
        """Start without any count."""
        self._database = database
        # The revision, the spans, and the count.
        self._entries: LRUCache[tuple[int, Timeframe], tuple[int, Spans, int]] = LRUCache(MAX_ENTRIES)
        self._semaphore = asyncio.Semaphore(MAX_CONCURRENT_COUNTS)

    async def count(self, instrument_id: int, timeframe: Timeframe, coverage: Coverage, levels: Aggregates) -> int:
        """Count the candles of a timeframe: native ones in its covered spans, elsewhere those of its aggregate."""
        key, covered = (instrument_id, timeframe), coverage.spans.get(timeframe, Spans())
        async with self._semaphore:
            revision, known, count = self._entries.get(key, (coverage.revision, Spans(), 0))
            if revision != coverage.revision or known - covered:
                known, count = Spans(), 0
            if new := covered - known:
                edges = [span.since for span in new], [span.until for span in new]
                found = await self._database.read("candles_count_within", instrument_id, str(timeframe), *edges)
                count += int(found[0]["count"])
            self._entries[key] = coverage.revision, covered, count
            if (relation := levels.get(timeframe, BASE_RELATION)) != BASE_RELATION:
                edges = [span.since for span in covered], [span.until for span in covered]
                statement = read_statement(SQL["candles_count"], relation)
                count += int((await self._database.fetch(statement, instrument_id, *edges))[0]["count"])
        return count
