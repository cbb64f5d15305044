"""Reads continuous aggregates. It folds stale buckets from the level below, so no caller gets a stale one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from candlegraph.candle import Candles, concat
from candlegraph.resample import fold
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.aggregates.statements import STATEMENTS
from storage.batches import CandleRead
from storage.binary import unpack_candles
from storage.candles import read_rows
from storage.database import Database, to_ms
from storage.relations import BASE_RELATION, Aggregates

SLICE_ROWS = 200_000  # 1m candles read at once, 10 MB

# The levels below a stale bucket to read instead. Any would do; with these, an answer takes few statements and few rows.
_STEPS = [Timeframe.parse("1d"), Timeframe.parse("1h")]


@dataclass(frozen=True, slots=True)
class _Lag:
    """The spans in which the aggregates of one instrument are stale, and the span from its first row to its last."""

    stale: Spans
    hull: Span

    def around(self, timeframe: Timeframe) -> Spans:
        """The buckets that overlap a stale span."""
        return Spans(span.outer(timeframe) for span in self.stale)


@dataclass(frozen=True, slots=True)
class ContinuousReader:
    """A `storage.candles.ReadFunction`: answers reads without stale buckets directly, and others from one snapshot."""

    aggregates: Aggregates

    async def __call__(self, database: Database, reads: Sequence[CandleRead]) -> list[Candles]:
        """Answer every read, in their order."""
        rows = await read_rows(database.fetch, reads, STATEMENTS["columns_of_staleness"])
        answers = [unpack_candles(row["rows"]) for row in rows]
        late = [i for i, (read, row) in enumerate(zip(reads, rows, strict=True)) if _touched(read, row)]
        if late:
            answers_of_late = await self._read_late(database, [reads[i] for i in late])
            for i, answer in zip(late, answers_of_late, strict=True):
                answers[i] = answer
        return answers

    async def _read_late(self, database: Database, reads: Sequence[CandleRead]) -> list[Candles]:
        found: dict[int, list[Candles]] = defaultdict(list)
        async with database.snapshot() as connection:
            # Read the stale spans again: the snapshot is newer than the first read.
            rows = await connection.fetch(STATEMENTS["staleness"], list({read.instrument_id for read in reads}))
            lags = {row["instrument_id"]: _lag(row) for row in rows}
            pieces = [
                (i, piece) for i, read in enumerate(reads) for piece in self._pieces(read, lags[read.instrument_id])
            ]
            for batch in _batches(pieces):
                rows = await read_rows(connection.fetch, [piece for _, piece in batch])
                for (i, _), row in zip(batch, rows, strict=True):
                    # A piece has the edges of the level above it; folded to that level, it is small and still exact.
                    found[i].append(fold(unpack_candles(row["rows"]), self._steps(reads[i])[-1][0]))
        return [_cut(read, fold(concat(found[i]).sorted(), read.timeframe)) for i, read in enumerate(reads)]

    def _steps(self, read: CandleRead) -> list[tuple[Timeframe, str]]:
        """The aggregates that may answer, without the base."""
        below = [(step, self.aggregates[step]) for step in _STEPS if step in self.aggregates]
        return [
            (read.timeframe, read.relation),
            *(step for step in below if step[0].nominal_ms < read.timeframe.nominal_ms),
        ]

    def _pieces(self, read: CandleRead, lag: _Lag) -> Iterator[CandleRead]:
        """The reads that replace this one: from each level the buckets that are not stale, and the rest from the base."""
        rest = Spans([read.span.outer(read.timeframe)])
        for timeframe, relation in self._steps(read):
            late = lag.around(timeframe)
            for span in rest - late:
                limit = read.limit if timeframe == read.timeframe else _rows(span, timeframe)
                yield replace(read, timeframe=timeframe, span=span, limit=limit, relation=relation)
            rest &= late
        steps = self._steps(read)[-1][0]
        for span in rest & Spans([lag.hull.outer(steps)]):
            for part in _slices(span, steps):
                yield replace(read, timeframe=MINUTE, span=part, limit=_rows(part, MINUTE), relation=BASE_RELATION)


def _touched(read: CandleRead, row: Any) -> bool:
    """Whether a read of an aggregate touches a stale bucket."""
    if read.relation == BASE_RELATION:
        return False
    whole = read.span.outer(read.timeframe)
    return bool(Spans([whole]) & _Lag(_stale(row, whole.until), whole).around(read.timeframe))


def _stale(row: Any, until: int) -> Spans:
    spans = [Span(to_ms(r.lower), to_ms(r.upper)) for r in row["dirty"] or ()]
    done = to_ms(row["done"])
    return Spans([*spans, Span(done, max(done + 1, until))])


def _lag(row: Any) -> _Lag:
    first, last = to_ms(row["first"]), to_ms(row["last"])
    hull = Span(0, 0) if first is None else Span(first, last)
    return _Lag(_stale(row, 10**15), hull)


def _rows(span: Span, timeframe: Timeframe) -> int:
    """The most rows that a span can have."""
    return -(-(span.until - span.since) // timeframe.nominal_ms) + 1


def _slices(span: Span, timeframe: Timeframe) -> Iterator[Span]:
    """Split a span of 1m candles into parts of whole buckets of ``timeframe``."""
    step = SLICE_ROWS * MINUTE.nominal_ms
    since = span.since
    while since < span.until:
        until = min(span.until, max(timeframe.floor(since + step), timeframe.next(since)))
        yield Span(since, until)
        since = until


def _batches(pieces: Sequence[tuple[int, CandleRead]]) -> Iterator[list[tuple[int, CandleRead]]]:
    """Group the pieces to read at once: one group, or several if it would have too many 1m candles."""
    batch: list[tuple[int, CandleRead]] = []
    rows = 0
    for item in pieces:
        cost = item[1].limit if item[1].relation == BASE_RELATION else 0
        if batch and rows + cost > 2 * SLICE_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(item)
        rows += cost
    if batch:
        yield batch


def _cut(read: CandleRead, candles: Candles) -> Candles:
    """Cut the rows to the limit of a read."""
    inside = candles.between(read.span)
    return inside[max(0, len(inside) - read.limit) :] if read.newest else inside[: read.limit]
