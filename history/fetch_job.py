"""One fetch: the missing pieces of a series, page by page, checked and stored."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from candlegraph.candle import Candles
from candlegraph.errors import ProviderError
from candlegraph.outage import Outage
from candlegraph.provider import Page
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Upstream, Urgency
from candlegraph.zone import UTC, Zone, zone
from history.forming import FormingCache, FormingCandles
from history.page_writer import PageWriter
from history.verdict import BadRows, FetchCall, PageVerdict, judge_page, traits_for
from storage.batches import CandleWrite, FetchLogRow, Superseded
from storage.candles import CandleStore
from storage.coverage import Coverage
from storage.coverage_cache import CoverageCache
from storage.fetch_claims import FetchClaims
from storage.leases import LeaseToken
from storage.rechecks import Rechecks, needs_recheck

log = logging.getLogger(__name__)

MAX_CALLS_PER_FETCH = 12  # the most upstream calls of a query; the rest is fetched for the next page
DENSE_FRACTION = 0.8  # of a page's minutes have a candle: the spans of the next pages are known beforehand


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What to fetch: the gaps of ``span``, or with ``again`` all of it, in at most so many ``calls``.

    The oldest first, or the ``newest``. The call that fetches it looks once more at up to ``overlap_ms`` before it. The lease
    that is ``held`` must still be so when something is stored.
    """

    timeframe: Timeframe
    span: Span
    newest: bool = False
    urgency: Urgency = Urgency.QUERY
    calls: int = MAX_CALLS_PER_FETCH
    refetch: bool = False
    overlap_ms: int = 0
    lease: LeaseToken | None = None


@dataclass(slots=True)
class FetchResult:
    """The result of a request: the rows that are not final yet, the fetched and stored spans, and the error."""

    forming: Candles = field(default_factory=Candles.empty)
    fetched: Spans = field(default_factory=Spans)
    refused: Spans = field(default_factory=Spans)  # the provider has rows there that are no candles
    unavailable: Spans = field(default_factory=Spans)  # the provider does not reach there
    ended: Spans = field(default_factory=Spans)  # what of it is newer than everything the provider has
    unproved: Spans = field(default_factory=Spans)  # the provider has not proved yet that they are over
    failure: ProviderError | None = None
    calls: int = 0
    rows: int = 0  # how many candles were stored
    exhausted: bool = False  # the call budget ended before the span did
    reached: int = 0  # where it did: everything before was fetched (oldest first)
    live: bool = False  # the forming rows came from a feed


@dataclass(frozen=True, slots=True)
class FetchStores:
    """What fetches read and write besides the provider."""

    store: CandleStore
    coverage_cache: CoverageCache
    claims: FetchClaims
    rechecks: Rechecks
    forming: FormingCache
    logging: Outage = field(default_factory=lambda: Outage("logging failed fetches"))


@dataclass(slots=True)
class FetchJob:
    """The fetching of one series' missing pieces. `Fetcher` runs it, step by step."""

    stores: FetchStores
    record: InstrumentRecord
    provider: Upstream
    request: FetchRequest
    reach: int = 0  # how far back the last call reached, ms
    dense: bool = False  # the last page was as long as it has rows, or nearly
    result: FetchResult = field(default_factory=FetchResult)
    attempted: Spans = field(default_factory=Spans)  # fetched: the gaps that are left are not available
    page_writer: PageWriter = field(init=False)

    def __post_init__(self) -> None:
        """Nothing has arrived."""
        self.page_writer = PageWriter(self.stores.store, self.request.lease)

    @property
    def timeframe(self) -> Timeframe:
        """The timeframe requested."""
        return self.request.timeframe

    @property
    def key(self) -> tuple[int, Timeframe]:
        """The series."""
        return self.record.id, self.timeframe

    @property
    def days(self) -> Zone:
        """The zone whose days the timeframe counts."""
        return UTC if self.timeframe.width_ms else zone(self.record.timezone)

    @property
    def _page_ms(self) -> int:
        return self.provider.capabilities.max_rows_per_call * self.timeframe.nominal_ms

    def _final_until(self) -> int:
        """Candles that end here or before are final."""
        return self.timeframe.floor(self.provider.now_ms() - self.provider.capabilities.final_after_ms, self.days)

    async def step(self) -> bool:
        """Fetch one missing piece, the oldest or the newest; False where there is none, or no use in going on."""
        if self.result.failure or self.result.exhausted:
            return False
        ledger = (await self.stores.coverage_cache.load([self.record.id]))[0]
        missing = self._without_forming(self._missing(self.request.span, ledger) - self.attempted)
        if not missing:
            return False
        self.reach = max(self.reach, self._page_ms)
        piece = self._next_piece(missing)
        final = piece.since < self._final_until()
        # A leader need not wait until the claims of a dead leader expire: the lease already decides.
        async with self.stores.claims.acquire(self.key, piece, shared=final and not self.request.lease) as ours:
            if ours:
                await self._fetch(piece, final=final, missing=missing)
        return True

    def _next_piece(self, missing: Spans) -> Span:
        """The piece to fetch next."""
        *_, piece = missing if self.request.newest else [next(iter(missing))]
        if not self.request.newest:
            return piece
        calls = max(1, self.request.calls - self.result.calls) if self.dense else 1
        reach = max(self.reach, calls * self._page_ms)
        return Span(max(piece.since, self.timeframe.floor(piece.until - reach, self.days)), piece.until)

    async def _fetch(self, piece: Span, *, final: bool, missing: Spans) -> None:
        """Fetch a piece that is ours alone."""
        left = Spans([piece])
        if final:  # the previous holder of the claim may have fetched a part of it
            left = self._missing(piece, (await self.stores.store.read_coverage([self.record.id]))[0])
            if left != Spans([piece]):
                self.stores.coverage_cache.forget(self.record.id)  # the change has not arrived here yet
        left = self._without_forming(left)
        rows = 0
        for part in left:
            rows += await self._fill(Span(part.since - self.request.overlap_ms, part.until) if final else part)
        if not self.result.exhausted:
            self.attempted |= Spans([piece])
        if not left:
            return
        beyond_reach = self.result.unavailable - self.result.ended
        if self.request.newest and Spans([Span(piece.since, piece.since + 1)]) & beyond_reach:
            older = Spans(Span(gap.since, min(gap.until, piece.since)) for gap in missing)
            self.result.unavailable |= older  # older than what the provider does not have
            self.attempted |= older
        self._learn_reach(rows, piece.until - piece.since)

    def _learn_reach(self, rows: int, length: int) -> None:
        """Remember how far one call reaches.

        A page of a symbol that seldom trades, or did not yet, reaches further back than its number of rows suggests. Otherwise
        every query would feel its way anew, and never arrive at the first trade.
        """
        if rows * 4 * self.timeframe.nominal_ms >= length:
            self.reach = self._page_ms
        elif length >= self.reach:
            self.reach *= 4

    async def resolve_rechecks(self) -> None:
        """Resolve the rechecks of the fetched spans: the second answer is final."""
        asked = self.result.fetched | self.result.unavailable | self.result.refused
        await self.stores.rechecks.resolve(self.record.id, self.timeframe, asked, self.provider.now_ms())
        self.stores.coverage_cache.forget(self.record.id)

    def _missing(self, span: Span, ledger: Coverage) -> Spans:
        return Spans([span]) - (ledger.dropped if self.request.refetch else ledger.final)(self.timeframe)

    def _without_forming(self, missing: Spans) -> Spans:
        """``missing``, without the spans that are not final and were fetched a moment ago."""
        forming = self.stores.forming.latest(self.key, leads=self.request.lease is not None)
        final_until = self._final_until()
        ahead = Spans(Span(max(span.since, final_until), span.until) for span in missing)
        if not ahead or not forming or not self.stores.forming.serves(forming, ahead):
            return missing
        self.result.forming = forming.candles[forming.candles.timestamp >= final_until]
        self.result.live = forming.live
        return missing - ahead

    async def _fill(self, piece: Span) -> int:
        """Page through ``piece`` until it is settled, the budget is spent or the provider fails; the rows that came.

        A page is stored while the next ones are fetched; all are stored before this returns and the claim is released.
        """
        try:
            return await self._fill_stored(piece)
        except Superseded as error:
            self.stores.coverage_cache.forget(self.record.id)
            self.result.failure = error
            return 0

    async def _fill_stored(self, piece: Span) -> int:
        left, rows = Spans([piece]), 0
        async with self.page_writer.flush_on_exit():
            while left and not self.result.failure:
                if self.result.calls >= self.request.calls:
                    self.result.exhausted, self.result.reached = True, next(iter(left)).since
                    break
                windows = self._call_spans(next(iter(left)))
                # All of them are waited for, also where one broke: what the others bring is stored.
                pages = await asyncio.gather(*(self._call(window) for window in windows), return_exceptions=True)
                for window, page in zip(windows, pages, strict=True):
                    if isinstance(page, BaseException):
                        raise page
                    count, reached = page
                    rows += count
                    left -= Spans([Span(window.since, reached)])
                    self.dense = count * self.timeframe.nominal_ms >= DENSE_FRACTION * (reached - window.since)
        return rows

    def _call_spans(self, rest: Span) -> list[Span]:
        """What to ask for at once: all of the rest, of which a page comes; or where a page is as long as it has rows, page by
        page side by side, as far as the budget of calls goes.
        """
        page = self._page_ms
        calls = min(self.request.calls - self.result.calls, -(-(rest.until - rest.since) // page))
        if not self.dense or calls < 2 or not self.timeframe.width_ms:
            return [rest]
        starts = [rest.since + i * page for i in range(calls)]
        return [Span(start, min(start + page, rest.until)) for start in starts]

    async def _call(self, asked: Span) -> tuple[int, int]:
        """One upstream call: how many rows came, and the instant to go on from."""
        self.result.calls += 1
        began = time.monotonic()
        call = FetchCall(self.timeframe, self.days, asked, self._final_until())
        try:
            page = await self.provider.fetch(self.record.instrument, self.timeframe, asked, self.request.urgency)
        except ProviderError as error:
            self.result.failure = error
            await self._log_failure(asked, error, began)
            return 0, asked.since
        verdict = await self._store_page(page, call, began)
        return verdict.rows, verdict.resume_at

    async def _store_page(self, page: Page, call: FetchCall, began: float) -> PageVerdict:
        """Judge one page, have it stored, and add it to the result."""
        verdict = judge_page(page, call, traits_for(self.record, self.provider.capabilities))
        if verdict.unknown_volumes:
            self.provider.count_refused_rows(verdict.unknown_volumes)
        if verdict.bad.first:
            self._log_bad_rows(verdict.bad, verdict.bad.first)
        if verdict.is_empty_answer and not self.request.refetch:
            await self._note_empty_answer(verdict)
        bad = verdict.bad.spans
        if call.span.since < call.final_until or bad:  # a look at the forming candle alone would only fill the log
            outcome = "bad rows" if bad else "ok"
            write = CandleWrite(self.record.id, self.timeframe, verdict.kept, verdict.covered, revision=page.revision)
            self.page_writer.add(write, self._log_fetch(call.span, verdict.candles, outcome, began))
        result = self.result
        result.forming = result.forming.merge(verdict.forming)
        result.fetched |= verdict.covered
        result.rows += len(verdict.kept)
        result.refused |= bad
        result.unavailable |= verdict.unavailable
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
        """Add a recheck: an outage looks like this, and so does the answer to another request.

        Before the coverage is written: a needless recheck does no harm, a missing one leaves a false answer for ever.
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
