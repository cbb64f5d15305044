"""Spans to fetch again later: rechecks of empty answers that were accepted, and retries of answers that proved nothing.

An empty answer may come from an outage; a recheck follows when that would be over. Retries have growing pauses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cachetools import TTLCache

from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from storage.binary import unpack_spans
from storage.coverage import RECHECK_AFTER_MS, RECHECK_GRID_MS
from storage.database import SQL, Database, to_ms

LONG_SPAN_MS = RECENT_SPAN_MS = DAY_MS
MAX_PAUSED = 20_000
FIRST_RETRY_MS = 10 * MINUTE_MS
BACKOFF_FACTOR = 4
MAX_RETRY_MS = 7 * DAY_MS
RETRY_GRID_MS = 10 * MINUTE_MS  # retries due within this time share one row


def needs_recheck(covered: Spans, now: int) -> bool:
    """Whether an empty answer over ``covered`` may come from an outage: the span is long, or close to ``now``."""
    return any(span.until - span.since > LONG_SPAN_MS or span.until > now - RECENT_SPAN_MS for span in covered)


class Rechecks:
    """The relation ``suspects``, which is read with the coverage. Instants are milliseconds since the epoch, UTC."""

    def __init__(self, database: Database, max_resting: int = MAX_PAUSED) -> None:
        """Start with no instrument paused; at most ``max_resting`` can be at a time."""
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
        """Delete the rechecks within ``spans``, which were fetched again; their second answer is taken as final."""
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
        """Whether to recheck this instrument now; False if a recheck began within the last 30 s."""
        if instrument_id in self._paused:
            return False
        self._paused[instrument_id] = None
        return True


@dataclass(frozen=True, slots=True)
class Retry:
    """Spans that were fetched ``tries`` times in vain, and the instant (ms, UTC) of the next fetch."""

    tries: int
    at: int
    spans: Spans


def backoff_ms(tries: int) -> int:
    """The pause after ``tries`` fetches in vain."""
    return min(MAX_RETRY_MS, FIRST_RETRY_MS * int(BACKOFF_FACTOR ** min(tries - 1, 10)))


def schedule(known: Iterable[Retry], failed: Spans, now: int) -> list[Retry]:
    """The new retries after ``failed`` was fetched in vain at ``now``; a retry that was not due yet keeps its time."""
    kept: dict[tuple[int, int], Spans] = {}
    fresh = failed

    def add(tries: int, at: int, spans: Spans) -> None:
        if spans:
            kept[tries, at] = kept.get((tries, at), Spans()) | spans

    for retry in known:
        again = retry.spans & failed if retry.at <= now else Spans()
        fresh -= retry.spans
        add(retry.tries, retry.at, retry.spans - again)
        add(retry.tries + 1, _retry_at(retry.tries + 1, now), again)
    add(1, _retry_at(1, now), fresh)
    return [Retry(*key, spans) for key, spans in sorted(kept.items())]


def _retry_at(tries: int, now: int) -> int:
    return -(-(now + backoff_ms(tries)) // RETRY_GRID_MS) * RETRY_GRID_MS


class Retries:
    """The relation ``fetch_retries``, which is read with the coverage. Instants are milliseconds since the epoch, UTC."""

    def __init__(self, database: Database) -> None:
        """Keep nothing in memory."""
        self._database = database

    async def add(self, instrument_id: int, timeframe: Timeframe, failed: Spans, now: int) -> None:
        """Record in one transaction that ``failed`` was fetched in vain; drop the retries of spans that are covered now."""
        async with self._database.transaction() as connection:
            covered = unpack_spans(await connection.fetchval(SQL["fetch_retries_lock"], instrument_id, str(timeframe)))
            rows = await connection.fetch(SQL["fetch_retries_take"], instrument_id, str(timeframe))
            known = [
                Retry(row["tries"], at, unpack_spans(row["spans"]) - covered)
                for row in rows
                if (at := to_ms(row["retry_at"])) is not None
            ]
            made = [(retry, span) for retry in schedule(known, failed - covered, now) for span in retry.spans]
            columns = [
                [retry.tries for retry, _ in made],
                [retry.at for retry, _ in made],
                [span.since for _, span in made],
                [span.until for _, span in made],
            ]
            await connection.execute(SQL["fetch_retries_put"], instrument_id, str(timeframe), *columns)
