"""Reads the newest stored rows of many symbols of one provider, and the coverage around them, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from candlegraph.candle import Candles
from candlegraph.series import InstrumentRecord
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Int64s
from storage.aggregates.statements import STATEMENTS
from storage.binary import PACKED_ROW_BYTES, unpack_candles, unpack_stamps
from storage.candles import read_statement
from storage.database import Database
from storage.instruments import record_of


@dataclass(frozen=True, slots=True)
class LatestRead:
    """Symbols of a provider, by name or by a regular expression of PostgreSQL, and the number of rows to read of each.

    ``level`` is the timeframe of the aggregate ``relation`` that is read; beside it, two native rows of ``timeframe`` are
    read.
    """

    market: str
    provider: str
    timeframe: Timeframe
    level: Timeframe
    relation: str
    rows: int
    symbols: Sequence[str] | None = None
    pattern: str | None = None
    after: str | None = None
    first: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class NewestRows:
    """The newest rows of several series in one array, ascending, and the covered spans around them.

    ``owner`` (n,) is the position of the series of each row. ``since``, ``until`` and ``span_owner`` (m,) describe the spans,
    ascending too. ``full`` (series,) marks the series that may have older rows that were not read.
    """

    candles: Candles
    owner: Int64s
    since: Int64s
    until: Int64s
    span_owner: Int64s
    full: np.ndarray


NATIVE_ROWS = 3


async def read_latest(database: Database, read: LatestRead) -> tuple[list[InstrumentRecord], NewestRows, NewestRows]:
    """The existing symbols, in the requested order; their newest rows made of 1m candles, and their newest native rows."""
    own = 0 if read.timeframe == MINUTE else NATIVE_ROWS
    margin = 2 * read.timeframe.nominal_ms
    named = read.symbols is not None
    template = STATEMENTS["latest"].replace("{wanted}", STATEMENTS["latest_named" if named else "latest_matching"])
    chosen = (read.symbols, None, None) if named else (read.pattern, read.after, read.first)
    rows = await database.fetch(
        read_statement(template, read.relation),
        read.market,
        read.provider,
        *chosen,
        str(read.level),
        str(read.timeframe),
        read.rows,
        own,
        margin,
    )
    made = _newest([row["rows"] for row in rows], [row["covered"] for row in rows], read.rows)
    native = _newest([row["own_rows"] for row in rows], [row["own_covered"] for row in rows], own)
    return [record_of(row) for row in rows], made, native


def _newest(packed: list[Any], covered: list[Any], most: int) -> NewestRows:
    sizes = np.array([len(rows or b"") // PACKED_ROW_BYTES for rows in packed], np.int64)
    spans = np.array([len(edges or b"") // 16 for edges in covered], np.int64)
    positions = np.arange(len(packed), dtype=np.int64)
    edges = unpack_stamps(b"".join(filter(None, covered)))
    return NewestRows(
        unpack_candles(b"".join(filter(None, packed))),
        np.repeat(positions, sizes),
        edges[::2],
        edges[1::2],
        np.repeat(positions, spans),
        sizes >= most,
    )
