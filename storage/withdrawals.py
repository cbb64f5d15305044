"""Coverage that is withdrawn: the spans become unknown again, and the relation ``coverage_withdrawals`` says so."""

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

READ_S = 600  # how long it may take to read the openings of millions of candles

_OPENINGS = np.dtype([("timestamp", ">i8"), ("source", "S1")])


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """The stored candles of an instrument at one timeframe; ``timezone`` is the zone of its days."""

    instrument_id: int
    timeframe: Timeframe
    timezone: str


@dataclass(frozen=True, slots=True)
class Openings:
    """When stored candles open, (n,) int64 ms UTC ascending, and which of them were imported."""

    stamps: Int64s
    imported: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What was withdrawn of a series within ``span``: ``uncovered`` ms of coverage, and some candles; ``at`` in ms."""

    instrument: Instrument
    timeframe: str
    span: Span
    uncovered: int
    candles: int
    reason: str
    at: int


async def withdraw(store: CandleStore, series: StoredSeries, within: Spans, reason: str, candles: int = 0) -> Spans:
    """Withdraw the coverage of a series ``within`` these spans but for its stored candles, in one transaction; what it was.

    A stored candle proves its own bucket, and a bucket is withdrawn as a whole. Everybody is told, and one row of
    ``coverage_withdrawals`` notes it where any of this was covered; ``candles`` is how many were withdrawn before.
    """
    days = zone(series.timezone)
    key = series.instrument_id, str(series.timeframe)
    async with store.database.transaction() as connection:
        row = await connection.fetchrow(SQL["coverage_hold"], *key)
        known = unpack_spans(row["covered"]) if row else Spans()
        covered = known & Spans(span.outer(series.timeframe, days) for span in known & within)
        if not covered:
            return Spans()
        *_, last = covered
        hull = Span(next(iter(covered)).since, last.until)
        stored = await _openings(connection, series, hull)
        lost = covered - runs(stored.stamps, series.timeframe, days, NO_HOLE_MS)
        xid = int(await connection.fetchval(SQL["coverage_withdraw"], *key, *_edges(lost)))
        uncovered = sum(span.until - span.since for span in lost)
        await connection.execute(
            SQL["withdrawal_add"], *key, hull.since, hull.until, uncovered, candles, reason, *_edges(lost)
        )
    store.change_feed.publish(xid, [Change(series.instrument_id)])
    return lost


async def note(store: CandleStore, series: StoredSeries, span: Span, reason: str, candles: int) -> None:
    """Note that candles within ``span`` were checked, and how many of them corrected; coverage is as it was."""
    key = series.instrument_id, str(series.timeframe)
    async with store.database.connection() as connection:
        await connection.execute(SQL["withdrawal_add"], *key, span.since, span.until, 0, candles, reason, [], [])


async def openings(database: Database, series: StoredSeries, hull: Span) -> Openings:
    """The openings of the stored candles of a series within ``hull``."""
    async with database.transaction() as connection:
        return await _openings(connection, series, hull)


async def has_imports(database: Database, series: StoredSeries) -> bool:
    """Whether any stored candle of a series was imported."""
    async with database.transaction() as connection:
        await connection.execute(SQL["statement_timeout"], f"{READ_S}s")
        key = series.instrument_id, str(series.timeframe)
        return bool(await connection.fetchval(SQL["imports_exist"], *key, timeout=READ_S + 5))


async def covered_series(database: Database, record: InstrumentRecord) -> list[StoredSeries]:
    """The series of an instrument of which anything is covered."""
    rows = await database.read("timeframes_covered", record.id)
    return [StoredSeries(record.id, Timeframe.parse(row["timeframe"]), record.timezone) for row in rows]


async def newest_withdrawals(
    database: Database, market: str | None, provider: str | None, like: str | None, limit: int
) -> list[Withdrawal]:
    """The newest withdrawals, the last one first, of everything or of what is named."""
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


async def _openings(connection: Any, series: StoredSeries, hull: Span) -> Openings:
    await connection.execute(SQL["statement_timeout"], f"{READ_S}s")
    key = series.instrument_id, str(series.timeframe)
    packed = await connection.fetchval(SQL["openings_within"], *key, hull.since, hull.until, timeout=READ_S + 5)
    rows = np.frombuffer(packed or b"", _OPENINGS)
    return Openings(rows["timestamp"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS, rows["source"] == b"i")


def _edges(spans: Spans) -> list[list[int]]:
    return [[span.since for span in spans], [span.until for span in spans]]
