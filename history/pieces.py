"""The next piece of a series to request, and the adjacent candles to include."""

from __future__ import annotations

from dataclasses import dataclass

from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone

QUIET_PAGES = 4  # pages in a row that prove nothing, one page apart; after them the distance doubles each time


@dataclass(frozen=True, slots=True)
class AdjacentSpans:
    """The spans around a piece: the covered ones, and those that earlier fetches left unproved."""

    timeframe: Timeframe
    days: Zone  # the zone of the timeframe's days
    covered: Spans
    postponed: Spans
    page_ms: int

    def with_neighbours(self, piece: Span) -> Span:
        """Extend ``piece`` to the covered bucket on either side, across spans that earlier fetches left unproved.

        Some pages prove only the time between their first and last row; so a page that includes the adjacent rows proves a
        piece without trades. The extension on each side is shorter than one page.
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
    """The distance (ms) from a page that proved nothing to the next one, after ``quiet`` of these pages in a row."""
    return page_ms * int(2 ** max(0, min(quiet - QUIET_PAGES, 30)) - 1)


def split_into_pages(rest: Span, page_ms: int, calls: int) -> list[Span]:
    """Split ``rest`` into pages, at most ``calls`` of them; return it whole if it fits one page."""
    calls = min(calls, -(-(rest.until - rest.since) // page_ms))
    if calls < 2:
        return [rest]
    starts = [rest.since + i * page_ms for i in range(calls)]
    return [Span(start, min(start + page_ms, rest.until)) for start in starts]
