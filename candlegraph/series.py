"""The names of candles: an instrument, and a series of its candles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
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
    calendar: str | None = None  # the name of its trading calendar; None: it always trades
    native_days: bool | None = None  # whether its provider made its days, or they are folded from regular minutes


@dataclass(frozen=True, slots=True, eq=False)
class InstrumentColumns:
    """Stored instruments of one provider as columns, of the fields of `InstrumentRecord`; iterates as these, for edges only.

    Making a thousand records costs 6 ms of CPU.
    """

    market: str
    provider: str
    id: Sequence[int]
    symbol: Sequence[str]
    name: Sequence[str | None]
    base: Sequence[str | None]
    quote: Sequence[str | None]
    timezone: Sequence[str]
    active: Sequence[bool]
    listed: Sequence[bool]
    first_available: Sequence[int | None]
    ended_at: Sequence[int | None]
    has_volume: Sequence[bool]
    kind: Sequence[str | None]
    contract_size: Sequence[float | None]
    price_increment: Sequence[float | None]
    quantity_increment: Sequence[float | None]
    calendar: Sequence[str | None]
    native_days: Sequence[bool | None]

    def __len__(self) -> int:
        """How many instruments there are."""
        return len(self.id)

    def __iter__(self) -> Iterator[InstrumentRecord]:
        """Instrument after instrument, as records."""
        columns = [getattr(self, field.name) for field in fields(self)[2:]]
        for number, symbol, *more in zip(*columns, strict=True):
            record = InstrumentRecord(number, Instrument(self.market, self.provider, symbol), *more)
            yield record if record.kind is None else replace(record, kind=SymbolKind(record.kind))

    def first(self, count: int) -> InstrumentColumns:
        """The first ``count`` of them."""
        columns = [getattr(self, field.name) for field in fields(self)[2:]]
        return InstrumentColumns(self.market, self.provider, *(column[:count] for column in columns))
