"""Empty answers that may be false: believed at once, and asked for once more when an outage would be over."""

from __future__ import annotations

from cachetools import TTLCache

from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from storage.database import SQL, Database

AGAIN_MS = HOUR_MS  # asked again after this
GRAIN_MS = 10 * MINUTE_MS  # what is noted within this is one row
LONG_MS = RECENT_MS = DAY_MS
MAX_RESTING = 20_000


def is_suspect(covered: Spans, now: int) -> bool:
    """Whether nothing at all over ``covered`` is more likely an outage than elsewhere: it is long, or close to ``now``."""
    return any(span.until - span.since > LONG_MS or span.until > now - RECENT_MS for span in covered)


class Suspects:
    """The relation ``suspects``, which is read with the ledgers. Instants are milliseconds since the epoch, UTC."""

    def __init__(self, database: Database, max_resting: int = MAX_RESTING) -> None:
        """No instrument rests; at most ``max_resting`` do at a time."""
        self._database = database
        self._resting: TTLCache[int, None] = TTLCache(max_resting, database.timings.recheck_pause_s)

    async def add(self, instrument_id: int, timeframe: Timeframe, spans: Spans, now: int) -> None:
        """Note that ``spans`` were answered with nothing."""
        columns = [[span.since for span in spans], [span.until for span in spans]]
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["suspects_add"], instrument_id, str(timeframe), now // GRAIN_MS * GRAIN_MS, *columns
            )

    async def settle(self, instrument_id: int, timeframe: Timeframe, spans: Spans, now: int) -> None:
        """Forget what was asked for again within ``spans``: the second answer is final."""
        columns = [[span.since for span in spans], [span.until for span in spans]]
        async with self._database.connection() as connection:
            await connection.execute(
                SQL["suspects_settle"], instrument_id, str(timeframe), now - AGAIN_MS - GRAIN_MS, *columns
            )

    def wake(self, instrument_id: int) -> bool:
        """Whether to ask for what is suspect of an instrument now; not where somebody did a moment ago."""
        if instrument_id in self._resting:
            return False
        self._resting[instrument_id] = None
        return True
