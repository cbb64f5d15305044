"""Candles: batches that are sorted and unique, and rows that are not candles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC as UTC_TZ
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph import UTC, Candle, Candles, InvalidCandles, Span, Timeframe, concat, fold, zone
from tests.candlegraph import scalar_calendar as scalar
from tests.candlegraph.scalar_calendar import MINUTE, examples

Row = tuple[int, float, float, float, float, float]

prices = st.floats(-1e9, 1e9)
rows_lists = st.lists(
    st.tuples(st.integers(0, 30).map(lambda n: n * MINUTE), prices, prices, prices, prices, prices), max_size=20
)


def _rows(candles: Candles) -> list[Row]:
    return [(c.timestamp, c.open, c.high, c.low, c.close, c.volume) for c in candles]


def _flat(stamps: Sequence[int], price: float = 1.0) -> Candles:
    return Candles.of(stamps, *[[price] * len(stamps)] * 5)


def _well_formed(candles: Candles) -> bool:
    kinds = [column.dtype.kind for column in candles.columns]
    same = {column.shape for column in candles.columns} == {(len(candles),)}
    return same and kinds == ["i", *"fffff", "b", "b"] and bool((np.diff(candles.timestamp) > 0).all())


@given(rows_lists)
@examples(200)
def test_rows_may_come_in_any_order_and_the_last_of_equals_wins(rows: list[Row]) -> None:
    """The same as a dict keyed by timestamp, sorted."""
    candles = Candles.from_rows(rows)
    assert _well_formed(candles)
    assert _rows(candles) == [row for _, row in sorted({row[0]: row for row in rows}.items())]
    assert candles.closed.all()
    assert not candles.synthetic.any()


@given(rows_lists, rows_lists)
@examples(200)
def test_merging_keeps_every_candle_and_the_newer_of_two(older: list[Row], newer: list[Row]) -> None:
    """The right side wins; neither side is changed."""
    left, right = Candles.from_rows(older), Candles.from_rows(newer)
    before = _rows(left), _rows(right)
    merged = left.merge(right)
    assert _well_formed(merged)
    assert _rows(merged) == [row for _, row in sorted({row[0]: row for row in [*older, *newer]}.items())]
    assert (_rows(left), _rows(right)) == before
    assert _rows(left.merge(left)) == _rows(left)


def test_the_flags_travel_with_their_candles() -> None:
    """A merge that replaces a candle replaces its flags too."""
    left = Candles.of([0, 1, 2], *[[1, 1, 1]] * 5, closed=[True, True, False], synthetic=True)
    right = Candles.of([2, 3], *[[2, 2]] * 5, closed=[True, False])
    merged = left.merge(right)
    assert merged.closed.tolist() == [True, True, True, False]
    assert merged.synthetic.tolist() == [True, True, False, False]
    assert [candle.closed for candle in merged] == merged.closed.tolist()
    assert merged.with_closed(np.zeros(4, np.bool_)).closed.tolist() == [False] * 4
    assert merged.closed.tolist() == [True, True, True, False]


@given(rows_lists, st.integers(-5, 35), st.integers(-5, 35), st.integers(-1, 1))
@examples(200)
def test_between_is_half_open(rows: list[Row], since: int, until: int, shift: int) -> None:
    """``since`` belongs to it, ``until`` does not; a backward span holds nothing."""
    candles, span = Candles.from_rows(rows), Span(since * MINUTE + shift, until * MINUTE)
    found = candles.between(span)
    assert _well_formed(found)
    assert _rows(found) == [row for row in _rows(candles) if span.since <= row[0] < span.until]


@given(rows_lists, st.slices(20), st.data())
@examples(150)
def test_rows_are_picked_by_slice_mask_and_positions(rows: list[Row], cut: slice, data: st.DataObject) -> None:
    """All columns are cut alike."""
    candles = Candles.from_rows(rows)
    listed = _rows(candles)
    assert _rows(candles[cut]) == listed[cut]
    mask = data.draw(st.lists(st.booleans(), min_size=len(listed), max_size=len(listed)))
    assert _rows(candles[np.array(mask, np.bool_)]) == [row for row, keep in zip(listed, mask, strict=True) if keep]
    positions = np.flatnonzero(mask)
    assert _rows(candles[positions]) == [listed[i] for i in positions]


@given(st.lists(rows_lists, max_size=4))
@examples(100)
def test_joined_batches_follow_each_other(batches: list[list[Row]]) -> None:
    """``concat`` joins, ``sorted`` mends, and the last of equals wins again."""
    joined = concat([Candles.from_rows(rows) for rows in batches])
    assert len(joined) == sum(len({row[0] for row in rows}) for rows in batches)
    expected = sorted({row[0]: row for rows in batches for row in rows}.items())
    assert _rows(joined.sorted()) == [row for _, row in expected]
    assert _well_formed(joined.sorted())


def test_a_batch_without_candles_goes_everywhere() -> None:
    """Nothing in, nothing out, and the types stay."""
    empty, some, span = Candles.empty(), _flat([0, MINUTE]), Span(0, MINUTE)
    timeframe, where = Timeframe(1, "d"), zone("America/New_York")
    for batch in (
        Candles.from_rows([]),
        Candles.from_rows(iter(())),
        Candles.of([], [], [], [], [], [], closed=[], synthetic=[]),
        empty.sorted(),
        empty.merge(empty),
        empty.between(span),
        some.between(Span(MINUTE, MINUTE)),
        some[2:],
        some[np.zeros(2, np.bool_)],
        empty[np.empty(0, np.int64)],
        concat([]),
        concat([empty, empty]),
        fold(empty, timeframe, where),
        empty.with_closed(np.empty(0, np.bool_)),
    ):
        assert len(batch) == 0
        assert list(batch) == []
        assert _well_formed(batch)
    assert empty.problems(timeframe, span, where) == {}
    assert _rows(empty.merge(some)) == _rows(some.merge(empty)) == _rows(concat([empty, some, empty])) == _rows(some)


_ROW = [0.0, 2.0, 3.0, 1.0, 2.0, 5.0]


@pytest.mark.parametrize(
    "rows",
    [
        [_ROW[:5]],
        [_ROW[:5]] * 6,  # thirty numbers: they must not become five rows of six
        [_ROW, _ROW[:5]],
        [[]],
        [[], _ROW],
        [None],
        [_ROW, None],
        [7],
        [[None, *_ROW[1:]]],
        [[math.nan, *_ROW[1:]]],
        [[math.inf, *_ROW[1:]]],
        [[1e300, *_ROW[1:]]],
        [[2**63, *_ROW[1:]]],
        [[60_000.5, *_ROW[1:]]],
        [["2024-01-01", *_ROW[1:]]],
        [[0, "abc", *_ROW[2:]]],
        [[0, [1.0], *_ROW[2:]]],
        [[[0], [1], [2], [3], [4], [5]]],
        [[0, {}, *_ROW[2:]]],
        [[0, 10**400, *_ROW[2:]]],
        ["123456"[:5]],
    ],
    ids=lambda rows: repr(rows)[:40],
)
def test_rows_that_cannot_be_read_are_refused_whole(rows: list[Sequence[float]]) -> None:
    """In our own terms, whatever an upstream sends."""
    with pytest.raises(InvalidCandles):
        Candles.from_rows(rows)


def test_what_follows_the_six_numbers_is_ignored_and_null_is_no_number() -> None:
    """Some upstreams send more columns; a missing price is a NaN that `problems` finds."""
    candles = Candles.from_rows([(0, 2, 3, 1, 2, 5, "count", None), [MINUTE, 2, None, 1, 2, 5]])  # type: ignore[list-item]
    assert _rows(candles[:1]) == [(0, 2.0, 3.0, 1.0, 2.0, 5.0)]
    assert list(candles.problems(Timeframe(1, "m"), Span(0, 2 * MINUTE))) == [1]


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("length", [0, 1, 2, 4])
def test_columns_of_different_lengths_are_refused(column: int, length: int) -> None:
    """The numbers, and the flags where they are given as columns."""
    columns: list[list[float]] = [[0, 1, 2], *([[1, 1, 1]] * 5), [True] * 3, [False] * 3]
    columns[column] = [1] * length
    with pytest.raises(InvalidCandles):
        Candles.of(*columns[:6], closed=columns[6], synthetic=columns[7])


def test_a_table_is_no_column() -> None:
    """A batch has one dimension."""
    with pytest.raises(InvalidCandles):
        Candles.of([[0, 1]], *[[[1, 1]]] * 5)


def test_arrays_that_are_passed_in_must_not_change() -> None:
    """Columns of the right type are not copied (documented at `Candles.of`); lists and rows are."""
    stamps, price = np.array([0, MINUTE]), np.array([1.0, 2.0])
    candles = Candles.of(stamps, price, price, price, price, price)
    price[0] = 9
    assert candles.open.tolist() == [9.0, 2.0]
    rows = [[0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    read = Candles.from_rows(rows)
    rows[0][1] = 9.0
    assert read.open.tolist() == [1.0]
    with pytest.raises(AttributeError):
        candles.open = price  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        candles.closed[0] = False  # one value stands for the column


def _fault(candle: Candle, timeframe: Timeframe, span: Span, name: str) -> str | None:
    """The message about a candle's first fault, found one candle at a time."""
    numbers = (candle.open, candle.high, candle.low, candle.close, candle.volume)
    if not all(map(math.isfinite, numbers)):
        return "NaN or infinite"
    if candle.low > min(candle.open, candle.close, candle.high):
        return "low is above"
    if candle.high < max(candle.open, candle.close):
        return "high is below"
    if candle.volume < 0:
        return "volume is negative"
    if scalar.floor(timeframe, candle.timestamp, name) != candle.timestamp:
        return f"not the opening of a {timeframe}"
    return None if span.since <= candle.timestamp < span.until else "outside the range"


_number = st.sampled_from([1.0, 2.0, 3.0]) | st.sampled_from([1.0, -1.0, 0.0, -0.0, math.nan, math.inf, -math.inf])


@given(st.data())
@examples(120)
def test_problems_finds_each_bad_row_and_only_those(data: st.DataObject) -> None:
    """The same rows, for the same reasons, as a check of one candle at a time."""
    timeframe, name = data.draw(scalar.timeframes()), data.draw(st.sampled_from(scalar.HARD_ZONES))
    first = data.draw(scalar.instants(name, timeframe))
    edges = list(scalar.edges(timeframe, first, first + 6 * timeframe.nominal_ms, name))
    stamps = sorted({edge + data.draw(st.sampled_from([0, 0, 0, 0, 1, -1, MINUTE])) for edge in edges})
    columns = [[data.draw(_number) for _ in stamps] for _ in range(5)]
    candles = Candles.of(stamps, *columns)
    span = Span(first, first + data.draw(st.integers(0, 6)) * timeframe.nominal_ms)
    found = candles.problems(timeframe, span, zone(name))
    expected = {i: fault for i, candle in enumerate(candles) if (fault := _fault(candle, timeframe, span, name))}
    assert found.keys() == expected.keys()
    assert all(expected[i] in reason for i, reason in found.items())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((0, 2, 3, 1, 2, 5), None),
        ((0, 2, 2, 2, 2, 0), None),
        ((0, -2, -1, -3, -2, 5), None),  # oil has been sold at negative prices
        ((0, 2, 3, 1, math.nan, 5), "NaN or infinite"),
        ((0, 2, 3, 1, 2, math.nan), "NaN or infinite"),
        ((0, math.inf, math.inf, 1, 2, 5), "NaN or infinite"),
        ((0, 2, 3, 2.5, 2, 5), "low is above"),
        ((0, 3, 3, 2.5, 2, 5), "low is above"),
        ((0, 2, 1, 3, 2, 5), "low is above"),
        ((0, 2, 1.5, 1, 1.5, 5), "high is below"),
        ((0, 1.5, 1.5, 1, 2, 5), "high is below"),
        ((0, 2, 3, 1, 2, -1e-300), "volume is negative"),
        ((1, 2, 3, 1, 2, 5), "not the opening of a 1m bucket"),
        ((-MINUTE, 2, 3, 1, 2, 5), "outside the range"),
        ((MINUTE, 2, 3, 1, 2, 5), "outside the range"),
    ],
)
def test_a_bad_row_is_reported_with_its_reason(row: Row, reason: str | None) -> None:
    """Every kind of fault, alone."""
    found = Candles.from_rows([row]).problems(Timeframe(1, "m"), Span(0, MINUTE))
    assert (reason in found[0]) if reason else found == {}


def test_no_timestamp_is_too_wide_to_be_judged() -> None:
    """Nanoseconds, or any other int64, are a problem of the row and not of ours."""
    stamps = np.array([-(2**63), -(10**18), 10**18, 1_700_000_000_000_000_000, 2**62, 2**63 - 1])
    for name in ("UTC", *scalar.HARD_ZONES):
        for timeframe in map(Timeframe.parse, ("1m", "7h", "1d", "1w", "1mon", "10y")):
            found = _flat(stamps.tolist()).problems(timeframe, Span(0, 10**13), UTC if name == "UTC" else zone(name))
            assert list(found) == list(range(6))


@given(st.integers(-(10**12), 10**13 - 1))
@examples(100)
def test_the_time_of_a_candle_is_exact(stamp: int) -> None:
    """To the millisecond, up to the last Timestamp: 9999999999999 / 1000 is no float."""
    time = Candle(stamp, 1, 1, 1, 1, 1).time
    assert time.utcoffset() == timedelta(0)
    assert (time - datetime(1970, 1, 1, tzinfo=UTC_TZ)) // timedelta(microseconds=1) == stamp * 1000
