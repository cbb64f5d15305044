"""What is to be fetched of a series, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.errors import ProviderError
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Urgency
from storage.leases import LeaseToken

MAX_CALLS_PER_FETCH = 12  # upstream calls a query may cost; what is left is fetched for the next page


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What to fetch: what is missing of ``span``, or ``again`` all of it, in at most so many ``calls``.

    The oldest first, or the ``newest``. The call that fetches it looks once more at up to ``overlap_ms`` before it. The lease
    that is ``held`` must still be so when something is stored.
    """

    timeframe: Timeframe
    span: Span
    newest: bool = False
    urgency: Urgency = Urgency.QUERY
    calls: int = MAX_CALLS_PER_FETCH
    refetch: bool = False
    overlap_ms: int = 0
    lease: LeaseToken | None = None
    enough: int = 0  # so many rows end the fetch early; 0: none do


@dataclass(slots=True)
class FetchResult:
    """What came of a request: the rows that are not final yet, what was asked and stored, and what went wrong."""

    forming: Candles = field(default_factory=Candles.empty)
    fetched: Spans = field(default_factory=Spans)
    refused: Spans = field(default_factory=Spans)  # the provider has rows there that are no candles
    unavailable: Spans = field(default_factory=Spans)  # the provider has proved nothing there
    ended: Spans = field(default_factory=Spans)  # what of it is newer than everything the provider has
    unproved: Spans = field(default_factory=Spans)  # the provider has not proved yet that they are over
    failure: ProviderError | None = None
    calls: int = 0
    rows: int = 0  # how many candles were stored
    exhausted: bool = False  # the call budget ended before the span did
    satisfied: bool = False  # there were enough rows before the span ended
    reached: int = 0  # where it did: everything before was asked for (of the oldest first)
    live: bool = False  # the forming rows came from a feed
    first_available: int | None = None  # where the instrument begins, if that was found out
