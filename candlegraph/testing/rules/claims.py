"""What a page vouches for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.provider import Page, SupportsServerTime
from candlegraph.span import Span
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleNotApplicable, RuleViolation, require
from candlegraph.testing.rule import rule
from candlegraph.testing.rules.pages import since_is_inclusive, until_is_exclusive
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s

_SMALL_PAGES = (3, 51, 99)  # rows; a provider may take so few for a page that was not cut


@rule("docs/providers.md, What a page vouches for")
async def the_forming_candle_is_never_complete(bench: Harness) -> None:
    """`complete_to` is never later than the opening of the bucket under way."""
    for timeframe in await bench.known_candles():
        days, now = await bench.day_zone(timeframe), clock.now_ms()
        forming, soon = timeframe.floor(now, days), timeframe.shift(now, 3, days)
        before = timeframe.shift(now, -3, days)
        for span in (
            Span(before, soon),
            Span(forming, soon),
            Span(before, now + 1),
            Span(timeframe.next(now, days), soon),
        ):
            page = await bench.page(timeframe, span)
            by_now = timeframe.floor(await _latest_now(bench), days)
            require(
                page.complete_to <= by_now or page.complete_to <= page.complete_from,
                f"Asked for {timeframe} candles of {span} it vouches until {page.complete_to}; the bucket of {by_now} "
                "is still forming.",
            )


async def _latest_now(bench: Harness) -> int:
    """By our clock or the upstream's, whichever is ahead."""
    provider = bench.provider
    theirs = await provider.server_time() if isinstance(provider, SupportsServerTime) else 0
    return max(clock.now_ms(), theirs)


@rule("docs/providers.md, What a page vouches for", since_is_inclusive, until_is_exclusive)
async def a_complete_span_lacks_no_candle(bench: Harness) -> None:
    """Between `complete_from` and `complete_to` no other fetch, over any span, returns another candle."""
    for timeframe in await bench.known_candles():
        span = await bench.sample_span(timeframe)
        if not span:
            continue  # its only candle is the forming one
        page, rows = await bench.settled_page(timeframe, span)
        cuts = _cuts(timeframe, span, rows.timestamp)
        answers = [(span, page, rows), *[(cut, *await bench.settled_page(timeframe, cut)) for cut in cuts]]
        for asked, page, rows in answers:
            _check_complete(bench, timeframe, asked, page, rows)


def _cuts(timeframe: Timeframe, span: Span, stamps: Int64s) -> list[Span]:
    """The span in two, beside a candle's opening and on it; what follows the first page; single buckets at its end."""
    if not len(stamps):
        return [Span(span.since, (span.since + span.until) // 2)]
    middle, last = int(stamps[len(stamps) // 2]), int(stamps[-1])
    steps = [timeframe.shift(last, step) for step in range(-2, 4)]
    pieces = [
        *(Span(span.since, middle + by) for by in (0, 1)),
        *(Span(middle + by, span.until) for by in (-1, 0, 1)),
        Span(last + 1, span.until),
        *(Span(since, until) for since, until in pairwise(steps)),
    ]
    return [piece & span for piece in pieces if piece & span]


def _check_complete(bench: Harness, timeframe: Timeframe, asked: Span, page: Page, rows: Candles) -> None:
    claim = Span(page.complete_from, page.complete_to)
    if not claim:
        return
    what = f"Asked for {timeframe} candles of {asked}, it vouches for {claim}"
    require(claim & asked == claim, f"{what}, which is more than it was asked for.")
    seen, found = bench.observed_rows(timeframe, claim), rows.between(claim)
    missing = np.setdiff1d(seen.timestamp, found.timestamp)
    require(
        not len(missing),
        f"{what}, and another answer has {len(missing)} more there, the first at {missing[:1].tolist()}.",
    )
    differ = differences(found, seen)
    require(not len(differ), f"{what}, and another answer has other numbers there, the first at {differ[:1].tolist()}.")


def differences(found: Candles, seen: Candles) -> Int64s:
    """The timestamps at which two batches have candles whose numbers are not the same."""
    stamps, ours, theirs = np.intersect1d(found.timestamp, seen.timestamp, assume_unique=True, return_indices=True)
    same = [np.equal(a[ours], b[theirs]) for a, b in zip(found.columns[1:6], seen.columns[1:6], strict=True)]
    return np.asarray(stamps[~np.logical_and.reduce(same)])


@rule("docs/providers.md, What a page vouches for", a_complete_span_lacks_no_candle)
async def a_full_page_ends_where_it_was_cut(bench: Harness) -> None:
    """A full page, however small, vouches for nothing beyond the side at which it was cut."""
    for timeframe in await bench.known_candles():
        if not (span := await bench.sample_span(timeframe)):
            continue
        stamps = (await bench.settled_page(timeframe, span))[1].timestamp
        for count in _SMALL_PAGES:
            if count < len(stamps):  # as many rows as fit, beside a row at each end that an inclusive bound adds
                asked = Span(int(stamps[0]), int(stamps[count]))
                _check_complete(bench, timeframe, asked, *await bench.settled_page(timeframe, asked))


@rule("docs/providers.md, What a page vouches for", a_complete_span_lacks_no_candle, a_full_page_ends_where_it_was_cut)
async def paging_reaches_the_end(bench: Harness) -> None:
    """Paging from `complete_to` to `complete_to` reaches the end of settled history and loses no candle."""
    for timeframe in await bench.known_candles():
        if span := await bench.sample_span(timeframe):
            rows = await page_through(bench, timeframe, span)
            lost = np.setdiff1d(bench.observed_rows(timeframe, span).timestamp, rows.timestamp)
            require(
                not len(lost),
                f"Page after page, {len(lost)} {timeframe} candles of {span} are lost: {lost[:3].tolist()}.",
            )


async def page_through(bench: Harness, timeframe: Timeframe, span: Span) -> Candles:
    """Page through a span as the core does."""
    traits = bench.provider.capabilities
    buckets = (span.until - span.since) // timeframe.nominal_ms + 1
    rows, cursor = Candles.empty(), span.since
    for _ in range(10 + 4 * buckets // traits.max_rows_per_call):
        page, found = await bench.settled_page(timeframe, Span(cursor, span.until))
        rows = rows.merge(found)
        require(
            page.complete_to > cursor,
            f"Asked for {timeframe} candles of {Span(cursor, span.until)}, all of them settled, it vouches for nothing "
            f"(until {page.complete_to}): nothing could ever be kept.",
        )
        if (cursor := page.complete_to) >= span.until:
            return rows
    raise RuleViolation(f"Page after page, it does not come to the end of {span}: it is at {cursor}.")


@rule("docs/providers.md, What a page vouches for", a_complete_span_lacks_no_candle, paging_reaches_the_end)
async def quiet_time_is_proved(bench: Harness) -> None:
    """Where no candle lies between two known ones, an answer to that span vouches for all of it."""
    quiet = False
    for timeframe, known in (await bench.known_candles()).items():
        days = await bench.day_zone(timeframe)
        for opens, follows in pairwise(known.timestamp.tolist()):
            asked = Span(timeframe.next(opens, days), follows)
            if asked:
                page, quiet = await bench.page(timeframe, asked), True
                require(
                    page.complete_from <= asked.since and page.complete_to >= asked.until,
                    f"No trade happened in {asked}, but the page vouches only for {page.complete_from} to {page.complete_to}.",
                )
                break
    if not quiet:
        raise RuleNotApplicable("every bucket that is known has a candle")


@rule("docs/providers.md, What a page vouches for", a_complete_span_lacks_no_candle)
async def nothing_beyond_the_lookback_is_complete(bench: Harness) -> None:
    """Where a lookback is declared, a page vouches for nothing that lies behind it."""
    traits, bounded = bench.provider.capabilities, False
    for timeframe in await bench.known_candles():
        if (reach := traits.reach_ms(timeframe)) is not None:
            days = await bench.day_zone(timeframe)
            until = timeframe.floor(clock.now_ms() - reach * 3 // 2, days)
            asked, bounded = Span(timeframe.shift(until, -10, days), until), True
            page = await bench.page(timeframe, asked)
            require(
                page.complete_to <= page.complete_from,
                f"It reaches back {reach} ms, and vouches for {timeframe} candles of {asked}.",
            )
    if not bounded:
        raise RuleNotApplicable("no lookback is declared")
