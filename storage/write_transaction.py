"""The transaction that writes candles: it locks coverage, writes the rows, updates the aggregates and extends coverage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from storage import binary
from storage.batches import CandleWrite, Superseded
from storage.change_feed import Change
from storage.database import SQL, to_ms, while_connected
from storage.leases import LeaseLost, LeaseToken

_MIN_ROWS_PER_S = 2_000  # the rate of the slowest machine that we support

Columns = list[list[Any]]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class CoverageLock:
    """The coverage rows of a write, locked until its transaction ends: no other writer adds to these series."""

    known: bool  # some of the spans were covered before, so rows may exist
    horizon: int | None  # no 1m candles before it are kept


@dataclass(frozen=True, slots=True)
class CommittedWrite:
    """The changes of a transaction, to be published once it has ended."""

    xid: int
    changes: Sequence[Change]


async def write_candles(
    connection: Any,
    writes: Sequence[CandleWrite],
    progress: Progress,
    held: LeaseToken | None,
    statement_timeout_s: float,
) -> CommittedWrite | None:
    """Store candles, their coverage and the aggregates over them; None if nothing is left to cover. LeaseLost."""
    if not (spans := _covered(writes)):
        return None
    lock = await lock_coverage(connection, spans, held)
    writes = [write.dropping_before(lock.horizon) for write in writes]
    if not (spans := _covered(writes)):
        return None
    await _note_sources(connection, writes)
    changes = await _write_rows(connection, writes, progress, lock, statement_timeout_s)
    await _revoke(connection, writes)
    return CommittedWrite(await extend_coverage(connection, spans, changes), changes)


async def mark_corrected(
    connection: Any, instrument_ids: Sequence[int], span: Span, *, recompute: bool = False
) -> CommittedWrite:
    """Record that aggregates over ``span`` changed; ``recompute`` computes those over its 1m candles again."""
    # Empty spans: the coverage does not change.
    spans = columns_of((instrument_id, str(MINUTE), span.since, span.since) for instrument_id in instrument_ids)
    changes = [Change(instrument_id, span) for instrument_id in instrument_ids]
    await lock_coverage(connection, spans)
    if recompute:
        await connection.execute(SQL["aggregates_update"], instrument_ids, [span.since], [span.until], True)
    return CommittedWrite(await extend_coverage(connection, spans, changes), changes)


async def lock_coverage(connection: Any, spans: Columns, held: LeaseToken | None = None) -> CoverageLock:
    """Lock the coverage rows of ``spans``. LeaseLost if the token ``held`` is no longer valid."""
    lease = (held.name, held.epoch, held.holder) if held else (None, None, None)
    known, horizon, _ = await connection.fetchrow(SQL["coverage_lock"], *spans, *lease)
    if known is None:  # no row was locked, because the lease is lost
        raise LeaseLost
    return CoverageLock(known, to_ms(horizon))


async def extend_coverage(connection: Any, spans: Columns, changes: Sequence[Change]) -> int:
    """Cover the spans and record the changed instruments; return the transaction's number."""
    corrected = [change.instrument_id for change in changes if change.corrected]
    changed = columns_of(
        (c.instrument_id, *((c.corrected.since, c.corrected.until) if c.corrected else (0, 0))) for c in changes
    )
    return int(await connection.fetchval(SQL["coverage_extend"], *spans, *changed, corrected))


def columns_of(rows: Iterable[tuple[Any, ...]]) -> Columns:
    """Rows as columns for ``unnest``; empty columns if there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)]


def _covered(writes: Sequence[CandleWrite]) -> Columns:
    """The spans to cover; a write that only revokes gets an empty span, so that its coverage row is locked."""
    return columns_of(
        (w.instrument_id, str(w.timeframe), s.since, s.until)
        for w in writes
        for s in (w.covered or [Span(0, 0)] * bool(w.revoked))
    )


async def _note_sources(connection: Any, writes: Sequence[CandleWrite]) -> None:
    """Record the revisions of the candles. Superseded if the stored ones have another lineage."""
    for write in writes:
        if write.revision or write.revoked:
            source = (write.revision.lineage, write.revision.state) if write.revision else (None, None)
            key = (write.instrument_id, str(write.timeframe))
            if not await connection.fetchval(SQL["coverage_source"], *key, *source, bool(write.revoked)):
                raise Superseded


async def _revoke(connection: Any, writes: Sequence[CandleWrite]) -> None:
    """Withdraw the coverage of revoked spans; run it after the rows, which are corrections only while it exists."""
    revoked = columns_of((w.instrument_id, str(w.timeframe), s.since, s.until) for w in writes for s in w.revoked)
    if revoked:
        await connection.execute(SQL["coverage_revoke"], *revoked)


async def _write_rows(
    connection: Any, writes: Sequence[CandleWrite], progress: Progress, lock: CoverageLock, statement_timeout_s: float
) -> list[Change]:
    """Write the rows and update the aggregates; return each written instrument, and its corrected span."""
    rows = [write for write in writes if len(write.candles)]
    # The lock keeps other writers out. So if no row exists yet, COPY can write directly, and the merge, which takes as long
    # as the COPY, is not needed.
    emptied = any(write.rewritten for write in writes)
    merge = lock.known or emptied or (bool(rows) and await _exist(connection, rows))
    patience = await _extend_timeout(connection, sum(len(write.candles) for write in rows), statement_timeout_s)
    if merge:
        await connection.execute(SQL["candles_stage"])
    for group in _grouped(rows):
        copying = connection.copy_to_table(
            "incoming" if merge else "ohlcv_data",
            source=binary.copy_stream(group, progress),
            format="binary",
            columns=["instrument_id", "timeframe", "source", "timestamp", *binary.VALUE_COLUMNS],
            timeout=patience,
        )
        await while_connected(connection, copying)
    corrected = await _merge(connection, writes, patience) if merge else []
    await _aggregate(connection, writes, corrected, patience)
    quiet = {write.instrument_id for write in writes} - {change.instrument_id for change in corrected}
    return [*corrected, *map(Change, sorted(quiet))]


async def _exist(connection: Any, rows: Sequence[CandleWrite]) -> bool:
    """Whether any candle is stored between the first and the last of a write."""
    hulls = columns_of(
        (w.instrument_id, str(w.timeframe), int(w.candles.timestamp[0]), int(w.candles.timestamp[-1])) for w in rows
    )
    return bool(await connection.fetchval(SQL["candles_exist"], *hulls))


async def _extend_timeout(connection: Any, rows: int, statement_timeout_s: float) -> float | None:
    """Give the statements of a long write more time than those of a query; return the seconds, or None if unchanged."""
    if rows <= binary.COPY_ROWS:
        return None
    seconds = statement_timeout_s + rows / _MIN_ROWS_PER_S
    await connection.execute(SQL["statement_timeout"], f"{seconds:.0f}s")
    return seconds + 5


async def _merge(connection: Any, writes: Sequence[CandleWrite], patience: float | None) -> list[Change]:
    """Merge the staged rows into the stored ones; return the resulting corrections."""
    replaced = columns_of((w.instrument_id, str(w.timeframe), s.since, s.until) for w in writes for s in w.rewritten)
    found = await connection.fetch(SQL["candles_withdraw"], *replaced, timeout=patience) if replaced else []
    found += await connection.fetch(SQL["candles_correct"], timeout=patience)
    await connection.execute(SQL["candles_merge"], timeout=patience)
    return [
        Change(r["instrument_id"], Span(to_ms(r["first"]), Timeframe.parse(r["timeframe"]).next(to_ms(r["last"]))))
        for r in found
    ]


async def _aggregate(
    connection: Any, writes: Sequence[CandleWrite], corrected: Sequence[Change], patience: float | None
) -> None:
    """Update the aggregates over the written and the withdrawn candles."""
    minutes = [
        (w.instrument_id, int(w.candles.timestamp[0]), int(w.candles.timestamp[-1]) + MINUTE_MS)
        for w in writes
        if w.timeframe == MINUTE and len(w.candles)
    ]
    emptied = any(write.rewritten for write in writes)
    if emptied:
        minutes += [(c.instrument_id, c.corrected.since, c.corrected.until) for c in corrected if c.corrected]
    if minutes:
        await connection.execute(SQL["aggregates_update"], *columns_of(minutes), emptied, timeout=patience)


def _grouped(writes: Sequence[CandleWrite]) -> list[list[CandleWrite]]:
    """The writes by timeframe and source: each group is one COPY, whose rows have one length."""
    groups: dict[tuple[Timeframe, str], list[CandleWrite]] = defaultdict(list)
    for write in writes:
        groups[write.timeframe, write.source].append(write)
    return list(groups.values())
