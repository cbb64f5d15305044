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
    Inspected,
    Listing,
    LiveMode,
    Market,
    Page,
    Provider,
    Revised,
    Revision,
    SupportsFirstAvailable,
    SupportsServerTime,
    SupportsStreaming,
    UnconfiguredProvider,
)
from candlegraph.resample import fold
from candlegraph.series import Instrument, InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import ProviderState
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
    "ConfigurationError",
    "Inspected",
    "Instrument",
    "InstrumentRecord",
    "InvalidCandles",
    "Listing",
    "LiveMode",
    "Market",
    "Page",
    "Provider",
    "ProviderError",
    "ProviderRefused",
    "ProviderState",
    "ProviderUnavailable",
    "RateLimited",
    "Revised",
    "Revision",
    "Series",
    "Span",
    "Spans",
    "SupportsFirstAvailable",
    "SupportsServerTime",
    "SupportsStreaming",
    "Timeframe",
    "UnconfiguredProvider",
    "UnknownSymbol",
    "Unsupported",
    "Zone",
    "concat",
    "fold",
    "zone",
]
