"""The capabilities of a provider over ccxt: first from its traits and ``first_use.toml``, then from ccxt's class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from candlegraph.provider import Capabilities, LiveMode
from candlegraph.timeframe import MINUTE, Timeframe
from providers.ccxt.exchange import Exchange, LiveSource, declared_limit, live_source
from providers.ccxt.first_use import first_use_of
from providers.ccxt.settings import budget_of
from providers.ccxt.traits import ExchangeTraits

UNDECLARED_LIMIT = 500
_TYPICAL = tuple(map(Timeframe.parse, ("1m", "5m", "15m", "30m", "1h", "4h", "1d")))


def first_capabilities(exchange_id: str, traits: ExchangeTraits, margin: int) -> Capabilities:
    """Return the capabilities before ccxt is imported; ``margin`` is the number of rows per call outside the span."""
    known = first_use_of(exchange_id)
    return Capabilities(
        _TYPICAL,
        LiveMode.STREAM if known.live else LiveMode.POLL,
        streams_trades=known.live == LiveSource.TRADES,
        max_rows_per_call=(known.rows or UNDECLARED_LIMIT) - margin,
        max_lookback_candles=traits.lookback,
        lookback_counts_quiet=traits.lookback_counts_quiet,
        settle_ms=traits.settle_ms,
    )


def learned_capabilities(
    before: Capabilities,
    exchange: Exchange,
    native: Mapping[Timeframe, str],
    options: Mapping[str, object],
    margin: int,
) -> Capabilities:
    """Return the capabilities with the declarations of ccxt's class."""
    source = live_source(exchange) if MINUTE in native else None
    return replace(
        before,
        timeframes=tuple(sorted(native, key=lambda timeframe: timeframe.nominal_ms)),
        live=LiveMode.STREAM if source else LiveMode.POLL,
        streams_trades=source is LiveSource.TRADES,
        max_rows_per_call=(declared_limit(exchange) or UNDECLARED_LIMIT) - margin,
        budget=budget_of(exchange, options),
        deadline_s=exchange.timeout / 1000,
    )
