"""Spans without candles, unknown symbols, calls at the same time, and the true candles."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import ProviderError, UnknownSymbol, Unsupported
from candlegraph.provider import Page
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleNotApplicable, RuleViolation, require
from candlegraph.testing.rule import rule
from candlegraph.testing.rules.claims import (
    a_complete_span_lacks_no_candle,
    differences,
    page_through,
    paging_reaches_the_end,
)
from candlegraph.testing.rules.pages import rows_are_candles
from candlegraph.timeframe import MINUTE, Timeframe

_UNCOMMON_TIMEFRAMES = tuple(map(Timeframe.parse, ("7m", "11h", "13d", "5mon")))  # no provider has these natively


@rule("docs/providers.md, What a page holds", a_complete_span_lacks_no_candle)
async def an_empty_range_is_no_error(bench: Harness) -> None:
    """Before the listing, in the future and in an empty span there are no candles, and that is an answer."""
    known, now = await bench.known_candles(), clock.now_ms()
    for timeframe in known:
        days = await bench.day_zone(timeframe)
        opens, future = int(known[timeframe].timestamp[0]), timeframe.shift(now, 2, days)
        spans = [Span(opens, opens), Span(future, timeframe.shift(future, 5, days))]
        if opens > clock.DAY_MS * 365 * 20:
            spans.append(Span(0, timeframe.shift(0, 10, days)))
        for span in spans:
            page = await bench.page(timeframe, span)
            require(not len(page.candles), f"{span} has {len(page.candles)} {timeframe} candles.")
            require(span or page.complete_to <= page.complete_from, f"It vouches for the empty span {span}.")


@rule("docs/providers.md, Errors")
async def an_unknown_symbol_is_reported(bench: Harness) -> None:
    """A symbol that the upstream does not have is UnknownSymbol."""
    timeframe, known = next(iter((await bench.known_candles()).items()))
    market, span = bench.provider.market.id, Span(int(known.timestamp[0]), int(known.timestamp[-1]) + 1)
    unknown = Instrument(market, bench.provider.id, "NO-SUCH/SYMBOL")
    await _refused(bench, UnknownSymbol, unknown, timeframe, span)


@rule("docs/providers.md, Errors")
async def an_unsupported_timeframe_is_reported(bench: Harness) -> None:
    """A timeframe that is not among the native ones is Unsupported."""
    known, instrument = next(iter((await bench.known_candles()).values())), await bench.instrument()
    span = Span(int(known.timestamp[0]), int(known.timestamp[-1]) + 1)
    for timeframe in _UNCOMMON_TIMEFRAMES:
        if timeframe not in bench.provider.capabilities.timeframes:
            await _refused(bench, Unsupported, instrument, timeframe, span)


async def _refused(
    bench: Harness, kind: type[ProviderError], instrument: Instrument, timeframe: Timeframe, span: Span
) -> None:
    asked = f"Asked for {timeframe} candles of {instrument.symbol!r}"
    try:
        page = await bench.provider.fetch(instrument, timeframe, span)
    except kind:
        return
    except Exception as error:
        raise RuleViolation(f"{asked}, it raises {type(error).__name__} instead of {kind.__name__}: {error}") from error
    raise RuleViolation(f"{asked}, it answers with {len(page.candles)} candles instead of raising {kind.__name__}.")


@rule("docs/providers.md, What a provider is", a_complete_span_lacks_no_candle)
async def concurrent_fetches_do_not_mix(bench: Harness) -> None:
    """Several fetches at the same time get the answers that each would get alone."""
    questions: list[tuple[Timeframe, Span]] = []
    for timeframe in await bench.known_candles():
        if span := await bench.sample_span(timeframe):
            middle = (span.since + span.until) // 2
            questions += [
                (timeframe, span),
                (timeframe, Span(span.since, middle)),
                (timeframe, Span(middle, span.until)),
            ]
    questions = questions[:8]
    alone = [await bench.settled_page(*question) for question in questions]
    together: Sequence[tuple[Page, Candles]] = await asyncio.gather(*(bench.settled_page(*each) for each in questions))
    for (timeframe, span), (_, expected), (_, rows) in zip(questions, alone, together, strict=True):
        same = np.array_equal(expected.timestamp, rows.timestamp) and not len(differences(expected, rows))
        require(same, f"Asked together with others, {timeframe} candles of {span} are not those it answers alone.")


@rule("docs/providers.md, What a page holds", rows_are_candles, paging_reaches_the_end)
async def the_candles_match_the_truth(bench: Harness) -> None:
    """Where the true candles are known, a provider returns exactly these."""
    truth, span = bench.subject.truth, bench.subject.span
    if truth is None or span is None or MINUTE not in await bench.known_candles():
        raise RuleNotApplicable("the true candles are not known")
    span = Span(MINUTE.ceil(span.since), min(span.until, await bench.settled_before(MINUTE)))
    rows, truth = await page_through(bench, MINUTE, span), truth.between(span)
    wrong = np.setxor1d(rows.timestamp, truth.timestamp)
    require(not len(wrong), f"{len(wrong)} minutes of {span} are missing, or should be: {wrong[:3].tolist()}.")
    differ = differences(rows, truth)
    require(not len(differ), f"{len(differ)} minutes have other numbers than the known ones: {differ[:3].tolist()}.")
