"""Rules for a provider with a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from candlegraph import clock
from candlegraph.candle import Candle, Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import LiveMode, SupportsStreaming
from candlegraph.span import Span
from candlegraph.stream import closing_stream
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleNotApplicable, RuleViolation, require
from candlegraph.testing.rule import rule
from candlegraph.testing.rules.pages import rows_are_candles, since_is_inclusive
from candlegraph.timeframe import MINUTE

_STREAM_TIMEOUT_S = 150.0  # to see a minute end, of a symbol that may be quiet


@asynccontextmanager
async def _stream(bench: Harness) -> AsyncIterator[AsyncIterator[Candles]]:
    if bench.provider.capabilities.live is not LiveMode.STREAM or not isinstance(bench.provider, SupportsStreaming):
        raise RuleNotApplicable("it has no stream")
    if not bench.subject.streams:
        raise RuleNotApplicable("the upstream has no live side")
    async with closing_stream(bench.provider.stream(await bench.instrument())) as stream:
        yield stream


@rule("docs/providers.md, Streaming", rows_are_candles, since_is_inclusive)
async def a_stream_continues_the_history(bench: Harness) -> None:
    """The minutes of a stream equal those of a later fetch: it skips none, and none differs."""
    async with _stream(bench) as stream:
        try:
            async with asyncio.timeout(_STREAM_TIMEOUT_S):
                streamed = await _final_minutes(bench, stream)
        except TimeoutError:
            raise RuleViolation(f"The stream did not come past a minute within {_STREAM_TIMEOUT_S:g} s.") from None
    first, last = min(streamed), max(streamed)
    settle_ms = bench.provider.capabilities.settle_ms
    if bench.subject.advance:
        bench.subject.advance(settle_ms)
    else:
        await asyncio.sleep(settle_ms / 1000)
    page = await bench.page(MINUTE, Span(first, last))
    final = {candle.timestamp: candle for candle in page.candles}
    skipped = sorted(final.keys() - streamed.keys())
    require(not skipped, f"The stream passed over the minutes {skipped}, which a fetch has.")
    for minute, seen in streamed.items():
        whole = final.get(minute)
        if whole is None:
            require(
                not page.complete_from <= minute < page.complete_to,
                f"The stream had {seen}, a fetch has nothing there.",
            )
        else:
            grown = seen.open == whole.open and seen.high <= whole.high and seen.low >= whole.low
            require(grown, f"The stream had {seen}, of which no {whole} can have come, as the fetch says.")


async def _final_minutes(bench: Harness, stream: AsyncIterator[Candles]) -> dict[int, Candle]:
    """The stream's last candle of each minute, from the first one until a later one came."""
    streamed: dict[int, Candle] = {}
    steps = 2 if bench.subject.advance else 1  # a jump of two minutes shows whether the stream includes the one between
    async for candles in stream:
        problems = candles.problems(MINUTE, Span(0, clock.now_ms() + MINUTE_MS))
        require(not problems, f"The stream yields rows that are no 1m candles of by now: {problems}.")
        began = bool(streamed)
        streamed |= {candle.timestamp: candle for candle in candles}
        if streamed and max(streamed) - min(streamed) >= steps * MINUTE_MS:
            return streamed
        if streamed and not began and bench.subject.advance:
            bench.subject.advance(steps * MINUTE_MS)
    raise RuleViolation("The stream ended by itself before a minute had passed.")


@rule("docs/providers.md, Streaming")
async def closing_a_stream_leaves_nothing(bench: Harness) -> None:
    """A stream that is cancelled while it waits, or closed, ends at once and leaves no task behind."""
    before = asyncio.all_tasks()
    async with _stream(bench) as stream:

        async def listen() -> None:
            async for _ in stream:
                pass

        listener = asyncio.ensure_future(listen())
        await asyncio.wait({listener}, timeout=0.1)
        if listener.done():
            raise RuleViolation(f"The stream ended at once: {listener.exception()!r}.")
        listener.cancel()
        done, _ = await asyncio.wait({listener}, timeout=bench.leave_s)
        require(done and listener.cancelled(), "A stream that is cancelled goes on.")
    left = await bench.leaked_tasks(before)
    require(not left, f"Still there after the stream was closed: {left}.")
