"""The optional methods of a provider: `first_available` and `server_time`."""

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


@rule("docs/providers.md, First candle and clock", since_is_inclusive, until_is_exclusive)
async def the_first_candle_is_where_it_says(bench: Harness) -> None:
    """`first_available` is None, or the opening of the first 1m candle."""
    if not isinstance(bench.provider, SupportsFirstAvailable):
        raise RuleNotApplicable("it has no `first_available`")
    first = await bench.provider.first_available(await bench.instrument())
    if first is None:
        return
    require(first == MINUTE.floor(first), f"first_available is {first}, which is not the opening of a minute.")
    there = (await bench.page(MINUTE, Span(first, first + clock.MINUTE_MS))).candles
    require(len(there), f"first_available is {first}, but no candle opens there.")
    before = (await bench.page(MINUTE, Span(first - HOUR_MS, first))).candles
    require(not len(before), f"first_available is {first}, but {len(before)} candles open before it.")


@rule("docs/providers.md, First candle and clock")
async def its_clock_is_right(bench: Harness) -> None:
    """`server_time` is in milliseconds and within ten minutes of ours."""
    if not isinstance(bench.provider, SupportsServerTime):
        raise RuleNotApplicable("it has no `server_time`")
    theirs, ours = await bench.provider.server_time(), clock.now_ms()
    require(abs(theirs - ours) < 10 * clock.MINUTE_MS, f"server_time is {theirs}; the local time is {ours}.")
