"""Checks the steps between the rows of a table: a timeframe that no step shows, and two timeframes in one file."""

from __future__ import annotations

import math

import numpy as np

from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone

_BITS = 16.0  # refuse rows on a coarser grid if the probability of an accident is below 2 ** -16
_MONTH_DAYS = 28
_THIN = "if the symbol seldom trades, add --sparse (each row stands for itself) or --covers (the file is whole)"


def check_steps(stamps: Int64s, timeframe: Timeframe, zone: Zone) -> None:
    """InvalidCandles if the rows (n,) ms UTC, ascending, have another timeframe than ``timeframe`` or two of them."""
    if timeframe.width_ms and (np.diff(stamps) == timeframe.width_ms).all():
        return
    index = timeframe.index(stamps, zone)
    steps = np.diff(index)
    if len(steps) and not steps.all():  # repeated rows; np.unique takes a second for a million of them
        index = index[np.append(True, steps > 0)]
        steps = np.diff(index)
    if not len(steps) or (steps == 1).all():
        return
    shown = np.flatnonzero(steps == 1)
    if not len(shown):
        raise InvalidCandles(
            f"no row follows another after {timeframe}, they are {_spelt(int(steps.min()), timeframe)} apart and more: "
            f"name their true timeframe, or leave it out; {_THIN}"
        )
    for place, part in (("begins", slice(0, shown[0])), ("ends", slice(shown[-1] + 2, None))):
        if coarse := _coarser(index[part], timeframe):
            raise InvalidCandles(
                f"it holds two timeframes: it {place} with {len(index[part])} rows that are {coarse} apart and more, the "
                f"others are of {timeframe}. Import the two in files of their own; {_THIN}"
            )


def _coarser(index: Int64s, timeframe: Timeframe) -> str:
    """The step of the rows if only a coarser timeframe explains it; empty if it may be an accident."""
    steps = np.diff(index)
    if not len(steps):
        return ""
    step = int(np.gcd.reduce(steps))
    bits = math.log2(step) * len(steps)
    if timeframe.days == 1 and steps.min() >= _MONTH_DAYS and steps.max() <= _MONTH_DAYS + 3:
        step, bits = int(steps.min()), math.log2(_MONTH_DAYS) * len(steps)
    return _spelt(step, timeframe) if bits >= _BITS else ""


def _spelt(count: int, timeframe: Timeframe) -> str:
    """``count`` buckets of ``timeframe`` as one step: 60 of 1m are 1h, 24 of 1h are 1d."""
    step, unit = timeframe.count * count, timeframe.unit
    for finer, many, coarser in (("m", 60, "h"), ("h", 24, "d")):
        if unit == finer and step % many == 0:
            step, unit = step // many, coarser  # type: ignore[assignment]  # both are units
    return f"{step:,}{unit}"
