"""The coverage of an instrument's candles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.provider import Revision
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe

END_OF_TIME_MS = 10**16  # ms: past every candle
RECHECK_AFTER_MS = HOUR_MS  # an empty answer is fetched again after this
RECHECK_GRID_MS = 10 * MINUTE_MS  # rechecks within this time share one row


@dataclass(frozen=True, slots=True)
class Coverage:
    """The coverage of an instrument: its covered spans by timeframe, and a revision that counts changes of final candles.

    1m candles before ``horizon`` are dropped; the aggregates over them stay.
    """

    spans: Mapping[Timeframe, Spans] = field(default_factory=dict)
    revision: int = 0
    rechecks: Mapping[Timeframe, Sequence[tuple[int, Span]]] = field(
        default_factory=dict
    )  # (instant of the empty answer, its span): see rechecks.py

    horizon: int | None = None
    sources: Mapping[Timeframe, Revision] = field(
        default_factory=dict
    )  # the provider's revision at the time of the fetch
    retries: Mapping[Timeframe, Sequence[tuple[int, Span]]] = field(
        default_factory=dict
    )  # spans fetched in vain, each with the instant of its next fetch: see rechecks.py
    revisions: SeriesRevision = field(default_factory=SeriesRevision)  # the newest entries of the logs of changes

    def dropped(self, timeframe: Timeframe) -> Spans:
        """The spans whose candles of ``timeframe`` are no longer stored."""
        dropped = timeframe == MINUTE and self.horizon is not None
        return Spans([Span(-END_OF_TIME_MS, self.horizon or 0)] if dropped else [])

    def final(self, timeframe: Timeframe) -> Spans:
        """The spans that need no fetch, because they are covered or dropped."""
        return self.spans.get(timeframe, Spans()) | self.dropped(timeframe)

    def due_rechecks(self, now: int) -> dict[Timeframe, Spans]:
        """The spans of empty answers that are old enough at ``now`` for a recheck."""
        before = now - RECHECK_AFTER_MS - RECHECK_GRID_MS
        due = {tf: Spans(span for at, span in doubts if at <= before) for tf, doubts in self.rechecks.items()}
        return {timeframe: spans for timeframe, spans in due.items() if spans}

    def postponed(self, timeframe: Timeframe, now: int) -> Spans:
        """The spans that were fetched in vain and whose retry is not due at ``now``."""
        later = Spans(span for at, span in self.retries.get(timeframe, ()) if at > now)
        return later - self.spans.get(timeframe, Spans()) if later else later
