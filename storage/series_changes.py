"""What changed of the stored candles of an instrument, by the logs of corrections and of withdrawn coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from candlegraph.series_revision import ChangeMark
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s
from storage.binary import unpack_stamps
from storage.database import Database

MAX_LOGGED = 10_000  # entries of a log; beyond, copying the series anew costs less


@dataclass(frozen=True, slots=True)
class LoggedChanges:
    """The openings (ms, UTC) of corrected candles of one stored timeframe, and the spans that lost their coverage."""

    corrected: Int64s
    lost: list[Span]


async def changes_after(
    database: Database, instrument_id: int, marks: Mapping[Timeframe, ChangeMark]
) -> dict[Timeframe, LoggedChanges] | None:
    """What the logs have of each timeframe after its mark; None where that is too much."""
    rows = await database.read(
        "changes_after",
        instrument_id,
        list(map(str, marks)),
        [mark.correction for mark in marks.values()],
        [mark.withdrawal for mark in marks.values()],
        MAX_LOGGED + 1,
    )
    found = {}
    for row in rows:
        corrected, edges = unpack_stamps(row["corrected"]), unpack_stamps(row["lost"])
        if max(len(corrected), len(edges) // 2) > MAX_LOGGED:
            return None
        lost = list(map(Span, edges[::2].tolist(), edges[1::2].tolist()))
        found[Timeframe.parse(row["timeframe"])] = LoggedChanges(np.unique(corrected), lost)
    return found
