"""What a provider's page is worth: which rows are candles, which spans they cover, and where to go on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.provider import Capabilities, Page
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone


@dataclass(frozen=True, slots=True)
class FetchCall:
    """One upstream call for a series.

    ``final_until`` is by the provider's clock before the call: what settles during it was not final yet.
    """

    timeframe: Timeframe
    days: Zone  # whose days the timeframe counts
    span: Span
    final_until: int


@dataclass(frozen=True, slots=True)
class BadRows:
    """The rows of a page that are no candles, and their buckets: these are neither stored nor covered."""

    spans: Spans
    count: int = 0
    first: tuple[int, str] | None = None  # the timestamp of the first of them, and its problem


@dataclass(frozen=True, slots=True)
class PageVerdict:
    """What one page is worth."""

    kept: Candles  # final ones, to be stored
    covered: Spans  # for which they are complete
    forming: Candles
    ahead: Span | None  # for which ``forming`` is complete; None if the page does not cover it
    bad: BadRows
    unproven: Spans  # final by now, and the page does not say what there is
    reaches_back_to: int  # the page says nothing of what is older
    ended: Spans  # what of it is newer than everything the provider has
    unproved: Spans  # perhaps not over: the provider gives no time, and has sent nothing newer
    resume_at: int  # where the next call begins; the end of the call's span if nothing more can come
    rows: int  # how many rows came for the span
    candles: int  # how many of them are candles
    is_empty_answer: bool  # no row came for a span that the page covers: to be checked again if that may be an outage
    is_silent: bool  # it claims nothing, and has no rows
    is_off_target: bool  # rows came, but for other spans
    unknown_volumes: int  # how many of the candles came without a volume, which is 0 then


def traits_for(record: InstrumentRecord, capabilities: Capabilities) -> Capabilities:
    """The capabilities of a provider for one symbol: it may know the volumes of others only."""
    return replace(capabilities, has_volume=capabilities.has_volume and record.has_volume)


def judge_page(page: Page, call: FetchCall, traits: Capabilities) -> PageVerdict:
    """Judge a page by the call it answers and by what its provider is like."""
    asked, final_until = call.span, call.final_until
    if page.proved_until is not None:
        final_until = min(final_until, call.timeframe.floor(page.proved_until, call.days))
    within = page.candles.sorted().between(asked)
    known, unknown = within.with_known_volumes()
    candles, bad = _split_bad_rows(known, call)
    odd = np.isin(candles.timestamp, known.timestamp[unknown])
    if traits.has_volume:  # a row of an unknown volume is no filler: there may have been a trade
        kept = ~candles.fillers() | odd
        candles, odd = candles[kept], odd[kept]
    covered = Spans([Span(page.complete_from, min(page.complete_to, final_until)) & asked]) - bad.spans
    nothing = page.complete_to <= asked.since
    ended = not len(within) and page.complete_to < asked.since
    # A page speaks of so many buckets at most: what lies behind them is not fetched yet.
    page_ends = asked.until if ended else call.timeframe.shift(asked.since, traits.max_rows_per_call, call.days)
    behind = min(asked.until, max(page_ends, page.complete_from))
    # Past the last final candle comes the forming one, which only a full page cuts off; late settled ones may lie between.
    cut = traits.final_after_ms > 0 and page.complete_to == final_until and final_until in _ends(within, call)
    whole = page.complete_to >= final_until and len(page.candles) < traits.max_rows_per_call and not cut
    resume_at = behind if nothing else asked.until if whole else page.complete_to
    return PageVerdict(
        kept=concat([candles.between(span) for span in covered]),
        covered=covered,
        forming=candles[candles.timestamp >= final_until],
        ahead=_ahead(asked, final_until) if not nothing and resume_at >= asked.until else None,
        bad=bad,
        unproven=Spans([Span(asked.since, min(behind if nothing else page.complete_from, asked.until, final_until))]),
        reaches_back_to=page.complete_from,
        ended=Spans([Span(page.complete_to, asked.until)] if ended else []),
        unproved=Spans([Span(max(asked.since, final_until), min(asked.until, call.final_until))]),
        resume_at=resume_at,
        rows=len(within),
        candles=len(candles),
        is_empty_answer=not len(within) and bool(covered),
        is_silent=nothing and not ended and not len(page.candles),
        is_off_target=not len(within) and bool(len(page.candles)),
        unknown_volumes=int(np.count_nonzero(odd)) if traits.has_volume else 0,
    )


def _ahead(asked: Span, final_until: int) -> Span | None:
    return Span(max(asked.since, final_until), asked.until) if asked.until > final_until else None


def _ends(candles: Candles, call: FetchCall) -> set[int]:
    """Where the last candle ends."""
    return {call.timeframe.next(stamp, call.days) for stamp in candles.timestamp[-1:].tolist()}


def _split_bad_rows(candles: Candles, call: FetchCall) -> tuple[Candles, BadRows]:
    """The rows that are candles, and those that are not."""
    problems = candles.problems(call.timeframe, call.span, call.days)
    if not problems:
        return candles, BadRows(Spans())
    first = min(problems)
    is_bad = np.isin(np.arange(len(candles)), list(problems))
    buckets = Spans(
        Span(call.timeframe.floor(stamp, call.days), call.timeframe.next(stamp, call.days))
        for stamp in candles.timestamp[is_bad].tolist()
    )
    return candles[~is_bad], BadRows(buckets, len(problems), (int(candles.timestamp[first]), problems[first]))
