"""What time it is. Read as ``clock.now_ms()``, so that a test can put another function in its place."""

from __future__ import annotations

import time

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000
