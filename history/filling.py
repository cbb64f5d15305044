"""Flat candles for buckets without a trade, for ``fill: PREVIOUS``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from candlegraph.answer import CandleRequest
from candlegraph.candle import Candles, concat
from candlegraph.resample import fill_previous
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone


@dataclass(frozen=True, slots=True)
class FlatCandleFiller:
    """Adds flat candles to an answer, at most as many as its limit."""

    request: CandleRequest
    timeframe: Timeframe
    zone: Zone

    def needs_close_before(self, candles: Candles, known: Spans, since: int) -> bool:
        """Whether flat candles open at ``since``, the beginning of a query: their price is the close before it.

        A query that goes back in time reads that close anyway.
        """
        first = next(iter(known), None)
        if self.request.since is None or first is None or first.since != since:
            return False
        inside = candles.between(first)
        return not len(inside) or bool(inside.timestamp[0] != since)

    def fill(self, candles: Candles, known: Spans, close: float | None) -> Candles:
        """Add flat candles at the previous close in the ``known`` buckets without one; ``close`` is the close before them.

        After a gap it adds none until the next candle, because the previous close is unknown there.
        """
        filled = [candles]
        for span in known:
            inside = candles.between(span)
            if close is None:
                span = Span(int(inside.timestamp[0]) if len(inside) else span.until, span.until)  # noqa: PLW2901
            filled.append(fill_previous(inside, self._openings(span), close))
            close = None
        return concat(filled).sorted()

    def _openings(self, span: Span) -> Int64s:
        """The openings in ``span``, at most the limit of the answer: a span may have fifty years of minutes."""
        if self.request.since is not None:
            span &= Span(span.since, self.timeframe.shift(span.since, self.request.limit + 2, self.zone))
        else:
            span &= Span(self.timeframe.shift(span.until, -self.request.limit - 2, self.zone), span.until)
        opens = self.timeframe.edges(span.since, span.until, self.zone)
        if self.zone.hours is None or not len(opens):
            return opens
        # A bucket without any trading, such as a Sunday, does not exist.
        ends = np.append(opens[1:], self.timeframe.next(int(opens[-1]), self.zone))
        return opens[self.zone.hours.overlaps(opens, ends)]
