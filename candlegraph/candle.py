"""Candles: one, and the columnar batch that the code passes around."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from candlegraph.errors import InvalidCandles
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC as UTC_ZONE
from candlegraph.zone import Int64s, Zone

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_VOLUME = 1e300  # a year of such minutes still sums to a number
_PART_ROWS = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle. ``timestamp`` is the instant its bucket opens, in milliseconds since the epoch, UTC."""

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    closed: bool = True
    synthetic: bool = False

    @property
    def time(self) -> datetime:
        """The timestamp as an aware datetime."""
        return _EPOCH + timedelta(milliseconds=self.timestamp)


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """A batch of candles of one series as equally long columns, ascending by ``timestamp`` and unique.

    ``timestamp`` is (n,) int64 milliseconds UTC, the five numbers are (n,) float64, ``closed`` and ``synthetic`` (n,)
    bool. Immutable: every method returns a batch that may share memory with this one.
    """

    timestamp: Int64s
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    closed: Bools
    synthetic: Bools

    @classmethod
    def of(
        cls,
        timestamp: ArrayLike,
        open: ArrayLike,  # noqa: A002
        high: ArrayLike,
        low: ArrayLike,
        close: ArrayLike,
        volume: ArrayLike,
        *,
        closed: ArrayLike = True,
        synthetic: ArrayLike = False,
    ) -> Self:
        """Make a batch from columns that are already sorted and unique; InvalidCandles if their lengths differ.

        Arrays of the right type are used without a copy: the caller must not change them afterwards.
        """
        stamps = np.ascontiguousarray(timestamp, np.int64)
        numbers = [np.ascontiguousarray(column, np.float64) for column in (open, high, low, close, volume)]
        flags = [np.asarray(flag, np.bool_) for flag in (closed, synthetic)]
        flags = [flag if flag.ndim else np.broadcast_to(flag, stamps.shape) for flag in flags]
        if stamps.ndim != 1 or any(column.shape != stamps.shape for column in (*numbers, *flags)):
            raise InvalidCandles("The columns of a batch of candles must be equally long.")
        return cls._make([stamps, *numbers, *flags])

    @classmethod
    def _make(cls, columns: Iterable[NDArray[np.generic]]) -> Self:
        return cls(*columns)  # type: ignore[arg-type]  # their order is that of the fields

    @classmethod
    def empty(cls) -> Self:
        """No candles."""
        return cls.of(*([()] * 6))

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[float]]) -> Self:
        """Read ``[timestamp, open, high, low, close, volume]`` rows in any order; of equal timestamps the last wins.

        None is read as NaN, and `problems` reports it. InvalidCandles if a row is shorter, holds anything but numbers, or
        has no whole number of milliseconds for a timestamp.
        """
        rows = list(rows)
        try:
            table = np.array([row[:6] for row in rows], np.float64) if rows else np.empty((0, 6))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidCandles("A row is not made of six numbers.") from error
        if table.shape != (len(rows), 6):
            raise InvalidCandles("A row is not made of six numbers.")
        stamps = table[:, 0]
        if not ((np.abs(stamps) < 2**53) & (stamps == np.trunc(stamps))).all():
            raise InvalidCandles("A row has no timestamp in whole milliseconds.")
        return cls.of(table[:, 0].astype(np.int64), *table[:, 1:].T).sorted()

    def __len__(self) -> int:
        """The number of candles."""
        return len(self.timestamp)

    def __iter__(self) -> Iterator[Candle]:
        """Iterate over the candles as objects: for edges and tests, never on a hot path."""
        return (Candle(*row) for row in zip(*(column.tolist() for column in self.columns), strict=True))

    def __getitem__(self, key: slice | NDArray[np.bool_] | Int64s) -> Self:
        """A slice, or the rows picked by a mask or by ascending positions."""
        return self._make(column[key] for column in self.columns)

    @property
    def columns(self) -> tuple[NDArray[np.generic], ...]:
        """The columns, in the order of the fields."""
        return _columns_of(self)

    def sorted(self) -> Self:
        """Ascending and unique; of candles at the same instant the last one wins."""
        if bool((self.timestamp[1:] > self.timestamp[:-1]).all()):
            return self
        order = np.argsort(self.timestamp, kind="stable")
        stamps = self.timestamp[order]
        return self[order[np.append(stamps[1:] != stamps[:-1], True)]]

    def between(self, span: Span) -> Self:
        """The candles that open within ``span``."""
        low, high = self.timestamp.searchsorted([span.since, span.until]).tolist()
        return self if high - low == len(self) else self[low:high]

    def merge(self, newer: Candles) -> Candles:
        """Merge both; if both have a candle of a bucket, the newer one wins."""
        if not len(newer) or not len(self):
            return newer if len(newer) else self
        return concat([self, newer]).sorted()

    def same_as(self, other: Candles) -> bool:
        """Whether both have the same candles."""
        return len(self) == len(other) and all(
            bool((ours == theirs).all()) for ours, theirs in zip(self.columns, other.columns, strict=True)
        )

    def fillers(self) -> Bools:
        """Which rows are flat and without volume: some exchanges send them for minutes without a trade."""
        flat = (self.open == self.close) & (self.high == self.low)
        return np.asarray(flat & (self.volume == 0))

    def with_known_volumes(self) -> tuple[Self, Bools]:
        """The same candles with 0 for each unknown (NaN) volume, and a mask of these candles, (n,) bool."""
        unknown = np.isnan(self.volume)
        return replace(self, volume=np.where(unknown, 0.0, self.volume)), unknown

    def with_closed(self, closed: Bools) -> Self:
        """The same candles, some final and some still forming."""
        return replace(self, closed=closed)

    def problems(self, timeframe: Timeframe, span: Span, zone: Zone = UTC_ZONE) -> dict[int, str]:
        """Why rows are not valid candles of this timeframe within ``span``: position -> reason, empty if all are valid."""
        low, high, volume = self.low, self.high, self.volume
        if self._are_valid(timeframe, span, zone):
            return {}
        finite = np.isfinite(np.stack(self.columns[1:6])).all(axis=0)
        with np.errstate(invalid="ignore"):
            checks = {
                "a number is missing, NaN or infinite": ~finite,
                "low is above open, high or close": finite
                & (low > np.minimum(np.minimum(self.open, self.close), high)),
                "high is below open or close": finite & (high < np.maximum(self.open, self.close)),
                "volume is negative": finite & (volume < 0),
                "volume is too large to be summed": finite & (volume > MAX_VOLUME),
                f"the timestamp is not the opening of a {timeframe} bucket": (
                    self.timestamp != timeframe.floor_all(self.timestamp, zone)
                ),
                "the timestamp is outside the range asked for": (
                    (self.timestamp < span.since) | (self.timestamp >= span.until)
                ),
            }
        found: dict[int, str] = {}
        for reason, bad in checks.items():
            for position in np.flatnonzero(bad).tolist():
                found.setdefault(position, reason)
        return found

    def _are_valid(self, timeframe: Timeframe, span: Span, zone: Zone) -> bool:
        """Whether `problems` finds none: one pass over each part that fits into the processor's cache."""
        for part in slices(len(self)):
            stamp, volume = self.timestamp[part], self.volume[part]
            first, high, low, last = self.open[part], self.high[part], self.low[part], self.close[part]
            with np.errstate(invalid="ignore"):  # comparisons with NaN are false
                fine = (low <= first) & (low <= last) & (high >= first) & (high >= last)
                fine &= (volume >= 0) & (volume <= MAX_VOLUME) & (high < np.inf) & (low > -np.inf)
            if not fine.all() or stamp.min() < span.since or stamp.max() >= span.until:
                return False
            if not (timeframe.floor_all(stamp, zone) == stamp).all():
                return False
        return True


_columns_of = attrgetter(*(field.name for field in fields(Candles)))


def slices(count: int) -> Iterator[slice]:
    """Consecutive parts of a long column: a part and what is computed from it fit into the processor's cache."""
    for start in range(0, count, _PART_ROWS):
        yield slice(start, start + _PART_ROWS)


def concat(batches: Sequence[Candles]) -> Candles:
    """Join consecutive batches; `Candles.sorted` repairs those that are not in order."""
    batches = [batch for batch in batches if len(batch)]
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return Candles.empty()
    return Candles._make(np.concatenate(columns) for columns in zip(*(b.columns for b in batches), strict=True))
