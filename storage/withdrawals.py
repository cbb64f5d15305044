"""Withdraws coverage: the spans become gaps again, and the relation ``coverage_withdrawals`` records them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlegraph.evidence import NO_HOLE_MS, runs
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, zone
from storage.binary import POSTGRES_EPOCH_MS, unpack_spans
from storage.candles import CandleStore
from storage.change_feed import Change
from storage.database import SQL, Database, to_ms

OPENINGS_TIMEOUT_S = 600  # the time-out for reading the openings of millions of candles

_OPENINGS = np.dtype([("timestamp", ">i8"), ("source", "S1")])


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """The stored candles of an instrument at one timeframe; ``timezone`` is the zone of its days."""

    instrument_id: int
    timeframe: Timeframe
    timezone: str


@dataclass(frozen=True, slots=True)
class Openings:
    """The openings of stored candles, (n,) int64 ms UTC ascending, and which of them were imported."""

    stamps: Int64s
    imported: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A withdrawal from a series within ``span``: ``uncovered`` ms of coverage, and some candles; ``at`` in ms."""

    instrument: Instrument
    timeframe: str
    span: Span
    uncovered: int
    candles: int
    reason: str
    at: int


async def withdraw(store: CandleStore, series: StoredSeries, within: Spans, reason: str, candles: int = 0) -> Spans:
    """In one transaction, withdraw the coverage of a series ``within`` these spans, except under stored candles; return it.

    A stored candle proves its own bucket, and only whole buckets are withdrawn. If any of them was covered, the change is
    published and one row of ``coverage_withdrawals`` records it; ``candles`` is the number of candles withdrawn before.
    """
    async with store.database.transaction() as connection:
        xid, lost = await withdraw_locked(connection, series, within, reason, candles)
    if xid is not None:
        store.change_feed.publish(xid, [Change(series.instrument_id)])
    return lost


async def lock_series(connection: Any, series: StoredSeries) -> Spans:
    """Lock a series against other writers until the transaction ends; return its covered spans."""
    row = await connection.fetchrow(SQL["coverage_hold"], series.instrument_id, str(series.timeframe))
    return unpack_spans(row["covered"]) if row else Spans()


async def withdraw_locked(
    connection: Any, series: StoredSeries, within: Spans, reason: str, candles: int = 0
) -> tuple[int | None, Spans]:
    """As `withdraw`, in the caller's transaction; return its number, which the caller publishes, and the withdrawn spans."""
    days = zone(series.timezone)
    known = await lock_series(connection, series)
    covered = known & Spans(span.outer(series.timeframe, days) for span in known & within)
    if not covered:
        return None, Spans()
    *_, last = covered
    hull = Span(next(iter(covered)).since, last.until)
    stored = await openings_of(connection, series, hull)
    lost = covered - runs(stored.stamps, series.timeframe, days, NO_HOLE_MS)
    key = series.instrument_id, str(series.timeframe)
    xid = int(await connection.fetchval(SQL["coverage_withdraw"], *key, *_edges(lost)))
    uncovered = sum(span.until - span.since for span in lost)
    await connection.execute(
        SQL["withdrawal_add"], *key, hull.since, hull.until, uncovered, candles, reason, *_edges(lost)
    )
    return xid, lost


async def note(store: CandleStore, series: StoredSeries, span: Span, reason: str, candles: int) -> None:
    """Record that candles within ``span`` were checked, and the number of corrected ones; the coverage stays."""
    key = series.instrument_id, str(series.timeframe)
    async with store.database.connection() as connection:
        await connection.execute(SQL["withdrawal_add"], *key, span.since, span.until, 0, candles, reason, [], [])


async def openings(database: Database, series: StoredSeries, hull: Span) -> Openings:
    """The openings of the stored candles of a series within ``hull``."""
    async with database.transaction() as connection:
        return await openings_of(connection, series, hull)


async def has_imports(database: Database, series: StoredSeries) -> bool:
    """Whether the series has any imported candle."""
    async with database.transaction() as connection:
        await connection.execute(SQL["statement_timeout"], f"{OPENINGS_TIMEOUT_S}s")
        key = series.instrument_id, str(series.timeframe)
        return bool(await connection.fetchval(SQL["imports_exist"], *key, timeout=OPENINGS_TIMEOUT_S + 5))


async def covered_series(database: Database, record: InstrumentRecord) -> list[StoredSeries]:
    """The series of an instrument that have any coverage."""
    rows = await database.read("timeframes_covered", record.id)
    return [StoredSeries(record.id, Timeframe.parse(row["timeframe"]), record.timezone) for row in rows]


async def newest_withdrawals(
    database: Database, market: str | None, provider: str | None, like: str | None, limit: int
) -> list[Withdrawal]:
    """The newest withdrawals, the last one first, of everything or of the named market, provider and symbol."""
    return [
        Withdrawal(
            Instrument(row["market"], row["provider"], row["symbol"]),
            row["timeframe"],
            Span(to_ms(row["span"].lower), to_ms(row["span"].upper)),
            row["uncovered"],
            row["candles"],
            row["reason"],
            to_ms(row["at"]),
        )
        for row in await database.read("withdrawals_newest", market, provider, like, limit)
    ]


async def openings_of(connection: Any, series: StoredSeries, hull: Span) -> Openings:
    """As `openings`, in the transaction of ``connection``."""
    await connection.execute(SQL["statement_timeout"], f"{OPENINGS_TIMEOUT_S}s")
    key = series.instrument_id, str(series.timeframe)
    packed = await connection.fetchval(
        SQL["openings_within"], *key, hull.since, hull.until, timeout=OPENINGS_TIMEOUT_S + 5
    )
    rows = np.frombuffer(packed or b"", _OPENINGS)
    return Openings(rows["timestamp"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS, rows["source"] == b"i")


def _edges(spans: Spans) -> list[list[int]]:
    return [[span.since for span in spans], [span.until for span in spans]]
