"""Closed time in coverage: the ledger of a stock followed for years would have a fragment for each night otherwise."""

from __future__ import annotations

from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import calendar_of
from candlegraph.zone import Zone


def with_closed_time(record: InstrumentRecord, covered: Spans, timeframe: Timeframe, days: Zone) -> Spans:
    """``covered``, each span from the end of the trading before it on: the time between is known to be empty."""
    calendar = calendar_of(record)
    hours = calendar and calendar.extended.hours
    if not hours:
        return covered
    closes = (hours.closed_since(span.since) for span in covered)
    return covered | Spans(
        Span(timeframe.ceil(close, days), span.since) for close, span in zip(closes, covered, strict=True)
    )
