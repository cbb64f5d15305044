"""Changes of final candles: the newest rows of the relation ``corrections``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from candlegraph.series import Instrument
from storage.database import Database

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

    corrected_at: datetime
    instrument: Instrument
    timeframe: str
    timestamp: int
    old: CandleVersion | None
    new: CandleVersion | None


async def newest_corrections(
    database: Database, market: str | None, provider: str | None, symbol: str | None, limit: int
) -> list[Correction]:
    """The newest corrections, the last one first, of everything or of the named market, provider and symbol."""
    return [
        Correction(
            row["corrected_at"],
            Instrument(row["market"], row["provider"], row["symbol"]),
            row["timeframe"],
            round(row["timestamp"].timestamp() * 1000),
            _version(row, "old"),
            _version(row, "new"),
        )
        for row in await database.read("corrections_newest", market, provider, symbol, limit)
    ]


def _version(row: Any, age: str) -> CandleVersion | None:
    source = row[f"{age}_source"]
    if source is None:
        return None
    name = source.decode() if isinstance(source, bytes) else source
    return CandleVersion(tuple(row[f"{age}_{number}"] for number in _VALUE_COLUMNS), _SOURCES.get(name, name))
