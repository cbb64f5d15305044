"""How far the logs of corrections and of withdrawn coverage had come when a series was read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from candlegraph.errors import BadUserInput
from candlegraph.timeframe import Timeframe

_NOTHING = "0"
_MARK = re.compile(r"([1-9][0-9]{0,7}[a-z]{1,3})\.([0-9]{1,18})\.([0-9]{1,18})")


class ChangeMark(NamedTuple):
    """The newest entries of both logs about one stored timeframe; 0 if there is none."""

    correction: int = 0
    withdrawal: int = 0


@dataclass(frozen=True, slots=True)
class SeriesRevision:
    """The marks of the stored timeframes that a series may be made of. Candles that are added move none of them."""

    marks: Mapping[Timeframe, ChangeMark] = field(default_factory=dict)

    def below(self, timeframe: Timeframe) -> SeriesRevision:
        """The marks that matter to the candles of ``timeframe``: nothing coarser goes into them."""
        longest = timeframe.nominal_ms
        return SeriesRevision({tf: mark for tf, mark in self.marks.items() if tf.nominal_ms <= longest})

    def __str__(self) -> str:
        """The opaque text that clients keep."""
        marks = sorted((tf.nominal_ms, str(tf), *mark) for tf, mark in self.marks.items() if any(mark))
        return "-".join(f"{tf}.{correction}.{withdrawal}" for _, tf, correction, withdrawal in marks) or _NOTHING

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `__str__` wrote; BadUserInput for anything else."""
        parts = [] if text == _NOTHING else text.split("-")
        matches = [_MARK.fullmatch(part) for part in parts]
        if len(parts) > 100 or not all(matches):
            raise BadUserInput("`after` is not a revision: pass the `revision` of a CandleSeries as it is.")
        return cls({Timeframe.parse(m[1]): ChangeMark(int(m[2]), int(m[3])) for m in matches if m})
