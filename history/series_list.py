"""The list of stored series, with the covered spans and the gaps of each; it calls no provider."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from candlegraph import clock
from candlegraph.answer import Gap
from candlegraph.series import InstrumentRecord
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import series_zone
from candlegraph.zone import zone
from history.known_gaps import known_and_missing
from history.orchestrator import History
from history.plan import Plan
from history.provider_traits import ProviderTraits, traits_of
from storage.counts.series_pages import (
    MAX_SPANS,
    SeriesFilter,
    SeriesPosition,
    StoredSeries,
    read_series,
    stored_series,
)

Traits = Mapping[tuple[str, str], ProviderTraits]  # by market and provider


@dataclass(frozen=True, slots=True)
class SeriesCoverage:
    """A stored timeframe of an instrument: its own candles, without those that are folded from a finer timeframe.

    ``covered`` and ``gaps`` are ascending, at most `MAX_SPANS` each, the newest. ``rows`` may be an estimate.
    """

    record: InstrumentRecord
    timeframe: Timeframe
    covered: Sequence[Span]
    gaps: Sequence[Gap]
    fetching: Sequence[Span]
    rows: float
    revision: SeriesRevision
    key: SeriesPosition


async def series_page(
    history: History, wanted: SeriesFilter, after: SeriesPosition, first: int
) -> list[SeriesCoverage]:
    """The ``first`` stored series after a key, in the order of their names. One statement. Unavailable."""
    rows = await read_series(history.store.database, wanted, after, first)
    await history.instruments.calendars.ensure({row["calendar"] for row in rows})
    statuses = history.providers.statuses() if rows else ()
    traits = {(one.market.id, one.id): traits_of(history.providers, one) for one in statuses}
    # In a thread: a thousand spans take a few milliseconds.
    return await asyncio.to_thread(_described, rows, traits)


def _described(rows: Sequence[Any], traits: Traits) -> list[SeriesCoverage]:
    return [_coverage_of(stored_series(row), traits) for row in rows]


def _coverage_of(stored: StoredSeries, traits: Traits) -> SeriesCoverage:
    record, coverage, timeframe = stored.record, stored.coverage, stored.timeframe
    name = record.instrument
    provider = traits.get((name.market, name.provider)) if record.listed else None
    days, now = zone(record.timezone), provider.now_ms() if provider else clock.now_ms()
    buckets, known = series_zone(record, timeframe), provider.capabilities if provider else None
    plan = Plan(record, known, coverage, {}, timeframe, buckets, days, now)
    covered, gaps = known_and_missing(plan)
    if not stored.is_whole:  # what lies before the spans that were read is not a gap, but unread
        oldest = next(iter(coverage.spans[timeframe])).since
        covered = covered & Spans([Span(oldest, now)])
        gaps = tuple(gap for gap in gaps if gap.since >= oldest)
    return SeriesCoverage(
        record,
        timeframe,
        tuple(covered)[-MAX_SPANS:],
        gaps[-MAX_SPANS:],
        tuple(stored.fetching),
        stored.rows,
        coverage.revisions.below(timeframe),
        stored.key,
    )
