"""Folding."""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median

import numpy as np

from candlegraph import UTC, Candles, Timeframe, fold, zone


async def fold_a_year() -> Iterable[tuple[object, ...]]:
    """Fold a year of 1m candles into every stored timeframe; the bar is 30 ms."""
    minutes = 525_600
    generator = np.random.default_rng(1)
    close = generator.random(minutes)
    year = Candles.of(
        1_640_995_200_000 + np.arange(minutes) * 60_000, close, close + 1, close - 1, close, generator.random(minutes)
    )
    rows: list[tuple[object, ...]] = [("timeframe", "zone", "candles", "median ms"), ("---",) * 4]
    for text in ("5m", "7m", "15m", "30m", "1h", "4h", "1d", "1w", "1mon", "1y"):
        for days in (UTC, zone("America/New_York")):
            times = []
            for _ in range(7):
                began = time.perf_counter()
                folded = fold(year, Timeframe.parse(text), days)
                times.append((time.perf_counter() - began) * 1000)
            rows.append((text, days.name, len(folded), round(median(times), 1)))
    return rows
