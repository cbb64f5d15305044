"""One fetch of a series: it gets the missing pieces page by page, judges each page and stores it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace

from candlegraph.errors import ProviderError
from candlegraph.provider import Page
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.trading_calendar import series_zone, tradable
from candlegraph.upstream import Upstream, Urgency
from candlegraph.zone import UTC, Zone
from history.attempts import Attempts
from history.closed_time import with_closed_time
from history.coarse_check import EmptyAnswer
from history.fetch_request import FetchRequest, FetchResult
from history.fetch_stores import FetchStores
from history.forming import FormingCandles
from history.page_writer import PageWriter
from history.pieces import AdjacentSpans, split_into_pages
from history.verdict import BadRows, FetchCall, PageVerdict, judge_page, traits_for
from storage.batches import CandleWrite, FetchLogRow, Superseded
from storage.coverage import END_OF_TIME_MS, RECHECK_GRID_MS, Coverage
from storage.rechecks import needs_recheck

log = logging.getLogger(__name__)

DENSE_FRACTION = 0.8  # with a candle in this share of a page's buckets, the spans of the next pages are predictable


@dataclass(slots=True)
class FetchJob:
    """Fetches the missing pieces of one series. `Fetcher` runs it, step by step."""

    stores: FetchStores
    record: InstrumentRecord
    provider: Upstream
    request: FetchRequest
    dense: bool = False  # nearly every bucket of the last page had a candle
    result: FetchResult = field(default_factory=FetchResult)
    attempts: Attempts = field(init=False)
    coverage: Coverage = field(default_factory=Coverage)  # as read before the current piece
    page_writer: PageWriter = field(init=False)

    def __post_init__(self) -> None:
        """Create the parts of the job; no page is fetched yet."""
        self.attempts = Attempts(self.request, self.result, self.timeframe, self.days, self.provider.capabilities)
        self.page_writer = PageWriter(self.stores.store, self.request.lease)

    @property
    def timeframe(self) -> Timeframe:
        """The requested timeframe."""
        return self.request.timeframe

    @property
    def key(self) -> tuple[int, Timeframe]:
        """The series."""
        return self.record.id, self.timeframe

    @property
    def days(self) -> Zone:
        """The zone of the timeframe's days."""
        return UTC if self.timeframe.width_ms else series_zone(self.record, self.timeframe)

    @property
    def _page_ms(self) -> int:
        return self.provider.capabilities.max_rows_per_call * self.timeframe.nominal_ms

    def _final_until(self) -> int:
        """Candles that end here or before are final."""
        return self.timeframe.settled(self.provider.now_ms() - self.provider.capabilities.final_after_ms, self.days)

    async def step(self) -> bool:
        """Fetch one missing piece, the oldest or the newest; False if none is left or the fetch has to stop."""
        if self.result.failure or self.result.exhausted or self.result.satisfied:
            return False
        self.coverage = (await self.stores.coverage_cache.load([self.record.id]))[0]
        missing = self._without_forming(self._missing(self.request.span) - self.attempts.spans)
        if not missing:
            return False
        self.attempts.paging.reach = max(self.attempts.paging.reach, self._page_ms)
        piece = self._next_piece(missing)
        final = piece.since < self._final_until()
        # Under a lease no claim is needed; so a new leader does not wait until the claims of a dead one expire.
        async with self.stores.claims.acquire(self.key, piece, shared=final and not self.request.lease) as ours:
            if ours:
                await self._fetch(piece, final=final)
        return True

    def _next_piece(self, missing: Spans) -> Span:
        """The piece to fetch next."""
        *_, piece = missing if self.request.newest else [next(iter(missing))]
        if not self.request.newest:
            return piece
        calls = max(1, self.request.calls - self.result.calls) if self.dense else 1
        reach = max(self.attempts.paging.reach, calls * self._page_ms)
        return Span(max(piece.since, self.timeframe.floor(piece.until - reach, self.days)), piece.until)

    async def _fetch(self, piece: Span, *, final: bool) -> None:
        """Fetch a piece that this process has claimed."""
        left = Spans([piece])
        if final:  # the previous holder of the claim may have fetched a part of it
            self.coverage = (await self.stores.store.read_coverage([self.record.id]))[0]
            left = self._missing(piece)
            if left != Spans([piece]):
                self.stores.coverage_cache.forget(self.record.id)  # the change feed has not reported it yet
        left, calls, rows = self._without_forming(left), self.result.calls, 0
        for part in left:
            rows += await self._fill(part)
        if left and self.result.calls > calls:
            self.attempts.learn_reach(rows, piece.until - piece.since)
        elif not self.result.exhausted and not self.result.satisfied:
            self.attempts.spans |= Spans([piece])

    async def resolve_rechecks(self) -> None:
        """Close the rechecks of the fetched spans: their second answer is taken as final."""
        asked = self.result.fetched | self.result.unavailable | self.result.refused
        await self.stores.rechecks.resolve(self.record.id, self.timeframe, asked, self.provider.now_ms())
        self.stores.coverage_cache.forget(self.record.id)

    async def note_unproven(self) -> None:
        """Record unproved spans for a later retry, except the newest minutes, which may be late, and revised data."""
        now = self.provider.now_ms()
        recent = Spans([Span(now - self.provider.capabilities.final_after_ms - RECHECK_GRID_MS, END_OF_TIME_MS)])
        failed = self.result.unavailable - self.result.ended - recent
        if failed and not self.request.refetch and not self.provider.capabilities.revised:
            await self.stores.retries.add(self.record.id, self.timeframe, failed, now)
            self.stores.coverage_cache.forget(self.record.id)

    def _missing(self, span: Span) -> Spans:
        """The gaps of ``span``, without the closed time at the ends of each: it is known to be empty."""
        missing = Spans([span]) - self.coverage.dropped(self.timeframe)
        if not self.request.refetch:
            missing -= self.coverage.final(self.timeframe) | self.coverage.postponed(
                self.timeframe, self.provider.now_ms()
            )
        return tradable(self.record, missing, self.timeframe, self.days)

    def _without_forming(self, missing: Spans) -> Spans:
        """``missing`` without the forming spans that were fetched within the last seconds."""
        forming = self.stores.forming.latest(self.key, leads=self.request.lease is not None)
        final_until = self._final_until()
        ahead = Spans(Span(max(span.since, final_until), span.until) for span in missing)
        if not ahead or not forming or not self.stores.forming.serves(forming, ahead):
            return missing
        self.result.forming = forming.candles[forming.candles.timestamp >= final_until]
        self.result.live = forming.live
        return missing - ahead

    async def _fill(self, piece: Span) -> int:
        """Page through ``piece`` to its end, the end of the call budget or a failure; return the number of rows.

        A page is stored while the next ones are fetched; all are stored before this returns and releases the claim.
        """
        try:
            return await self._fill_stored(piece, self._opening_span(piece))
        except Superseded as error:
            self.stores.coverage_cache.forget(self.record.id)
            self.result.failure = error
            return 0

    def _opening_span(self, piece: Span) -> Span:
        """The first span to request for ``piece``: with the overlap of the request, or with the adjacent candles."""
        if piece.since >= self._final_until():
            return piece
        retries = Spans(span for _, span in self.coverage.retries.get(self.timeframe, ()))
        asked = Span(piece.since - self.request.overlap_ms, piece.until)
        if not (self.attempts.paging.anchored or retries) or self.attempts.window_ms or self.request.refetch:
            return asked
        covered = self.coverage.spans.get(self.timeframe, Spans())
        in_vain = (retries | self.result.unavailable) - covered
        around = AdjacentSpans(self.timeframe, self.days, covered, in_vain, self._page_ms)
        beside = around.with_neighbours(piece)
        return Span(min(asked.since, beside.since), beside.until)

    async def _fill_stored(self, piece: Span, opening: Span) -> int:
        left, rows = Spans([opening]), 0
        async with self.page_writer.flush_on_exit():
            while (left & Spans([piece])) and not self.result.failure:
                rest = next(iter(left))
                if self._is_over(rest.since):
                    break
                wanted = rest & piece
                if self.attempts.paging.anchored and rest.since > opening.since:
                    rest = Span(self.timeframe.shift(rest.since, -1, self.days), rest.until)
                windows = self._windows(rest)
                # Wait for all calls, even after an error: the pages of the others are stored.
                calls = (self._call(window, Span(max(window.since, wanted.since), piece.until)) for window in windows)
                pages = await asyncio.gather(*calls, return_exceptions=True)
                for window, page in zip(windows, pages, strict=True):
                    if isinstance(page, BaseException):
                        raise page
                    count, reached = page
                    rows += count
                    left -= Spans([Span(window.since, reached)])
                    self.dense = count * self.timeframe.nominal_ms >= DENSE_FRACTION * (reached - window.since)
                left -= self.attempts.spans & Spans([piece])
        return rows

    def _is_over(self, reached: int) -> bool:
        """Whether the fetch stops although more is missing: spans that pages left open, and all from ``reached`` on."""
        self.result.satisfied = bool(self.request.enough) and self.result.rows >= self.request.enough
        self.result.exhausted = not self.result.satisfied and self.result.calls >= self.request.calls
        left = self._missing(self.request.span) - self.result.fetched - self.attempts.spans
        self.result.reached = min([reached, *(span.since for span in left)])
        return self.result.satisfied or self.result.exhausted

    def _windows(self, rest: Span) -> list[Span]:
        """The spans of the next calls, which run at the same time."""
        calls = self.request.calls - self.result.calls
        if self.request.enough:
            wanted = self.request.enough - self.result.rows
            calls = min(calls, -(-wanted // self.provider.capabilities.max_rows_per_call))
        if self.attempts.window_ms:
            return [rest & Span(rest.since, self.timeframe.ceil(rest.since + self.attempts.window_ms, self.days))]
        side_by_side = self.dense and bool(self.timeframe.width_ms)
        return split_into_pages(rest, self._page_ms, calls) if side_by_side else [rest]

    async def _call(self, asked: Span, wanted: Span) -> tuple[int, int]:
        """Make one upstream call for ``wanted``; return its number of rows and the instant at which the next call begins."""
        self.result.calls += 1
        began = time.monotonic()
        call = FetchCall(self.timeframe, self.days, asked, self._final_until())
        try:
            page = await self.provider.fetch(self.record.instrument, self.timeframe, asked, self.request.urgency)
        except ProviderError as error:
            self.result.failure = error
            await self._log_failure(asked, error, began)
            return 0, asked.since
        before = self.result.fetched
        verdict = await self._store_page(await self._checked(page, call), call, began)
        progress = bool((verdict.covered - before) & Spans([wanted]))
        return verdict.rows, self.attempts.settle(call, verdict, wanted, progress=progress)

    async def _checked(self, page: Page, call: FetchCall) -> Page:
        """Return the page; if it is empty and coarser candles refute that, a page that proves nothing."""
        covered = Span(page.complete_from, min(page.complete_to, call.final_until)) & call.span
        minutes = self.timeframe == MINUTE
        unasked = self.request.urgency is not Urgency.LIVE and not self.request.refetch
        if len(page.candles.sorted().between(call.span)) or call.span.since >= call.final_until or not unasked:
            return page
        known = self.coverage.spans.get(self.timeframe, Spans())
        seeks_end = self.request.newest and not known & Spans([Span(call.span.until, END_OF_TIME_MS)])
        looked = self.request.newest and self.stores.coarse_check.was_checked(self.record)
        if not seeks_end and not looked and self.stores.first_candles.is_open(self.record, self.provider):
            self.result.calls += 1
            first = await self.stores.first_candles.find(self.record, self.provider)
            if first is not None:
                self._begin_at(first)
                return page
        if not covered or not minutes:
            return page
        answer = EmptyAnswer(self.record, self.provider, call.span, covered, self.request.newest, self.request.urgency)
        try:
            seen = await self.stores.coarse_check.check(answer)
        except ProviderError as error:
            self.result.failure = error
            return page
        self.result.calls += seen.calls
        self.attempts.spans |= seen.empty
        self.result.fetched |= seen.empty & Spans([self.request.span])
        return replace(page, complete_from=call.span.since, complete_to=call.span.since) if seen.refuted else page

    def _begin_at(self, first: int) -> None:
        """Do not fetch anything before the first candle."""
        self.record = replace(self.record, first_available=first)
        self.result.first_available = first
        self.attempts.spans |= Spans([Span(min(0, self.request.span.since), self.timeframe.floor(first, self.days))])

    async def _store_page(self, page: Page, call: FetchCall, began: float) -> PageVerdict:
        """Judge one page, queue it for storing, and add it to the result."""
        verdict = judge_page(page, call, traits_for(self.record, self.provider.capabilities))
        if verdict.unknown_volumes:
            self.provider.count_refused_rows(verdict.unknown_volumes)
        if verdict.bad.first:
            self._log_bad_rows(verdict.bad, verdict.bad.first)
        if verdict.is_empty_answer and not self.request.refetch:
            await self._note_empty_answer(verdict)
        bad = verdict.bad.spans
        if call.span.since < call.final_until or bad:  # reads of the forming candle alone would flood the fetch log
            covered = with_closed_time(self.record, verdict.covered, self.timeframe, self.days)
            write = CandleWrite(self.record.id, self.timeframe, verdict.kept, covered, revision=page.revision)
            self.page_writer.add(write, self._log_fetch(call.span, verdict.candles, "bad rows" if bad else "ok", began))
        result = self.result
        result.forming = result.forming.merge(verdict.forming)
        result.fetched |= verdict.covered
        result.rows += len(verdict.kept)
        result.refused |= bad
        result.ended |= verdict.ended
        result.unproved |= verdict.unproved
        if verdict.ahead:
            self.stores.forming.remember(self.key, FormingCandles(verdict.forming, verdict.ahead, began))
        return verdict

    def _log_bad_rows(self, bad: BadRows, first: tuple[int, str]) -> None:
        self.provider.count_refused_rows(bad.count)
        series = self.record.instrument, self.timeframe
        log.warning("%s %s: %d bad rows refused, the first at %d: %s", *series, bad.count, *first)

    async def _note_empty_answer(self, verdict: PageVerdict) -> None:
        """Add a recheck: during an outage, or by mistake, an upstream may also send an empty page.

        This runs before the coverage is written: a needless recheck is harmless; without one a false gap stays for ever.
        """
        now = self.provider.now_ms()
        if verdict.is_off_target or needs_recheck(verdict.covered, now):
            await self.stores.rechecks.add(self.record.id, self.timeframe, verdict.covered, now)

    async def _log_failure(self, asked: Span, error: ProviderError, began: float) -> None:
        with self.stores.logging.recording():
            await self.stores.store.log_fetch(self._log_fetch(asked, 0, error.code, began))

    def _log_fetch(self, asked: Span, rows: int, outcome: str, began: float) -> FetchLogRow:
        milliseconds = round((time.monotonic() - began) * 1000)
        return FetchLogRow(self.record.id, self.timeframe, asked, rows, outcome, milliseconds)
