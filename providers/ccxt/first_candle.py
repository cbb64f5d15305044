"""Finds the first candle of a symbol with a few calls, if the exchange does not list it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

from candlegraph import clock
from candlegraph.provider import Page
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe

_OLDEST_MS = 1_262_304_000_000  # 2010-01-01: no exchange is older
_MAX_CALLS = 16
STEPS = tuple(map(Timeframe.parse, ("1d", "1h", "1m")))

Fetch = Callable[[Timeframe, Span], Awaitable[Page]]


async def find_first(fetch: Fetch, steps: list[Timeframe], page_rows: int) -> int | None:
    """Bisect for the first bucket of the coarsest of ``steps``, then look into it with each finer one.

    A symbol that is not traded now is not bisected, because its end would look like its beginning. None if an answer proves
    too little.
    """
    first = await _bisect(fetch, steps[0], page_rows)
    for coarse, fine in pairwise(steps):
        if first is not None:
            first = await _first_row(fetch, fine, Span(first, coarse.next(first)))
    return first


async def _bisect(fetch: Fetch, step: Timeframe, page_rows: int) -> int | None:
    """The opening of the first bucket of ``step`` with a row. Invariant: all before ``low`` is empty, ``high`` has a row."""
    newest = await fetch(step, Span(step.shift(clock.now_ms(), 1 - page_rows), step.next(clock.now_ms())))
    if not len(newest.candles):
        return None
    low, high = step.floor(_OLDEST_MS), int(newest.candles.timestamp[0])
    for _ in range(_MAX_CALLS):
        if low >= high:
            return high
        if step.shift(low, page_rows) >= high:
            return await _first_row(fetch, step, Span(low, step.next(high)))
        middle = step.floor((low + high) // 2)
        page = await fetch(step, Span(middle, min(step.shift(middle, page_rows), high)))
        if len(page.candles):
            high = int(page.candles.timestamp[0])
        elif page.complete_from <= middle < page.complete_to:
            low = page.complete_to
        else:
            return None
    return None


async def _first_row(fetch: Fetch, step: Timeframe, span: Span) -> int | None:
    page = await fetch(step, span)
    if not len(page.candles):
        return None
    first = int(page.candles.timestamp[0])
    if page.complete_from > span.since:  # the page may have been cut
        before = await fetch(step, Span(span.since, first))
        if len(before.candles) or before.complete_from > span.since or before.complete_to < first:
            return None
    return first
