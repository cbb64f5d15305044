"""The names of candles: an instrument, and a series of its candles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from candlegraph.timeframe import Timeframe


@dataclass(frozen=True, slots=True, order=True)
class Instrument:
    """A symbol of one provider in one market. The symbol is the provider's canonical one (ccxt's unified symbol)."""

    market: str
    provider: str
    symbol: str

    def __str__(self) -> str:
        """Print it for people."""
        return f"{self.symbol} ({self.market}/{self.provider})"


@dataclass(frozen=True, slots=True)
class Series:
    """The candles of an instrument at one timeframe."""

    instrument: Instrument
    timeframe: Timeframe


class SymbolKind(StrEnum):
    """What is traded under a symbol."""

    SPOT = "SPOT"
    SWAP = "SWAP"
    FUTURE = "FUTURE"
    OPTION = "OPTION"
    STOCK = "STOCK"
    ETF = "ETF"
    INDEX = "INDEX"
    FX = "FX"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class InstrumentRecord:
    """A stored instrument. Instants are milliseconds since the epoch, UTC; None if not known.

    ``listed``: its provider lists it and can fetch more. Otherwise it was imported, and only the store has it.
    ``contract_size`` is in base units a contract, of an inverse contract in quote units.
    """

    id: int
    instrument: Instrument
    name: str | None
    base: str | None
    quote: str | None
    timezone: str
    active: bool
    listed: bool
    first_available: int | None
    ended_at: int | None
    has_volume: bool = True  # False: its volumes are unknown, and 0
    kind: SymbolKind | None = None
    contract_size: float | None = None
    price_increment: float | None = None
    quantity_increment: float | None = None
