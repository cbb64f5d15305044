"""The units of batched reads and writes of the store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from candlegraph.candle import Candles
from candlegraph.errors import ProviderUnavailable
from candlegraph.provider import Revision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.coverage import END_OF_TIME_MS
from storage.relations import BASE_RELATION


@dataclass(frozen=True, slots=True)
class CandleRead:
    """At most ``limit`` stored candles of a series within ``span``: the oldest of them, or the newest.

    ``relation`` is the base, or the aggregate of ``timeframe``.
    """

    instrument_id: int
    timeframe: Timeframe
    span: Span
    limit: int
    newest: bool = False
    relation: str = BASE_RELATION

    @property
    def max_rows(self) -> int:
        """The most rows that the read may return."""
        return min(self.limit, -(-(self.span.until - self.span.since) // self.timeframe.nominal_ms))


@dataclass(frozen=True, slots=True)
class CandleWrite:
    """Final candles of a series; ``covered`` are the spans for which they are complete; ``source``: ``a`` API, ``i`` import.

    With ``replaces``, the write withdraws stored candles of the covered spans that are not among its own. It withdraws those
    of ``revoked`` too, whose coverage ends unless the write covers it again. ``revision`` is the provider's: a write is
    Superseded if the stored candles have another lineage, unless it revokes these.
    """

    instrument_id: int
    timeframe: Timeframe
    candles: Candles
    covered: Spans
    source: str = "a"
    replaces: bool = False
    revoked: Spans = field(default_factory=Spans)
    revision: Revision | None = None

    def dropping_before(self, horizon: int | None) -> CandleWrite:
        """A copy without the 1m candles before ``horizon``, if there is one."""
        if horizon is None or self.timeframe != MINUTE:
            return self
        kept = Span(horizon, END_OF_TIME_MS)
        inside = Spans([kept])
        candles = self.candles.between(kept)
        return replace(self, candles=candles, covered=self.covered & inside, revoked=self.revoked & inside)

    @property
    def rewritten(self) -> Spans:
        """The spans of which the write withdraws stored candles that are not among its own."""
        return self.revoked | self.covered if self.replaces else self.revoked


class Superseded(ProviderUnavailable):
    """The provider's data were replaced while they were read."""


@dataclass(frozen=True, slots=True)
class FetchLogRow:
    """An upstream call, as a row of the fetch log."""

    instrument_id: int
    timeframe: Timeframe
    asked: Span
    rows: int
    outcome: str
    milliseconds: int
