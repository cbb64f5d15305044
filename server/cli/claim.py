"""The coverage that an import claims, with the reasons, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.evidence import ANY_HOLE_MS, NO_HOLE_MS, bridges, hole_lengths, longest_hole, runs
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone
from schema.scalars import print_datetime

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Claim:
    """The ``spans`` that rows prove, ``seen`` at these openings (n,) ms UTC, up to ``until``.

    A hole longer than ``longest`` ms is not covered.
    """

    seen: Int64s
    timeframe: Timeframe
    days: Zone
    until: int
    longest: int
    spans: Spans
    is_joined: bool = False

    @classmethod
    def of(
        cls, seen: Int64s, timeframe: Timeframe, days: Zone, until: int, *, covers: bool = False, sparse: bool = False
    ) -> Self:
        """The runs of rows; with ``covers`` everything from the first to the last, with ``sparse`` only the rows themselves."""
        longest = ANY_HOLE_MS if covers else NO_HOLE_MS if sparse else longest_hole(seen, timeframe, days)
        spans = runs(seen, timeframe, days, longest) & Spans([Span(int(seen[0]), until)])
        return cls(seen, timeframe, days, until, longest, spans)

    def joined(self, beside: Int64s) -> Claim:
        """The claim judged together with the imported rows ``beside``: (m,) ms UTC, ascending.

        Their holes count as ours do, and a hole between them and us is covered where one within the file would be.
        """
        if not len(beside):
            return self
        usual = longest_hole(np.union1d(self.seen, beside), self.timeframe, self.days)
        longest = max(self.longest, usual)
        own = runs(self.seen, self.timeframe, self.days, longest) & Spans([Span(int(self.seen[0]), self.until)])
        between = bridges(own, beside, self.timeframe, self.days, usual) & Spans(
            [Span(min(int(beside[0]), int(self.seen[0])), self.until)]
        )
        return replace(self, longest=longest, spans=own | between, is_joined=bool(between))

    def lines(self) -> Iterator[str]:
        """The claim in words."""
        yield self._holes()
        spans = list(self.spans)
        shown = ", ".join(f"{print_datetime(span.since)} to {print_datetime(span.until)}" for span in spans[:_SHOWN])
        more = f" and {len(spans) - _SHOWN:,} spans more" if len(spans) > _SHOWN else ""
        beside = " This joins the imported candles beside it." if self.is_joined else ""
        yield f"Covered: {shown}{more}.{beside}"

    def _holes(self) -> str:
        lengths = hole_lengths(self.seen, self.timeframe, self.days)
        count, open_ones = np.count_nonzero(lengths), np.count_nonzero(lengths > self.longest)
        if not count:
            return "Holes: none."
        at = int(lengths.argmax())
        edges = self.timeframe.next(int(self.seen[at]), self.days), int(self.seen[at + 1])
        span = " to ".join(map(print_datetime, edges))
        summary = f"Holes: {count:,}, the longest of {_spelt(int(lengths[at]))}, {span}."
        if self.longest == NO_HOLE_MS:
            return f"{summary} None is covered (--sparse)."
        if not open_ones:
            return f"{summary} They are covered: there was no trade then."
        return (
            f"{summary} {open_ones:,} longer than {_spelt(self.longest)} {'is' if open_ones == 1 else 'are'} not covered, as if rows "
            "were missing there; --covers declares that there was no trade then."
        )


def _spelt(length: int) -> str:
    """A length of time in its two largest units."""
    parts, rest = [], length
    for size, unit in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m")):
        count, rest = divmod(rest, size)
        parts += [f"{count:,}{unit}"] if count else []
    return " ".join(parts[:2])
