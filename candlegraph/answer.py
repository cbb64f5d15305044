"""A question about a series, and the answer that tells the truth about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from candlegraph.candle import Candles
from candlegraph.series import InstrumentRecord, Series
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Spans
from candlegraph.zone import Zone


class Fill(StrEnum):
    """What stands where no candle exists."""

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
    """Who answered a span."""

    CACHE = "CACHE"
    AGGREGATE = "AGGREGATE"
    STORE = "STORE"
    PROVIDER = "PROVIDER"
    LIVE = "LIVE"


@dataclass(frozen=True, slots=True)
class Gap:
    """A span ``[since, until)`` of which nothing is known, and why."""

    since: int
    until: int
    reason: GapReason
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """Who answered ``[since, until)``; ``fetched_at`` (ms, UTC) where it came from upstream just now."""

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
    """The ledger of a series: what is known to the last candle, what is not and why, and how it came."""

    record: InstrumentRecord
    covered: Spans
    gaps: tuple[Gap, ...]
    rows: int
    fetches: tuple[FetchLogEntry, ...]


@dataclass(frozen=True, slots=True)
class CandleRequest:
    """A question: the oldest ``limit`` candles from ``since``, or without it the newest ones before ``until`` (or now).

    Both are compared with the opening of a bucket, ``since`` inclusive and ``until`` exclusive. ``zone`` None is the
    instrument's own. What ends before ``known_until`` (ms) is final, even by a clock of ours that goes behind.
    """

    series: Series
    limit: int
    since: int | None = None
    until: int | None = None
    fill: Fill = Fill.NONE
    zone: Zone | None = None
    wait: Wait = Wait.COMPLETE
    final_until: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The candles, ascending and unique, and what is known about the range they stand for."""

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
        """Whether every settled bucket of the asked range is covered."""
        return not self.gaps
