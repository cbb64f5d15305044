"""What trading sessions prove about stamps: whether they name the end of a candle, or a day by its bell."""

from __future__ import annotations

import numpy as np

from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone

_CLOSED_MS = 4 * HOUR_MS  # a hole from here on lies between two sessions
_BELL_MS = 30 * MINUTE_MS  # exchanges open and close at the half hours; zones are half hours apart
_SHARE = 0.8
_MIN_SESSIONS = 3
_MIN_DAYS = 5


def name_ends(ms: Int64s, timeframe: Timeframe) -> bool:
    """Whether stamps (n,) ms UTC ascending, of a timeframe below half an hour, name the ends of candles.

    They do if sessions begin one step after a half hour and end at one, as 09:31 to 16:00.
    """
    width = timeframe.width_ms
    if not 0 < width < _BELL_MS or _BELL_MS % width or len(ms) < 2:
        return False
    closed = np.flatnonzero(np.diff(ms) >= _CLOSED_MS)
    if len(closed) < _MIN_SESSIONS:
        return False
    firsts, lasts = ms[closed + 1] % _BELL_MS, ms[closed] % _BELL_MS
    return bool(np.mean(firsts == width) >= _SHARE and np.mean(lasts == 0) >= _SHARE)


def name_sessions(ms: Int64s, zone: Zone) -> bool:
    """Whether stamps (n,) ms UTC ascending name days of a market with sessions by their bell.

    They do if they are at one time of a day in the zone, or at two that daylight saving time makes of it, and on weekdays only,
    over a weekend. Days of a market that never closes are another span: from that time to the next.
    """
    days = zone.day_of(ms)
    if len(ms) < _MIN_DAYS or not (np.diff(days) > 0).all() or int(np.diff(days).max()) < 3:
        return False
    clocks = ms - zone.open_of_day(days)
    usual = int(np.median(clocks))
    near = np.abs(clocks - usual) <= HOUR_MS  # daylight saving time; a short day ends earlier
    return bool(((days + 3) % 7 < 5).all()) and len(np.unique(clocks[near])) <= 2 and bool(near.mean() > _SHARE)
