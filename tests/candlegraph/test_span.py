"""Spans, held against plain sets of whole numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph import Span, Spans, Timeframe, zone
from tests.candlegraph import scalar_calendar as scalar
from tests.candlegraph.scalar_calendar import examples

TOP = 60
spans_lists = st.lists(
    st.tuples(st.integers(0, TOP), st.integers(-3, 15)).map(lambda pair: Span(pair[0], pair[0] + pair[1])), max_size=8
)


def _held(spans: list[Span] | Spans) -> set[int]:
    return {instant for span in spans for instant in range(span.since, span.until)}


def _well_formed(spans: Spans) -> bool:
    listed = list(spans)
    return all(listed) and all(a.until < b.since for a, b in pairwise(listed)) and len(spans) == len(listed)


@given(spans_lists, spans_lists)
@examples(400)
def test_sets_of_spans_behave_like_sets_of_instants(ours: list[Span], theirs: list[Span]) -> None:
    """Union, intersection, difference and equality, always sorted, disjoint and never empty."""
    a, b = Spans(ours), Spans(theirs)
    assert _held(a) == _held(ours)
    for result, expected in (
        (a | b, _held(ours) | _held(theirs)),
        (a & b, _held(ours) & _held(theirs)),
        (a - b, _held(ours) - _held(theirs)),
        (b - a, _held(theirs) - _held(ours)),
    ):
        assert _well_formed(result)
        assert _held(result) == expected
        assert result == Spans(result)
    assert (a == b) is (_held(a) == _held(b))
    assert bool(a) is bool(_held(a))
    assert (a - b) | (a & b) == a
    assert a | b == b | a
    assert a & b == b & a


@given(spans_lists, st.integers(0, TOP), st.integers(-3, 15))
@examples(200)
def test_it_covers_a_span_when_it_holds_each_of_its_instants(spans: list[Span], since: int, length: int) -> None:
    """The empty span is covered by everything."""
    covered = set(range(since, since + length)) <= _held(spans)
    assert Spans(spans).covers(Span(since, since + length)) is covered


@given(st.permutations([Span(0, 5), Span(5, 9), Span(20, 21), Span(7, 7), Span(30, 25), Span(1, 3)]))
@examples(100)
def test_equal_sets_are_equal_however_they_were_put_together(spans: list[Span]) -> None:
    """Touching spans are one, empty ones are none, and hashes follow."""
    made = Spans(spans)
    assert list(made) == [Span(0, 9), Span(20, 21)]
    assert made == Spans([Span(20, 21), Span(0, 9)])
    assert hash(made) == hash(Spans([Span(20, 21), Span(0, 9)]))
    assert len({made, Spans(made), Spans()}) == 2
    assert made != Spans([Span(0, 9)])
    assert made != [Span(0, 9), Span(20, 21)]
    assert repr(made) == "Spans([Span(since=0, until=9), Span(since=20, until=21)])"


@given(spans_lists, st.integers(1, 7))
@examples(200)
def test_inner_keeps_the_whole_buckets_that_one_span_holds(spans: list[Span], minutes: int) -> None:
    """Counted in minutes: a bucket stays exactly when all its minutes are held."""
    timeframe = Timeframe(minutes, "m")
    base = scalar.at("2000-01-03") - 21 * scalar.MINUTE
    real = Spans(Span(base + s.since * scalar.MINUTE, base + s.until * scalar.MINUTE) for s in spans)
    held = _held(spans)
    inner = {(instant - base) // scalar.MINUTE for span in real.inner(timeframe) for instant in _minutes(span)}
    whole = set()
    for first in range(-minutes * 9 + 21 % minutes, TOP + 20, minutes):
        bucket = set(range(first, first + minutes))
        whole |= bucket if bucket <= held else set()
    assert inner == whole
    assert _well_formed(real.inner(timeframe))


def _minutes(span: Span) -> range:
    return range(span.since, span.until, scalar.MINUTE)


@given(st.data())
@examples(150)
def test_a_span_is_snapped_inwards_and_outwards_to_the_buckets_of_a_zone(data: st.DataObject) -> None:
    """The inner span is empty where no whole bucket fits; an empty span is left as it is."""
    timeframe, name = data.draw(scalar.timeframes()), data.draw(scalar.zone_names())
    since = data.draw(scalar.instants(name, timeframe))
    span = Span(since, since + data.draw(st.integers(1, 3 * timeframe.nominal_ms)))
    inner, outer = span.inner(timeframe, zone(name)), span.outer(timeframe, zone(name))
    edges = list(scalar.edges(timeframe, span.since, span.until + 1, name))
    assert bool(inner) is (len(edges) > 1)
    if inner:
        assert (inner.since, inner.until) == (edges[0], edges[-1])
    assert outer.since == scalar.floor(timeframe, span.since, name)
    assert outer.until == next(scalar.edges(timeframe, span.until, scalar.NEWEST * 2, name))
    for empty in (Span(since, since), Span(since, since - 1)):
        assert empty.inner(timeframe, zone(name)) == empty.outer(timeframe, zone(name)) == empty


@pytest.mark.parametrize(
    ("span", "holds"), [(Span(0, 1), True), (Span(1, 1), False), (Span(2, 1), False), (Span(-5, -4), True)]
)
def test_a_span_is_true_when_it_holds_an_instant(span: Span, holds: bool) -> None:
    """``until`` is not part of it."""
    assert bool(span) is holds
    assert bool(span & span) is holds
    assert bool(span & Span(span.until, span.until + 9)) is False
