"""What a page is worth follows from the page, the call that it answers, and what its provider is like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Capabilities, Page
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from candlegraph.zone import UTC
from history.verdict import FetchCall, PageVerdict, judge_page
from tests.fakes.upstream import minutes
from tests.history.world import T0

TRAITS = Capabilities(timeframes=(MINUTE,), max_rows_per_call=100)
ROWS = minutes(T0, 60)


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


def between(first: int, last: int) -> Span:
    return Span(at(first), at(last))


def call(first: int, last: int, final: int) -> FetchCall:
    return FetchCall(MINUTE, UTC, between(first, last), at(final))


def page(rows: Candles, first: int, last: int) -> Page:
    return Page(rows, at(first), at(last))


def flat(*at_minutes: int, volume: float = 0.0) -> Candles:
    price = [5.0] * len(at_minutes)
    return Candles.of([at(minute) for minute in at_minutes], price, price, price, price, [volume] * len(at_minutes))


@pytest.mark.parametrize(
    ("first", "last", "final", "answer", "covered", "kept", "unproven", "resume"),
    [
        pytest.param(0, 10, 60, page(ROWS[:10], 0, 10), [between(0, 10)], 10, [], 10, id="a whole page"),
        pytest.param(0, 20, 60, page(ROWS[:10], 0, 10), [between(0, 10)], 10, [], 10, id="the page ends early"),
        pytest.param(0, 20, 60, page(ROWS[:40], 0, 40), [between(0, 20)], 20, [], 40, id="the page is longer"),
        pytest.param(
            0, 20, 60, page(ROWS[5:20], 5, 20), [between(5, 20)], 15, [between(0, 5)], 20, id="it begins late"
        ),
        pytest.param(0, 20, 60, page(ROWS[:0], 0, 0), [], 0, [between(0, 20)], 20, id="it proves nothing"),
        pytest.param(0, 20, 60, page(ROWS[:0], 0, 20), [between(0, 20)], 0, [], 20, id="there was no trade"),
        pytest.param(0, 20, 10, page(ROWS[:12], 0, 12), [between(0, 10)], 10, [], 20, id="the end is forming"),
        pytest.param(10, 20, 10, page(ROWS[10:12], 10, 12), [], 0, [], 20, id="all of it is forming"),
        pytest.param(0, 20, 10, page(ROWS[:8], 0, 8), [between(0, 8)], 8, [], 8, id="final minutes are not there yet"),
    ],
)
def test_a_page_covers_what_it_proves_and_says_where_to_go_on(
    first: int,
    last: int,
    final: int,
    answer: Page,
    covered: list[Span],
    kept: int,
    unproven: list[Span],
    resume: int,
) -> None:
    verdict = judge_page(answer, call(first, last, final), TRAITS)
    assert list(verdict.covered) == covered
    assert len(verdict.kept) == kept
    assert list(verdict.unproven) == unproven
    assert verdict.resume_at == at(resume)


@pytest.mark.parametrize(
    ("answer", "limit", "ahead", "forming", "resume"),
    [
        pytest.param(page(ROWS[:12], 0, 12), 100, between(10, 20), [10, 11], 20, id="the page goes past what is final"),
        pytest.param(page(ROWS[:10], 0, 10), 100, between(10, 20), [], 20, id="nothing is forming"),
        pytest.param(page(ROWS[:12], 0, 12), 12, None, [10, 11], 12, id="a full page may have cut the forming one off"),
        pytest.param(page(ROWS[:8], 0, 8), 100, None, [], 8, id="the page ends before"),
        pytest.param(page(ROWS[:0], 0, 0), 100, None, [], 20, id="the page proves nothing"),
    ],
)
def test_a_page_has_the_forming_candles_if_it_goes_past_the_final_ones(
    answer: Page, limit: int, ahead: Span | None, forming: list[int], resume: int
) -> None:
    verdict = judge_page(answer, call(0, 20, 10), replace(TRAITS, max_rows_per_call=limit, settle_ms=0))
    assert verdict.ahead == ahead
    assert verdict.forming.timestamp.tolist() == [at(minute) for minute in forming]
    assert verdict.resume_at == at(resume)


def test_a_page_that_ends_with_a_row_may_have_cut_off_the_candles_that_settle_late() -> None:
    verdict = judge_page(page(ROWS[:10], 0, 10), call(0, 20, 10), replace(TRAITS, settle_ms=150_000))
    assert (verdict.ahead, verdict.resume_at) == (None, at(10))


def test_a_bad_row_is_neither_kept_nor_covered() -> None:
    rows = Candles.of(
        ROWS.timestamp[:4], ROWS.open[:4], [*ROWS.high[:2], -1.0, ROWS.high[3]], ROWS.low[:4], ROWS.close[:4],
        ROWS.volume[:4],
    )  # fmt: skip
    verdict = judge_page(page(rows, 0, 4), call(0, 4, 60), TRAITS)
    assert verdict.covered == Spans([between(0, 2), between(3, 4)])
    assert verdict.kept.timestamp.tolist() == [at(0), at(1), at(3)]
    assert (verdict.bad.spans, verdict.bad.count) == (Spans([between(2, 3)]), 1)
    assert verdict.bad.first is not None
    assert verdict.bad.first[0] == at(2)


@pytest.mark.parametrize(
    ("has_volume", "rows", "kept"),
    [
        pytest.param(True, flat(0, 1), 0, id="fillers are dropped"),
        pytest.param(False, flat(0, 1), 2, id="where there is no volume, flat rows are candles"),
        pytest.param(True, flat(0, 1, volume=1.0), 2, id="flat rows that were traded are candles"),
    ],
)
def test_fillers_are_dropped_and_their_minutes_are_covered(has_volume: bool, rows: Candles, kept: int) -> None:
    verdict = judge_page(page(rows, 0, 2), call(0, 2, 60), replace(TRAITS, has_volume=has_volume))
    assert (verdict.rows, verdict.candles, len(verdict.kept)) == (2, kept, kept)
    assert verdict.covered == Spans([between(0, 2)])


@pytest.mark.parametrize("has_volume", [True, False])
def test_a_row_of_an_unknown_volume_is_kept_with_0_and_counted_where_volumes_are_known(has_volume: bool) -> None:
    rows = concat([flat(0, volume=float("nan")), flat(1), flat(2, volume=float("inf"))])
    verdict = judge_page(page(rows, 0, 3), call(0, 3, 60), replace(TRAITS, has_volume=has_volume))
    assert verdict.kept.timestamp.tolist() == ([at(0)] if has_volume else [at(0), at(1)])
    assert verdict.kept.volume[0] == 0
    assert verdict.unknown_volumes == int(has_volume)
    assert verdict.bad.count == 1


@pytest.mark.parametrize(
    ("answer", "empty", "strayed"),
    [
        pytest.param(page(ROWS[:2], 0, 5), False, False, id="there are rows"),
        pytest.param(page(ROWS[:0], 0, 5), True, False, id="there are none"),
        pytest.param(page(ROWS[30:32], 0, 5), True, True, id="there are others"),
        pytest.param(page(ROWS[:0], 0, 0), False, False, id="nothing is claimed"),
        pytest.param(page(flat(0), 0, 5), False, False, id="a filler is a row"),
    ],
)
def test_an_empty_answer_differs_from_one_that_covers_nothing(answer: Page, empty: bool, strayed: bool) -> None:
    verdict = judge_page(answer, call(0, 5, 60), TRAITS)
    assert (verdict.is_empty_answer, verdict.is_off_target) == (empty, strayed)


def test_rows_in_any_order_are_judged_as_if_they_ascended() -> None:
    def summary(verdict: PageVerdict) -> tuple[object, ...]:
        return verdict.kept.timestamp.tolist(), verdict.covered, verdict.resume_at

    shuffled = page(concat([ROWS[5:10], ROWS[:5]]), 0, 10)
    asked = call(0, 10, 60)
    assert summary(judge_page(shuffled, asked, TRAITS)) == summary(judge_page(page(ROWS[:10], 0, 10), asked, TRAITS))


def test_what_the_provider_has_not_proved_to_be_over_is_not_covered_and_is_named() -> None:
    """The page vouches for all of it, by a clock that may be wrong; the last row may be forming still."""
    proved = replace(page(ROWS[:20], 0, 30), proved_until=at(19) + 30_000)
    verdict = judge_page(proved, call(0, 30, 25), TRAITS)
    assert verdict.covered == Spans([between(0, 19)])
    assert len(verdict.kept) == 19
    assert verdict.unproved == Spans([between(19, 25)])
    assert not verdict.unproven
    assert verdict.forming.timestamp.tolist() == [at(19)]
    assert verdict.resume_at == at(30), "asking on would bring nothing"


def test_a_clock_that_has_moved_on_during_the_call_proves_no_more_than_before() -> None:
    proved = replace(page(ROWS[:30], 0, 30), proved_until=at(28))
    assert judge_page(proved, call(0, 30, 25), TRAITS).covered == Spans([between(0, 25)])
