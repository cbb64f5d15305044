"""Rules for a provider before its first call: its description, its start and close, its symbols."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

from candlegraph import clock
from candlegraph.errors import BadUserInput
from candlegraph.provider import API_VERSION, Capabilities, Listing, LiveMode, Market, Provider, SupportsStreaming
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import require
from candlegraph.testing.rule import rule
from candlegraph.timeframe import Timeframe
from candlegraph.zone import zone

_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@rule("docs/providers.md, What a provider is")
async def it_describes_itself(bench: Harness) -> None:
    """A provider has all attributes of `candlegraph.provider.Provider`, with values that make sense."""
    provider = bench.provider
    require(isinstance(provider, Provider), "It lacks a method or an attribute of candlegraph.provider.Provider.")
    require(
        provider.api_version == API_VERSION,
        f"api_version is {provider.api_version!r}; this Candlegraph speaks {API_VERSION}.",
    )
    require(isinstance(provider.market, Market), "market is no Market.")
    for what, text in (("id", provider.id), ("market.id", provider.market.id)):
        require(_ID.fullmatch(text), f"{what} is {text!r}: it starts with a letter and has a-z, 0-9, - and _.")
    for what in ("name", "description", "version"):
        text = getattr(provider, what)
        require(isinstance(text, str) and text.strip(), f"{what} is {text!r}: it is what people read.")
    try:
        zone(provider.market.timezone)
    except BadUserInput as error:
        require(met=False, detail=f"market.timezone: {error.message}")


@rule("docs/providers.md, What a provider is", it_describes_itself)
async def its_capabilities_make_sense(bench: Harness) -> None:
    """Capabilities are numbers that can be true, and name each native timeframe once."""
    traits = bench.provider.capabilities
    require(isinstance(traits, Capabilities), "capabilities is no Capabilities.")
    frames = traits.timeframes
    require(frames and all(isinstance(each, Timeframe) for each in frames), f"timeframes is {frames!r}.")
    require(len(set(frames)) == len(frames), "A timeframe is named twice.")
    require(traits.max_rows_per_call >= 1, f"max_rows_per_call is {traits.max_rows_per_call}.")
    require(traits.settle_ms >= 0, f"settle_ms is {traits.settle_ms}.")
    require(traits.earliest_ms >= clock.OLDEST_MS, f"earliest_ms is {traits.earliest_ms}; no Timestamp is before 1900.")
    require(traits.deadline_s > 0, f"deadline_s is {traits.deadline_s}.")
    require(traits.call_weight > 0, f"call_weight is {traits.call_weight}.")
    for what in ("max_lookback_ms", "max_lookback_candles"):
        value = getattr(traits, what)
        require(value is None or value > 0, f"{what} is {value}; None says that there is no bound.")
    if budget := traits.budget:
        sane = budget.weight > 0 and budget.per_s > 0 and budget.concurrent >= 1
        require(sane and traits.call_weight <= budget.weight, f"No call can ever be made on {budget}.")
    streams = isinstance(bench.provider, SupportsStreaming)
    require(traits.live is not LiveMode.STREAM or streams, "live is STREAM, and there is no method stream().")


@rule("docs/providers.md, Starting and closing")
async def start_and_close_may_be_repeated(bench: Harness) -> None:
    """`close` works where `start` was never called; a second `start` or `close` does nothing."""
    provider = bench.subject.make()
    await provider.close()
    provider = bench.subject.make()
    try:
        await provider.start()
        await provider.start()
    finally:
        await provider.close()
    await provider.close()


@rule("docs/providers.md, Starting and closing", start_and_close_may_be_repeated)
async def closing_leaves_no_task_behind(bench: Harness) -> None:
    """After `close`, and after a fetch that was cancelled, nothing that a provider started goes on."""
    instrument, known = await bench.instrument(), await bench.known_candles()
    timeframe = next(iter(known))
    span = await bench.sample_span(timeframe)
    before = asyncio.all_tasks()
    provider = bench.subject.make()
    try:
        await provider.start()
        await provider.listings()
        cut = asyncio.ensure_future(provider.fetch(instrument, timeframe, span))
        await provider.fetch(instrument, timeframe, span)
        await bench.cancel_tasks({cut})
    finally:
        await provider.close()
    left = await bench.leaked_tasks(before)
    require(not left, f"Still there after close(): {left}.")


@rule("docs/providers.md, Symbols")
async def symbols_are_listed_once(bench: Harness) -> None:
    """`listings` names every symbol once, the same ones each time, with instants in milliseconds or None."""
    listed = await bench.listings()
    require(listed, "It lists no symbol.")
    names = [listing.symbol for listing in listed]
    twice = [name for name, count in Counter(names).items() if count > 1]
    require(not twice, f"Listed more than once: {', '.join(map(repr, twice[:5]))}.")
    for listing in listed:
        _listing(listing)
    symbol = bench.subject.symbol
    require(symbol is None or symbol in names, f"{symbol!r} has candles and is not listed.")
    again = {listing.symbol for listing in await bench.provider.listings()}
    require(len(again & set(names)) * 2 > len(names), "Asked again, it lists other symbols.")


def _listing(listing: Listing) -> None:
    symbol = listing.symbol
    require(isinstance(listing, Listing), f"{listing!r} is no Listing.")
    require(symbol.strip() == symbol != "" and symbol.isprintable(), f"{symbol!r} cannot be typed.")
    first, ended = listing.first_available, listing.ended_at
    for what, instant in (("first_available", first), ("ended_at", ended)):
        valid = instant is None or (
            clock.OLDEST_MS <= instant <= clock.NEWEST_MS and not clock.looks_like_seconds(instant)
        )
        require(valid, f"{what} of {symbol!r} is {instant}: milliseconds since the epoch are meant.")
    require(first is None or first <= clock.now_ms(), f"{symbol!r} begins in the future, at {first}.")
    require(first is None or ended is None or first <= ended, f"{symbol!r} ended before it began.")
    if listing.calendar is not None:
        spelled = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]{1,31}", listing.calendar)
        require(
            spelled is not None,
            f"calendar of {symbol!r} is {listing.calendar!r}: a name in exchange-calendars such as XNYS is meant.",
        )
    if listing.timezone is not None:
        try:
            zone(listing.timezone)
        except BadUserInput as error:
            require(met=False, detail=f"timezone of {symbol!r}: {error.message}")
