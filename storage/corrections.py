"""Changes of final candles, from the logs of corrections and of withdrawn coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.series_revision import ChangeMark
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s
from storage.binary import unpack_stamps
from storage.database import Database, to_ms
from storage.instruments import record_of

NEWEST = 2**63 - 1  # an id after all others
MAX_LOGGED = 10_000  # entries of a log; beyond, it costs a client less to copy the series again
_VALUE_COLUMNS = ("open", "high", "low", "close", "volume")
_SOURCES = {"a": "api", "i": "import"}


@dataclass(frozen=True, slots=True)
class CandleVersion:
    """One version of a candle: open, high, low, close and volume, and its source."""

    numbers: tuple[float, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Correction:
    """A change of the final candle that opens at ``timestamp`` (ms); ``old`` is None for a new candle, ``new`` for a withdrawn one."""

    id: int
    corrected_at: datetime
    record: InstrumentRecord
    timeframe: str
    timestamp: int
    old: CandleVersion | None
    new: CandleVersion | None

    @property
    def instrument(self) -> Instrument:
        """The instrument."""
        return self.record.instrument


async def newest_corrections(
    database: Database,
    market: str | None,
    provider: str | None,
    symbol: str | None,
    limit: int,
    before: int = NEWEST,
) -> list[Correction]:
    """The newest corrections, the last one first, of everything or of the named market, provider and symbol.

    Only those whose id is less than ``before``. One statement.
    """
    statement = "corrections_page" if symbol is None else "corrections_of_symbol"
    return [
        Correction(
            row["correction_id"],
            row["corrected_at"],
            record_of(row),
            row["timeframe"],
            to_ms(row["timestamp"]),
            _version(row, "old"),
            _version(row, "new"),
        )
        for row in await database.read(statement, market, provider, symbol, before, limit)
    ]


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """The openings (ms, UTC) of corrected candles of one stored timeframe, and the spans that lost their coverage."""

    corrected: Int64s
    lost: list[Span]


async def changes_after(
    database: Database, instrument_id: int, marks: Mapping[Timeframe, ChangeMark]
) -> dict[Timeframe, ChangeLog] | None:
    """The log entries of each timeframe after its mark; None if there are too many."""
    rows = await database.read(
        "changes_after",
        instrument_id,
        list(map(str, marks)),
        [mark.correction for mark in marks.values()],
        [mark.withdrawal for mark in marks.values()],
        MAX_LOGGED + 1,
    )
    found = {}
    for row in rows:
        corrected, edges = unpack_stamps(row["corrected"]), unpack_stamps(row["lost"])
        if max(len(corrected), len(edges) // 2) > MAX_LOGGED:
            return None
        lost = list(map(Span, edges[::2].tolist(), edges[1::2].tolist()))
        found[Timeframe.parse(row["timeframe"])] = ChangeLog(np.unique(corrected), lost)
    return found


def _version(row: Any, age: str) -> CandleVersion | None:
    source = row[f"{age}_source"]
    if source is None:
        return None
    name = source.decode() if isinstance(source, bytes) else source
    return CandleVersion(tuple(row[f"{age}_{number}"] for number in _VALUE_COLUMNS), _SOURCES.get(name, name))
