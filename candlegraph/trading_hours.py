"""Trading hours as arrays: which instants lie inside a session, and the grid of buckets that is anchored at its opening."""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=False, eq=False)
class TradingHours:
    """Half-open spans ``[opens[i], closes[i])`` of trading: (n,) int64 ms UTC, ascending and disjoint; a break divides a session.

    ``anchored``: these are regular sessions. Buckets shorter than a day open at the opening of a span and every width after
    it, and the last one ends with the span; otherwise such buckets stay on the grid of UTC. Time belongs to the bucket that
    opened last, so that every instant has one.
    """

    name: str
    opens: Int64s = field(repr=False)
    closes: Int64s = field(repr=False)
    anchored: bool = True

    @cached_property
    def version(self) -> str:
        """A short hash of the hours: caches of other hours must not be mixed."""
        return f"{zlib.crc32(self.opens.tobytes() + self.closes.tobytes()):08x}"

    @cached_property
    def _lists(self) -> tuple[list[int], list[int]]:
        """Both columns as lists: for one instant, numpy's calls would take most of the time."""
        return self.opens.tolist(), self.closes.tolist()

    @cached_property
    def _grids(self) -> dict[int, int]:
        """The widest grid from each instant on that was asked for; callers ask for decades."""
        return {}

    def contains(self, instants: Int64s) -> Bools:
        """Which instants lie inside."""
        at = np.searchsorted(self.opens, instants, side="right") - 1
        return np.asarray((at >= 0) & (instants < self.closes[np.maximum(at, 0)]))

    def overlaps(self, since: Int64s, until: Int64s) -> Bools:
        """Which of the spans ``[since[i], until[i])`` have trading in them."""
        return np.asarray(np.searchsorted(self.closes, since, side="right") < np.searchsorted(self.opens, until))

    def resume(self, instant: int) -> int:
        """The instant itself if it lies inside, else the next opening; itself after the last span."""
        opens, closes = self._lists
        at = bisect_right(opens, instant) - 1
        if at >= 0 and instant < closes[at]:
            return instant
        return opens[at + 1] if at + 1 < len(opens) else instant

    def resume_all(self, instants: Int64s) -> Int64s:
        """`resume` of many instants."""
        following = np.minimum(np.searchsorted(self.opens, instants, side="right"), len(self.opens) - 1)
        return np.where(self.contains(instants), instants, np.maximum(instants, self.opens[following]))

    def closed_since(self, instant: int) -> int:
        """The close before ``instant`` if nothing trades between them, else the instant."""
        opens, closes = self._lists
        at = bisect_left(opens, instant) - 1
        return closes[at] if at >= 0 and closes[at] <= instant else instant

    def trim(self, since: int, until: int) -> tuple[int, int]:
        """The part of ``[since, until)`` from the first trading in it to the last; empty if there is none."""
        opens, closes = self._lists
        first = bisect_right(closes, since)
        last = bisect_left(opens, until) - 1
        return (max(since, opens[first]), min(until, closes[last])) if first <= last else (since, since)

    def trim_all(self, since: Int64s, until: Int64s) -> tuple[Int64s, Int64s]:
        """`trim` of many spans that have trading in them."""
        if not len(since):
            return since, until
        first = np.minimum(np.searchsorted(self.closes, since, side="right"), len(self.opens) - 1)
        last = np.maximum(np.searchsorted(self.opens, until) - 1, 0)
        return np.maximum(since, self.opens[first]), np.minimum(until, self.closes[last])

    def index(self, instants: Int64s, width: int) -> Int64s:
        """Number the bucket of ``width`` ms that holds each instant."""
        numbers = _numbers(self, width)
        at = np.searchsorted(self.opens, instants, side="right") - 1
        inside = np.maximum(at, 0)
        steps = np.minimum((instants - self.opens[inside]) // width, numbers[inside + 1] - numbers[inside] - 1)
        return np.asarray(numbers[inside] + steps)

    def open_at(self, index: Int64s, width: int) -> Int64s:
        """The instants at which the numbered buckets open."""
        numbers = _numbers(self, width)
        at = np.clip(np.searchsorted(numbers, index, side="right") - 1, 0, len(self.opens) - 1)
        return np.asarray(self.opens[at] + (index - numbers[at]) * width)

    def ends(self, opens: Int64s, width: int) -> Int64s:
        """When the buckets that open at ``opens`` end: with their span at the latest."""
        at = np.maximum(np.searchsorted(self.opens, opens, side="right") - 1, 0)
        return np.asarray(np.minimum(opens + width, self.closes[at]))

    def grid_ms(self, since: int, origin: int) -> int:
        """The widest grid from ``origin`` on which all openings and closes from ``since`` on lie."""
        if (grid := self._grids.get(since)) is None:
            first = bisect_right(self._lists[1], since)
            grid = int(np.gcd.reduce(np.concatenate([self.opens[first:], self.closes[first:]]) - origin))
            self._grids[since] = grid
        return grid


@lru_cache(maxsize=32)  # each has up to a megabyte, and callers choose the widths
def _numbers(hours: TradingHours, width: int) -> Int64s:
    """The number of the first bucket of ``width`` ms of every span, and after the last one the number of all."""
    counts = -(-(hours.closes - hours.opens) // width)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
