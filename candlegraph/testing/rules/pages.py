"""What a page holds, and what it vouches for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import ProviderError, UnknownSymbol, Unsupported
from candlegraph.provider import Page, SupportsServerTime
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleNotApplicable, RuleViolation, require
from candlegraph.testing.rule import rule
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Int64s

_ALL_TIME = Span(-(2**53), 2**53)
_UNCOMMON_TIMEFRAMES = tuple(map(Timeframe.parse, ("7m", "11h", "13d", "5mon")))  # no provider has these natively


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
    differ = _differences(found, seen)
    require(not len(differ), f"{what}, and another answer has other numbers there, the first at {differ[:1].tolist()}.")


def _differences(found: Candles, seen: Candles) -> Int64s:
    """The timestamps at which two batches have candles whose numbers are not the same."""
    stamps, ours, theirs = np.intersect1d(found.timestamp, seen.timestamp, assume_unique=True, return_indices=True)
    same = [np.equal(a[ours], b[theirs]) for a, b in zip(found.columns[1:6], seen.columns[1:6], strict=True)]
    return np.asarray(stamps[~np.logical_and.reduce(same)])


@rule("docs/providers.md, What a page vouches for", a_complete_span_lacks_no_candle)
async def paging_reaches_the_end(bench: Harness) -> None:
    """Paging from `complete_to` to `complete_to` reaches the end of settled history and loses no candle."""
    for timeframe in await bench.known_candles():
        if span := await bench.sample_span(timeframe):
            rows = await _page_through(bench, timeframe, span)
            lost = np.setdiff1d(bench.observed_rows(timeframe, span).timestamp, rows.timestamp)
            require(
                not len(lost),
                f"Page after page, {len(lost)} {timeframe} candles of {span} are lost: {lost[:3].tolist()}.",
            )


async def _page_through(bench: Harness, timeframe: Timeframe, span: Span) -> Candles:
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
        same = np.array_equal(expected.timestamp, rows.timestamp) and not len(_differences(expected, rows))
        require(same, f"Asked together with others, {timeframe} candles of {span} are not those it answers alone.")


@rule("docs/providers.md, What a page holds", rows_are_candles, paging_reaches_the_end)
async def the_candles_match_the_truth(bench: Harness) -> None:
    """Where the true candles are known, a provider returns exactly these."""
    truth, span = bench.subject.truth, bench.subject.span
    if truth is None or span is None or MINUTE not in await bench.known_candles():
        raise RuleNotApplicable("the true candles are not known")
    span = Span(MINUTE.ceil(span.since), min(span.until, await bench.settled_before(MINUTE)))
    rows, truth = await _page_through(bench, MINUTE, span), truth.between(span)
    wrong = np.setxor1d(rows.timestamp, truth.timestamp)
    require(not len(wrong), f"{len(wrong)} minutes of {span} are missing, or should be: {wrong[:3].tolist()}.")
    differ = _differences(rows, truth)
    require(not len(differ), f"{len(differ)} minutes have other numbers than the known ones: {differ[:3].tolist()}.")
