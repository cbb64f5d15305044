"""What a fetch has asked for, and what to do about the spans that a page leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field

from candlegraph.provider import Capabilities
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone
from history.fetch_request import FetchRequest, FetchResult
from history.pieces import quiet_step
from history.verdict import FetchCall, PageVerdict

MAX_OUT_OF_REACH = 3  # pages in a row that begin after what was asked for: what is older cannot be had
MAX_IN_VAIN = 12  # pages in a row that prove nothing: nothing older is asked for


@dataclass(slots=True)
class PagingState:
    """What the pages of a series were like so far: the next fetch of it begins with that."""

    reach: int = 0  # how far back one call asked last time, ms
    in_vain: int = 0  # pages in a row that proved nothing
    out_of_reach: int = 0  # of these, those that began after what was asked for
    anchored: bool = False  # a page left its beginning open: the next ones are asked for with the rows beside them


@dataclass(slots=True)
class Attempts:
    """The spans that a fetch need not ask for again, and the pages that led to that."""

    request: FetchRequest
    result: FetchResult
    timeframe: Timeframe
    days: Zone  # whose days the timeframe counts
    capabilities: Capabilities
    paging: PagingState = field(default_factory=PagingState)
    spans: Spans = field(default_factory=Spans)  # asked for: what is not known by now cannot be had
    window_ms: int = 0  # ask for no more at once, after a page of rows proved nothing; 0: for as much as there is
    quiet: int = 0  # pages in a row of this fetch that proved nothing

    def settle(self, call: FetchCall, verdict: PageVerdict, wanted: Span, *, progress: bool) -> int:
        """Decide about what a page leaves open of ``wanted``; the instant to go on from.

        The beginning of a page that proves something is asked for again, as a smaller piece. What a page in vain was asked
        for is given up for now, and so is everything older after many pages in vain.
        """
        reached, open_ = verdict.resume_at, verdict.unproven & Spans([wanted])
        self.result.unavailable -= verdict.covered
        if reached <= wanted.since < call.final_until:  # the page ends with the row beside what was wanted
            reached = max(call.span.since + self._page_ms, self.timeframe.next(wanted.since, self.days))
            open_ = Spans([Span(wanted.since, min(reached, wanted.until, call.final_until))])
        if not open_ or (progress and not self.request.refetch):
            self.paging.anchored |= bool(open_)
            self.quiet = self.paging.in_vain = self.paging.out_of_reach = self.window_ms = 0
            self.spans |= Spans([Span(wanted.since, reached)]) - open_
            return reached
        if verdict.rows and not verdict.covered and not self.window_ms and not self.request.refetch:
            self.window_ms = self._smaller(wanted)
            return wanted.since
        reached, open_ = self._give_up(call, verdict, Span(wanted.since, reached), open_, wanted.until)
        self.result.unavailable |= open_
        self.spans |= open_ | Spans([Span(wanted.since, reached)])
        return reached

    def learn_reach(self, rows: int, length: int) -> None:
        """Remember how far one call reaches.

        A page of a symbol that seldom trades, or did not yet, reaches further back than its number of rows says. Otherwise
        every query would feel its way anew, and never arrive at the first trade.
        """
        if rows * 4 * self.timeframe.nominal_ms >= length:
            self.paging.reach = self._page_ms
        elif length >= self.paging.reach:
            self.paging.reach *= 4

    @property
    def _page_ms(self) -> int:
        return self.capabilities.max_rows_per_call * self.timeframe.nominal_ms

    def _smaller(self, wanted: Span) -> int:
        """Half of what a page could have brought, ms."""
        rows = min(self.capabilities.max_rows_per_call, (wanted.until - wanted.since) // self.timeframe.nominal_ms)
        return max(1, rows // 2) * self.timeframe.nominal_ms

    def _give_up(
        self, call: FetchCall, verdict: PageVerdict, asked: Span, open_: Spans, until: int
    ) -> tuple[int, Spans]:
        """Where to go on after a page in vain, and what is given up for now."""
        paging, reached = self.paging, asked.until
        self.quiet += 1
        paging.in_vain += 1
        paging.out_of_reach = paging.out_of_reach + 1 if verdict.reaches_back_to >= until else 0
        if verdict.is_silent:
            skipped = Span(reached, min(until, call.final_until, reached + quiet_step(self._page_ms, self.quiet)))
            open_ |= Spans([skipped])
            reached = max(reached, skipped.until)
        beyond = paging.out_of_reach >= MAX_OUT_OF_REACH or paging.in_vain >= MAX_IN_VAIN
        if self.request.newest and beyond:
            open_ |= Spans([Span(min(self.request.span.since, self.capabilities.earliest_ms), asked.since)])
        return reached, open_
