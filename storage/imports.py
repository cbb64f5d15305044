"""Reads the imported rows next to the rows of a file: an import is judged together with its neighbours."""

from __future__ import annotations

import numpy as np

from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s
from storage.binary import POSTGRES_EPOCH_MS
from storage.database import Database

MAX_ROWS_BESIDE = 10_000  # on each side of the file's span: a month of minutes of a stock, a week of every minute

_PACKED = np.dtype([("timestamp", ">i8"), ("source", "S1")])


async def imported_beside(database: Database, instrument_id: int, timeframe: Timeframe, spans: Spans) -> Int64s:
    """The openings (ms, UTC, ascending) of imported rows next to each of ``spans``, by one statement.

    The search stops at the first row that came from a provider: rows beyond it are not neighbours.
    """
    sides = [(at, before) for span in spans for at, before in ((span.since, True), (span.until, False))]
    outer = (0, len(sides) - 1)
    rows = await database.read(
        "rows_beside",
        instrument_id,
        str(timeframe),
        [at for at, _ in sides],
        [before for _, before in sides],
        [MAX_ROWS_BESIDE if number in outer else 1 for number in range(len(sides))],
    )
    found = [_imported(row["packed"], before=before) for row, (_, before) in zip(rows, sides, strict=True)]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _imported(packed: bytes | None, *, before: bool) -> Int64s:
    rows = np.frombuffer(packed or b"", _PACKED)
    foreign = np.flatnonzero(rows["source"] != b"i")
    if len(foreign):
        rows = rows[foreign[-1] + 1 :] if before else rows[: foreign[0]]
    return np.asarray(rows["timestamp"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS)
