"""What is known of an instrument's candles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from candlegraph.provider import Revision
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.rechecks import RECHECK_AFTER_MS, RECHECK_GRID_MS

END_OF_TIME_MS = 10**16  # ms: past every candle


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is known of an instrument: the final spans by timeframe, and how often something final has changed.

    1m candles before ``horizon`` are not kept; the aggregates over them are.
    """

    spans: Mapping[Timeframe, Spans] = field(default_factory=dict)
    revision: int = 0
    rechecks: Mapping[Timeframe, Sequence[tuple[int, Span]]] = field(
        default_factory=dict
    )  # when, and what: see suspects.py

    horizon: int | None = None
    sources: Mapping[Timeframe, Revision] = field(
        default_factory=dict
    )  # what a provider of revisions had when it was asked
    revisions: SeriesRevision = field(default_factory=SeriesRevision)  # how far the logs of changes had come

    def dropped(self, timeframe: Timeframe) -> Spans:
        """Where candles of ``timeframe`` are not taken any more."""
        dropped = timeframe == MINUTE and self.horizon is not None
        return Spans([Span(-END_OF_TIME_MS, self.horizon or 0)] if dropped else [])

    def final(self, timeframe: Timeframe) -> Spans:
        """What there is no use in asking for: it is known, or not taken."""
        return self.spans.get(timeframe, Spans()) | self.dropped(timeframe)

    def due_rechecks(self, now: int) -> dict[Timeframe, Spans]:
        """What was answered with nothing so long before ``now`` that it is to be asked for once more."""
        before = now - RECHECK_AFTER_MS - RECHECK_GRID_MS
        due = {tf: Spans(span for at, span in doubts if at <= before) for tf, doubts in self.rechecks.items()}
        return {timeframe: spans for timeframe, spans in due.items() if spans}
