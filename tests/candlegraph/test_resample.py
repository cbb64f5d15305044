"""Folding, held against a fold in plain Python over the scalar calendar."""

from __future__ import annotations

import math
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph import UTC, Candle, Candles, Timeframe, fold, zone
from candlegraph.resample import fill_previous
from tests.candlegraph import scalar_calendar as scalar
from tests.candlegraph.scalar_calendar import DAY, HOUR, MINUTE, at, examples


def _random(stamps: list[int] | np.ndarray[tuple[int], np.dtype[np.int64]], seed: int) -> Candles:
    """Candles like those of a market at the given stamps, some still forming and some synthetic."""
    draw = np.random.default_rng(seed)
    prices = np.exp(draw.normal(0, 0.5, (4, len(stamps)))) * 100
    volumes = draw.pareto(1.5, len(stamps)) * 10.0 ** draw.integers(-6, 6, len(stamps))
    flags = draw.random((2, len(stamps))) < [[0.9], [0.3]]
    return Candles.of(
        stamps,
        prices[0],
        prices.max(axis=0),
        prices.min(axis=0),
        prices[3],
        volumes,
        closed=flags[0],
        synthetic=flags[1],
    )


def _naive(candles: Candles, timeframe: Timeframe, name: str) -> list[Candle]:
    folded = []
    for opened, group in groupby(candles, key=lambda candle: scalar.floor(timeframe, candle.timestamp, name)):
        inside = list(group)
        folded.append(
            Candle(
                opened,
                inside[0].open,
                max(candle.high for candle in inside),
                min(candle.low for candle in inside),
                inside[-1].close,
                math.fsum(candle.volume for candle in inside),
                all(candle.closed for candle in inside),
                all(candle.synthetic for candle in inside),
            )
        )
    return folded


def _assert_same(ours: list[Candle], theirs: list[Candle]) -> None:
    """Equal to the bit, but for the volume."""
    parts = [
        [(c.timestamp, c.open, c.high, c.low, c.close, c.closed, c.synthetic) for c in side] for side in (ours, theirs)
    ]
    assert parts[0] == parts[1]
    assert [c.volume for c in ours] == pytest.approx([c.volume for c in theirs], rel=1e-9, abs=0)


@st.composite
def _stamps(draw: st.DrawFn, name: str, step: int) -> list[int]:
    """Openings of a base timeframe with holes: runs of candles with gaps from one step to months between."""
    stamp = draw(scalar.instants(name)) // step * step
    stamps: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        run = draw(st.integers(1, 40))
        stamps += range(stamp, stamp + run * step, step)
        stamp += run * step + draw(st.integers(0, 3) | st.integers(0, 60 * DAY // step)) * step
    return stamps


@given(st.data())
@examples(150)
def test_folding_is_what_a_loop_over_the_candles_does(data: st.DataObject) -> None:
    """Any timeframe, zone and pattern of holes; OHLC to the bit, volume within 1e-9."""
    timeframe, name = data.draw(scalar.timeframes()), data.draw(scalar.zone_names())
    step = data.draw(st.sampled_from([MINUTE, 5 * MINUTE, HOUR, 6 * HOUR]))
    candles = _random(data.draw(_stamps(name, step)), data.draw(st.integers(0, 99)))
    folded = fold(candles, timeframe, zone(name))
    _assert_same(list(folded), _naive(candles, timeframe, name))
    assert (np.diff(folded.timestamp) > 0).all()
    assert [column.dtype for column in folded.columns] == [column.dtype for column in candles.columns]


_CHAINS = {
    "UTC": ["1m 1h 1d", "1m 5m 1h 4h 1d 1w", "1m 7h 1w", "1m 1h 1d 1mon 1y", "1m 24h 1d 3d", "1m 1d 24h 72h"],
    "America/New_York": ["1m 1h 1d", "1m 30m 1d 1w", "1m 1h 1d 1mon"],
    "Asia/Kolkata": ["1m 30m 1d", "1m 15m 30m 1d 1mon"],
    "America/Havana": ["1m 1h 1d", "1m 1h 1d 2w"],
    "Pacific/Apia": ["1m 1h 1d", "1m 30m 1d 1mon"],
    "Asia/Kathmandu": ["1m 15m 1d", "1m 5m 15m 1d 1w"],
    "Australia/Lord_Howe": ["1m 30m 1d"],
}
_STARTS = {
    "UTC": ["2024-02-25", "1999-12-28"],
    "America/New_York": ["2024-03-08", "2024-11-01"],
    "Asia/Kolkata": ["2024-02-27"],
    "America/Havana": ["2024-03-08", "2024-11-01"],
    "Pacific/Apia": ["2011-12-27"],
    "Asia/Kathmandu": ["1985-12-29"],
    "Australia/Lord_Howe": ["2024-04-04", "2024-10-03"],
}


@pytest.mark.parametrize(
    ("name", "start", "chain"),
    [(name, start, chain) for name, chains in _CHAINS.items() for start in _STARTS[name] for chain in chains],
)
def test_folding_in_steps_is_folding_at_once(name: str, start: str, chain: str) -> None:
    """1m to 1h to 1d is 1m to 1d wherever each timeframe nests in the next, over eight days with holes."""
    steps = [Timeframe.parse(text) for text in chain.split()]
    assert all(a.nests_in(b, zone(name)) for a, b in pairwise(steps))
    minutes = np.arange(at(start), at(start) + 8 * DAY, MINUTE)
    draw = np.random.default_rng(7)
    traded = (draw.random(len(minutes)) < 0.7) & (np.repeat(draw.random(len(minutes) // 90), 90) < 0.8)
    base = _random(minutes[traded], 11)
    stepwise = base
    for timeframe in steps[1:]:
        stepwise = fold(stepwise, timeframe, zone(name))
    _assert_same(list(stepwise), list(fold(base, steps[-1], zone(name))))
    _assert_same(list(stepwise), _naive(base, steps[-1], name))


@given(st.data())
@examples(80)
def test_folding_in_steps_is_folding_at_once_for_any_three(data: st.DataObject) -> None:
    """Random timeframes and zones: where they nest, the way between does not matter."""
    name = data.draw(scalar.zone_names())
    middle, last = data.draw(scalar.timeframes("m h d")), data.draw(scalar.timeframes("h d w mon y"))
    if not middle.nests_in(last, zone(name)):
        middle = Timeframe(data.draw(st.sampled_from([1, 5, 15])), "m") if last.width_ms else Timeframe(1, "d")
    base = _random(data.draw(_stamps(name, MINUTE)), 5)
    if middle.nests_in(last, zone(name)):
        at_once = fold(base, last, zone(name))
        _assert_same(list(fold(fold(base, middle, zone(name)), last, zone(name))), list(at_once))
        _assert_same(list(fold(at_once, last, zone(name))), list(at_once))


def test_a_fold_into_the_same_timeframe_changes_nothing() -> None:
    """Single candles pass through to the bit, their volume too."""
    candles = _random(np.arange(0, 500 * MINUTE, MINUTE), 3)
    assert list(fold(candles, Timeframe(1, "m"))) == list(candles)


def test_a_bucket_is_closed_or_synthetic_only_when_all_its_candles_are() -> None:
    """One forming minute keeps the hour open; one traded minute makes it real."""
    stamps = [0, MINUTE, HOUR, HOUR + MINUTE, 3 * HOUR]
    closed, synthetic = [True, False, True, True, True], [True, True, True, False, True]
    candles = Candles.of(stamps, *[[1.0] * 5] * 5, closed=closed, synthetic=synthetic)
    folded = fold(candles, Timeframe(1, "h"))
    assert folded.timestamp.tolist() == [0, HOUR, 3 * HOUR]
    assert folded.closed.tolist() == [False, True, True]
    assert folded.synthetic.tolist() == [True, False, True]


def test_a_days_candle_spans_the_hours_its_zone_gives_it() -> None:
    """In New York 2024-03-10 has 23 hours and 2024-11-03 has 25."""
    new_york, day = zone("America/New_York"), Timeframe(1, "d")
    for start, hours in (("2024-03-10T05:00", 23), ("2024-11-03T04:00", 25), ("2024-06-03T04:00", 24)):
        stamps = np.arange(at(start) - 2 * DAY, at(start) + 3 * DAY, HOUR)
        candles = Candles.of(stamps, *[np.ones(len(stamps))] * 5)
        folded = fold(candles, day, new_york)
        assert folded.volume[folded.timestamp == at(start)].tolist() == [hours]


@given(st.data())
@examples(100)
def test_empty_buckets_are_filled_with_the_previous_close(data: st.DataObject) -> None:
    """The same as a walk over the openings that remembers the last close."""
    opens = [n * MINUTE for n in range(data.draw(st.integers(0, 20)))]
    held = sorted(data.draw(st.sets(st.sampled_from(opens) | st.just(-MINUTE)))) if opens else []
    candles = _random(held, 1)
    before = data.draw(st.none() | st.just(50.0))
    expected = {candle.timestamp: candle for candle in candles}
    last = before
    for opened in sorted({*opens, *held}):
        if opened in expected:
            last = expected[opened].close
        elif last is not None:
            expected[opened] = Candle(opened, last, last, last, last, 0.0, closed=True, synthetic=True)
    filled = fill_previous(candles, np.array(opens, np.int64), before)
    assert list(filled) == [candle for _, candle in sorted(expected.items())]


def test_no_candles_fold_into_none() -> None:
    """Whatever the timeframe and the zone."""
    for timeframe in map(Timeframe.parse, ("1m", "1h", "1d", "1w", "1mon", "1y")):
        for where in (UTC, zone("America/New_York")):
            assert len(fold(Candles.empty(), timeframe, where)) == 0
