"""A topic as its leader counts it: from final minutes to closed candles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.resample import fold
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone


@dataclass(slots=True)
class TopicCounter:
    """``seq`` events have told of every minute before ``edge``, and of the ``corrected``th correction.

    ``settled`` is the candle of the current bucket as far as its minutes are final: none or one row. ``forming`` is how it
    was shown last, and the one after it where both are under way.
    """

    timeframe: Timeframe
    zone: Zone
    edge: int
    seq: int
    corrected: int
    settled: Candles = field(default_factory=Candles.empty)
    forming: Candles = field(default_factory=Candles.empty)

    @property
    def opened(self) -> int:
        """The opening of the bucket that is not settled yet: every candle before it has been closed."""
        return self.timeframe.floor(self.edge, self.zone)

    def fold(self, candles: Candles) -> Candles:
        """Shorter candles as candles of ours."""
        return fold(candles, self.timeframe, self.zone)

    def close_until(self, minutes: Candles, edge: int) -> tuple[Candles, Candles]:
        """What final minutes up to ``edge`` make of it: the candles that close, and what is settled of the next."""
        folded = self.fold(concat([self.settled, minutes[minutes.timestamp >= self.edge]]))
        opened = self.timeframe.floor(edge, self.zone)
        return folded[folded.timestamp < opened], folded[folded.timestamp >= opened]

    def update_forming(self, minutes: Candles) -> bool:
        """Take in how the minutes that are not final yet stand; whether the forming candle moved by that."""
        live = self.fold(concat([self.settled, minutes[minutes.timestamp >= self.edge]]))
        live = live.with_closed(np.zeros(len(live), np.bool_))
        moved = not live.same_as(self.forming)
        self.forming = live
        return moved
