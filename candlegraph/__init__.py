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
from candlegraph.provider import (
    API_VERSION,
    Budget,
    Capabilities,
    Clocked,
    Inspected,
    Listing,
    Live,
    Market,
    Page,
    Probing,
    Provider,
    Revised,
    Revision,
    Streaming,
    Unconfigured,
)
from candlegraph.resample import fold
from candlegraph.series import Instrument, Record, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import State
from candlegraph.zone import UTC, Zone, zone

__all__ = [
    "API_VERSION",
    "MINUTE",
    "UTC",
    "BadUserInput",
    "Budget",
    "Candle",
    "CandlegraphError",
    "Candles",
    "Capabilities",
    "Clocked",
    "ConfigurationError",
    "Inspected",
    "Instrument",
    "InvalidCandles",
    "Listing",
    "Live",
    "Market",
    "Page",
    "Probing",
    "Provider",
    "ProviderError",
    "ProviderRefused",
    "ProviderUnavailable",
    "RateLimited",
    "Record",
    "Revised",
    "Revision",
    "Series",
    "Span",
    "Spans",
    "State",
    "Streaming",
    "Timeframe",
    "Unconfigured",
    "UnknownSymbol",
    "Unsupported",
    "Zone",
    "concat",
    "fold",
    "zone",
]
