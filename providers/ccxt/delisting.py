"""Detects the end of a delisted symbol from empty answers, because no exchange reports it."""

from __future__ import annotations

from candlegraph import clock
from candlegraph.provider import Page
from candlegraph.timeframe import Timeframe
from providers.ccxt.exchange import MarketInfo

_MAX_EMPTY_ANSWERS = 3  # empty answers up to now after which a symbol that is not traded has ended


class EmptyAnswers:
    """Counts the empty answers, up to now, of symbols that are not traded.

    Only a listing marks a symbol as ended; if it trades again, the next listing clears the mark.
    """

    def __init__(self) -> None:
        """Start with no count."""
        self._counts: dict[
            str, tuple[int, int]
        ] = {}  # by symbol: the start of the empty time, and the number of empty answers

    def count(self, market: MarketInfo, timeframe: Timeframe, page: Page) -> None:
        """Count a page, if it is empty up to now."""
        symbol, now = str(market["symbol"]), timeframe.floor(clock.now_ms())
        if market.get("active") is not False or len(page.candles):
            self._counts.pop(symbol, None)
        elif page.complete_from < page.complete_to >= now:
            since, times = self._counts.get(symbol, (page.complete_from, 0))
            self._counts[symbol] = min(since, page.complete_from), times + 1

    def ended_at(self, market: MarketInfo) -> int | None:
        """The instant (ms, UTC) from which a symbol has no candles; None if it may still trade."""
        since, times = self._counts.get(str(market["symbol"]), (0, 0))
        return since if times >= _MAX_EMPTY_ANSWERS and market.get("active") is False else None
