"""The page that a file answers with: the rows of a span, and the span that they prove."""

from __future__ import annotations

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.provider import Page
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone
from providers.files.snapshots import Snapshot

MAX_ROWS = 10_000


def page_of(snapshot: Snapshot, span: Span, zone: Zone) -> Page:
    """The rows within ``span`` of the first run of rows that overlaps it, at most one page.

    A file that is still being written may end with the forming bucket, so no page covers that one.
    """
    table = snapshot.table
    found = runs(table.candles, table.timeframe, zone)
    asked = next((span & run for run in found if span & run), None)
    if asked is None:
        older = [run.until for run in found if run.until <= span.since]
        nothing = older[-1] if older else span.since
        return Page(Candles.empty(), nothing, nothing, snapshot.revision)
    rows = table.candles.between(asked)
    if len(rows) > MAX_ROWS:
        asked = Span(asked.since, int(rows.timestamp[MAX_ROWS]))
    forming = table.timeframe.floor(clock.now_ms(), zone)
    return Page(rows[:MAX_ROWS], asked.since, min(asked.until, forming), snapshot.revision)


def runs(candles: Candles, timeframe: Timeframe, zone: Zone) -> Spans:
    """The spans that a file's rows prove: from the first one to the end of the last."""
    stamps = candles.timestamp
    return Spans([Span(int(stamps[0]), timeframe.next(int(stamps[-1]), zone))])
