"""Timeframes: the length of a candle, and the openings of its buckets; all code computes buckets here.

Width buckets (m, h, d, w) count from Monday 2000-01-03T00:00, calendar buckets (mon, y) from 2000-01-01: the defaults
of TimescaleDB's ``time_bucket``. Buckets shorter than a day are on the grid of UTC. Days and longer buckets follow a zone's
local days, and a month is never a number of seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS, NEWEST_MS
from candlegraph.errors import BadUserInput
from candlegraph.zone import UTC, Int64s, Zone

Unit = Literal["m", "h", "d", "w", "mon", "y"]

ORIGIN_MS = 946_857_600_000  # Monday 2000-01-03T00:00:00Z
_ORIGIN_DAY = ORIGIN_MS // DAY_MS
_ORIGIN_MONTH = 360  # 2000-01, in months since 1970-01
_WIDTHS = {"m": MINUTE_MS, "h": HOUR_MS}
_DAYS = {"d": 1, "w": 7}
_MONTHS = {"mon": 1, "y": 12}
# Exact reductions only: never 24h to 1d, for a day follows the market's zone.
_REDUCTIONS: dict[str, tuple[int, Unit]] = {"m": (60, "h"), "d": (7, "w"), "mon": (12, "y")}
_ALIASES: dict[str, Unit] = {"min": "m", "mo": "mon", "M": "mon"}
_TEN_YEARS_DAYS = 3_653
_SPELLING = re.compile(r"([1-9][0-9]{0,7})(min|mon|mo|m|h|d|w|y|M)")


@dataclass(frozen=True, slots=True)
class Timeframe:
    """``count`` times ``unit``, reduced: ``Timeframe(60, "m")`` is ``1h``. BadUserInput beyond ten years."""

    count: int
    unit: Unit

    def __post_init__(self) -> None:
        """Reduce, and refuse what is too long."""
        count, unit = self.count, self.unit
        if unit in _REDUCTIONS and count % _REDUCTIONS[unit][0] == 0:
            count, unit = count // _REDUCTIONS[unit][0], _REDUCTIONS[unit][1]
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "unit", unit)
        too_long = self.months > 120 if self.months else self.nominal_ms > _TEN_YEARS_DAYS * DAY_MS
        if count < 1 or too_long:
            raise BadUserInput(f"A timeframe is at least one unit and at most ten years long, which {self} is not.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``5m``, ``4h``, ``1mon`` ... and the aliases ``5min``, ``1mo``, ``1M`` (ccxt's month)."""
        match = _SPELLING.fullmatch(text)
        if not match:
            raise BadUserInput(
                f"Unknown timeframe {text[:32]!r}: write a count and one of m, h, d, w, mon, y, as in 5m, 4h, 1d, 1mon."
            )
        return cls(int(match[1]), cast(Unit, _ALIASES.get(match[2], match[2])))

    def __str__(self) -> str:
        """Print the canonical spelling."""
        return f"{self.count}{self.unit}"

    @property
    def width_ms(self) -> int:
        """The width of a bucket on the UTC grid (m and h), else 0."""
        return self.count * _WIDTHS.get(self.unit, 0)

    @property
    def days(self) -> int:
        """The local days in a bucket (d and w), else 0."""
        return self.count * _DAYS.get(self.unit, 0)

    @property
    def months(self) -> int:
        """The calendar months in a bucket (mon and y), else 0."""
        return self.count * _MONTHS.get(self.unit, 0)

    @property
    def nominal_ms(self) -> int:
        """About how long a bucket is, for estimates and for sorting; never for finding an edge."""
        return self.width_ms or (self.days * DAY_MS) or self.months * 2_629_746_000

    def index(self, instant: Int64s, zone: Zone = UTC) -> Int64s:
        """Number the bucket that holds each instant (ms, UTC); the bucket at the origin is 0."""
        if self.width_ms:
            if zone.anchor:
                return zone.anchor.index(instant, self.width_ms)
            return (instant - ORIGIN_MS) // self.width_ms
        day = zone.day_of(instant)
        if self.days:
            return (day - _ORIGIN_DAY) // self.days
        month = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        return (month - _ORIGIN_MONTH) // self.months

    def open_at(self, index: Int64s, zone: Zone = UTC) -> Int64s:
        """The instants (ms, UTC) at which the numbered buckets open."""
        if self.width_ms:
            return zone.anchor.open_at(index, self.width_ms) if zone.anchor else ORIGIN_MS + index * self.width_ms
        if self.days:
            return zone.open_of_day(_ORIGIN_DAY + index * self.days)
        month = (_ORIGIN_MONTH + index * self.months).astype("datetime64[M]")
        return zone.open_of_day(month.astype("datetime64[D]").astype(np.int64))

    def floor_all(self, instants: NDArray[np.int64], zone: Zone = UTC) -> Int64s:
        """The opening of the bucket that holds each instant."""
        return self.open_at(self.index(instants, zone), zone)

    def floor(self, instant: int, zone: Zone = UTC) -> int:
        """The opening of the bucket that holds ``instant``."""
        return self.shift(instant, 0, zone)

    def next(self, instant: int, zone: Zone = UTC) -> int:
        """The opening of the first bucket after ``instant``."""
        # Also where the next bucket is a date that the zone skipped: that opens where the one after it does.
        return self.shift(instant, 1, zone)

    def ceil(self, instant: int, zone: Zone = UTC) -> int:
        """``instant`` where a bucket opens at it, else the next opening."""
        return instant if self.floor(instant, zone) == instant else self.next(instant, zone)

    def shift(self, instant: int, buckets: int, zone: Zone = UTC) -> int:
        """The opening of the bucket so many after (before, where negative) the one that holds ``instant``."""
        if width := self.width_ms:
            if zone.anchor:
                return int(self.open_at(self.index(np.array([instant], np.int64), zone) + buckets, zone)[0])
            return ORIGIN_MS + ((instant - ORIGIN_MS) // width + buckets) * width
        day = zone.day_of_one(instant)
        if days := self.days:
            return zone.open_of_one_day(_ORIGIN_DAY + ((day - _ORIGIN_DAY) // days + buckets) * days)
        months = self.months
        month = _ORIGIN_MONTH + ((_month_of(day) - _ORIGIN_MONTH) // months + buckets) * months
        return zone.open_of_one_day(_first_day_of(month))

    def settled(self, instant: int, zone: Zone = UTC) -> int:
        """Buckets that end here or before are over at ``instant``: with regular sessions, after the last one in them."""
        return self.floor(zone.anchor.resume(instant) if zone.anchor else instant, zone)

    def ends(self, opens: Int64s, zone: Zone = UTC) -> Int64s:
        """When the buckets that open at ``opens`` end; the last one of a session is short."""
        if self.width_ms and zone.anchor:
            return zone.anchor.ends(opens, self.width_ms)
        return self.open_at(self.index(opens, zone) + 1, zone)

    def edges(self, since: int, until: int, zone: Zone = UTC) -> Int64s:
        """Every opening in ``[since, until)``, ascending and unique; the caller bounds how many that may be."""
        if until <= since:
            return np.empty(0, np.int64)
        first, last = self.index(np.array([since, until], np.int64), zone)
        opens = self.open_at(np.arange(first, last + 2, dtype=np.int64), zone)
        later = np.append(True, opens[1:] > opens[:-1])  # days that the zone skipped open together
        return opens[later & (opens >= since) & (opens < until)]

    def nests_in(self, other: Timeframe, zone: Zone = UTC, since: int = 0) -> bool:
        """Whether every edge of ``other`` from the bucket of ``since`` on is an edge of ours: ours fold into its exactly.

        Zones had odder offsets once: an hour nests in a day of Europe/Paris since 1911, and a minute before.
        """
        if self.months:
            return bool(other.months) and other.months % self.months == 0
        if self.width_ms and zone.anchor:  # both open with the session
            return other.width_ms % self.width_ms == 0
        if other.width_ms:
            ours = self.width_ms or (self.days * DAY_MS if zone.is_utc else 0)
            return bool(ours) and other.width_ms % ours == 0
        if self.width_ms:
            return _grid_ms(other, zone, since) % self.width_ms == 0
        return self.days == 1 if other.months else other.days % self.days == 0


@lru_cache(maxsize=4096)
def _month_of(day: int) -> int:
    return int(np.datetime64(day, "D").astype("datetime64[M]").astype(np.int64))


@lru_cache(maxsize=4096)
def _first_day_of(month: int) -> int:
    return int(np.datetime64(month, "M").astype("datetime64[D]").astype(np.int64))


@lru_cache(maxsize=1024)
def _grid_ms(timeframe: Timeframe, zone: Zone, since: int) -> int:
    """The widest UTC grid counted from the origin that holds all edges of ``timeframe`` from the bucket of ``since`` on."""
    first, last = timeframe.index(np.array([since, NEWEST_MS], np.int64), zone)
    index = np.arange(first, last + 1, dtype=np.int64)
    if timeframe.days:  # between two changes of the offset, all edges follow from the first two
        changed = timeframe.index(zone.changes[zone.changes > since], zone)
        near = np.concatenate([[first, first + 1], *(changed + step for step in range(-1, 3)), [last]])
        index = near[(near >= first) & (near <= last)]
    return int(np.gcd.reduce(timeframe.open_at(index, zone) - ORIGIN_MS))


MINUTE = Timeframe(1, "m")
