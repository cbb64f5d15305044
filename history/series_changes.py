"""The changed spans of a series, which a client that keeps a copy has to fetch again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from candlegraph.errors import CandlegraphError
from candlegraph.series import Series
from candlegraph.series_revision import ChangeMark, SeriesRevision
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import series_zone
from candlegraph.zone import Int64s, Zone
from history.orchestrator import History
from storage.corrections import changes_after


@dataclass(frozen=True, slots=True)
class SeriesChanges:
    """The buckets of a series whose final candle changed or whose coverage was withdrawn, up to ``revision``."""

    revision: SeriesRevision
    changed: Spans
    lost: Spans


async def series_changes(history: History, series: Series, after: SeriesRevision) -> SeriesChanges | None:
    """The changes after a revision; None if it is too old or of another database. NotFound."""
    record = (await history.listings.find([series.instrument]))[0]
    if isinstance(record, CandlegraphError):
        raise record
    timeframe, days = series.timeframe, series_zone(record, series.timeframe)
    history.coverage_cache.forget(record.id)  # the revision may come from a process that is ahead of this one
    # Read before the logs: a change logged meanwhile may be reported twice, but is never missed.
    now = (await history.coverage_cache.load([record.id]))[0].revisions.below(timeframe)
    marks = {stored: after.marks.get(stored, ChangeMark()) for stored in now.marks}
    ahead = any(
        mark > now.marks.get(tf, ChangeMark())[i] for tf, both in after.marks.items() for i, mark in enumerate(both)
    )
    found = None if ahead else await changes_after(history.store.database, record.id, marks)
    if found is None:
        return None
    return SeriesChanges(
        now,
        Spans(span for logged in found.values() for span in buckets_of(logged.corrected, timeframe, days)),
        Spans(span.outer(timeframe, days) for logged in found.values() for span in logged.lost),
    )


def buckets_of(openings: Int64s, timeframe: Timeframe, days: Zone) -> list[Span]:
    """The buckets of the instants ``openings``."""
    index = np.unique(timeframe.index(openings, days))
    opens, ends = timeframe.open_at(index, days), timeframe.open_at(index + 1, days)
    return list(map(Span, opens.tolist(), ends.tolist()))
