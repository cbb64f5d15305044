"""Candles from the server: page by page by the API, which fetches what is missing, or stored ones by the export.

A long span is exported first, which is many times faster; only what the export lacks is then queried page by page.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from candlegraph_client.candles import NAMES, Candles
from candlegraph_client.errors import Conflict, NotFound
from candlegraph_client.exporting import MAX_READS, read_export
from candlegraph_client.operations import HISTORY, CandleSeries, Gap, HistoryAnswer
from candlegraph_client.series import END_MS, Series, Span, subtract, union
from candlegraph_client.session import Session

PAGE_ROWS = 5_000
EXPORT_ROWS = 4 * PAGE_ROWS  # a shorter span takes fewer requests page by page
SETTLING_MS = 3_600_000  # a bucket that ended so long ago has settled
FETCHABLE = frozenset({"NOT_FETCHED", "PENDING", "OUTAGE"})  # gaps of which another query may fetch something
_PAUSE_S = 0.5


class Loaded(NamedTuple):
    """Candles, and the spans of which nothing more can come: they hold no gap that could be fetched."""

    candles: Candles
    known: list[Span]


def load(session: Session, series: Series, span: Span) -> Loaded:
    """The candles of a span; the server fetches what is missing."""
    until = min(span[1], int(time.time() * 1000))
    if until - span[0] <= EXPORT_ROWS * series.longest_ms or find_spec("pyarrow") is None:
        return load_pages(session, series, span)
    try:
        candles, known = load_export(session, series, span)
    except NotFound:  # nothing is stored yet, or there is no such symbol: the query says which
        return load_pages(session, series, span)
    missing = union(subtract([span], known), slack=PAGE_ROWS * series.longest_ms)
    for one in missing:
        part, more = load_pages(session, series, one)
        candles, known = candles.patched(one, part), union([*subtract(known, [one]), *more])
    return Loaded(candles, known)


def load_export(session: Session, series: Series, span: Span | None) -> Loaded:
    """The stored candles of a span, or all of them; no provider is called. NotFound where nothing is stored."""
    query = dict(series.names)
    if series.timezone is not None:
        query["timezone"] = series.timezone
    if span is not None:
        query |= {"since": str(span[0]), "until": str(span[1])}
    candles, (since, until), all_listed = read_export(session, query)
    first = since if span is None else span[0]
    return Loaded(candles, subtract([(first, until)], spans_to_fetch(candles.gaps)) if all_listed else [])


def load_pages(session: Session, series: Series, span: Span) -> Loaded:
    """The candles of a span by the query, page after page. Conflict where corrections come between them again and again."""
    for _ in range(MAX_READS):
        pages: list[Candles] = []
        at = span[0]
        while True:
            answer = load_page(session, series, {"since": at, "until": span[1], "limit": PAGE_ROWS})
            page = answer["candles"]
            pages.append(candles_of(page, answer["serverId"]))
            if not page["hasMore"] or page["nextSince"] is None:
                break
            at = page["nextSince"]
        if len({one.revision for one in pages}) == 1:
            candles = _joined(pages)
            known = (span[0], reached(answer["serverTime"], page, at, span[1]))
            return Loaded(candles, subtract([known], spans_to_fetch(candles.gaps)))
    raise Conflict(f"{series.path} is corrected faster than it can be read: try again later.")


def load_newest(session: Session, series: Series, until: int, limit: int) -> Candles:
    """The newest candles before an instant, at most ``limit``."""
    pages: list[Candles] = []
    left, before, more = limit, until, True
    while left > 0 and more:
        # One more: the forming one does not count.
        answer = load_page(session, series, {"until": before, "limit": min(left + (not pages), PAGE_ROWS)})
        page = answer["candles"]
        pages.insert(0, candles_of(page, answer["serverId"]))
        left -= len(pages[0])
        more, before = page["hasMore"] and page["nextBefore"] is not None, page["nextBefore"] or before
    candles = replace(_joined(pages), revision=pages[-1].revision)
    if len(candles) <= limit:
        return candles
    return candles.within(int(candles.columns["timestamp"][-limit]), END_MS)


def load_page(session: Session, series: Series, arguments: dict[str, int]) -> HistoryAnswer:
    """One page; asked again as long as the server is still fetching parts of it and gets on."""
    variables = {**series.names, "timezone": series.timezone, **arguments}
    pending: list[int] = []  # after each attempt (ms)
    while True:
        answer: HistoryAnswer = session.execute(HISTORY, variables)
        gaps = answer["candles"]["gaps"]
        pending.append(sum(gap["until"] - gap["since"] for gap in gaps if gap["reason"] == "PENDING"))
        if pending[-1] == 0 or (len(pending) > 1 and pending[-1] >= pending[-2]):
            return answer
        time.sleep(_PAUSE_S)


def candles_of(page: CandleSeries, server_id: str | None) -> Candles:
    """The final candles of a page: the forming one is left out."""
    columns = Candles.of(page["columns"]).columns
    closed = page["columns"]["closed"]
    count = len(closed) if all(closed) else closed.index(False)
    return Candles(
        {name: columns[name][:count] for name in NAMES},
        tuple(page["gaps"]),
        tuple(page["sources"]),
        page["revision"],
        page["timezone"],
        server_id,
    )


def reached(now: int, page: CandleSeries, since: int, until: int) -> int:
    """How far the last page of a span reaches: no final candle can be added before that instant."""
    columns = page["columns"]
    if not all(columns["closed"]):
        return max(since, columns["timestamp"][columns["closed"].index(False)])
    if until <= now - SETTLING_MS:
        return until
    return columns["timestamp"][-1] + 1 if columns["timestamp"] else since


def spans_to_fetch(gaps: tuple[Gap, ...]) -> list[Span]:
    """The spans of gaps that another query may fill."""
    return [(gap["since"], gap["until"]) for gap in gaps if gap["reason"] in FETCHABLE]


def _joined(pages: list[Candles]) -> Candles:
    """Pages that follow each other, as one."""
    return replace(
        pages[0],
        columns={name: np.concatenate([page.columns[name] for page in pages]) for name in NAMES},
        gaps=tuple(gap for page in pages for gap in page.gaps),
        sources=tuple(source for page in pages for source in page.sources),
    )
