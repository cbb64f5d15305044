"""What a page of an exchange's rows proves, by what the exchange is known to answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.provider import Page
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe

_SMALLEST_CAP = 100  # no exchange of ccxt's cuts an answer of fewer rows
# Rows behind now that can be had at all: kraken's source and ccxt#215; the text of Gate's error; Hyperliquid's docs.
LOOKBACK_ROWS = {"kraken": 720, "gate": 10_000, "gateeu": 10_000, "hyperliquid": 5_000}


class PagingStyle(Enum):
    """What an exchange answers to ``since`` and ``limit``, as ccxt puts them to it (read in ccxt's source)."""

    FORWARD = "the oldest rows from since on, however far away they are"
    WINDOW = "the rows of the window of limit buckets that opens at since"
    NEWEST = "the newest rows it keeps, even where since is older"
    UNKNOWN = "probably a window, perhaps cut at a number of rows we do not know"


_PAGING_STYLES = {
    "binance": PagingStyle.FORWARD,
    "binanceus": PagingStyle.FORWARD,
    "binanceusdm": PagingStyle.FORWARD,
    "coinbase": PagingStyle.WINDOW,
    "gemini": PagingStyle.NEWEST,
    "kraken": PagingStyle.NEWEST,
}


def paging_style_of(exchange_id: str, *, inverse: bool) -> PagingStyle:
    """What an exchange answers of a symbol; of inverse swaps ccxt asks for a window, for it sets their ``endTime``."""
    reach = _PAGING_STYLES.get(exchange_id, PagingStyle.UNKNOWN)
    return PagingStyle.WINDOW if reach is PagingStyle.FORWARD and inverse else reach


def lookback_of(exchange_id: str) -> int | None:
    """How many final candles there are to be had; of the newest rows the last one is forming."""
    rows = LOOKBACK_ROWS.get(exchange_id)
    return rows - 1 if rows and _PAGING_STYLES.get(exchange_id) is PagingStyle.NEWEST else rows


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A question to an exchange."""

    timeframe: Timeframe
    span: Span
    limit: int
    paging_style: PagingStyle
    lookback_rows: int | None = None


def page_of(found: Candles, rows: int, asked: PageRequest) -> Page:
    """Decide what ``rows`` rows prove, folded into the candles ``found``, some perhaps outside the requested span."""
    span, timeframe, reach = asked.span, asked.timeframe, asked.paging_style
    now = clock.now_ms()
    since = complete_from = span.since
    window_ends = timeframe.shift(since, asked.limit)
    if not len(found):
        complete_to = {PagingStyle.FORWARD: span.until, PagingStyle.NEWEST: since}.get(reach, window_ends)
    else:
        first, after_last = int(found.timestamp[0]), timeframe.next(int(found.timestamp[-1]))
        unsure = reach is PagingStyle.UNKNOWN and rows >= _SMALLEST_CAP
        # A row behind the window (its end may be meant inclusively) was not looked for in a window.
        strayed = reach is not PagingStyle.FORWARD and after_last > timeframe.next(window_ends)
        if reach is PagingStyle.NEWEST or unsure or strayed:
            complete_from = max(since, first)
        if reach is PagingStyle.NEWEST:
            complete_to = span.until
        elif rows >= asked.limit or unsure or strayed:
            complete_to = after_last
        else:
            # Not the whole span: should the page have been cut short behind our back, the next one will tell.
            complete_to = max(after_last, window_ends)
    if asked.lookback_rows:
        complete_from = max(complete_from, timeframe.shift(now, -asked.lookback_rows))
    # Nothing is proved of the forming bucket, nor of the future.
    return Page(found.between(span), complete_from, min(complete_to, span.until, timeframe.floor(now)))


def has_rows_list(body: object, depth: int = 4) -> bool:
    """Whether an answer without candles holds the list they would be in: ``{}`` is no answer, ``[]`` is one."""
    if isinstance(body, dict) and depth:
        return any(has_rows_list(value, depth - 1) for key, value in body.items() if "error" not in str(key).lower())
    return isinstance(body, list)
