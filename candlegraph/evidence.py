"""Finds what rows of candles prove: the spans in which there is no other candle than these.

A hole between two rows of a file means that there was no trade only if it looks like the other holes of the file: a night, a
weekend, a holiday, a quiet hour. A much longer hole means that rows are missing.
"""

from __future__ import annotations

import numpy as np

from candlegraph.clock import DAY_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Int64s, Zone

SHORT_HOLE_MS = 3 * DAY_MS  # a hole up to here never breaks a run: a long weekend
HOLE_FACTOR = 4  # nor does one up to this multiple of the longest usual one
KIND_COUNT = 3  # this many holes of one kind make it a usual kind
KIND_RATIO = 1.25  # holes are of one kind if the longest is at most this multiple of the shortest
ANY_HOLE_MS = int(np.iinfo(np.int64).max)
NO_HOLE_MS = 0


def hole_lengths(stamps: Int64s, timeframe: Timeframe, zone: Zone = UTC) -> Int64s:
    """The time without a row after each row but the last, (n - 1,) ms; 0 if the next bucket has a row.

    ``stamps`` is (n,) int64 ms UTC, ascending and unique. Holes between days are counted in local days, so that a
    change of the clock makes none longer.
    """
    ends = bucket_ends(stamps, timeframe, zone)[:-1]
    if timeframe.width_ms:
        return stamps[1:] - ends
    return (zone.day_of(stamps[1:]) - zone.day_of(ends)) * DAY_MS


def bucket_ends(stamps: Int64s, timeframe: Timeframe, zone: Zone = UTC) -> Int64s:
    """The instants (ms, UTC) at which the buckets of ``stamps`` end."""
    return timeframe.open_at(timeframe.index(stamps, zone) + 1, zone)


def longest_hole(stamps: Int64s, timeframe: Timeframe, zone: Zone = UTC) -> int:
    """The longest hole (ms) that does not break a run of these rows.

    Three days, or four times the longest usual hole. A hole is usual if two others are at most a quarter shorter: nights,
    weekends and holidays are kinds of their own, and a single unusual hole is none.
    """
    holes = hole_lengths(stamps, timeframe, zone)
    ranked = np.sort(holes[holes > 0])
    usual = ranked[KIND_COUNT - 1 :][ranked[KIND_COUNT - 1 :] <= ranked[: 1 - KIND_COUNT] * KIND_RATIO]
    return max(SHORT_HOLE_MS, HOLE_FACTOR * int(usual.max(initial=0)))


def runs(stamps: Int64s, timeframe: Timeframe, zone: Zone = UTC, longest: int | None = None) -> Spans:
    """The runs of rows, each from the opening of its first to the end of its last.

    A hole longer than ``longest`` ms breaks a run; the default is `longest_hole`. With ``ANY_HOLE_MS`` there is one run, with
    ``NO_HOLE_MS`` no run has a hole.
    """
    if not len(stamps):
        return Spans()
    if longest is None:
        longest = longest_hole(stamps, timeframe, zone)
    last = np.append(hole_lengths(stamps, timeframe, zone) > longest, True)
    first = np.append(True, last[:-1])
    ends = bucket_ends(stamps[last], timeframe, zone)
    return Spans(map(Span, stamps[first].tolist(), ends.tolist()))


def bridges(found: Spans, beside: Int64s, timeframe: Timeframe, zone: Zone, longest: int) -> Spans:
    """The holes of at most ``longest`` ms between the runs ``found`` and the rows ``beside`` them, (m,) ascending."""
    pairs = []
    for run in found:
        before = beside[: np.searchsorted(beside, run.since)][-1:].tolist()
        after = beside[np.searchsorted(beside, run.until) :][:1].tolist()
        pairs += [(row, run.since) for row in before] + [(timeframe.shift(run.until, -1, zone), row) for row in after]
    near = [pair for pair in pairs if hole_lengths(np.array(pair, np.int64), timeframe, zone)[0] <= longest]
    return Spans(Span(timeframe.next(row, zone), following) for row, following in near)
