"""Which piece of a series to ask for next, and with which candles beside it."""

from __future__ import annotations

from dataclasses import dataclass

from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone

QUIET_PAGES = 4  # so many pages in a row that prove nothing are one page apart; then the steps double


@dataclass(frozen=True, slots=True)
class AdjacentSpans:
    """What is known around a piece: the covered spans, and those that were asked for in vain."""

    timeframe: Timeframe
    days: Zone  # whose days the timeframe counts
    covered: Spans
    postponed: Spans
    page_ms: int

    def with_neighbours(self, piece: Span) -> Span:
        """``piece`` with the covered bucket on either side, and what was asked for in vain between.

        Some pages prove what lies between their first row and their last one, and nothing else: with the rows beside it, a
        quiet piece is proved. Only as far as one page reaches.
        """
        since, until = self._before(piece.since), self._after(piece.until)
        return Span(
            since if piece.since - since < self.page_ms else piece.since,
            until if until - piece.until < self.page_ms else piece.until,
        )

    def _before(self, edge: int) -> int:
        reached = next((span.since for span in self.postponed if span.since < edge <= span.until), edge)
        beside = self.timeframe.shift(reached, -1, self.days)
        return beside if self.covered.covers(Span(beside, reached)) else edge

    def _after(self, edge: int) -> int:
        reached = next((span.until for span in self.postponed if span.since <= edge < span.until), edge)
        beside = self.timeframe.shift(reached, 1, self.days)
        return beside if self.covered.covers(Span(reached, beside)) else edge


def quiet_step(page_ms: int, quiet: int) -> int:
    """How far behind a page that proved nothing the next one begins, after ``quiet`` of them in a row, ms."""
    return page_ms * int(2 ** max(0, min(quiet - QUIET_PAGES, 30)) - 1)


def split_into_pages(rest: Span, page_ms: int, calls: int) -> list[Span]:
    """``rest`` page by page, as far as ``calls`` go; whole where that is one page."""
    calls = min(calls, -(-(rest.until - rest.since) // page_ms))
    if calls < 2:
        return [rest]
    starts = [rest.since + i * page_ms for i in range(calls)]
    return [Span(start, min(start + page_ms, rest.until)) for start in starts]
