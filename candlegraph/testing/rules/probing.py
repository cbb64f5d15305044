"""Where history begins, and what time it is upstream."""

from __future__ import annotations

from candlegraph import clock
from candlegraph.clock import HOUR_MS
from candlegraph.provider import SupportsFirstAvailable, SupportsServerTime
from candlegraph.span import Span
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleNotApplicable, require
from candlegraph.testing.rule import rule
from candlegraph.testing.rules.pages import since_is_inclusive, until_is_exclusive
from candlegraph.timeframe import MINUTE


@rule("docs/providers.md, Probing and clocks", since_is_inclusive, until_is_exclusive)
async def the_first_candle_is_where_it_says(bench: Harness) -> None:
    """`first_available` is None, or the opening of the first 1m candle."""
    if not isinstance(bench.provider, SupportsFirstAvailable):
        raise RuleNotApplicable("it does not probe")
    first = await bench.provider.first_available(await bench.instrument())
    if first is None:
        return
    require(first == MINUTE.floor(first), f"first_available is {first}, at which no minute opens.")
    there = (await bench.page(MINUTE, Span(first, first + clock.MINUTE_MS))).candles
    require(len(there), f"first_available is {first}, and there is no candle.")
    before = (await bench.page(MINUTE, Span(first - HOUR_MS, first))).candles
    require(not len(before), f"first_available is {first}, and there are {len(before)} candles before it.")


@rule("docs/providers.md, Probing and clocks")
async def its_clock_is_right(bench: Harness) -> None:
    """`server_time` is in milliseconds and within ten minutes of ours."""
    if not isinstance(bench.provider, SupportsServerTime):
        raise RuleNotApplicable("it has no clock")
    theirs, ours = await bench.provider.server_time(), clock.now_ms()
    require(abs(theirs - ours) < 10 * clock.MINUTE_MS, f"server_time is {theirs}; here it is {ours}.")
