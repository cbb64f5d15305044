"""How an exchange answers a window: which rows of those that it has, how many, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from candlegraph.timeframe import Timeframe


class Edge(StrEnum):
    """What an exchange makes of a start or an end."""

    INCLUSIVE = "inclusive"
    EXCLUSIVE = "exclusive"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Window:
    """What a request asks for; instants in ms UTC."""

    start: int | None
    end: int | None
    count: int | None
    offset: int = 0  # newest rows to skip


@dataclass(frozen=True, slots=True)
class Paging:
    """One kind of paging.

    ``keeps_newest``: where there are too many rows, the newest come. ``cap``: how many at most, whatever count is asked
    for. ``window``: without an end the exchange looks at ``count`` buckets from the start on. ``kept``: how many of the
    newest rows it has at all.
    """

    start: Edge = Edge.INCLUSIVE
    end: Edge = Edge.EXCLUSIVE
    keeps_newest: bool = False
    descending: bool = False
    cap: int | None = None
    window: bool = False
    kept: int | None = None

    def rows(self, there: Sequence[int], asked: Window, timeframe: Timeframe) -> list[int]:
        """The openings of the rows that are answered, of those that are ``there``."""
        found = list(there)[-self.kept :] if self.kept else list(there)
        start = None if self.start is Edge.IGNORED else asked.start
        end = None if self.end is Edge.IGNORED else asked.end
        if self.window and end is None and start is not None and asked.count:
            end = timeframe.shift(start, asked.count)
        if start is not None:
            found = [at for at in found if at > start or (at == start and self.start is Edge.INCLUSIVE)]
        if end is not None:
            found = [at for at in found if at < end or (at == end and self.end is Edge.INCLUSIVE)]
        found = found[: len(found) - asked.offset] if asked.offset <= len(found) else []
        most = min(limit for limit in (asked.count, self.cap, 100_000) if limit)
        newest = self.keeps_newest or start is None
        found = found[-most:] if newest else found[:most]
        return found[::-1] if self.descending else found
