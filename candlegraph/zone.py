"""Time zones as arrays: the opening of each local day, for one instant or for a million.

``zoneinfo`` answers one datetime at a time, about a microsecond each; folding a year of minutes into days asks half a
million times. A `Zone` holds the instants at which the offset changes, read from the zone's file once (tzif.py).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.errors import BadUserInput
from candlegraph.trading_hours import TradingHours
from candlegraph.tzif import read_tzif, transitions

Int64s = NDArray[np.int64]

_FROM_S = -2_524_521_600  # 1890-01-01: a ten-year bucket around 1900 opens no earlier
_TO_S = 10_319_184_000  # 2297-01-01: a ten-year bucket around the last valid Timestamp ends no later
# A capital first: "localtime", "posixrules" and "right/..." (which counts leap seconds) are files, not names of IANA's.
_NAME = re.compile(r"[A-Z][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+){0,2}")


@dataclass(frozen=True, slots=False, eq=False)
class Zone:
    """A time zone between 1890 and 2297; before and after, its first and last offset go on.

    ``offsets[i]`` (ms to add to UTC) holds on ``[changes[i], changes[i + 1])``. Both are cut to whole minutes, so
    that a day always opens on the edge of a 1m candle. With ``hours``, its candles are made of the trading within them.
    """

    name: str
    changes: Int64s = field(repr=False)
    offsets: Int64s = field(repr=False)
    hours: TradingHours | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """The name of its buckets: that of the hours if there are any."""
        return self.hours.name if self.hours else self.name

    @property
    def anchor(self) -> TradingHours | None:
        """The hours at whose openings buckets shorter than a day open; None if these are on the grid of UTC."""
        return self.hours if self.hours and self.hours.anchored else None

    def local(self, instants: Int64s) -> Int64s:
        """What a clock shows at each instant, as ms since 1970-01-01T00:00."""
        at = np.searchsorted(self.changes, instants, side="right") - 1
        return np.asarray(instants + self.offsets[np.maximum(at, 0)])

    @cached_property
    def is_utc(self) -> bool:
        """Whether local time is always UTC, and every minute counts."""
        return not self.offsets.any() and self.hours is None

    @cached_property
    def _local_ends(self) -> Int64s:
        """The local time at which each offset ends, never falling."""
        ends = self.changes[1:] + self.offsets[:-1]
        return np.maximum.accumulate(np.append(ends, np.iinfo(np.int64).max))

    @cached_property
    def _as_lists(self) -> tuple[list[int], list[int], list[int]]:
        """``changes``, ``offsets`` and the local ends: for one instant, numpy's calls would take most of the time."""
        return self.changes.tolist(), self.offsets.tolist(), self._local_ends.tolist()

    def open_of_one_day(self, day: int) -> int:
        """`open_of_day` for one day."""
        local = day * DAY_MS
        if self.is_utc:
            return local
        changes, offsets, ends = self._as_lists
        i = bisect_right(ends, local)
        return max(local - offsets[i], changes[i])

    def day_of_one(self, instant: int) -> int:
        """`day_of` for one instant."""
        if self.is_utc:
            return instant // DAY_MS
        changes, offsets, _ = self._as_lists
        day = (instant + offsets[max(bisect_right(changes, instant) - 1, 0)]) // DAY_MS
        return day + (self.open_of_one_day(day + 1) <= instant)

    def open_of_day(self, day: Int64s) -> Int64s:
        """The first instant (ms, UTC) whose local date is at least ``day`` (days since 1970-01-01).

        A midnight that happens twice opens its day the first time; a midnight that never happens opens it at the jump.
        """
        if self.is_utc:
            return np.asarray(day * DAY_MS)
        return self.instants(day * DAY_MS)[0]

    def instants(self, local: Int64s) -> tuple[Int64s, NDArray[np.bool_]]:
        """The first instant (ms, UTC) at which a clock shows each ``local`` time, and whether it skips it instead.

        What is skipped becomes the instant of the jump: that is when a day opens whose midnight does not exist.
        """
        i = np.searchsorted(self._local_ends, local, side="right")
        found, jumps = local - self.offsets[i], self.changes[i]
        return np.asarray(np.maximum(found, jumps)), np.asarray(found < jumps)

    def day_of(self, instant: Int64s) -> Int64s:
        """The day (days since 1970-01-01) that is open at each instant."""
        if self.is_utc:
            return instant // DAY_MS
        i = np.searchsorted(self.changes, instant, side="right") - 1
        day = (instant + self.offsets[np.maximum(i, 0)]) // DAY_MS
        # Where the clock went back over midnight the date says yesterday, but today has opened already and stays open.
        return day + (self.open_of_day(day + 1) <= instant)


@lru_cache(maxsize=1024)
def zone(name: str) -> Zone:
    """Look an IANA zone up by its name; BadUserInput if it does not exist."""
    try:
        if not _NAME.fullmatch(name) or len(name) > 64:
            raise ValueError(name)  # noqa: TRY301
        data = read_tzif(name)
    except (KeyError, ValueError, OSError):
        raise BadUserInput(
            f"Unknown time zone {name[:64]!r}: use an IANA name such as UTC or America/New_York."
        ) from None
    return zone_of(name, data)


def zone_of(name: str, data: bytes) -> Zone:
    """The zone of a TZif file's content. ValueError if it is none."""
    first, at, offsets = transitions(data)
    every = np.concatenate([[first], offsets]) * 1000 // MINUTE_MS * MINUTE_MS
    start = int(np.searchsorted(at, _FROM_S, side="right"))
    end = int(np.searchsorted(at, _TO_S, side="left"))
    changes = np.concatenate([[np.iinfo(np.int64).min // 2], at[start:end] * 1000 // MINUTE_MS * MINUTE_MS])
    every = every[start : end + 1]
    kept = np.concatenate([[True], every[1:] != every[:-1]])
    return Zone(name, changes[kept], every[kept])


UTC = Zone("UTC", np.array([np.iinfo(np.int64).min // 2], np.int64), np.zeros(1, np.int64))
