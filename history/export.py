"""Exports of stored series: final candles as they are known at one moment, of any length, read page by page.

No provider is called: what is missing is in the gaps. The plan is made once, from the coverage at the start, so candles
that are added later do not come. A correction of a candle that has not been read yet ends the export.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

import numpy as np

from candlegraph import clock
from candlegraph.answer import Gap, SourceKind, SourceSpan
from candlegraph.candle import Bools, Candles
from candlegraph.clock import OLDEST_MS
from candlegraph.errors import BadUserInput, Conflict, NotFound
from candlegraph.provider import Capabilities
from candlegraph.resample import fold
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.series_revision import ChangeMark, SeriesRevision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import SessionFilter, series_zone
from candlegraph.zone import Zone, zone
from history.assembly import explain_gaps
from history.orchestrator import History
from history.plan import Plan
from history.query_fetches import FetchOutcome
from history.series_changes import buckets_of
from history.window_plan import PlanPart, StoredSpan
from storage.batches import CandleRead
from storage.corrections import changes_after

PAGE_ROWS = 50_000
FIRST_PAGE_ROWS = 5_000  # so that a client has the first rows at once
READS_AHEAD = 2  # the database computes a page while the one before is on its way
MAX_SERIES = 1_000


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Symbols of one provider, or those that match a ``pattern``; the span as in `CandleRequest`; ``after``: a revision."""

    market: str
    provider: str
    timeframe: Timeframe
    symbols: tuple[str, ...] = ()
    pattern: str | None = None
    since: int | None = None
    until: int | None = None
    zone: Zone | None = None
    after: SeriesRevision | None = None
    session: SessionFilter = SessionFilter.ALL


@dataclass(frozen=True, slots=True)
class SeriesExport:
    """What is stored of one series in ``span``, whole buckets: by this plan, and nothing that changes afterwards."""

    plan: Plan
    span: Span
    parts: tuple[PlanPart, ...]
    gaps: tuple[Gap, ...]
    revision: SeriesRevision
    session: SessionFilter = SessionFilter.ALL

    @property
    def record(self) -> InstrumentRecord:
        """The instrument."""
        return self.plan.record

    @property
    def complete(self) -> bool:
        """Whether every settled bucket of the span is covered."""
        return not self.gaps

    @property
    def sources(self) -> list[SourceSpan]:
        """The source of each part, neighbours of one kind as one."""
        found: list[SourceSpan] = []
        for part in self.parts:
            span = part.span & self.span
            if found and found[-1].until == span.since and found[-1].source == part.source:
                found[-1] = SourceSpan(found[-1].since, span.until, part.source)
            else:
                found.append(SourceSpan(span.since, span.until, part.source))
        return found

    @property
    def is_aggregated(self) -> bool:
        """Whether a part of it comes from an aggregate."""
        return any(part.source is SourceKind.AGGREGATE for part in self.parts)


async def open_export(history: History, request: ExportRequest) -> list[SeriesExport]:
    """Plan the series of a request, in the order of their names; those without a stored candle are left out of a pattern.

    NotFound where nothing is stored; BadUserInput; Conflict where a candle has changed since the revision ``after``.
    """
    if request.since is not None and request.until is not None and request.since > request.until:
        raise BadUserInput(f"`since` ({request.since}) lies after `until` ({request.until}): swap them.")
    records = await _records(history, request)
    for record in records:
        history.coverage_cache.forget(record.id)  # another process may have stored something a moment ago
    coverages = await history.coverage_cache.load([record.id for record in records])
    found = []
    for record, coverage in zip(records, coverages, strict=True):
        days = zone(record.timezone)
        capabilities = _capabilities(history, record)
        buckets = series_zone(record, request.timeframe, request.session, request.zone)
        now = clock.now_ms()
        plan = Plan(record, capabilities, coverage, history.aggregates, request.timeframe, buckets, days, now)
        if one := _planned(plan, request):
            found.append(one)
        await asyncio.sleep(0)  # a plan takes a millisecond, and there may be a thousand
    if not found:
        names = request.pattern if request.pattern is not None else ", ".join(request.symbols)
        raise NotFound(
            f"Nothing is stored of {request.market}/{request.provider} {names[:64]} {request.timeframe} in that span: "
            "query its candles or start a backfill first."
        )
    if request.after is not None:
        for one in found:
            await _require_unchanged(history, one, request.after, one.span)
    return found


async def read_pages(history: History, export: SeriesExport) -> AsyncGenerator[Candles, None]:
    """The candles in pages of at most about 50,000 stored rows, ascending; two are read at once, ahead of the caller.

    Conflict where a candle that has not been read yet was corrected.
    """
    reading: deque[asyncio.Task[Candles]] = deque()
    try:
        for stored, window, covered in _windows(export):
            task = asyncio.create_task(_read_page(history, export, stored, window, covered), name="page of an export")
            reading.append(task)
            if len(reading) == READS_AHEAD and len(page := await reading.popleft()):
                yield page
        while reading:
            if len(page := await reading.popleft()):
                yield page
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def _windows(export: SeriesExport) -> Iterator[tuple[StoredSpan, Span, Spans]]:
    """The spans of the pages, whole buckets, each with what is stored of it and what is covered."""
    timeframe, buckets = export.plan.timeframe, export.plan.zone
    page_rows = min(FIRST_PAGE_ROWS, PAGE_ROWS)
    for stored, covered in _runs(export.parts):
        at = stored.span.since
        while at < stored.span.until:
            count = max(1, page_rows * stored.timeframe.nominal_ms // timeframe.nominal_ms)
            until = timeframe.shift(timeframe.floor(at, buckets), count, buckets)
            window = Span(at, min(until, stored.span.until))
            if covered & Spans([window]):
                yield stored, window, covered
                page_rows = PAGE_ROWS
            at = window.until


async def _read_page(
    history: History, export: SeriesExport, stored: StoredSpan, window: Span, covered: Spans
) -> Candles:
    timeframe, zone_ = export.plan.timeframe, export.plan.zone
    rows = 2 * -(-(window.until - window.since) // stored.timeframe.nominal_ms)  # never reached
    read = CandleRead(export.record.id, stored.timeframe, window, rows, relation=stored.relation)
    async with history.row_budget.reserve(read.max_rows):
        page = (await history.store.read([read]))[0]
    await _require_unchanged(history, export, export.revision, Span(window.since, export.span.until))
    page = export.plan.select(page[_inside(page, covered)], stored.timeframe)
    return (page if stored.timeframe == timeframe else fold(page, timeframe, zone_)).between(export.span)


async def _records(history: History, request: ExportRequest) -> list[InstrumentRecord]:
    if (request.pattern is None) == (not request.symbols):
        raise BadUserInput("Give either `symbol`, once or more often, or a `pattern`.")
    if request.pattern is None:
        wanted = [Instrument(request.market, request.provider, symbol) for symbol in dict.fromkeys(request.symbols)]
        stored = await history.instruments.get_stored(wanted)
        for one in wanted:
            if one not in stored:
                raise NotFound(f"Nothing is stored of {one}: look its name up with `symbols`.")
        records = [stored[one] for one in wanted]
    else:
        named = await history.instruments.named(request.market, request.provider, None)
        records = [record for record in named if fnmatchcase(record.instrument.symbol, request.pattern)]
    if len(records) > MAX_SERIES:
        raise BadUserInput(
            f"At most {MAX_SERIES:,} series fit one export; these are {len(records):,}: narrow the pattern."
        )
    return sorted(records, key=lambda record: record.instrument.symbol)


def _capabilities(history: History, record: InstrumentRecord) -> Capabilities | None:
    """The capabilities of the provider of a listed symbol; they explain gaps."""
    name = record.instrument
    status = history.providers.status(name.market, name.provider) if record.listed else None
    return status.capabilities if status else None


def _planned(plan: Plan, request: ExportRequest) -> SeriesExport | None:
    """The plan of a series; None where nothing of it is stored in the span."""
    timeframe, buckets = plan.timeframe, plan.zone
    known = [(spans[0].since, spans[-1].until) for one in plan.coverage.spans.values() if (spans := list(one))]
    if not known:
        return None
    last = max(until for _, until in known) if plan.capabilities is None else plan.settled
    until = min(plan.settled, timeframe.ceil(last, buckets))
    if request.until is not None:
        until = min(until, timeframe.ceil(request.until, buckets))
    first = min(since for since, _ in known) if request.since is None else request.since
    since = (timeframe.floor if request.since is None else timeframe.ceil)(first, buckets)
    span = Span(max(since, timeframe.ceil(OLDEST_MS, buckets)), until)
    if span.until <= span.since:
        return None
    planned = plan.window(span)
    if not planned.final:
        return None
    unknown = Spans([span]) - planned.covered
    gaps = explain_gaps(plan, FetchOutcome(), unknown, list(planned.unreachable))
    return SeriesExport(
        plan, span, planned.final, tuple(gaps), plan.coverage.revisions.below(timeframe), request.session
    )


def _runs(parts: Sequence[PlanPart]) -> Iterator[tuple[StoredSpan, Spans]]:
    """The parts in runs of one relation, each as one span to read and the spans in it that are covered."""
    stored = (part.stored_spans[0] for part in parts)
    for (timeframe, relation), run in groupby(stored, key=lambda one: (one.timeframe, one.relation)):
        spans = [one.span for one in run]
        yield StoredSpan(Span(spans[0].since, spans[-1].until), timeframe, relation), Spans(spans)


def _inside(candles: Candles, spans: Spans) -> Bools:
    """Which candles open in ``spans``."""
    edges = np.array([edge for span in spans for edge in (span.since, span.until)], np.int64)
    return np.asarray(np.searchsorted(edges, candles.timestamp, side="right") % 2 == 1)


async def changed_since(history: History, export: SeriesExport, after: SeriesRevision) -> Spans | None:
    """Whole buckets with a candle that was corrected or withdrawn after a revision; None where that is too much."""
    marks = {timeframe: after.marks.get(timeframe, ChangeMark()) for timeframe in export.revision.marks}
    logs = await changes_after(history.store.database, export.record.id, marks)
    if logs is None:
        return None
    timeframe, buckets = export.plan.timeframe, export.plan.zone
    corrected = (span for log in logs.values() for span in buckets_of(log.corrected, timeframe, buckets))
    return Spans(corrected) | Spans(lost.outer(timeframe, buckets) for log in logs.values() for lost in log.lost)


async def _require_unchanged(history: History, export: SeriesExport, after: SeriesRevision, rest: Span) -> None:
    """Raise Conflict if a candle of ``rest`` was corrected or withdrawn after a revision."""
    changed = await changed_since(history, export, after)
    if changed is None or changed & Spans([rest]):
        raise Conflict(
            f"{export.record.instrument} was corrected after the revision {after}: export it again from the beginning."
        )
