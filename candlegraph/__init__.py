"""Candlegraph's nouns, and the interface that provider plugins import."""

from candlegraph.candle import Candle, Candles, concat
from candlegraph.errors import (
    BadUserInput,
    CandlegraphError,
    ConfigurationError,
    InvalidCandles,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Capabilities, Listing, Live, Market, Page, Provider, State, Streaming
from candlegraph.resample import fold
from candlegraph.series import Instrument, Record, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC, Zone, zone

__all__ = [
    "MINUTE",
    "UTC",
    "BadUserInput",
    "Candle",
    "CandlegraphError",
    "Candles",
    "Capabilities",
    "ConfigurationError",
    "Instrument",
    "InvalidCandles",
    "Listing",
    "Live",
    "Market",
    "Page",
    "Provider",
    "ProviderError",
    "ProviderRefused",
    "ProviderUnavailable",
    "RateLimited",
    "Record",
    "Series",
    "Span",
    "Spans",
    "State",
    "Streaming",
    "Timeframe",
    "UnknownSymbol",
    "Unsupported",
    "Zone",
    "concat",
    "fold",
    "zone",
]
