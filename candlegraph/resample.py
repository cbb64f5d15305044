"""Folding: candles of one timeframe into candles of a longer one."""

from __future__ import annotations

import numpy as np

from candlegraph.candle import Bools, Candles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Int64s, Zone


def fold(candles: Candles, timeframe: Timeframe, zone: Zone = UTC) -> Candles:
    """Fold ``candles`` into ``timeframe``: first open, highest high, lowest low, last close, summed volume.

    The caller passes whole buckets: a bucket is built from the candles passed. A bucket is ``closed`` or ``synthetic`` only if
    all its candles are. Input and output are ascending; the base timeframe must nest in ``timeframe``.
    """
    if not len(candles):
        return candles
    opens, starts = _buckets(candles.timestamp, timeframe, zone)
    return Candles(
        opens,
        candles.open[starts],
        np.maximum.reduceat(candles.high, starts),
        np.minimum.reduceat(candles.low, starts),
        candles.close[np.append(starts[1:], len(candles)) - 1],
        np.add.reduceat(candles.volume, starts),
        _all(candles.closed, starts),
        _all(candles.synthetic, starts),
    )


def _all(flags: Bools, starts: Int64s) -> Bools:
    """Whether a flag is set in all of each group; almost always it is in every row or in none."""
    if flags.all() or not flags.any():
        return np.broadcast_to(flags[0], starts.shape)
    return np.logical_and.reduceat(flags, starts)


def _buckets(stamps: Int64s, timeframe: Timeframe, zone: Zone) -> tuple[Int64s, Int64s]:
    """The opening of each bucket that holds a stamp, and the position of the first stamp in it."""
    if timeframe.width_ms:
        index = timeframe.index(stamps, zone)
        starts = np.append(0, np.flatnonzero(index[1:] != index[:-1]) + 1)
        return timeframe.open_at(index[starts], zone), starts
    # Days and longer buckets have few edges: look each edge up among the stamps, rather than each stamp among the days.
    edges = timeframe.edges(timeframe.floor(int(stamps[0]), zone), int(stamps[-1]) + 1, zone)
    starts = np.searchsorted(stamps, edges)
    filled = np.append(starts[1:], len(stamps)) > starts
    return edges[filled], starts[filled]


def fill_previous(candles: Candles, opens: Int64s, before: float | None) -> Candles:
    """Put a flat candle (volume 0, ``synthetic``) at the previous close into each of ``opens`` that has no candle.

    ``opens`` ascend; ``before`` is the close that precedes all candles; without one, nothing is filled.
    """
    empty = np.setdiff1d(opens, candles.timestamp, assume_unique=True)
    closes = np.append(np.nan if before is None else before, candles.close)
    close = closes[np.searchsorted(candles.timestamp, empty)]
    empty, close = empty[~np.isnan(close)], close[~np.isnan(close)]
    flat = Candles.of(empty, close, close, close, close, np.zeros(len(empty)), synthetic=True)
    return candles.merge(flat)
