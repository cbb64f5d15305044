"""Candles together with the dates and the ends of their buckets, which the columns of a batch do not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from candlegraph.candle import Candle, Candles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone


@dataclass(frozen=True, slots=True)
class SeriesCandle(Candle):
    """A candle with the local date on which its bucket opens (ISO 8601), and the instant at which it ends (ms, UTC)."""

    date: str = ""
    end: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SeriesCandles:
    """Candles of one series, whose days open in ``zone``; iterates as `SeriesCandle`, for edges only."""

    candles: Candles
    timeframe: Timeframe
    zone: Zone

    def __len__(self) -> int:
        """How many candles there are."""
        return len(self.candles)

    def __iter__(self) -> Iterator[SeriesCandle]:
        """Candle after candle, as objects."""
        columns = (*(column.tolist() for column in self.candles.columns), self.dates, self.ends.tolist())
        return (SeriesCandle(*row) for row in zip(*columns, strict=True))

    @property
    def dates(self) -> list[str]:
        """The local date of each bucket, such as 2024-07-02."""
        days = self.zone.day_of(self.candles.timestamp)
        # Minutes have few dates, and a text costs more than looking it up.
        unique, of = np.unique(days, return_inverse=True)
        texts: list[str] = np.datetime_as_string(unique.astype("datetime64[D]"), unit="D")[of].tolist()
        return texts

    @property
    def ends(self) -> Int64s:
        """When each bucket ends: (n,) int64 ms, UTC."""
        return self.timeframe.ends(self.candles.timestamp, self.zone)
