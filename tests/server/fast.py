"""`candlegraph` with a clock that runs sixty times faster: a minute closes each second.

Those of the demo market settle ``FAST_SETTLE_MS`` after their end.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import click

from candlegraph import clock
from candlegraph.timings import Timings
from providers.demo import Synthetic
from server.cli.command import command
from server.cli.main import main
from server.serve import serve as run
from server.settings import Settings

SPEED = 60.0
FAST = replace(Timings(), feed_stream_poll_interval_s=0.5, feed_max_backoff_s=1.0, feed_spread_s=0.1)


def at(began_at: float, instant: int) -> int:
    """What the clock shows that showed ``instant`` (ms) when the machine's showed ``began_at`` (s)."""
    return instant + int((time.time() - began_at) * 1000 * SPEED)


@main.command()
@click.option("--host")
@click.option("--port", type=int)
@command
async def serve(settings: Settings) -> None:
    """Run the server with timings that suit the clock."""
    await run(settings, FAST)


if __name__ == "__main__":
    BEGAN_AT, INSTANT = float(os.environ["FAST_BEGAN_AT"]), int(os.environ["FAST_INSTANT"])
    settle_ms = int(os.environ.get("FAST_SETTLE_MS", "0"))
    Synthetic.capabilities = replace(Synthetic.capabilities, settle_ms=settle_ms)
    clock.wall_ms = clock.monotonic_ms = lambda: at(BEGAN_AT, INSTANT)
    sys.exit(main())
