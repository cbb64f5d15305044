"""Empty answers that may be false: believed at once, and asked for once more when an outage would be over."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from storage.database import SQL, Database

AGAIN_MS = HOUR_MS  # asked again after this
GRAIN_MS = 10 * MINUTE_MS  # what is noted within this is one row
LONG_MS = RECENT_MS = DAY_MS
KEPT_S = 30.0  # how long the due ones of an instrument are remembered
MAX_KEPT = 20_000

Due = dict[Timeframe, Spans]


def is_suspect(covered: Spans, now: int) -> bool:
    """Whether nothing at all over ``covered`` is more likely an outage than elsewhere: it is long, or close to ``now``."""
    return any(span.until - span.since > LONG_MS or span.until > now - RECENT_MS for span in covered)


@dataclass(frozen=True, slots=True)
class Suspects:
    """The relation ``suspects``. Instants are milliseconds since the epoch, UTC, also those of its clock."""

    database: Database = field(repr=False)
    _kept: dict[int, tuple[float, Due]] = field(default_factory=dict, repr=False)

    async def add(self, instrument_id: int, timeframe: Timeframe, spans: Spans, now: int) -> None:
        """Note that ``spans`` were answered with nothing."""
        columns = [[span.since for span in spans], [span.until for span in spans]]
        async with self.database.connection() as connection:
            await connection.execute(
                SQL["suspects_add"], instrument_id, str(timeframe), now // GRAIN_MS * GRAIN_MS, *columns
            )

    async def due(self, instrument_id: int, now: int) -> Due:
        """What is to be asked for once more, as it was at most half a minute ago."""
        kept = self._kept.get(instrument_id)
        if kept and time.monotonic() - kept[0] < KEPT_S:
            return kept[1]
        due = await self.due_now(instrument_id, now)
        if len(self._kept) > MAX_KEPT:
            self._kept.clear()
        self._kept[instrument_id] = (time.monotonic(), due)
        return due

    async def due_now(self, instrument_id: int, now: int) -> Due:
        """What is to be asked for once more."""
        found: Due = {}
        for row in await self.database.read("suspects_due", instrument_id, now - AGAIN_MS - GRAIN_MS):
            timeframe = Timeframe.parse(row["timeframe"])
            found[timeframe] = found.get(timeframe, Spans()) | Spans([Span(row["since"], row["until"])])
        return found

    async def settle(self, instrument_id: int, timeframe: Timeframe, spans: Spans, now: int) -> None:
        """Forget what was asked for again within ``spans``: the second answer is final."""
        columns = [[span.since for span in spans], [span.until for span in spans]]
        async with self.database.connection() as connection:
            await connection.execute(
                SQL["suspects_settle"], instrument_id, str(timeframe), now - AGAIN_MS - GRAIN_MS, *columns
            )

    def rest(self, instrument_id: int) -> None:
        """Take it that nothing is due for a while: somebody is at it."""
        self._kept[instrument_id] = (time.monotonic(), {})
