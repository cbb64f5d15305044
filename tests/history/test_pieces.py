"""A piece is requested with the adjacent covered rows, and quiet pages are skipped in growing steps."""

from __future__ import annotations

import pytest

from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from candlegraph.zone import UTC
from history.pieces import AdjacentSpans, quiet_step, split_into_pages


def between(first: int, last: int) -> Span:
    return Span(first * MINUTE_MS, last * MINUTE_MS)


@pytest.mark.parametrize(
    ("covered", "in_vain", "piece", "asked"),
    [
        pytest.param([], [], (10, 20), (10, 20), id="nothing is known around it"),
        pytest.param([(0, 10)], [], (10, 20), (9, 20), id="the row before"),
        pytest.param([(20, 30)], [], (10, 20), (10, 21), id="the row after"),
        pytest.param([(0, 10), (20, 30)], [], (10, 20), (9, 21), id="both"),
        pytest.param([(0, 5)], [(5, 10)], (10, 20), (4, 20), id="across what was asked for in vain"),
        pytest.param([(40, 50)], [(20, 40)], (10, 20), (10, 41), id="across what was asked for in vain, behind"),
        pytest.param([(0, 5)], [(6, 10)], (10, 20), (10, 20), id="not across what is not known"),
        pytest.param([(0, 5)], [(5, 200)], (200, 210), (200, 210), id="not further than a page"),
        pytest.param([(0, 10), (900, 910)], [], (10, 900), (9, 901), id="a piece of many pages"),
    ],
)
def test_a_piece_is_asked_for_with_the_rows_beside_it(
    covered: list[tuple[int, int]], in_vain: list[tuple[int, int]], piece: tuple[int, int], asked: tuple[int, int]
) -> None:
    around = AdjacentSpans(
        MINUTE,
        UTC,
        Spans(between(*span) for span in covered),
        Spans(between(*span) for span in in_vain),
        100 * MINUTE_MS,
    )
    assert around.with_neighbours(between(*piece)) == between(*asked)


def test_quiet_pages_are_asked_for_one_by_one_and_then_in_doubling_steps() -> None:
    assert [quiet_step(100, quiet) for quiet in range(1, 8)] == [0, 0, 0, 0, 100, 300, 700]


@pytest.mark.parametrize(
    ("calls", "pages"), [(1, [(0, 25)]), (2, [(0, 10), (10, 20)]), (9, [(0, 10), (10, 20), (20, 25)])]
)
def test_a_long_rest_is_split_into_as_many_pages_as_there_are_calls(calls: int, pages: list[tuple[int, int]]) -> None:
    assert split_into_pages(Span(0, 25), 10, calls) == [Span(*page) for page in pages]
