"""What time it is. Read as ``clock.now_ms()``, so that a test can put another function in its place."""

from __future__ import annotations

import time

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
OLDEST_MS, NEWEST_MS = -2_208_988_800_000, 9_999_999_999_999  # the first and the last Timestamp: 1900 and 2286


def looks_like_seconds(instant: int) -> bool:
    """Whether a number of milliseconds is probably one of seconds, of 2001 to 2286: 12 January to 26 April 1970, within a minute."""
    return 10**9 <= instant < 10**10 and instant % MINUTE_MS != 0


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000
