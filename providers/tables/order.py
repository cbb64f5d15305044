"""The order of columns without names, as their rows prove it.

High and low bound the other two prices; where a close meets the next open, it is the close. A column beside them that always
lies between low and high is a VWAP, and not the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

_MIN_PAIRS = 3  # rows with a successor: fewer prove nothing
_RATIO = 0.6  # the mean step from a close to the next open, of that in the other reading

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Order:
    """The positions of open, high, low and close among the columns, and of the volume if there is one.

    ``is_proved`` is False if the rows would allow another reading as well; ``words`` describes the proof.
    """

    prices: tuple[int, int, int, int]
    volume: int | None
    is_proved: bool
    words: str


def order_of(columns: Numbers) -> Order | None:
    """The order of ``columns``, (k, n) float64 without the times, rows ascending in time; None if no four are prices."""
    for start in range(min(3, len(columns) - 3)):
        found = [
            tuple(start + at for at in chosen)
            for chosen in permutations(range(4))
            if _bounds(columns[start + np.array(chosen)])
        ]
        if found:
            return _decided(columns, found, start)
    return None


def _bounds(prices: Numbers) -> bool:
    """Whether four columns can be open, high, low and close."""
    first, high, low, last = prices
    if not np.isfinite(prices).all():
        return False
    return bool(
        (high >= np.maximum(first, last)).all() and (low <= np.minimum(first, last)).all() and (high >= low).all()
    )


def _decided(columns: Numbers, found: Sequence[tuple[int, ...]], start: int) -> Order:
    """Choose among readings that the bounds allow: by the steps from each close to the next open."""
    steps = [_step(columns[list(prices)]) for prices in found]
    best = int(np.argmin(steps))
    others = [step for at, step in enumerate(steps) if at != best]
    usual = tuple(range(start, start + 4))
    pairs = columns.shape[1] - 1
    is_proved = pairs >= _MIN_PAIRS and steps[best] < _RATIO * min(others, default=np.inf)
    if not is_proved and usual in found and steps[found.index(usual)] * _RATIO <= steps[best]:
        best = found.index(usual)
    words = "high and low bound the others" + ", and a close meets the next open" * is_proved
    prices = found[best]
    volume = _volume(columns, prices, start)
    if volume is not None and volume > start + 4:
        words += f"; column {volume + 1} lies between low and high: a VWAP"
    return Order((prices[0], prices[1], prices[2], prices[3]), volume, is_proved, words)


def _step(prices: Numbers) -> float:
    return float(np.abs(prices[0, 1:] - prices[3, :-1]).mean()) if prices.shape[1] > 1 else 0.0


def _volume(columns: Numbers, prices: tuple[int, ...], start: int) -> int | None:
    """The first column behind the prices that is no VWAP; a single column there is the volume."""
    high, low = columns[prices[1]], columns[prices[2]]
    behind = range(start + 4, len(columns))
    for at in behind:
        if not ((columns[at] >= low) & (columns[at] <= high)).all():
            return at
    return None
