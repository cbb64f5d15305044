"""Judges a provider's page: which rows are valid candles, which spans they cover, and where the next call begins."""

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

    ``final_until`` is by the provider's clock before the call: a candle that settles during the call is not final yet.
    """

    timeframe: Timeframe
    days: Zone  # the zone of the timeframe's days
    span: Span
    final_until: int


@dataclass(frozen=True, slots=True)
class BadRows:
    """The invalid rows of a page, and their buckets, which are neither stored nor covered."""

    spans: Spans
    count: int = 0
    first: tuple[int, str] | None = None  # the timestamp of the first of them, and its problem


@dataclass(frozen=True, slots=True)
class PageVerdict:
    """The verdict on one page."""

    kept: Candles  # the final candles, to be stored
    covered: Spans  # the spans for which ``kept`` is complete
    forming: Candles
    ahead: Span | None  # the span for which ``forming`` is complete; None if the page does not cover it
    bad: BadRows
    unproven: Spans  # final by now, but the page does not prove what is there
    reaches_back_to: int  # the page proves nothing about older time
    ended: Spans  # newer than everything the provider has
    unproved: Spans  # perhaps not ended: the provider reports no time, and has sent no newer candle
    resume_at: int  # where the next call begins; the end of the call's span if nothing more can come
    rows: int  # the number of rows within the requested span
    candles: int  # the number of valid ones
    is_empty_answer: bool  # the page covers a span and has no row in it: recheck it if that may be an outage
    is_silent: bool  # the page covers nothing and has no rows
    is_off_target: bool  # the page has rows, but none within the requested span
    unknown_volumes: int  # the number of candles without a volume; their volume is stored as 0


def traits_for(record: InstrumentRecord, capabilities: Capabilities) -> Capabilities:
    """The capabilities of a provider for one symbol: some symbols of a provider may have no volume."""
    return replace(capabilities, has_volume=capabilities.has_volume and record.has_volume)


def judge_page(page: Page, call: FetchCall, traits: Capabilities) -> PageVerdict:
    """Judge a page by the call that it answers and the traits of its provider."""
    asked, final_until = call.span, call.final_until
    if page.proved_until is not None:
        final_until = min(final_until, call.timeframe.settled(page.proved_until, call.days))
    within = page.candles.sorted().between(asked)
    complete_to = _complete_to(page, within, call, final_until)
    known, unknown = within.with_known_volumes()
    candles, bad = _split_bad_rows(known, call)
    odd = np.isin(candles.timestamp, known.timestamp[unknown])
    if traits.has_volume:  # a row with an unknown volume is not a filler: there may have been a trade
        kept = ~candles.fillers() | odd
        candles, odd = candles[kept], odd[kept]
    covered = Spans([Span(page.complete_from, min(complete_to, final_until)) & asked]) - bad.spans
    nothing, ended = complete_to <= asked.since, not len(within) and complete_to < asked.since
    # A page answers at most this many buckets; the time after them is not fetched yet.
    page_ends = asked.until if ended else call.timeframe.shift(asked.since, traits.max_rows_per_call, call.days)
    behind = min(asked.until, max(page_ends, page.complete_from))
    # After the last final candle comes the forming one, which only a full page lacks; candles that settle late may be between.
    cut = traits.final_after_ms > 0 and complete_to == final_until and final_until in _ends(within, call)
    whole = complete_to >= final_until and len(page.candles) < traits.max_rows_per_call and not cut
    resume_at = behind if nothing else asked.until if whole else complete_to
    return PageVerdict(
        kept=concat([candles.between(span) for span in covered]),
        covered=covered,
        forming=candles[candles.timestamp >= final_until],
        ahead=_ahead(asked, final_until) if not nothing and resume_at >= asked.until else None,
        bad=bad,
        unproven=Spans([Span(asked.since, min(behind if nothing else page.complete_from, asked.until, final_until))]),
        reaches_back_to=page.complete_from,
        ended=Spans([Span(complete_to, asked.until)] if ended else []),
        unproved=Spans([Span(max(asked.since, final_until), min(asked.until, call.final_until))]),
        resume_at=resume_at,
        rows=len(within),
        candles=len(candles),
        is_empty_answer=not len(within) and bool(covered),
        is_silent=nothing and not ended and not len(page.candles),
        is_off_target=not len(within) and bool(len(page.candles)),
        unknown_volumes=int(np.count_nonzero(odd)) if traits.has_volume else 0,
    )


def _complete_to(page: Page, within: Candles, call: FetchCall, final_until: int) -> int:
    """The end of what a page proves. It shows the present day as forming until midnight, and that is over at its close."""
    claimed, anchor = page.complete_to, call.days.anchor
    if anchor is None or call.timeframe.width_ms or claimed >= final_until or claimed not in within.timestamp:
        return claimed
    ends = call.timeframe.next(claimed, call.days)
    since, until = anchor.trim(ends, final_until)
    return min(ends, final_until) if since >= until and call.timeframe.floor(claimed, call.days) == claimed else claimed


def _ahead(asked: Span, final_until: int) -> Span | None:
    return Span(max(asked.since, final_until), asked.until) if asked.until > final_until else None


def _ends(candles: Candles, call: FetchCall) -> set[int]:
    """The end of the last candle, as a set of one or none."""
    return {call.timeframe.next(stamp, call.days) for stamp in candles.timestamp[-1:].tolist()}


def _split_bad_rows(candles: Candles, call: FetchCall) -> tuple[Candles, BadRows]:
    """The valid rows, and the invalid ones."""
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
