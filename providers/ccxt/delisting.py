"""When a symbol that is not traded any more ended: no exchange says it, its empty answers do."""

from __future__ import annotations

from candlegraph import clock
from candlegraph.provider import Page
from candlegraph.timeframe import Timeframe
from providers.ccxt.exchange import MarketInfo

_MAX_EMPTY_ANSWERS = 3  # empty answers up to now after which a symbol that is not traded has ended


class EmptyAnswers:
    """Counts the empty answers, up to now, of symbols that are not traded.

    Only a listing says that one has ended: should it be traded again, the next listing takes that back.
    """

    def __init__(self) -> None:
        """Nothing is counted."""
        self._counts: dict[str, tuple[int, int]] = {}  # by symbol: from when on it has nothing, and how often so

    def count(self, market: MarketInfo, timeframe: Timeframe, page: Page) -> None:
        """Count a page, if it is empty up to now."""
        symbol, now = str(market["symbol"]), timeframe.floor(clock.now_ms())
        if market.get("active") is not False or len(page.candles):
            self._counts.pop(symbol, None)
        elif page.complete_from < page.complete_to >= now:
            since, times = self._counts.get(symbol, (page.complete_from, 0))
            self._counts[symbol] = min(since, page.complete_from), times + 1

    def ended_at(self, market: MarketInfo) -> int | None:
        """From when on a symbol has nothing, in ms UTC; None where it may still be traded."""
        since, times = self._counts.get(str(market["symbol"]), (0, 0))
        return since if times >= _MAX_EMPTY_ANSWERS and market.get("active") is False else None
