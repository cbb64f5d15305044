"""The spans that a fetch has tried, and the next step after a page that leaves a span open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from candlegraph.provider import Capabilities
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone
from history.fetch_request import FetchRequest, FetchResult
from history.pieces import quiet_step
from history.verdict import FetchCall, PageVerdict

MAX_OUT_OF_REACH = 3  # pages in a row that begin after the requested span: older candles are unavailable
MAX_IN_VAIN = 12  # pages in a row that prove nothing: the fetch stops going back


@dataclass(slots=True)
class PagingState:
    """How the pages of a series have been so far; its next fetch starts with this state."""

    reach: int = 0  # how far back a call is expected to reach, ms
    in_vain: int = 0  # pages in a row that proved nothing
    out_of_reach: int = 0  # of these, the ones that began after the requested span
    narrow: bool = False  # a page of rows proved nothing: the next request is for half a page
    anchored: bool = False  # a page left its beginning open: the next requests include the adjacent rows


@dataclass(slots=True)
class Attempts:
    """The spans that a fetch does not request again, and the counts of pages that decide it."""

    request: FetchRequest
    result: FetchResult
    timeframe: Timeframe
    days: Zone  # the zone of the timeframe's days
    capabilities: Capabilities
    paging: PagingState = field(default_factory=PagingState)
    spans: Spans = field(
        default_factory=Spans
    )  # already requested: the rest of them that is not covered is unavailable
    window_ms: int = 0  # the longest request, after a page with rows proved nothing; 0: no limit
    quiet: int = 0  # pages in a row of this fetch that proved nothing

    def begin(self, paging: PagingState) -> None:
        """Start with the paging state of the series."""
        self.paging = replace(paging)
        self.window_ms = self._page_ms // 2 if paging.narrow else 0

    def settle(self, call: FetchCall, verdict: PageVerdict, wanted: Span, *, progress: bool) -> int:
        """Decide about the part of ``wanted`` that a page leaves open; return the instant at which the next call begins.

        After a page that proves something, the fetch requests its open beginning again as a smaller piece. It gives up the
        span of a page that proves nothing for now; after many of these pages in a row, also everything older.
        """
        reached, open_ = verdict.resume_at, verdict.unproven & Spans([wanted])
        self.result.unavailable -= verdict.covered
        if reached <= wanted.since < call.final_until:  # the page ends with the row next to the wanted span
            reached = max(call.span.since + self._page_ms, self.timeframe.next(wanted.since, self.days))
            open_ = Spans([Span(wanted.since, min(reached, wanted.until, call.final_until))])
        if not open_ or (progress and not self.request.refetch):
            self.paging.anchored |= bool(open_)
            self.quiet = self.paging.in_vain = self.paging.out_of_reach = self.window_ms = 0
            self.paging.narrow = False
            self.spans |= Spans([Span(wanted.since, reached)]) - open_
            return reached
        if verdict.rows and not verdict.covered and not self.window_ms and not self.request.refetch:
            self.window_ms, self.paging.narrow = self._smaller(wanted), True
            return wanted.since
        reached, open_ = self._give_up(call, verdict, Span(wanted.since, reached), open_, wanted.until)
        self.result.unavailable |= open_
        self.spans |= open_ | Spans([Span(wanted.since, reached)])
        return reached

    def learn_reach(self, rows: int, length: int) -> None:
        """Remember how far back one call reaches.

        For a symbol that seldom trades, or has not begun to, a page reaches further back than its number of rows suggests.
        Without this state every query would start with a small page again and never reach the first trade.
        """
        if rows * 4 * self.timeframe.nominal_ms >= length:
            self.paging.reach = self._page_ms
        elif length >= self.paging.reach:
            self.paging.reach *= 4

    @property
    def _page_ms(self) -> int:
        return self.capabilities.max_rows_per_call * self.timeframe.nominal_ms

    def _smaller(self, wanted: Span) -> int:
        """Half of the span that a page could have covered, ms."""
        rows = min(self.capabilities.max_rows_per_call, (wanted.until - wanted.since) // self.timeframe.nominal_ms)
        return max(1, rows // 2) * self.timeframe.nominal_ms

    def _give_up(
        self, call: FetchCall, verdict: PageVerdict, asked: Span, open_: Spans, until: int
    ) -> tuple[int, Spans]:
        """After a page that proves nothing: the instant at which the next call begins, and the spans given up for now."""
        paging, reached = self.paging, asked.until
        self.quiet += 1
        paging.in_vain += 1
        if not verdict.rows:  # a smaller page would prove nothing either
            self.window_ms, paging.narrow = 0, False
        paging.out_of_reach = paging.out_of_reach + 1 if verdict.reaches_back_to >= until else 0
        if verdict.is_silent:
            skipped = Span(reached, min(until, call.final_until, reached + quiet_step(self._page_ms, self.quiet)))
            open_ |= Spans([skipped])
            reached = max(reached, skipped.until)
        beyond = paging.out_of_reach >= MAX_OUT_OF_REACH or paging.in_vain >= MAX_IN_VAIN
        if self.request.newest and beyond:
            open_ |= Spans([Span(min(self.request.span.since, self.capabilities.earliest_ms), asked.since)])
        return reached, open_
