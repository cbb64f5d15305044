"""What older versions vouched for without a request for it is named as a fault."""

from __future__ import annotations

import pytest

from candlegraph import clock
from candlegraph.errors import ConfigurationError
from candlegraph.provider import TaintKind
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from providers.ccxt.capabilities import UNDECLARED_LIMIT
from providers.ccxt.exchange import Exchange, make_exchange
from providers.ccxt.exchanges_page import OPTIONS, SYMBOLS, sent_for
from providers.ccxt.provider import Ccxt
from providers.ccxt.settings import known_exchanges

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

T = 1_704_067_200_000
TIMEFRAMES = tuple(map(Timeframe.parse, ("1m", "1h", "1d")))


async def asks_for_less(exchange: Exchange, symbol: str) -> bool:
    """Whether the class sends less than the declared number of candles; older versions vouched for these and gave no end."""
    declared = exchange.feature_value(symbol, "fetchOHLCV", "limit")
    limit = declared if isinstance(declared, int) and declared else UNDECLARED_LIMIT
    for timeframe in TIMEFRAMES:
        asked = Span(T, timeframe.shift(T, limit))
        if (sent := await sent_for(exchange, symbol, timeframe, asked, limit, {})) is None or sent.start is None:
            continue
        last = min(asked.until, clock.now_ms()) - 2 * timeframe.nominal_ms  # the end may be inclusive
        if (sent.end is not None and sent.end < last) or (sent.count is not None and sent.count < limit):
            return True
    return False


async def test_every_class_that_asks_for_less_than_older_versions_vouched_for_is_tainted() -> None:
    less = set()
    for exchange_id in sorted(known_exchanges()):
        try:
            exchange = make_exchange(exchange_id, OPTIONS)
        except ConfigurationError:
            continue
        try:
            kinds = [symbol for symbol in SYMBOLS if exchange.has.get("swap" if ":" in symbol else "spot")]
            if any([await asks_for_less(exchange, symbol) for symbol in kinds]):
                less.add(exchange_id)
        finally:
            await exchange.close()
    assert {"mexc", "bullish", "btcmarkets", "bitbank"} <= less
    untainted = [each for each in less if TaintKind.COVERAGE not in {taint.kind for taint in Ccxt(each).taints}]
    assert not untainted
