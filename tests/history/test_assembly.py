"""An answer is assembled from the results of its query: limited, with reasons for its gaps, with sources and cursors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from candlegraph.answer import Answer, CandleRequest, Fill, GapReason, SourceKind
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderError, ProviderUnavailable, UnknownSymbol
from candlegraph.provider import Capabilities
from candlegraph.series import Instrument, InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from candlegraph.zone import UTC
from history.assembly import QueryResult, assemble
from history.plan import Plan
from history.query_fetches import FetchOutcome
from storage.coverage import Coverage
from storage.relations import ALL_AGGREGATES
from tests.fakes.upstream import minutes
from tests.history.world import T0

RECORD = InstrumentRecord(1, Instrument("m", "p", "s"), None, None, None, "UTC", True, True, None, None)
PROVIDER = Capabilities(timeframes=(MINUTE,), settle_ms=0)
ROWS = minutes(T0, 100)
STORE, CACHE, PROVIDED, LIVE = SourceKind.STORE, SourceKind.CACHE, SourceKind.PROVIDER, SourceKind.LIVE


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


def between(first: int, last: int) -> Span:
    return Span(at(first), at(last))


PLAN = Plan(RECORD, PROVIDER, Coverage(), ALL_AGGREGATES, MINUTE, UTC, UTC, at(90))


def forward(limit: int = 500, **more: Any) -> CandleRequest:
    return CandleRequest(Series(RECORD.instrument, MINUTE), limit, since=T0, **more)


def backward(limit: int = 500, **more: Any) -> CandleRequest:
    return CandleRequest(Series(RECORD.instrument, MINUTE), limit, **more)


def found(
    rows: Candles, reached: Span, *answered: tuple[Span, SourceKind], cut: bool = False, **outcome: Any
) -> QueryResult:
    return QueryResult(rows, reached, cut, answered, FetchOutcome(**outcome))


def cursors(answer: Answer) -> tuple[bool, int | None, int | None]:
    return answer.has_more, answer.next_since, answer.next_before


def gaps(answer: Answer) -> list[tuple[Span, GapReason]]:
    return [(Span(gap.since, gap.until), gap.reason) for gap in answer.gaps]


def sources(answer: Answer) -> list[tuple[Span, SourceKind]]:
    return [(Span(source.since, source.until), source.source) for source in answer.sources]


ALL_STORED = (between(0, 20), STORE)


@pytest.mark.parametrize(
    ("ask", "cut", "stamps", "expected", "source_span"),
    [
        pytest.param(forward(), False, (0, 20), (False, None, None), between(0, 20), id="all, from the oldest"),
        pytest.param(forward(5), False, (0, 5), (True, at(5), None), between(0, 5), id="the oldest five"),
        pytest.param(forward(), True, (0, 20), (True, at(20), None), between(0, 20), id="the budget ended, forward"),
        pytest.param(backward(), False, (0, 20), (False, None, None), between(0, 20), id="all, from the newest"),
        pytest.param(backward(5), False, (15, 20), (True, None, at(15)), between(15, 20), id="the newest five"),
        pytest.param(backward(), True, (0, 20), (True, None, at(0)), between(0, 20), id="the budget ended, backward"),
    ],
)
def test_an_answer_is_cut_to_its_limit_and_says_where_the_next_page_begins(
    ask: CandleRequest,
    cut: bool,
    stamps: tuple[int, int],
    expected: tuple[bool, int | None, int | None],
    source_span: Span,
) -> None:
    answer = assemble(ask, PLAN, found(ROWS[:20], between(0, 20), ALL_STORED, cut=cut))
    assert answer.candles.timestamp.tolist() == [at(minute) for minute in range(*stamps)]
    assert cursors(answer) == expected
    assert sources(answer) == [(source_span, STORE)]
    assert answer.complete


@pytest.mark.parametrize(
    ("plan", "more"),
    [
        pytest.param(PLAN, True, id="there may be more before the first candle"),
        pytest.param(replace(PLAN, record=replace(RECORD, first_available=at(10))), False, id="it was not listed yet"),
        pytest.param(replace(PLAN, capabilities=None), False, id="there is no provider"),
    ],
)
def test_a_gap_before_the_first_candle_of_the_newest_ones_is_more_to_be_asked_for(plan: Plan, more: bool) -> None:
    answer = assemble(backward(), plan, found(ROWS[10:20], between(0, 20), (between(10, 20), STORE)))
    assert (answer.has_more, gaps(answer)) == (more, [])


@pytest.mark.parametrize(
    ("outcome", "plan", "reason"),
    [
        ({}, PLAN, GapReason.NOT_FETCHED),
        ({}, replace(PLAN, capabilities=None), GapReason.NOT_FETCHED),
        ({"pending": Spans([between(0, 20)])}, PLAN, GapReason.PENDING),
        ({"refused": Spans([between(0, 20)])}, PLAN, GapReason.REFUSED),
        ({"unavailable": Spans([between(0, 20)])}, PLAN, GapReason.UNAVAILABLE),
        ({"failure": ProviderUnavailable("away")}, PLAN, GapReason.OUTAGE),
        ({"failure": UnknownSymbol("what?")}, PLAN, GapReason.REFUSED),
        (
            {"pending": Spans([between(0, 20)])},
            replace(PLAN, record=replace(RECORD, first_available=at(10))),
            GapReason.BEFORE_LISTING,
        ),
    ],
)
def test_a_gap_has_the_first_reason_that_fits(
    outcome: dict[str, Spans | ProviderError], plan: Plan, reason: GapReason
) -> None:
    answer = assemble(forward(), plan, found(ROWS[10:20], between(0, 20), (between(10, 20), STORE), **outcome))
    assert gaps(answer) == [(between(0, 10), reason)]


def test_a_gap_is_divided_among_its_reasons_and_the_rest_has_the_last_one() -> None:
    outcome = {"refused": Spans([between(2, 4)]), "unavailable": Spans([between(3, 6)])}
    answer = assemble(forward(), PLAN, found(ROWS[10:20], between(0, 20), (between(10, 20), STORE), **outcome))
    assert gaps(answer) == [
        (between(0, 2), GapReason.NOT_FETCHED),
        (between(2, 4), GapReason.REFUSED),
        (between(4, 6), GapReason.UNAVAILABLE),
        (between(6, 10), GapReason.NOT_FETCHED),
    ]


def test_buckets_that_are_not_settled_are_no_gap() -> None:
    answer = assemble(forward(), PLAN, found(ROWS[:90], between(0, 91), (between(0, 90), STORE)))
    assert gaps(answer) == []


@pytest.mark.parametrize(
    ("live", "newest"),
    [pytest.param(False, PROVIDED, id="from the provider"), pytest.param(True, LIVE, id="from a feed")],
)
def test_each_part_names_its_source(live: bool, newest: SourceKind) -> None:
    answered = [(between(0, 40), CACHE), (between(40, 50), CACHE), (between(50, 91), STORE)]
    fetched = Spans([between(50, 80)])
    answer = assemble(
        forward(),
        PLAN,
        found(ROWS[:91], between(0, 91), *answered, fetched=fetched, forming={MINUTE: ROWS[90:91]}, live=live),
    )
    assert sources(answer) == [
        (between(0, 50), CACHE),
        (between(50, 80), PROVIDED),
        (between(80, 90), STORE),
        (between(90, 91), newest),
    ]


def test_pages_of_flat_candles_go_on_where_no_candle_was_yet() -> None:
    nothing = found(Candles.empty(), between(0, 20), ALL_STORED, cut=True)
    assert cursors(assemble(backward(fill=Fill.PREVIOUS), PLAN, nothing)) == (True, None, at(20))
    assert cursors(assemble(backward(), PLAN, nothing)) == (True, None, at(0))
