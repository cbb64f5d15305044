"""Candles and their coverage in PostgreSQL: written together in one transaction, read as packed columns."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from candlegraph.answer import FetchLogEntry
from candlegraph.batcher import Batcher
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Revision
from candlegraph.series_revision import ChangeMark, SeriesRevision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.batches import CandleRead, CandleWrite, FetchLogRow, Superseded
from storage.binary import unpack_candles, unpack_spans
from storage.change_feed import ChangeFeed
from storage.coverage import Coverage
from storage.database import SQL, Database, to_ms
from storage.leases import LeaseToken
from storage.relations import BASE_RELATION
from storage.write_transaction import columns_of, mark_corrected, write_candles

SMALL_ROWS = 10_000  # a call for more has statements of its own: others should not wait for it

Query = Callable[..., Awaitable[Sequence[Any]]]  # a statement and its arguments
ReadFunction = Callable[
    [Database, Sequence[CandleRead]], Awaitable[list[Candles]]
]  # answers reads; each layout has its own


async def read_rows(query: Query, reads: Sequence[CandleRead], columns: str = "") -> list[Any]:
    """Return a row for every read, in their order: one statement for each relation and direction.

    Its ``rows`` are for `unpack_candles`; the row of an aggregate also has the ``columns`` given.
    """
    answers: dict[int, Any] = {}
    order = sorted(range(len(reads)), key=lambda i: (reads[i].relation, reads[i].newest))
    for (relation, newest), group in groupby(order, key=lambda i: (reads[i].relation, reads[i].newest)):
        positions = list(group)
        rows = await query(
            _read_statement(relation, "" if relation == BASE_RELATION else columns, newest=newest),
            [reads[i].instrument_id for i in positions],
            [str(reads[i].timeframe) for i in positions],
            [reads[i].span.since for i in positions],
            [reads[i].span.until for i in positions],
            [reads[i].limit for i in positions],
        )
        answers.update(zip(positions, rows, strict=True))
    return [answers[i] for i in range(len(reads))]


async def read_tables(database: Database, reads: Sequence[CandleRead]) -> list[Candles]:
    """Answer every read, in a layout whose aggregates are never stale."""
    return [unpack_candles(row["rows"]) for row in await read_rows(database.fetch, reads)]


class CandleStore:
    """The relations ``ohlcv_data``, ``coverage`` and ``fetch_log``, and the aggregates above the first."""

    def __init__(self, database: Database, changes: ChangeFeed, reading: ReadFunction = read_tables) -> None:
        """Use a database; ``reading`` is the read function of its layout."""
        self.database = database
        self.change_feed = changes
        self.reading = reading
        self._coverage_reads: Batcher[None, Sequence[int], list[Coverage]]
        self._coverage_reads = Batcher(self._read_coverage, repeats_alone=True)
        self._small_reads: Batcher[str, Sequence[CandleRead], list[Candles]]
        self._small_reads = Batcher(self._read_distinct, repeats_alone=True)
        # A retried batch writes the same rows again, which corrects nothing; at worst `fetch_log` gets a row twice.
        self._leased_writes: Batcher[LeaseToken, tuple[CandleWrite, Sequence[FetchLogRow]], Superseded | None] = (
            Batcher(self._write_leased, repeats_alone=True)
        )

    async def read_coverage(self, instrument_ids: Sequence[int]) -> list[Coverage]:
        """Return the coverage of each instrument: one statement, shared by concurrent calls."""
        return await self._coverage_reads.submit(None, instrument_ids)

    async def read_minutes(self, instrument_id: int, span: Span) -> Candles:
        """Return the stored 1m candles of ``span``; concurrent calls share one statement."""
        read = CandleRead(instrument_id, MINUTE, span, (span.until - span.since) // MINUTE_MS)
        return (await self._small_reads.submit("minutes", [read]))[0] if read.limit else Candles.empty()

    async def _read_coverage(self, _: None, asked: Sequence[Sequence[int]]) -> list[list[Coverage]]:
        spans: dict[int, dict[Timeframe, Spans]] = defaultdict(dict)
        revisions: dict[int, int] = defaultdict(int)
        sources: dict[int, dict[Timeframe, Revision]] = defaultdict(dict)
        marks: dict[int, dict[Timeframe, ChangeMark]] = defaultdict(dict)
        horizon = None
        doubts: dict[int, dict[Timeframe, list[tuple[int, Span]]]] = defaultdict(dict)
        retries: dict[int, dict[Timeframe, list[tuple[int, Span]]]] = defaultdict(dict)
        for row in await self.database.read("coverage_by_instrument", list({i for ids in asked for i in ids})):
            horizon = to_ms(row["horizon"])
            if row["timeframe"] is None:
                continue
            spans[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = unpack_spans(row["covered"])
            marks[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = ChangeMark(
                row["corrected"], row["withdrawn"]
            )
            revisions[row["instrument_id"]] += row["revision"]
            if row["source_lineage"] is not None:
                source = Revision(row["source_lineage"], row["source_state"])
                sources[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = source
            for column, noted in (("suspects", doubts), ("retries", retries)):
                if row[column]:
                    found = [(at, Span(since, until)) for at, since, until in json.loads(row[column])]
                    noted[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = found
        return [
            [
                Coverage(spans[i], revisions[i], doubts[i], horizon, sources[i], retries[i], SeriesRevision(marks[i]))
                for i in ids
            ]
            for ids in asked
        ]

    async def horizon(self) -> int | None:
        """The instant before which no 1m candles are kept (ms, UTC); None if all are kept."""
        horizon: int | None = to_ms((await self.database.read("horizon"))[0]["horizon"])
        return horizon

    async def read(self, reads: Sequence[CandleRead]) -> list[Candles]:
        """Answer every read, in their order: one statement for each relation and direction, more if aggregates are stale.

        Concurrent calls for few rows share the statements, so that many equal queries need one connection.
        """
        if sum(read.max_rows for read in reads) > SMALL_ROWS:
            return await self.reading(self.database, reads)
        return await self._small_reads.submit("queries", reads)

    async def _read_distinct(self, _: str, asked: Sequence[Sequence[CandleRead]]) -> list[list[Candles]]:
        distinct = list(dict.fromkeys(read for reads in asked for read in reads))
        found = dict(zip(distinct, await self.reading(self.database, distinct), strict=True))
        return [[found[read] for read in reads] for reads in asked]

    async def write(
        self,
        writes: Sequence[CandleWrite],
        fetches: Sequence[FetchLogRow] = (),
        progress: Callable[[int], None] = lambda _: None,
        held: LeaseToken | None = None,
    ) -> None:
        """Store candles, their coverage and the aggregates over them, all or nothing.

        It replaces existing candles, and logs changes of final ones in ``corrections``. It neither stores nor covers 1m
        candles before the horizon; Unavailable if the horizon moved meanwhile. It calls ``progress`` with the number of rows
        after each chunk of a long write. Raises Superseded, and LeaseLost if the token ``held`` is no longer valid; in both
        cases nothing was written.
        """
        async with self.database.transaction() as connection:
            written = await write_candles(connection, writes, progress, held, self.database.timings.statement_timeout_s)
            if fetches:
                await _log(connection, fetches)
        if written:
            self.change_feed.publish(written.xid, written.changes)

    async def write_leased(self, write: CandleWrite, fetches: Sequence[FetchLogRow], held: LeaseToken) -> None:
        """As `write`, for a leader: writes under one lease that arrive while a transaction runs share the next one."""
        if failure := await self._leased_writes.submit(held, (write, fetches)):
            raise failure

    async def _write_leased(
        self, held: LeaseToken, asked: Sequence[tuple[CandleWrite, Sequence[FetchLogRow]]]
    ) -> list[Superseded | None]:
        """Write all in one transaction; one by one if any of them is Superseded, so that it fails alone."""
        try:
            await self.write([write for write, _ in asked], [fetch for _, all_ in asked for fetch in all_], held=held)
        except Superseded as error:
            return [error] if len(asked) == 1 else [(await self._write_leased(held, [one]))[0] for one in asked]
        return [None] * len(asked)

    async def recompute(self, instrument_id: int, span: Span) -> None:
        """Recompute the aggregates over the 1m candles of ``span``, and invalidate them in every cache."""
        await self._mark_corrected([instrument_id], span, recompute=True)

    async def invalidate(self, instrument_id: int, span: Span) -> None:
        """Invalidate aggregates over ``span`` in every cache: of this instrument, and of all that have candles there."""
        rows = await self.database.read("instruments_within", span.since, span.until)
        await self._mark_corrected(sorted({instrument_id, *(row["instrument_id"] for row in rows)}), span)

    async def _mark_corrected(self, instrument_ids: Sequence[int], span: Span, *, recompute: bool = False) -> None:
        async with self.database.transaction() as connection:
            written = await mark_corrected(connection, instrument_ids, span, recompute=recompute)
        self.change_feed.publish(written.xid, written.changes)

    async def adopted(self, instrument_id: int, timeframe: Timeframe, source: Revision | None) -> bool:
        """Record the first revision of a series with imported rows, which stay; False if there are none."""
        arguments = (instrument_id, str(timeframe), source and source.lineage, source and source.state)
        async with self.database.connection() as connection:
            return bool(await connection.fetchval(SQL["coverage_adopt"], *arguments))

    async def log_fetch(self, fetch: FetchLogRow) -> None:
        """Log an upstream call that returned nothing to store."""
        async with self.database.connection() as connection:
            await _log(connection, [fetch])

    async def recent_fetches(self, instrument_id: int, timeframe: Timeframe, count: int) -> list[FetchLogEntry]:
        """The newest upstream calls for a series."""
        rows = await self.database.read("fetches_of", instrument_id, str(timeframe), count)
        return [
            FetchLogEntry(
                to_ms(r["at"]),
                to_ms(r["asked"].lower),
                to_ms(r["asked"].upper),
                r["rows"],
                r["outcome"],
                r["milliseconds"],
            )
            for r in rows
        ]

    async def fetched_at(self, keys: Sequence[tuple[int, Timeframe, Span]]) -> list[int | None]:
        """The time (ms, UTC) of the last upstream call that returned a part of each span of a series; None if there is none."""
        columns = columns_of((instrument_id, str(tf), span.since, span.until) for instrument_id, tf, span in keys)
        return [to_ms(row["at"]) for row in await self.database.read("fetched_at", *columns)]


@lru_cache(maxsize=64)
def _read_statement(relation: str, columns: str = "", *, newest: bool) -> str:
    """The statement that reads one relation, whose name is from the closed set."""
    return read_statement(SQL["candles_newest" if newest else "candles_oldest"], relation, columns)


def read_statement(template: str, relation: str, columns: str = "") -> str:
    """Fill the braces of a statement for the base or for one of its aggregates."""
    base = relation == BASE_RELATION
    return (
        template.replace("{relation}", relation)
        .replace("{columns}", columns)
        .replace("{stamp}", '"timestamp"' if base else "bucketed_time")
        .replace("{filter}", "and timeframe = q.tf" if base else "and q.tf is not null")
    )


async def _log(connection: Any, fetches: Sequence[FetchLogRow]) -> None:
    rows = [
        (f.instrument_id, str(f.timeframe), f.asked.since, f.asked.until, f.rows, f.outcome, f.milliseconds)
        for f in fetches
    ]
    await connection.executemany(SQL["fetch_log_add"], rows)
