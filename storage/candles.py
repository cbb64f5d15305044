"""Candles and their coverage in PostgreSQL: written together in one transaction, read as packed columns."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlegraph.answer import FetchNote
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.changes import Change, Changes
from storage.database import SQL, STATEMENT_TIMEOUT_MS, Database, to_ms, while_connected
from storage.levels import BASE
from storage.live import Held, LeaseLost
from storage.suspects import AGAIN_MS, GRAIN_MS
from storage.together import Together

POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01, which PostgreSQL's binary timestamps count from
_NUMBERS = ("open", "high", "low", "close", "volume")
_PACKED = np.dtype([("timestamp", ">i8"), *((name, ">f8") for name in _NUMBERS)])
_FAR = 10**16
_COPY_ROWS = 100_000
_LEAST_ROWS_A_SECOND = 2_000  # what the slowest machine that is worth waiting for brings in
_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TRAILER = b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is known of an instrument: the final spans by timeframe, and how often something final has changed.

    1m candles before ``horizon`` are not kept; the aggregates over them are.
    """

    spans: Mapping[Timeframe, Spans] = field(default_factory=dict)
    revision: int = 0
    doubts: Mapping[Timeframe, Sequence[tuple[int, Span]]] = field(
        default_factory=dict
    )  # when, and what: see suspects.py

    horizon: int | None = None

    def behind(self, timeframe: Timeframe) -> Spans:
        """Where candles of ``timeframe`` are not taken any more."""
        dropped = timeframe == MINUTE and self.horizon is not None
        return Spans([Span(-_FAR, self.horizon or 0)] if dropped else [])

    def final(self, timeframe: Timeframe) -> Spans:
        """What there is no use in asking for: it is known, or not taken."""
        return self.spans.get(timeframe, Spans()) | self.behind(timeframe)

    def suspects(self, now: int) -> dict[Timeframe, Spans]:
        """What was answered with nothing so long before ``now`` that it is to be asked for once more."""
        before = now - AGAIN_MS - GRAIN_MS
        due = {tf: Spans(span for at, span in doubts if at <= before) for tf, doubts in self.doubts.items()}
        return {timeframe: spans for timeframe, spans in due.items() if spans}


@dataclass(frozen=True, slots=True)
class Read:
    """At most ``limit`` stored candles of a series within ``span``: the oldest of them, or the newest.

    ``relation`` is the base, or the aggregate of ``timeframe``.
    """

    instrument_id: int
    timeframe: Timeframe
    span: Span
    limit: int
    newest: bool = False
    relation: str = BASE


@dataclass(frozen=True, slots=True)
class Write:
    """Final candles of a series, and the spans they are all of; ``source``: ``a`` a provider's API, ``i`` an import.

    Where it ``replaces``, stored candles of these spans that are not among them are withdrawn.
    """

    instrument_id: int
    timeframe: Timeframe
    candles: Candles
    covered: Spans
    source: str = "a"
    replaces: bool = False

    def since(self, horizon: int | None) -> Write:
        """Itself without the 1m candles before ``horizon``, where there is one."""
        if horizon is None or self.timeframe != MINUTE:
            return self
        kept = Span(horizon, _FAR)
        return replace(self, candles=self.candles.between(kept), covered=self.covered & Spans([kept]))


Query = Callable[..., Awaitable[Sequence[Any]]]  # a statement and its arguments
Reading = Callable[[Database, Sequence[Read]], Awaitable[list[Candles]]]  # how reads are answered, by the layout


@dataclass(frozen=True, slots=True)
class Fetch:
    """One upstream call, for the log."""

    instrument_id: int
    timeframe: Timeframe
    asked: Span
    rows: int
    outcome: str
    milliseconds: int


async def read_rows(query: Query, reads: Sequence[Read], columns: str = "") -> list[Any]:
    """A row for every read, in their order: one statement for each relation and direction.

    Its ``rows`` are for `unpack`; those of an aggregate bring further ``columns`` of the statement.
    """
    answers: dict[int, Any] = {}
    order = sorted(range(len(reads)), key=lambda i: (reads[i].relation, reads[i].newest))
    for (relation, newest), group in groupby(order, key=lambda i: (reads[i].relation, reads[i].newest)):
        positions = list(group)
        rows = await query(
            _read_statement(relation, "" if relation == BASE else columns, newest=newest),
            [reads[i].instrument_id for i in positions],
            [str(reads[i].timeframe) for i in positions],
            [reads[i].span.since for i in positions],
            [reads[i].span.until for i in positions],
            [reads[i].limit for i in positions],
        )
        answers.update(zip(positions, rows, strict=True))
    return [answers[i] for i in range(len(reads))]


async def read_tables(database: Database, reads: Sequence[Read]) -> list[Candles]:
    """Answer every read where aggregates are never behind."""
    return [unpack(row["rows"]) for row in await read_rows(database.fetch, reads)]


class CandleStore:
    """The relations ``ohlcv_data``, ``coverage`` and ``fetch_log``, and the aggregates above the first."""

    def __init__(self, database: Database, changes: Changes, reading: Reading = read_tables) -> None:
        """Over a database; ``reading`` is how its layout answers."""
        self.database = database
        self.changes = changes
        self.reading = reading
        self._ledgers: Together[None, Sequence[int], list[Ledger]] = Together(self._read_ledgers)
        self._minutes: Together[None, Read, Candles] = Together(lambda _, reads: reading(database, reads))
        self._led: Together[Held, tuple[Write, Sequence[Fetch]], None] = Together(self._write_led)

    async def ledgers(self, instrument_ids: Sequence[int]) -> list[Ledger]:
        """What is known of each instrument: one statement, which others may share."""
        return await self._ledgers(None, instrument_ids)

    async def minutes(self, instrument_id: int, span: Span) -> Candles:
        """The stored 1m candles of ``span``, by a statement that others may share."""
        read = Read(instrument_id, MINUTE, span, (span.until - span.since) // MINUTE_MS)
        return await self._minutes(None, read) if read.limit else Candles.empty()

    async def _read_ledgers(self, _: None, asked: Sequence[Sequence[int]]) -> list[list[Ledger]]:
        spans: dict[int, dict[Timeframe, Spans]] = defaultdict(dict)
        revisions: dict[int, int] = defaultdict(int)
        horizon = None
        doubts: dict[int, dict[Timeframe, list[tuple[int, Span]]]] = defaultdict(dict)
        for row in await self.database.read("coverage_by_instrument", list({i for ids in asked for i in ids})):
            horizon = to_ms(row["horizon"])
            if row["timeframe"] is None:
                continue
            spans[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = _unpack_spans(row["covered"])
            revisions[row["instrument_id"]] += row["revision"]
            if row["suspects"]:
                noted = [(at, Span(since, until)) for at, since, until in json.loads(row["suspects"])]
                doubts[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = noted
        return [[Ledger(spans[i], revisions[i], doubts[i], horizon) for i in ids] for ids in asked]

    async def horizon(self) -> int | None:
        """Before it no 1m candles are kept (ms, UTC); None where all are."""
        horizon: int | None = to_ms((await self.database.read("horizon"))[0]["horizon"])
        return horizon

    async def read(self, reads: Sequence[Read]) -> list[Candles]:
        """Answer every read, in their order: one statement for each relation and direction, more where aggregates lag."""
        return await self.reading(self.database, reads)

    async def write(
        self,
        writes: Sequence[Write],
        fetches: Sequence[Fetch] = (),
        progress: Callable[[int], None] = lambda _: None,
        held: Held | None = None,
    ) -> None:
        """Store candles, their coverage and the aggregates over them, all or nothing.

        A candle that is there already is replaced; what changes of what was final is logged in ``corrections``. 1m candles
        before the horizon are left out, and not covered; Unavailable where it was moved meanwhile. ``progress`` is told
        the number of rows after each chunk of a long write. LeaseLost where what is ``held`` is not any more: nothing was
        written then.
        """
        async with self.database.transaction() as connection:
            changed: list[Change] = []
            xid, known = 0, False
            if spans := _covered(writes):
                lease = (held.name, held.epoch, held.holder) if held else (None, None, None)
                known, horizon, _ = await connection.fetchrow(SQL["coverage_lock"], *spans, *lease)
                if known is None:
                    raise LeaseLost
                writes = [write.since(to_ms(horizon)) for write in writes]
                spans = _covered(writes)
            if spans:
                changed = await _write_rows(connection, writes, progress, known=known)
                xid = await _extend(connection, spans, changed)
            if fetches:
                await _log(connection, fetches)
        if spans:
            self.changes.tell(xid, changed)

    async def write_led(self, write: Write, fetches: Sequence[Fetch], held: Held) -> None:
        """As `write`, what one stores who leads: in one transaction with whatever else comes under the lease meanwhile."""
        await self._led(held, (write, fetches))

    async def _write_led(self, held: Held, asked: Sequence[tuple[Write, Sequence[Fetch]]]) -> list[None]:
        await self.write([write for write, _ in asked], [fetch for _, all_ in asked for fetch in all_], held=held)
        return [None] * len(asked)

    async def recompute(self, instrument_id: int, span: Span) -> None:
        """Make the aggregates over the 1m candles of ``span`` anew, and have everybody forget what they were."""
        await self._tell_corrected([instrument_id], span, recompute=True)

    async def forget(self, instrument_id: int, span: Span) -> None:
        """Have everybody forget aggregates over ``span``: of this instrument, and of all that have candles there."""
        rows = await self.database.read("instruments_within", span.since, span.until)
        await self._tell_corrected(sorted({instrument_id, *(row["instrument_id"] for row in rows)}), span)

    async def _tell_corrected(self, instrument_ids: Sequence[int], span: Span, *, recompute: bool = False) -> None:
        # No more is covered than before.
        spans = _columns((instrument_id, str(MINUTE), span.since, span.since) for instrument_id in instrument_ids)
        changed = [Change(instrument_id, span) for instrument_id in instrument_ids]
        async with self.database.transaction() as connection:
            await connection.execute(SQL["coverage_lock"], *spans, None, None, None)
            if recompute:
                await connection.execute(SQL["aggregates_written"], instrument_ids, [span.since], [span.until], True)
            xid = await _extend(connection, spans, changed)
        self.changes.tell(xid, changed)

    async def log(self, fetch: Fetch) -> None:
        """Note an upstream call that brought nothing to store."""
        async with self.database.connection() as connection:
            await _log(connection, [fetch])

    async def fetches(self, instrument_id: int, timeframe: Timeframe, count: int) -> list[FetchNote]:
        """The newest upstream calls for a series."""
        rows = await self.database.read("fetches_of", instrument_id, str(timeframe), count)
        return [
            FetchNote(
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
        columns = _columns((instrument_id, str(tf), span.since, span.until) for instrument_id, tf, span in keys)
        return [to_ms(row["at"]) for row in await self.database.read("fetched_at", *columns)]


async def _write_rows(
    connection: Any, writes: Sequence[Write], progress: Callable[[int], None], *, known: bool
) -> list[Change]:
    """Bring the rows in and the aggregates up to date; each instrument that was written, and what was corrected of it."""
    rows = [write for write in writes if len(write.candles)]
    hulls = _columns(
        (w.instrument_id, str(w.timeframe), int(w.candles.timestamp[0]), int(w.candles.timestamp[-1])) for w in rows
    )
    # Our coverage rows are locked, so nobody adds to these series meanwhile: without a conflict the merge, which costs as
    # much again as the COPY, can be left out.
    merge = known or (bool(rows) and await connection.fetchval(SQL["candles_exist"], *hulls))
    patience = await _be_patient(connection, sum(len(write.candles) for write in rows))
    if merge:
        await connection.execute(SQL["candles_stage"])
    for group in _alike(rows):
        copying = connection.copy_to_table(
            "incoming" if merge else "ohlcv_data",
            source=_copy_stream(group, progress),
            format="binary",
            columns=["instrument_id", "timeframe", "source", "timestamp", *_NUMBERS],
            timeout=patience,
        )
        await while_connected(connection, copying)
    corrected = await _merge(connection, writes, patience) if merge else []
    minutes = [
        (w.instrument_id, int(w.candles.timestamp[0]), int(w.candles.timestamp[-1]) + MINUTE_MS)
        for w in rows
        if w.timeframe == MINUTE
    ]
    emptied = any(write.replaces for write in writes)
    if emptied:
        minutes += [(c.instrument_id, c.corrected.since, c.corrected.until) for c in corrected if c.corrected]
    if minutes:
        await connection.execute(SQL["aggregates_written"], *_columns(minutes), emptied, timeout=patience)
    quiet = {write.instrument_id for write in writes} - {change.instrument_id for change in corrected}
    return [*corrected, *map(Change, sorted(quiet))]


async def _be_patient(connection: Any, rows: int) -> float | None:
    """Give the statements of a long write more time than a question gets: seconds, None for the usual ones."""
    if rows <= _COPY_ROWS:
        return None
    seconds = STATEMENT_TIMEOUT_MS / 1000 + rows / _LEAST_ROWS_A_SECOND
    await connection.execute(SQL["statement_timeout"], f"{seconds:.0f}s")
    return seconds + 5


async def _merge(connection: Any, writes: Sequence[Write], patience: float | None) -> list[Change]:
    """Put the staged rows in the place of those that are there; the corrections that this makes."""
    replaced = _columns(
        (w.instrument_id, str(w.timeframe), s.since, s.until) for w in writes if w.replaces for s in w.covered
    )
    found = await connection.fetch(SQL["candles_withdraw"], *replaced, timeout=patience) if replaced else []
    found += await connection.fetch(SQL["candles_correct"], timeout=patience)
    await connection.execute(SQL["candles_merge"], timeout=patience)
    return [
        Change(r["instrument_id"], Span(to_ms(r["first"]), Timeframe.parse(r["timeframe"]).next(to_ms(r["last"]))))
        for r in found
    ]


async def _extend(connection: Any, spans: list[list[Any]], changed: Sequence[Change]) -> int:
    """Note that the spans are covered and who changed; the transaction's number."""
    corrected = [change.instrument_id for change in changed if change.corrected]
    told = _columns(
        (c.instrument_id, *((c.corrected.since, c.corrected.until) if c.corrected else (0, 0))) for c in changed
    )
    return int(await connection.fetchval(SQL["coverage_extend"], *spans, *told, corrected))


def _covered(writes: Sequence[Write]) -> list[list[Any]]:
    return _columns((w.instrument_id, str(w.timeframe), s.since, s.until) for w in writes for s in w.covered)


@lru_cache(maxsize=64)
def _read_statement(relation: str, columns: str = "", *, newest: bool) -> str:
    """The statement that reads one relation; its name is one of ours."""
    return read_statement(SQL["candles_newest" if newest else "candles_oldest"], relation, columns)


def read_statement(template: str, relation: str, columns: str = "") -> str:
    """Fill in what differs between the base and its aggregates."""
    base = relation == BASE
    return (
        template.replace("{relation}", relation)
        .replace("{columns}", columns)
        .replace("{stamp}", '"timestamp"' if base else "bucketed_time")
        .replace("{filter}", "and timeframe = q.tf" if base else "and q.tf is not null")
    )


def _columns(rows: Any) -> list[list[Any]]:
    """Rows as the columns that ``unnest`` takes; nothing where there are none."""
    return [list(column) for column in zip(*rows, strict=True)]


def _alike(writes: Sequence[Write]) -> list[list[Write]]:
    """The writes by timeframe and source: each group is one COPY of equally long rows."""
    groups: dict[tuple[Timeframe, str], list[Write]] = defaultdict(list)
    for write in writes:
        groups[write.timeframe, write.source].append(write)
    return list(groups.values())


async def _log(connection: Any, fetches: Sequence[Fetch]) -> None:
    rows = [
        (f.instrument_id, str(f.timeframe), f.asked.since, f.asked.until, f.rows, f.outcome, f.milliseconds)
        for f in fetches
    ]
    await connection.executemany(SQL["fetch_log_add"], rows)


def _unpack_spans(packed: bytes | None) -> Spans:
    edges = np.frombuffer(packed or b"", ">i8").astype(np.int64) // 1000 + POSTGRES_EPOCH_MS
    return Spans.apart(map(Span, edges[::2].tolist(), edges[1::2].tolist()))


def unpack(packed: bytes | None) -> Candles:
    """The candles of a packed row."""
    if packed is None:
        return Candles.empty()
    rows = np.frombuffer(packed, _PACKED)
    return Candles.of(rows["timestamp"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS, *(rows[n] for n in _NUMBERS))


async def _copy_stream(writes: Sequence[Write], progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Writes of one timeframe and source in PostgreSQL's binary COPY format, in chunks."""
    yield _COPY_HEADER
    candles = concat([write.candles for write in writes])
    owners = np.repeat([write.instrument_id for write in writes], [len(write.candles) for write in writes])
    for start in range(0, len(candles), _COPY_ROWS):
        rows = slice(start, start + _COPY_ROWS)
        yield _packed(writes[0], owners[rows], candles[rows])
        progress(len(owners[rows]))
    yield _COPY_TRAILER


def _packed(like: Write, owners: NDArray[np.int64], candles: Candles) -> bytes:
    """Rows of the COPY format, all equally long, so that one numpy structure writes them."""
    timeframe = str(like.timeframe).encode()
    layout = np.dtype(
        [
            ("fields", ">i2"),
            *_copy_field("instrument_id", ">i4"),
            *_copy_field("timeframe", f"S{len(timeframe)}"),
            *_copy_field("source", "S1"),
            *_copy_field("timestamp", ">i8"),
            *(part for name in _NUMBERS for part in _copy_field(name, ">f8")),
        ]
    )
    rows: NDArray[np.void] = np.empty(len(candles), layout)
    for name in layout.names or ():
        if name.startswith("length of "):
            rows[name] = layout[name.removeprefix("length of ")].itemsize
    rows["fields"] = 4 + len(_NUMBERS)
    rows["instrument_id"], rows["timeframe"], rows["source"] = owners, timeframe, like.source.encode()
    rows["timestamp"] = (candles.timestamp - POSTGRES_EPOCH_MS) * 1000
    for name in _NUMBERS:
        rows[name] = getattr(candles, name)
    return rows.tobytes()


def _copy_field(name: str, kind: str) -> list[tuple[str, str]]:
    return [(f"length of {name}", ">i4"), (name, kind)]
