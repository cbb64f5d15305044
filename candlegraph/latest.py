"""The newest candles of many symbols, as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from candlegraph.candle import Bools, Floats
from candlegraph.series import InstrumentColumns, InstrumentRecord
from candlegraph.series_candles import SeriesCandle, SeriesCandles


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest candle of a symbol that is known. ``current``: nothing newer can exist; see `history.latest`."""

    symbol: InstrumentRecord
    candle: SeriesCandle | None
    current: bool
    previous_close: float | None


@dataclass(frozen=True, slots=True, eq=False)
class LatestCandles:
    """The newest candles of n symbols; iterates as `Latest`, for edges only.

    ``known`` (n,) is a mask of the symbols with one: ``candles`` has only these, in the same order. ``previous_close`` (n,) is
    NaN if it is not known.
    """

    records: InstrumentColumns
    known: Bools
    candles: SeriesCandles
    current: Bools
    previous_close: Floats

    def __len__(self) -> int:
        """How many symbols there are."""
        return len(self.records)

    def __iter__(self) -> Iterator[Latest]:
        """Symbol after symbol, as objects."""
        candles = iter(self.candles)
        columns = (self.known.tolist(), self.current.tolist(), self.previous_closes)
        for record, known, current, previous in zip(self.records, *columns, strict=True):
            yield Latest(record, next(candles) if known else None, current, previous)

    def first(self, count: int) -> LatestCandles:
        """The first ``count`` of them."""
        known = self.known[:count]
        return LatestCandles(
            self.records.first(count),
            known,
            replace(self.candles, candles=self.candles.candles[: int(known.sum())]),
            self.current[:count],
            self.previous_close[:count],
        )

    @property
    def previous_closes(self) -> list[float | None]:
        """The closes of the buckets before; None if one is not known."""
        return [None if math.isnan(close) else close for close in self.previous_close.tolist()]
