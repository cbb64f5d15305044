"""What a page holds."""

from __future__ import annotations

import numpy as np

from candlegraph.span import Span
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleViolation, require
from candlegraph.testing.rule import rule
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s

_ALL_TIME = Span(-(2**53), 2**53)


def _sample(stamps: Int64s) -> list[int]:
    """The first, the last and two of those between."""
    return [int(stamps[i]) for i in sorted({0, len(stamps) // 3, len(stamps) * 2 // 3, len(stamps) - 1})]


@rule("docs/providers.md, What a page holds")
async def since_is_inclusive(bench: Harness) -> None:
    """A candle that opens at `since` belongs to the answer; one that opened before does not."""
    for timeframe, known in (await bench.known_candles()).items():
        days = await bench.day_zone(timeframe)
        for opens in _sample(known.timestamp):
            ends = timeframe.next(opens, days)
            found = (await bench.page(timeframe, Span(opens, ends))).candles.timestamp
            require(opens in found, f"The {timeframe} candle of {opens} is missing where since={opens}.")
            found = (await bench.page(timeframe, Span(opens + 1, ends + 1))).candles.timestamp
            require(not (found <= opens).any(), f"The {timeframe} candle of {opens} comes although since={opens + 1}.")


@rule("docs/providers.md, What a page holds")
async def until_is_exclusive(bench: Harness) -> None:
    """A candle that opens at `until` does not belong to the answer."""
    for timeframe, known in (await bench.known_candles()).items():
        days = await bench.day_zone(timeframe)
        for opens in _sample(known.timestamp):
            since = timeframe.shift(opens, -2, days)
            found = (await bench.page(timeframe, Span(since, opens))).candles.timestamp
            require(not (found >= opens).any(), f"The {timeframe} candle of {opens} comes although until={opens}.")


@rule("docs/providers.md, What a page holds")
async def rows_are_ascending_and_unique(bench: Harness) -> None:
    """Candles ascend by their timestamps, and no timestamp comes twice."""
    for timeframe in await bench.known_candles():
        steps = np.diff((await bench.page(timeframe, await _recent(bench, timeframe))).candles.timestamp)
        require((steps >= 0).all(), f"{timeframe} candles are not sorted by their timestamps.")
        require((steps != 0).all(), f"A {timeframe} candle comes twice.")


@rule("docs/providers.md, What a page holds")
async def rows_are_candles(bench: Harness) -> None:
    """Every row opens a bucket of its timeframe in the market's time zone, and its numbers can be a candle's."""
    for timeframe in await bench.known_candles():
        days = await bench.day_zone(timeframe)
        candles = (await bench.page(timeframe, await _recent(bench, timeframe))).candles
        problems = candles.problems(timeframe, _ALL_TIME, days)
        if problems:
            at, why = next(iter(problems.items()))
            shown = next(iter(candles[at : at + 1]))
            raise RuleViolation(
                f"{len(problems)} {timeframe} rows are none, the first at {shown.timestamp}: {why} ({shown})."
            )


async def _recent(bench: Harness, timeframe: Timeframe) -> Span:
    """Around the known candles, including the forming candle where it is near."""
    known, days = (await bench.known_candles())[timeframe], await bench.day_zone(timeframe)
    return Span(int(known.timestamp[0]), timeframe.next(int(known.timestamp[-1]), days))
