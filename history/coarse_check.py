"""Coarse checks: after an empty page of minutes, one page of a coarser timeframe shows where a symbol has candles.

A day without a candle has no minute with one. So one page of days finds the beginning of a young symbol, or the end of a
delisted one, and saves hundreds of pages of minutes. If hours have candles but their minutes are empty, the provider no
longer keeps these minutes: the empty page proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cachetools import LRUCache, TTLCache

from candlegraph.candle import Candles
from candlegraph.clock import DAY_MS
from candlegraph.provider import Capabilities
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import Upstream, Urgency
from candlegraph.zone import UTC
from history.verdict import FetchCall, judge_page
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore

CHECK_PAUSE_S = 3_600  # the pause between two checks of a series
MAX_CHECKED_SERIES = 20_000
KEPT_FOR_SURE_MS = DAY_MS  # every provider keeps minutes for at least this long


@dataclass(frozen=True, slots=True)
class EmptyAnswer:
    """A page of minutes without a row, the answer for ``asked``; ``covered`` is the span that it claims to be empty."""

    record: InstrumentRecord
    provider: Upstream
    asked: Span
    covered: Span
    newest: bool
    urgency: Urgency

    @property
    def age_ms(self) -> int:
        """The age of its newest minute."""
        return self.provider.now_ms() - self.covered.until


@dataclass(frozen=True, slots=True)
class CoarseResult:
    """The result of a check: the minutes that it proves empty, whether it refutes the empty answer, its number of calls."""

    empty: Spans = field(default_factory=Spans)
    refuted: bool = False
    calls: int = 0


@dataclass(frozen=True, slots=True)
class _Buckets:
    """The buckets with a candle, those that are proved empty, and the calls made."""

    busy: Spans
    empty: Spans
    calls: int


class CoarseCheck:
    """Checks a series at most once an hour. Remembers for each provider the age beyond which it does not keep minutes."""

    def __init__(self, store: CandleStore) -> None:
        """Start with no series checked."""
        self._store = store
        self._paused: TTLCache[int, None] = TTLCache(MAX_CHECKED_SERIES, CHECK_PAUSE_S)
        self._kept_ms: LRUCache[tuple[str, str], int] = LRUCache(
            MAX_CHECKED_SERIES
        )  # empty answers about older minutes prove nothing

    def was_checked(self, record: InstrumentRecord) -> bool:
        """Whether a series was checked within the last hour."""
        return record.id in self._paused

    async def check(self, answer: EmptyAnswer) -> CoarseResult:
        """Check an empty answer, with three calls at most. Raises ProviderError."""
        name = answer.record.instrument.market, answer.record.instrument.provider
        if answer.age_ms >= self._kept_ms.get(name, answer.age_ms + 1):
            return CoarseResult(refuted=True)
        timeframes = coarser_timeframes(answer.record, answer.provider.capabilities)
        if not timeframes or answer.record.id in self._paused:
            return CoarseResult()
        self._paused[answer.record.id] = None
        span = check_span(answer, timeframes[0])
        if not span:
            return CoarseResult()
        first = await self._read(answer, timeframes[0], span)
        busy, empty, calls = first.busy, first.empty, first.calls
        page_ms = answer.provider.capabilities.max_rows_per_call * MINUTE.nominal_ms
        last = list(busy & Spans([Span(span.since, answer.covered.since)]))[-1:]
        if answer.newest and last and len(timeframes) > 1 and timeframes[0].nominal_ms > page_ms:
            day = Span(timeframes[0].shift(last[0].until, -1), last[0].until)
            finer = await self._read(answer, coarsest_within(timeframes, page_ms), day)
            empty, calls = empty | finer.empty, calls + finer.calls
        inside = [tf for tf in timeframes if Span(answer.covered.since, answer.covered.until).inner(tf)]
        if inside and busy & Spans([answer.covered]) and answer.age_ms >= KEPT_FOR_SURE_MS:
            within = await self._read(answer, inside[0], answer.covered.inner(inside[0]))
            calls += within.calls
            if within.busy & Spans([answer.covered]):
                self._kept_ms[name] = min(answer.age_ms, self._kept_ms.get(name, answer.age_ms))
                return CoarseResult(refuted=True, calls=calls)
        return CoarseResult(empty, calls=calls)

    async def _read(self, answer: EmptyAnswer, timeframe: Timeframe, span: Span) -> _Buckets:
        """The buckets of ``span`` with a candle, and those proved empty; it fetches and stores what is not covered."""
        provider, record = answer.provider, answer.record
        known = (await self._store.read_coverage([record.id]))[0].spans.get(timeframe, Spans()) & Spans([span])
        read = [CandleRead(record.id, timeframe, part, len(timeframe.edges(part.since, part.until))) for part in known]
        found, made, calls = await self._store.read(read) if read else [], [], 0
        missing = list(Spans([span]) - known)
        if missing:
            calls, part = 1, missing[-1] if answer.newest else missing[0]
            final = timeframe.floor(provider.now_ms() - provider.capabilities.final_after_ms)
            page = await provider.fetch(record.instrument, timeframe, part, answer.urgency)
            verdict = judge_page(page, FetchCall(timeframe, UTC, part, final), provider.capabilities)
            found, known = [*found, verdict.kept], known | verdict.covered
            made = [CandleWrite(record.id, timeframe, verdict.kept, verdict.covered, revision=page.revision)]
        busy = Spans(Span(at, timeframe.next(at)) for candles in found for at in candles.timestamp.tolist())
        empty = known - busy
        if empty:
            made.append(CandleWrite(record.id, MINUTE, Candles.empty(), empty))
        if made and known:
            await self._store.write(made)
        return _Buckets(busy, empty, calls)


def coarser_timeframes(record: InstrumentRecord, capabilities: Capabilities) -> list[Timeframe]:
    """The native timeframes that suit a check, the coarsest first: their candles include every minute of the symbol.

    Days in another zone than UTC do not suit: they may be trading sessions, without the trades before and after.
    """
    if record.timezone != "UTC" or capabilities.revised or MINUTE not in capabilities.timeframes:
        return []
    coarser = [timeframe for timeframe in capabilities.timeframes if timeframe != MINUTE]
    return sorted(coarser, key=lambda timeframe: -timeframe.nominal_ms)


def coarsest_within(timeframes: list[Timeframe], length_ms: int) -> Timeframe:
    """The coarsest of ``timeframes`` (coarse to fine) whose bucket is no longer than ``length_ms``; else the finest."""
    return next((timeframe for timeframe in timeframes if timeframe.nominal_ms <= length_ms), timeframes[-1])


def check_span(answer: EmptyAnswer, timeframe: Timeframe) -> Span:
    """The span of a check: one page from the start of the empty answer, or one page before its end if newest first."""
    capabilities = answer.provider.capabilities
    final = timeframe.floor(answer.provider.now_ms() - capabilities.final_after_ms)
    earliest = timeframe.ceil(max(0, capabilities.earliest_ms))
    if not answer.newest:
        since = max(earliest, timeframe.floor(answer.asked.since))
        return Span(since, min(final, timeframe.shift(since, capabilities.max_rows_per_call)))
    until = min(final, timeframe.ceil(answer.asked.until))
    return Span(max(earliest, timeframe.shift(until, 1 - capabilities.max_rows_per_call)), until)
