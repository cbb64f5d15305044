"""Time zones as arrays: the opening of each local day, for one instant or for a million.

``zoneinfo`` answers one datetime at a time, about a microsecond each; folding a year of minutes into days asks half a
million times. A `Zone` reads it once and keeps the instants at which the offset changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.errors import BadUserInput

Int64s = NDArray[np.int64]

_SCAN_FROM_S = -2_524_521_600  # 1890-01-01: a ten-year bucket around 1900 opens no earlier
_SCAN_TO_S = 10_319_184_000  # 2297-01-01: a ten-year bucket around the last valid Timestamp ends no later
# No zone keeps an offset for less than 3.9 days (Freetown in 1939), since 1960 for less than 6.9 (Gaza, Hebron, Recife):
# none fits between two probes.
_OLD_PROBE_EVERY_S, _PROBE_EVERY_S = 3 * 86_400, 6 * 86_400
_OLD_UNTIL_S = -315_619_200  # 1960-01-01
_RULES_ONLY_FROM_S = 4_102_444_800  # 2100-01-01: from here on there are only yearly rules, whose halves are months long
# A capital first: "localtime", "posixrules" and "right/..." (which counts leap seconds) are files, not names of IANA's.
_NAME = re.compile(r"[A-Z][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+){0,2}")


@dataclass(frozen=True, slots=False, eq=False)
class Zone:
    """A time zone between 1890 and 2297; before and after, its first and last offset go on.

    ``offsets[i]`` (ms to add to UTC) holds on ``[changes[i], changes[i + 1])``. Both are cut to whole minutes, so
    that a day always opens on the edge of a 1m candle.
    """

    name: str
    changes: Int64s = field(repr=False)
    offsets: Int64s = field(repr=False)

    @cached_property
    def is_utc(self) -> bool:
        """Whether local time is always UTC."""
        return not self.offsets.any()

    @cached_property
    def _local_ends(self) -> Int64s:
        """The local time at which each offset ends, never falling."""
        ends = self.changes[1:] + self.offsets[:-1]
        return np.maximum.accumulate(np.append(ends, np.iinfo(np.int64).max))

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
    """Look an IANA zone up by its name; BadUserInput where it does not exist."""
    try:
        if not _NAME.fullmatch(name) or len(name) > 64:
            raise ValueError(name)  # noqa: TRY301
        tz = ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise BadUserInput(
            f"Unknown time zone {name[:64]!r}: use an IANA name such as UTC or America/New_York."
        ) from None
    return _scan(name, tz)


def _scan(name: str, tz: ZoneInfo) -> Zone:
    def offset_at(second: int) -> int:
        offset = datetime.fromtimestamp(second, tz).utcoffset()
        assert offset is not None  # noqa: S101 - an aware datetime has one
        return int(offset.total_seconds()) * 1000 // MINUTE_MS * MINUTE_MS

    changes, offsets = [np.iinfo(np.int64).min // 2], [offset_at(_SCAN_FROM_S)]
    probes = [
        *range(_SCAN_FROM_S, _OLD_UNTIL_S, _OLD_PROBE_EVERY_S),
        *range(_OLD_UNTIL_S, _RULES_ONLY_FROM_S, _PROBE_EVERY_S),
        *range(_RULES_ONLY_FROM_S, _SCAN_TO_S, 5 * _PROBE_EVERY_S),
    ]
    for before, after in pairwise(probes):
        if offset_at(after) == offsets[-1]:
            continue
        low, high = before, after
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset_at(middle) == offsets[-1] else (low, middle)
        changes.append(high * 1000 // MINUTE_MS * MINUTE_MS)
        offsets.append(offset_at(high))
    return Zone(name, np.array(changes, np.int64), np.array(offsets, np.int64))


UTC = Zone("UTC", np.array([np.iinfo(np.int64).min // 2], np.int64), np.zeros(1, np.int64))
