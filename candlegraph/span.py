"""Half-open spans of time, and sorted sets of them: the arithmetic of coverage."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """``[since, until)`` in milliseconds since the epoch, UTC. Empty where ``until <= since``."""

    since: int
    until: int

    def __bool__(self) -> bool:
        """Whether it holds any instant."""
        return self.until > self.since

    def __and__(self, other: Span) -> Span:
        """The intersection."""
        if other.since <= self.since and self.until <= other.until:
            return self
        return Span(max(self.since, other.since), min(self.until, other.until))

    def inner(self, timeframe: Timeframe, zone: Zone = UTC) -> Span:
        """The largest span of whole buckets within."""
        return Span(timeframe.ceil(self.since, zone), timeframe.floor(self.until, zone)) if self else self

    def outer(self, timeframe: Timeframe, zone: Zone = UTC) -> Span:
        """The smallest span of whole buckets around."""
        return Span(timeframe.floor(self.since, zone), timeframe.ceil(self.until, zone)) if self else self


class Spans:
    """A set of instants as sorted, disjoint, non-empty spans; neighbours that touch are one. Immutable."""

    __slots__ = ("_spans",)

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        """Sort and merge ``spans``, in any order, overlapping or empty."""
        held = [span for span in spans if span.until > span.since]
        self._spans = tuple(held if len(held) < 2 else _merged(held))

    @classmethod
    def from_disjoint(cls, spans: Iterable[Span]) -> Self:
        """Take ``spans`` that are sorted, non-empty and do not touch, as coverage has them."""
        made = cls()
        made._spans = tuple(spans)
        return made

    def _candidates(self, other: Spans) -> tuple[Span, ...]:
        """Those of ours that may meet ``other``; of thousands of fragments seldom more than a few do."""
        if not self._spans or not other._spans:
            return ()
        first = bisect_right(self._spans, other._spans[0].since, key=lambda span: span.until)
        return self._spans[first : bisect_left(self._spans, other._spans[-1].until, key=lambda span: span.since)]

    def __iter__(self) -> Iterator[Span]:
        """The spans, ascending."""
        return iter(self._spans)

    def __len__(self) -> int:
        """How many separate spans there are."""
        return len(self._spans)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same instants."""
        return isinstance(other, Spans) and self._spans == other._spans

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self._spans)

    def __repr__(self) -> str:
        """Print the spans."""
        return f"Spans({list(self._spans)})"

    def __or__(self, other: Spans) -> Spans:
        """The union."""
        return Spans((*self._spans, *other._spans))

    def __and__(self, other: Spans) -> Spans:
        """The intersection."""
        found, ours, theirs = [], self._candidates(other), other._candidates(self)
        i = j = 0
        while i < len(ours) and j < len(theirs):
            found.append(ours[i] & theirs[j])
            if ours[i].until < theirs[j].until:
                i += 1
            else:
                j += 1
        return Spans.from_disjoint(span for span in found if span)

    def __sub__(self, other: Spans) -> Spans:
        """The difference: our instants that ``other`` does not have."""
        near = other._candidates(self)
        if not near:
            return self
        edges = [
            self._spans[0].since,
            *(edge for span in near for edge in (span.since, span.until)),
            self._spans[-1].until,
        ]
        return self & Spans(Span(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True))

    def covers(self, span: Span) -> bool:
        """Whether every instant of ``span`` is held."""
        at = bisect_right(self._spans, span.since, key=lambda held: held.since) - 1
        return not span or (at >= 0 and span.until <= self._spans[at].until)

    def inner(self, timeframe: Timeframe, zone: Zone = UTC) -> Spans:
        """The whole buckets, each within one of the spans."""
        return Spans(span.inner(timeframe, zone) for span in self._spans)


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.since):
        if merged and span.since <= merged[-1].until:
            merged[-1] = Span(merged[-1].since, max(merged[-1].until, span.until))
        else:
            merged.append(span)
    return merged
