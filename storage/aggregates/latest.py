"""Reads the newest stored rows of many symbols of one provider, and the coverage around them, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from candlegraph.candle import Candles
from candlegraph.series import InstrumentColumns
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Int64s
from storage.aggregates.statements import STATEMENTS, bucket_open_sql
from storage.binary import PACKED_ROW_BYTES, unpack_candles, unpack_stamps
from storage.candles import read_statement
from storage.database import Database
from storage.relations import ALL_AGGREGATES, BASE_RELATION


@dataclass(frozen=True, slots=True)
class LatestRead:
    """Symbols of a provider, by name or by a regular expression of PostgreSQL, and the number of rows to read of each.

    ``level`` is the stored timeframe above 1m candles that is read, from ``relation``; of ``timeframe`` itself, two rows
    that the provider made are read beside it. ``lagging``: the aggregates may be behind.
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
    lagging: bool = False
    native: Timeframe | None = None  # of the rows that the provider made; None: ``timeframe``

    @property
    def native_rows(self) -> int:
        """The most rows that the provider made, of each symbol."""
        if self.native is None:
            return 0 if self.timeframe == MINUTE else NATIVE_ROWS
        return NATIVE_ROWS * -(-self.timeframe.nominal_ms // self.native.nominal_ms)


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
HOUR = Timeframe(1, "h")
_COLUMNS = 21  # of the statement


async def read_latest(database: Database, read: LatestRead) -> tuple[InstrumentColumns, NewestRows, NewestRows]:
    """The existing symbols, in the requested order; their newest rows made of 1m candles, and their newest native rows."""
    own = read.native_rows
    margin = 2 * read.timeframe.nominal_ms
    named = read.symbols is not None
    chosen = (read.symbols, None, None) if named else (read.pattern, read.after, read.first)
    rows = await database.fetch(
        _statement(read),
        read.market,
        read.provider,
        *chosen,
        str(read.level),
        str(read.native or read.timeframe),
        read.rows,
        own,
        margin,
    )
    *names, packed, own_packed, covered, own_covered = zip(*rows, strict=True) if rows else [()] * _COLUMNS
    found = InstrumentColumns(read.market, read.provider, *names)
    return found, _newest(packed, covered, read.rows), _newest(own_packed, own_covered, own)


def _statement(read: LatestRead) -> str:
    lags = read.lagging and read.relation != BASE_RELATION
    parts = {
        "{wanted}": STATEMENTS["latest_matching" if read.symbols is None else "latest_named"],
        "{stale}": STATEMENTS["latest_stale"] if lags else "",
        "{rows}": STATEMENTS["latest_rows_of_lagging" if lags else "latest_rows"],
        "{hours}": ALL_AGGREGATES[HOUR] if read.level.nominal_ms > HOUR.nominal_ms else read.relation,
        "{bucket}": bucket_open_sql(read.level),
        "{hour}": bucket_open_sql(HOUR),
    }
    statement = STATEMENTS["latest"]
    for name, text in parts.items():
        statement = statement.replace(name, text)
    return read_statement(statement, read.relation)


def _newest(packed: Sequence[Any], covered: Sequence[Any], most: int) -> NewestRows:
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
