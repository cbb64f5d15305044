"""What a provider's answers did not prove: asked for again later, and later still after each try in vain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.span import Spans
from candlegraph.timeframe import Timeframe
from storage.binary import unpack_spans
from storage.database import SQL, Database, to_ms

FIRST_RETRY_MS = 10 * MINUTE_MS
BACKOFF_FACTOR = 4
MAX_RETRY_MS = 7 * DAY_MS
RETRY_GRID_MS = 10 * MINUTE_MS  # what is due within this is one row


@dataclass(frozen=True, slots=True)
class Retry:
    """Spans that were asked for in vain ``tries`` times, and from when on (ms, UTC) they are asked for again."""

    tries: int
    at: int
    spans: Spans


def backoff_ms(tries: int) -> int:
    """How long after so many tries in vain the next one comes."""
    return min(MAX_RETRY_MS, FIRST_RETRY_MS * int(BACKOFF_FACTOR ** min(tries - 1, 10)))


def schedule(known: Iterable[Retry], failed: Spans, now: int) -> list[Retry]:
    """The retries after ``failed`` was asked for in vain at ``now``; what was not due yet keeps its time."""
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
    """The relation ``fetch_retries``, which is read with the ledgers. Instants are milliseconds since the epoch, UTC."""

    def __init__(self, database: Database) -> None:
        """Nothing is kept in memory."""
        self._database = database

    async def add(self, instrument_id: int, timeframe: Timeframe, failed: Spans, now: int) -> None:
        """Note that ``failed`` was asked for in vain, in one transaction; what is covered by now is forgotten."""
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
