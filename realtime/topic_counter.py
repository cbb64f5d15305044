"""A topic's counter in its leader: it folds final minutes into closed candles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.resample import fold
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone


@dataclass(slots=True)
class TopicCounter:
    """``seq`` events cover every minute before ``edge``, and the corrections up to number ``corrected``.

    ``settled`` is the candle of the current bucket up to its last final minute: none or one row. ``forming`` holds the
    candle(s) last published: the current bucket, and the next one while the current is still settling.
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
        """The opening of the current bucket: every candle before it is closed."""
        return self.timeframe.settled(self.edge, self.zone)

    def fold(self, candles: Candles) -> Candles:
        """Fold shorter candles into this topic's timeframe."""
        return fold(candles, self.timeframe, self.zone)

    def close_until(self, minutes: Candles, edge: int) -> tuple[Candles, Candles]:
        """Fold final minutes up to ``edge`` into the candles that close, and the settled part of the next one."""
        folded = self.fold(concat([self.settled, self._counted(minutes)]))
        opened = self.timeframe.settled(edge, self.zone)
        return folded[folded.timestamp < opened], folded[folded.timestamp >= opened]

    def _counted(self, minutes: Candles) -> Candles:
        """The minutes from the edge on, within the trading hours."""
        ahead = minutes[minutes.timestamp >= self.edge]
        return ahead[self.zone.hours.contains(ahead.timestamp)] if self.zone.hours else ahead

    def update_forming(self, minutes: Candles) -> bool:
        """Apply the minutes that are not final yet; return whether the forming candle changed."""
        live = self.fold(concat([self.settled, self._counted(minutes)]))
        live = live.with_closed(np.zeros(len(live), np.bool_))
        moved = not live.same_as(self.forming)
        self.forming = live
        return moved
