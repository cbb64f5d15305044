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
from storage.batches import CandleRead, CandleWrite, FetchLogRow
from storage.binary import unpack_candles, unpack_spans
from storage.change_feed import ChangeFeed
from storage.coverage import Coverage
from storage.database import SQL, Database, to_ms
from storage.leases import LeaseToken
from storage.relations import BASE_RELATION
from storage.write_transaction import columns_of, mark_corrected, write_candles

Query = Callable[..., Awaitable[Sequence[Any]]]  # a statement and its arguments
ReadFunction = Callable[
    [Database, Sequence[CandleRead]], Awaitable[list[Candles]]
]  # how reads are answered, by the layout


async def read_rows(query: Query, reads: Sequence[CandleRead], columns: str = "") -> list[Any]:
    """A row for every read, in their order: one statement for each relation and direction.

    Its ``rows`` are for `unpack`; those of an aggregate bring further ``columns`` of the statement.
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
    """Answer every read where aggregates are never behind."""
    return [unpack_candles(row["rows"]) for row in await read_rows(database.fetch, reads)]


class CandleStore:
    """The relations ``ohlcv_data``, ``coverage`` and ``fetch_log``, and the aggregates above the first."""

    def __init__(self, database: Database, changes: ChangeFeed, reading: ReadFunction = read_tables) -> None:
        """Over a database; ``reading`` is how its layout answers."""
        self.database = database
        self.change_feed = changes
        self.reading = reading
        self._coverage_reads: Batcher[None, Sequence[int], list[Coverage]]
        self._coverage_reads = Batcher(self._read_coverage, repeats_alone=True)
        self._minute_reads: Batcher[None, CandleRead, Candles]
        self._minute_reads = Batcher(lambda _, reads: reading(database, reads), repeats_alone=True)
        # A second run writes the same rows over themselves, which corrects nothing; at worst `fetch_log` has a line twice.
        self._leased_writes: Batcher[LeaseToken, tuple[CandleWrite, Sequence[FetchLogRow]], None] = Batcher(
            self._write_leased, repeats_alone=True
        )

    async def read_coverage(self, instrument_ids: Sequence[int]) -> list[Coverage]:
        """What is known of each instrument: one statement, which others may share."""
        return await self._coverage_reads.submit(None, instrument_ids)

    async def read_minutes(self, instrument_id: int, span: Span) -> Candles:
        """The stored 1m candles of ``span``, by a statement that others may share."""
        read = CandleRead(instrument_id, MINUTE, span, (span.until - span.since) // MINUTE_MS)
        return await self._minute_reads.submit(None, read) if read.limit else Candles.empty()

    async def _read_coverage(self, _: None, asked: Sequence[Sequence[int]]) -> list[list[Coverage]]:
        spans: dict[int, dict[Timeframe, Spans]] = defaultdict(dict)
        revisions: dict[int, int] = defaultdict(int)
        sources: dict[int, dict[Timeframe, Revision]] = defaultdict(dict)
        marks: dict[int, dict[Timeframe, ChangeMark]] = defaultdict(dict)
        horizon = None
        doubts: dict[int, dict[Timeframe, list[tuple[int, Span]]]] = defaultdict(dict)
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
            if row["suspects"]:
                noted = [(at, Span(since, until)) for at, since, until in json.loads(row["suspects"])]
                doubts[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = noted
        return [
            [Coverage(spans[i], revisions[i], doubts[i], horizon, sources[i], SeriesRevision(marks[i])) for i in ids]
            for ids in asked
        ]

    async def horizon(self) -> int | None:
        """Before it no 1m candles are kept (ms, UTC); None where all are."""
        horizon: int | None = to_ms((await self.database.read("horizon"))[0]["horizon"])
        return horizon

    async def read(self, reads: Sequence[CandleRead]) -> list[Candles]:
        """Answer every read, in their order: one statement for each relation and direction, more where aggregates lag."""
        return await self.reading(self.database, reads)

    async def write(
        self,
        writes: Sequence[CandleWrite],
        fetches: Sequence[FetchLogRow] = (),
        progress: Callable[[int], None] = lambda _: None,
        held: LeaseToken | None = None,
    ) -> None:
        """Store candles, their coverage and the aggregates over them, all or nothing.

        A candle that is there already is replaced; what changes of what was final is logged in ``corrections``. 1m candles
        before the horizon are left out, and not covered; Unavailable where it was moved meanwhile. ``progress`` is told
        the number of rows after each chunk of a long write. Superseded, and LeaseLost where what is ``held`` is not any more: nothing was
        written then.
        """
        async with self.database.transaction() as connection:
            written = await write_candles(connection, writes, progress, held, self.database.timings.statement_timeout_s)
            if fetches:
                await _log(connection, fetches)
        if written:
            self.change_feed.publish(written.xid, written.changes)

    async def write_leased(self, write: CandleWrite, fetches: Sequence[FetchLogRow], held: LeaseToken) -> None:
        """As `write`, what one stores who leads: in one transaction with whatever else comes under the lease meanwhile."""
        await self._leased_writes.submit(held, (write, fetches))

    async def _write_leased(
        self, held: LeaseToken, asked: Sequence[tuple[CandleWrite, Sequence[FetchLogRow]]]
    ) -> list[None]:
        await self.write([write for write, _ in asked], [fetch for _, all_ in asked for fetch in all_], held=held)
        return [None] * len(asked)

    async def recompute(self, instrument_id: int, span: Span) -> None:
        """Make the aggregates over the 1m candles of ``span`` anew, and have everybody forget what they were."""
        await self._mark_corrected([instrument_id], span, recompute=True)

    async def invalidate(self, instrument_id: int, span: Span) -> None:
        """Have everybody forget aggregates over ``span``: of this instrument, and of all that have candles there."""
        rows = await self.database.read("instruments_within", span.since, span.until)
        await self._mark_corrected(sorted({instrument_id, *(row["instrument_id"] for row in rows)}), span)

    async def _mark_corrected(self, instrument_ids: Sequence[int], span: Span, *, recompute: bool = False) -> None:
        async with self.database.transaction() as connection:
            written = await mark_corrected(connection, instrument_ids, span, recompute=recompute)
        self.change_feed.publish(written.xid, written.changes)

    async def adopted(self, instrument_id: int, timeframe: Timeframe, source: Revision | None) -> bool:
        """Note a first revision of a series that something was imported into, which stays; False where nothing was."""
        arguments = (instrument_id, str(timeframe), source and source.lineage, source and source.state)
        async with self.database.connection() as connection:
            return bool(await connection.fetchval(SQL["coverage_adopt"], *arguments))

    async def log_fetch(self, fetch: FetchLogRow) -> None:
        """Note an upstream call that brought nothing to store."""
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
        """When something of each span of a series was last brought by an upstream call (ms, UTC); None where never."""
        columns = columns_of((instrument_id, str(tf), span.since, span.until) for instrument_id, tf, span in keys)
        return [to_ms(row["at"]) for row in await self.database.read("fetched_at", *columns)]


@lru_cache(maxsize=64)
def _read_statement(relation: str, columns: str = "", *, newest: bool) -> str:
    """The statement that reads one relation; its name is one of ours."""
    return read_statement(SQL["candles_newest" if newest else "candles_oldest"], relation, columns)


def read_statement(template: str, relation: str, columns: str = "") -> str:
    """Fill in what differs between the base and its aggregates."""
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
