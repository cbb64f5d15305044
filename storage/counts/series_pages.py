"""Pages of the series with coverage, each in one statement however many series there are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from candlegraph.series import InstrumentRecord
from candlegraph.series_revision import ChangeMark, SeriesRevision
from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from storage.binary import unpack_spans
from storage.coverage import Coverage
from storage.database import Database, to_ms
from storage.instruments import fold_text, record_of

MAX_SPANS = 1_000  # of one series on a page
SAMPLED_ROWS = 1_000  # the newest candles of a series, which are counted


class SeriesPosition(NamedTuple):
    """The position of a series in the list."""

    market: str = ""
    provider: str = ""
    symbol: str = ""
    timeframe: str = ""


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """A stored timeframe of an instrument. ``coverage`` has this timeframe only, with its newest `MAX_SPANS` spans.

    ``rows`` is exact up to `SAMPLED_ROWS`, and beyond that an estimate by the density of the newest candles. ``is_whole``: the
    coverage has no older spans. ``fetching`` are the spans that a process is fetching.
    """

    record: InstrumentRecord
    timeframe: Timeframe
    coverage: Coverage
    rows: float
    fetching: Spans
    is_whole: bool

    @property
    def key(self) -> SeriesPosition:
        """Its position in the list."""
        name = self.record.instrument
        return SeriesPosition(name.market, name.provider, name.symbol, str(self.timeframe))


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """Series of a market, of a provider, and those whose symbol or name contains ``text`` in any case; None: of all."""

    market: str | None = None
    provider: str | None = None
    text: str | None = None


async def read_series(database: Database, wanted: SeriesFilter, after: SeriesPosition, first: int) -> Sequence[Any]:
    """The rows of the ``first`` series after a key, for `stored_series`. Unavailable."""
    pattern = None if not wanted.text else "%" + re.sub(r"([\\%_])", r"\\\1", fold_text(wanted.text)) + "%"
    limits = first, MAX_SPANS, SAMPLED_ROWS
    return await database.read("series_page", wanted.market, wanted.provider, pattern, *after, *limits)


def stored_series(row: Any) -> StoredSeries:
    """The series of a row; a thousand spans take a few milliseconds, so call it in a thread."""
    timeframe, covered = Timeframe.parse(row["timeframe"]), unpack_spans(row["covered"])
    marks = {Timeframe.parse(tf): ChangeMark(c or 0, w or 0) for tf, c, w in json.loads(row["marks"])}
    return StoredSeries(
        record_of(row),
        timeframe,
        Coverage({timeframe: covered}, horizon=to_ms(row["horizon"]), revisions=SeriesRevision(marks)),
        _rows(row, covered, timeframe),
        unpack_spans(row["fetching"]),
        row["span_count"] == len(covered),
    )


def _rows(row: Any, covered: Spans, timeframe: Timeframe) -> float:
    """The candles that were counted, and those of the older spans by their density."""
    counted, total_ms = row["newest"], row["covered_ms"]
    if counted < SAMPLED_ROWS:
        return float(counted)
    since = to_ms(row["newest_from"])
    sampled_ms = sum(span.until - max(span.since, since) for span in covered if span.until > since)
    sampled_ms = max(sampled_ms, counted * timeframe.nominal_ms)
    return float(counted + round(counted * max(0, total_ms - sampled_ms) / sampled_ms))
