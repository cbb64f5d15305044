"""A request for candles of a series, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from candlegraph.candle import Candles
from candlegraph.series import InstrumentRecord, Series
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Spans
from candlegraph.trading_calendar import SessionFilter
from candlegraph.zone import Zone


class Fill(StrEnum):
    """What replaces a missing candle."""

    NONE = "NONE"
    PREVIOUS = "PREVIOUS"


class Wait(StrEnum):
    """Whether an answer waits for its provider."""

    COMPLETE = "COMPLETE"
    AVAILABLE = "AVAILABLE"


class GapReason(StrEnum):
    """Why a span is not covered."""

    NOT_FETCHED = "NOT_FETCHED"
    PENDING = "PENDING"
    OUTAGE = "OUTAGE"
    UNAVAILABLE = "UNAVAILABLE"
    BEFORE_LISTING = "BEFORE_LISTING"
    AFTER_DELISTING = "AFTER_DELISTING"
    REFUSED = "REFUSED"


class SourceKind(StrEnum):
    """The kind of source of a span."""

    CACHE = "CACHE"
    AGGREGATE = "AGGREGATE"
    STORE = "STORE"
    PROVIDER = "PROVIDER"
    LIVE = "LIVE"


@dataclass(frozen=True, slots=True)
class Gap:
    """A span ``[since, until)`` that is not covered, and why."""

    since: int
    until: int
    reason: GapReason
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """The source of ``[since, until)``; ``fetched_at`` (ms, UTC) if it was fetched for this answer."""

    since: int
    until: int
    source: SourceKind
    fetched_at: int | None = None


@dataclass(frozen=True, slots=True)
class FetchLogEntry:
    """One upstream call for a series, as it was logged; ``at`` in ms, UTC."""

    at: int
    since: int
    until: int
    rows: int
    outcome: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """The coverage of a series up to its last candle: covered spans, gaps with reasons, and fetches."""

    record: InstrumentRecord
    covered: Spans
    gaps: tuple[Gap, ...]
    rows: int
    fetches: tuple[FetchLogEntry, ...]


@dataclass(frozen=True, slots=True)
class CandleRequest:
    """A request: the oldest ``limit`` candles from ``since``, or without it the newest ones before ``until`` (or now).

    Both are compared with the opening of a bucket, ``since`` inclusive and ``until`` exclusive. ``zone`` None is the
    instrument's own. ``session`` applies to instruments with a calendar. Candles that end before ``final_until`` (ms) are final, even if our clock is behind.
    """

    series: Series
    limit: int
    since: int | None = None
    until: int | None = None
    fill: Fill = Fill.NONE
    zone: Zone | None = None
    wait: Wait = Wait.COMPLETE
    final_until: int = 0
    session: SessionFilter = SessionFilter.ALL


@dataclass(frozen=True, slots=True)
class Answer:
    """The candles, ascending and unique, and the gaps and sources of their range."""

    record: InstrumentRecord
    request: CandleRequest
    zone: Zone
    candles: Candles
    gaps: tuple[Gap, ...]
    sources: tuple[SourceSpan, ...]
    has_more: bool
    next_since: int | None
    next_before: int | None
    revision: SeriesRevision = field(default_factory=SeriesRevision)

    @property
    def complete(self) -> bool:
        """Whether every settled bucket of the requested range is covered."""
        return not self.gaps
