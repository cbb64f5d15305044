"""Rechecks: empty answers that may be false are believed at once, and fetched again when an outage would be over."""

from __future__ import annotations

from cachetools import TTLCache

from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from storage.database import SQL, Database

RECHECK_AFTER_MS = HOUR_MS  # fetched again after this
RECHECK_GRID_MS = 10 * MINUTE_MS  # rechecks within this time share one row
LONG_SPAN_MS = RECENT_SPAN_MS = DAY_MS
MAX_PAUSED = 20_000


def needs_recheck(covered: Spans, now: int) -> bool:
    """Whether an empty answer over ``covered`` may be an outage: it is long, or close to ``now``."""
    return any(span.until - span.since > LONG_SPAN_MS or span.until > now - RECENT_SPAN_MS for span in covered)


class Rechecks:
    """The relation ``suspects``, which is read with the coverage. Instants are milliseconds since the epoch, UTC."""

    def __init__(self, database: Database, max_resting: int = MAX_PAUSED) -> None:
        """No instrument pauses; at most ``max_resting`` do at a time."""
        self._database = database
        self._paused: TTLCache[int, None] = TTLCache(max_resting, database.timings.recheck_pause_s)

    async def add(self, instrument_id: int, timeframe: Timeframe, spans: Spans, now: int) -> None:
        """Record that the answer over ``spans`` was empty."""
        columns = [[span.since for span in spans], [span.until for span in spans]]
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["suspects_add"], instrument_id, str(timeframe), now // RECHECK_GRID_MS * RECHECK_GRID_MS, *columns
            )

    async def resolve(self, instrument_id: int, timeframe: Timeframe, spans: Spans, now: int) -> None:
        """Delete the rechecks within ``spans``, which were fetched again: the second answer is final."""
        columns = [[span.since for span in spans], [span.until for span in spans]]
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["suspects_settle"],
                instrument_id,
                str(timeframe),
                now - RECHECK_AFTER_MS - RECHECK_GRID_MS,
                *columns,
            )

    def is_due(self, instrument_id: int) -> bool:
        """Whether to recheck this instrument now; False if that happened in the last 30 s."""
        if instrument_id in self._paused:
            return False
        self._paused[instrument_id] = None
        return True
