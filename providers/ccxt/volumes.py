"""The unit of an exchange's volumes, and their conversion to units of the base.

The volume in ccxt's ``parse_ohlcv`` is the exchange's own number: no class multiplies it by the size of a contract.
``traits.toml`` has the unit by the kind of market (``spot``, ``swap``, ``inverse``; a linear or quanto contract is a ``swap``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

import numpy as np

from candlegraph.candle import Candles
from candlegraph.provider import Taint, TaintKind
from providers.ccxt.traits import ExchangeTraits

# ccxt's unified symbols: BTC/USDT is a spot pair, BTC/USDT:USDT a contract, BTC/USD:BTC an inverse one.
_INVERSE = r"^([^/]+)/[^:]+:\1$"
_SYMBOLS = {"spot": "^[^:]+$", "swap": f"^(?!{_INVERSE[1:]}).*:", "inverse": _INVERSE}


class VolumeUnit(StrEnum):
    """The unit of a row's volume."""

    BASE = "base"
    CONTRACTS = "contracts"
    QUOTE = "quote"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VolumeScale:
    """Converts a market's volumes into units of the base: ``times`` the number, divided by the price if it is ``inverse``.

    ``times`` is None if that is impossible: the volume is in quote units, or the unit or the contract's size is not known.
    """

    times: float | None
    inverse: bool = False

    @classmethod
    def of_rows(cls, traits: ExchangeTraits, market: Mapping[str, object]) -> Self:
        """The scale of a market's candles."""
        kind = kind_of(market)
        unit = VolumeUnit(traits.volume.get(kind, VolumeUnit.BASE))
        if unit is VolumeUnit.BASE:
            return cls(1.0)
        return cls(contract_size(market) if unit is VolumeUnit.CONTRACTS else None, kind == "inverse")

    @classmethod
    def of_trades(cls, market: Mapping[str, object]) -> Self:
        """The scale of a market's trades: ccxt's amounts are in base units, or in contracts for a contract."""
        kind = kind_of(market)
        return cls(1.0 if kind == "spot" else contract_size(market), kind == "inverse")

    @classmethod
    def of_stream(cls, traits: ExchangeTraits, market: Mapping[str, object], *, trades: bool) -> Self:
        """The scale of a stream; unknown if the scale of the history is unknown."""
        rows = cls.of_rows(traits, market)
        return cls.of_trades(market) if trades and rows.times is not None else rows

    def in_base(self, candles: Candles) -> Candles:
        """The candles with volumes in units of the base; NaN, which means unknown, if that is impossible.

        A contract of an inverse market is worth a number of quote units, which the row's close converts into base units.
        """
        if self.times == 1 and not self.inverse:
            return candles
        volume = candles.volume * (np.nan if self.times is None else self.times)
        if self.inverse:
            with np.errstate(divide="ignore", invalid="ignore"):
                volume = np.where(candles.close > 0, volume / candles.close, np.nan)
        return replace(candles, volume=volume)

    def of_trade(self, amount: float, price: float) -> float:
        """A trade's amount in units of the base; 0 if that is impossible."""
        return (self.times or 0.0) * amount / (price if self.inverse else 1.0)


def kind_of(market: Mapping[str, object]) -> str:
    """The kind of market, as in the traits; each kind has an endpoint of its own."""
    if market.get("spot"):
        return "spot"
    return "inverse" if market.get("inverse") else "swap"


def contract_size(market: Mapping[str, object]) -> float | None:
    """The value of one contract in base units (in quote units if it is inverse); None if ccxt does not know it."""
    size = market.get("contractSize")
    return float(size) if isinstance(size, int | float) and np.isfinite(size) and size > 0 else None


def taints_of(traits: ExchangeTraits) -> tuple[Taint, ...]:
    """The faults of older versions: pages that covered too much, and volumes that were stored in the exchange's own unit."""
    found = []
    if reason := traits.taint.get("coverage"):
        found.append(Taint("coverage-1", TaintKind.COVERAGE, reason))
    if reason := traits.taint.get("volume"):
        wrong = (kind for kind, unit in traits.volume.items() if unit != VolumeUnit.BASE)
        found += [Taint(f"volume-{kind}-1", TaintKind.VOLUME, reason, _SYMBOLS[kind]) for kind in wrong]
    return tuple(found)
