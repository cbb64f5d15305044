"""Candles and their coverage in PostgreSQL: written together in one transaction, read as packed columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Candles
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from storage.database import SQL, Database

POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01, which PostgreSQL's binary timestamps count from
_NUMBERS = ("open", "high", "low", "close", "volume")
_PACKED = np.dtype([("timestamp", ">i8"), *((name, ">f8") for name in _NUMBERS)])
_COPY_ROWS = 100_000
_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TRAILER = b"\xff\xff"

Ledger = dict[Timeframe, Spans]


@dataclass(frozen=True, slots=True)
class Read:
    """At most ``limit`` stored candles of a series within ``span``: the oldest of them, or the newest."""

    instrument_id: int
    timeframe: Timeframe
    span: Span
    limit: int
    newest: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Final candles of a series, and the spans they are all of; ``source``: ``a`` a provider's API, ``i`` an import."""

    instrument_id: int
    timeframe: Timeframe
    candles: Candles
    covered: Spans
    source: str = "a"


@dataclass(frozen=True, slots=True)
class Fetch:
    """One upstream call, for the log."""

    instrument_id: int
    timeframe: Timeframe
    asked: Span
    rows: int
    outcome: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class CandleStore:
    """The relations ``ohlcv_data``, ``coverage`` and ``fetch_log``."""

    database: Database = field(repr=False)

    async def ledgers(self, instrument_ids: Sequence[int]) -> list[Ledger]:
        """What is covered of each instrument, by timeframe: one statement."""
        found: dict[int, Ledger] = defaultdict(dict)
        for row in await self.database.read("coverage_by_instrument", list(set(instrument_ids))):
            found[row["instrument_id"]][Timeframe.parse(row["timeframe"])] = Spans(
                Span(_to_ms(r.lower), _to_ms(r.upper)) for r in row["covered"]
            )
        return [found[instrument_id] for instrument_id in instrument_ids]

    async def read(self, reads: Sequence[Read]) -> list[Candles]:
        """Answer every read, in their order: one statement for the newest ones and one for the others."""
        answers: dict[int, Candles] = {}
        for newest in (False, True):
            positions = [i for i, read in enumerate(reads) if read.newest is newest]
            if not positions:
                continue
            rows = await self.database.read(
                "candles_newest" if newest else "candles_oldest",
                [reads[i].instrument_id for i in positions],
                [str(reads[i].timeframe) for i in positions],
                [reads[i].span.since for i in positions],
                [reads[i].span.until for i in positions],
                [reads[i].limit for i in positions],
            )
            answers.update((i, _unpack(row["rows"])) for i, row in zip(positions, rows, strict=True))
        return [answers[i] for i in range(len(reads))]

    async def write(
        self, writes: Sequence[Write], fetch: Fetch | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Store candles and coverage, all or nothing; a candle that is there already is replaced.

        ``progress`` is told the number of rows after each chunk of a long write.
        """
        async with self.database.transaction() as connection:
            spans = [(w.instrument_id, str(w.timeframe), s.since, s.until) for w in writes for s in w.covered]
            if spans:
                await connection.execute(SQL["coverage_add"], *(list(column) for column in zip(*spans, strict=True)))
            for write in writes:
                await self._write_rows(connection, write, progress)
            if fetch:
                await _log(connection, fetch)

    async def log(self, fetch: Fetch) -> None:
        """Note an upstream call that brought nothing to store."""
        async with self.database.connection() as connection:
            await _log(connection, fetch)

    async def _write_rows(self, connection: Any, write: Write, progress: Callable[[int], None]) -> None:
        candles = write.candles
        if not len(candles):
            return
        first, last = int(candles.timestamp[0]), int(candles.timestamp[-1])
        key = (write.instrument_id, str(write.timeframe))
        # Our coverage row is locked, so nobody adds to this series meanwhile: without a conflict the merge, which costs
        # as much again as the COPY, can be left out.
        merge = await connection.fetchval(SQL["candles_exist"], *key, first, last)
        if merge:
            await connection.execute(SQL["candles_stage"])
        for start in range(0, len(candles), _COPY_ROWS):
            chunk = candles[start : start + _COPY_ROWS]
            await connection.copy_to_table(
                "incoming" if merge else "ohlcv_data",
                source=_copy_stream(write, chunk),
                format="binary",
                columns=["instrument_id", "timeframe", "source", "timestamp", *_NUMBERS],
            )
            progress(len(chunk))
        if merge:
            await connection.execute(SQL["candles_merge"])
            await connection.execute("drop table incoming")


async def _log(connection: Any, fetch: Fetch) -> None:
    key = (fetch.instrument_id, str(fetch.timeframe), fetch.asked.since, fetch.asked.until)
    await connection.execute(SQL["fetch_log_add"], *key, fetch.rows, fetch.outcome, fetch.milliseconds)


def _to_ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _unpack(packed: bytes | None) -> Candles:
    if packed is None:
        return Candles.empty()
    rows = np.frombuffer(packed, _PACKED)
    return Candles.of(rows["timestamp"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS, *(rows[n] for n in _NUMBERS))


def _copy_stream(write: Write, candles: Candles) -> AsyncIterator[bytes]:
    """The batch in PostgreSQL's binary COPY format: every row equally long, so one numpy structure writes them all."""
    timeframe = str(write.timeframe).encode()
    layout = np.dtype(
        [
            ("fields", ">i2"),
            *_copy_field("instrument_id", ">i4"),
            *_copy_field("timeframe", f"S{len(timeframe)}"),
            *_copy_field("source", "S1"),
            *_copy_field("timestamp", ">i8"),
            *(part for name in _NUMBERS for part in _copy_field(name, ">f8")),
        ]
    )
    rows: NDArray[np.void] = np.empty(len(candles), layout)
    for name in layout.names or ():
        if name.startswith("length of "):
            rows[name] = layout[name.removeprefix("length of ")].itemsize
    rows["fields"] = 4 + len(_NUMBERS)
    rows["instrument_id"], rows["timeframe"], rows["source"] = write.instrument_id, timeframe, write.source.encode()
    rows["timestamp"] = (candles.timestamp - POSTGRES_EPOCH_MS) * 1000
    for name in _NUMBERS:
        rows[name] = getattr(candles, name)
    return _chunks(_COPY_HEADER, rows.tobytes(), _COPY_TRAILER)


def _copy_field(name: str, kind: str) -> list[tuple[str, str]]:
    return [(f"length of {name}", ">i4"), (name, kind)]


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
