"""A request to fetch part of a series, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.errors import ProviderError
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Urgency
from storage.leases import LeaseToken

MAX_CALLS_PER_FETCH = 12  # the most upstream calls of a query; the next page fetches the rest


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A request for the gaps of ``span``, or with ``refetch`` for all of it, in at most ``calls`` upstream calls.

    It starts with the oldest gap, or with ``newest`` at the newest. The first call also requests up to ``overlap_ms`` before
    its gap. Each write checks that the ``lease`` is still valid.
    """

    timeframe: Timeframe
    span: Span
    newest: bool = False
    urgency: Urgency = Urgency.QUERY
    calls: int = MAX_CALLS_PER_FETCH
    refetch: bool = False
    overlap_ms: int = 0
    lease: LeaseToken | None = None
    enough: int = 0  # the number of rows that ends the fetch early; 0: no limit


@dataclass(slots=True)
class FetchResult:
    """The result of a request: the rows that are not final yet, the stored spans, the failed ones and why they failed."""

    forming: Candles = field(default_factory=Candles.empty)
    fetched: Spans = field(default_factory=Spans)
    refused: Spans = field(default_factory=Spans)  # the provider's rows there are invalid
    unavailable: Spans = field(default_factory=Spans)  # the provider has proved nothing there
    ended: Spans = field(default_factory=Spans)  # newer than the provider's last candle
    unproved: Spans = field(default_factory=Spans)  # the provider has not proved yet that these minutes have ended
    failure: ProviderError | None = None
    calls: int = 0
    rows: int = 0  # the number of stored candles
    exhausted: bool = False  # the call budget ended before the span did
    satisfied: bool = False  # there were enough rows before the span ended
    reached: int = 0  # the end of the fetched part, if the oldest comes first
    live: bool = False  # the forming rows came from a feed
    first_available: int | None = None  # the first candle of the instrument, if this fetch found it
