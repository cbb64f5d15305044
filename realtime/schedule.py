"""When a feed reads: pure functions that compute seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from zlib import crc32

from candlegraph.series import Instrument


def offset_s(instrument: Instrument, spread_s: float) -> float:
    """A fixed offset for an instrument within ``spread_s``, so that not all feeds read at the same moment (jitter)."""
    return crc32(str(instrument).encode()) % 1000 / 1000 * spread_s


def pause_s(until_final_s: float, period_s: float, late_s: Sequence[float]) -> float:
    """Seconds to the next read, ``period_s`` at most.

    The next minute becomes final in ``until_final_s``. If it is due and still missing, the feed reads again at each of
    ``late_s`` seconds after it was due, and each ``period_s`` from then on.
    """
    if until_final_s <= 0:
        until_final_s = next((late + until_final_s for late in late_s if late + until_final_s > 0), period_s)
    return min(period_s, until_final_s)


def jittered_s(failures: int, max_s: float) -> float:
    """Seconds to wait after a number of failures in a row: exponential backoff with full jitter, up to ``max_s``.

    A thousand feeds that fail at one moment must not return at one moment.
    """
    return random.uniform(0.1, min(max_s, 2.0**failures))  # noqa: S311
