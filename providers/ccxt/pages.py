"""Decides for which span a page of an exchange is complete, from its request and from earlier answers."""

from __future__ import annotations

from dataclasses import dataclass

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.provider import Page
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from providers.ccxt.observations import Observations, SeriesKey
from providers.ccxt.sent import SentWindow
from providers.ccxt.traits import Answers, ExchangeTraits


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for candles, and the window that ccxt sent for it."""

    timeframe: Timeframe
    span: Span
    sent: SentWindow
    traits: ExchangeTraits
    key: SeriesKey


def page_of(found: Candles, rows: int, asked: PageRequest, seen: Observations) -> Page:
    """The page of an answer: its ``rows`` rows, folded into the candles ``found``, and the span that they prove."""
    now, span = clock.now_ms(), asked.span
    if asked.traits.answers is Answers.NEWEST:
        claim = Span(int(found.timestamp[0]), span.until) if len(found) else Span(span.since, span.since)
    elif len(found):
        claim = _claim(found, rows, asked, seen)
    else:
        claim = _empty_claim(asked, seen)
    complete_from = max(span.since, claim.since)
    if asked.traits.lookback:
        edge = asked.timeframe.shift(now, -asked.traits.lookback)
        if not asked.traits.lookback_counts_quiet and len(
            found
        ):  # the lookback counts rows, which may reach further back
            edge = min(edge, int(found.timestamp[0]))
        complete_from = max(complete_from, edge)
    seen.learn(asked.key, found, rows, asked.sent)
    # Rows prove nothing about the forming bucket or the future.
    return Page(found.between(span), complete_from, min(claim.until, span.until, asked.timeframe.floor(now)))


def _claim(found: Candles, rows: int, asked: PageRequest, seen: Observations) -> Span:
    """The span that the rows prove."""
    timeframe, sent, from_start = asked.timeframe, asked.sent, asked.traits.answers is Answers.FROM_START
    first, after_last = int(found.timestamp[0]), timeframe.next(int(found.timestamp[-1]))
    opens, ends = _start(asked), _end(asked)
    if ends is not None and after_last > timeframe.next(ends):
        ends = None  # a row after the bucket of an inclusive end: the exchange ignored the end
    cut = seen.is_cut(asked.key, rows, sent.count)
    since, until = first, after_last
    if opens is None:
        if ends is not None:  # the newest rows before an end; a short page has the oldest ones
            since, until = first if cut else min(first, asked.span.since), max(after_last, ends)
    elif ends is not None and not cut:
        since, until = min(first, opens), max(after_last, ends)
    elif from_start:
        since = min(first, opens)
        if not cut and sent.count:
            # Not the whole span: if the exchange cut the page silently, the next page shows it.
            until = max(after_last, timeframe.shift(opens, sent.count))
    elif ends is None:
        if (not cut or seen.is_oldest_first(asked.key, found, sent)) and seen.reaches(asked.key, opens):
            since = min(first, opens)
        if not cut:
            until = max(after_last, _looked_until(asked, opens, seen))
    return Span(since, until)


def _looked_until(asked: PageRequest, opens: int, seen: Observations) -> int:
    """The end of the search of an exchange without an end: the requested number of buckets, at most as many as seen before.

    The count begins at the start in the request, inclusive or not.
    """
    window, start = seen.window(asked.key), asked.sent.start
    return asked.timeframe.shift(opens if start is None else start, min(asked.sent.count or window, window))


def _empty_claim(asked: PageRequest, seen: Observations) -> Span:
    """The span that an answer without rows proves."""
    span, opens, ends = asked.span, _start(asked), _end(asked)
    nothing = Span(span.since, span.since)
    if ends is not None:
        return Span(span.since if opens is None else opens, ends)
    if opens is None:
        return nothing
    if asked.traits.answers is Answers.FROM_START:
        return Span(opens, span.until)
    return Span(opens, _looked_until(asked, opens, seen))


def _start(asked: PageRequest) -> int | None:
    """The first opening that the start in the request allows; the start may be exclusive."""
    sent, timeframe = asked.sent.start, asked.timeframe
    if sent is None:
        return None
    opens = timeframe.ceil(sent)
    return timeframe.next(opens) if opens == sent and asked.traits.answers is Answers.UNKNOWN else opens


def _end(asked: PageRequest) -> int | None:
    """The end of the buckets that the end in the request allows; at the opening of a bucket it is exclusive."""
    return None if asked.sent.end is None else asked.timeframe.ceil(asked.sent.end)


def has_rows_list(body: object, depth: int = 4) -> bool:
    """Whether an answer without candles has an empty list of them: ``{}`` is no answer, ``[]`` is one."""
    if isinstance(body, dict) and depth:
        return any(has_rows_list(value, depth - 1) for key, value in body.items() if "error" not in str(key).lower())
    return isinstance(body, list)
