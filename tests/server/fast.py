"""`candlegraph` with a clock that runs sixty times faster: a minute closes each second."""

from __future__ import annotations

import os
import sys
import time

from candlegraph import clock
from realtime import feed
from server.cli.main import main

SPEED = 60.0


def at(began_at: float, instant: int) -> int:
    """What the clock shows that showed ``instant`` (ms) when the machine's showed ``began_at`` (s)."""
    return instant + int((time.time() - began_at) * 1000 * SPEED)


if __name__ == "__main__":
    BEGAN_AT, INSTANT = float(os.environ["FAST_BEGAN_AT"]), int(os.environ["FAST_INSTANT"])
    clock.wall_ms = clock.monotonic_ms = lambda: at(BEGAN_AT, INSTANT)
    feed.STREAM_POLL_S = 0.5
    feed.MAX_BACKOFF_S = 1.0
    feed.SPREAD_S = 0.1
    sys.exit(main())
