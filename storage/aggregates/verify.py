"""Checks the aggregates against their 1m candles, and the consistency of the store.

A separate query folds every bucket again from its minutes; it shares no code with the functions that maintain the
aggregates. One statement reads base and aggregate, and so sees one snapshot: concurrent writes do not matter.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.aggregates.refresh import AggregateRefresher
from storage.aggregates.statements import STATEMENTS, bucket_open_sql
from storage.candles import CandleStore, read_statement
from storage.database import Database
from storage.relations import BASE_RELATION, Aggregates

ALWAYS, NEVER = Span(-(2**62), 2**62), Span(2**62, -(2**62))
MAX_PIECE_MS = 366 * 86_400_000  # what one statement checks of one instrument: half a million minutes at most


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of checked buckets of a relation, and of those that differ from their minutes.

    For the base these are 1m candles: ``extra`` ones are not covered, and ``different`` ones open off a whole minute.
    """

    relation: str
    checked: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0

    @property
    def wrong(self) -> int:
        """The number of wrong buckets."""
        return self.missing + self.extra + self.different

    def __add__(self, other: Tally) -> Tally:
        """The sum of two tallies of one relation."""
        return Tally(
            self.relation,
            self.checked + other.checked,
            self.missing + other.missing,
            self.extra + other.extra,
            self.different + other.different,
        )


@dataclass(frozen=True, slots=True)
class PieceResult:
    """The result for one piece: its tally, and the buckets that are wrong."""

    tally: Tally
    wrong: Spans


@dataclass(frozen=True, slots=True)
class Verification:
    """A check of everything stored, or of the buckets that overlap ``span``; with ``repair`` it repairs them."""

    store: CandleStore
    aggregates: Aggregates
    span: Span = ALWAYS
    repair: bool = False
    refresher: AggregateRefresher | None = None  # for a layout whose aggregates lag

    async def check(self, instrument_id: int) -> AsyncIterator[Tally]:
        """Check one instrument, piece by piece. A repaired piece is tallied after its repair."""
        base = await self._hull(instrument_id, BASE_RELATION)
        horizon = await self.store.horizon()  # before it, aggregates have no minutes any more
        done = await self.refresher.catch_up() if self.refresher else ALWAYS.until
        for piece in _pieces(base):
            yield await self._base(instrument_id, piece)
        for timeframe, relation in self.aggregates.items():
            kept = await self._hull(instrument_id, relation)
            both = Span(min(base.since, kept.since), max(base.until, kept.until))
            if horizon is not None:
                both = Span(max(both.since, timeframe.ceil(horizon)), both.until)
            whole = both.outer(timeframe)
            if self.refresher:
                whole = Span(whole.since, min(whole.until, timeframe.floor(done)))
            for piece in _pieces(whole, timeframe):
                found = await self._aggregate(instrument_id, timeframe, relation, piece)
                if found.wrong and self.refresher:  # perhaps only stale: the writes may be newer than the last refresh
                    await self.refresher.catch_up()
                    found = await self._aggregate(instrument_id, timeframe, relation, piece)
                if found.wrong and self.repair:
                    await self._repair(instrument_id, found.wrong)
                    found = await self._aggregate(instrument_id, timeframe, relation, piece)
                yield found.tally

    async def _repair(self, instrument_id: int, wrong: Spans) -> None:
        if self.refresher is None:
            await self.store.recompute(instrument_id, _hull(wrong))
            return
        if rebuilt := await self.refresher.rebuild(wrong):
            await self.store.invalidate(instrument_id, rebuilt)
        await self.refresher.catch_up()  # to include the writes since

    async def orphans(self) -> list[Tally]:
        """For each aggregate, the number of its instrument ids without an instrument."""
        database, found = self.store.database, []
        for relation in self.aggregates.values():
            rows = await database.fetch(STATEMENTS["aggregate_orphans"].replace("{relation}", relation))
            found.append(Tally(relation, extra=rows[0]["orphans"]))
        return found

    async def _hull(self, instrument_id: int, relation: str) -> Span:
        """The span from the first row of a relation to the last, within the span to check."""
        statement = read_statement(STATEMENTS["stored_hull"], relation)
        row = (await self.store.database.fetch(statement, instrument_id, "1m"))[0]
        if row["first"] is None:
            return NEVER
        return Span(row["first"], row["last"] + 1) & self.span or NEVER

    async def _base(self, instrument_id: int, piece: Span) -> Tally:
        row = (await self.store.database.fetch(STATEMENTS["base_faults"], instrument_id, piece.since, piece.until))[0]
        return Tally(BASE_RELATION, row["checked"], extra=row["uncovered"], different=row["off_grid"])

    async def _aggregate(self, instrument_id: int, timeframe: Timeframe, relation: str, piece: Span) -> PieceResult:
        statement = (
            STATEMENTS["aggregate_differences"]
            .replace("{relation}", relation)
            .replace("{edge}", bucket_open_sql(timeframe))
        )
        row = (await self.store.database.fetch(statement, instrument_id, piece.since, piece.until))[0]
        tally = Tally(relation, row["checked"], row["missing"], row["extra"], row["different"])
        return PieceResult(tally, Spans(Span(timeframe.floor(at), timeframe.next(at)) for at in row["wrong"] or ()))


async def instruments_matching(
    database: Database, market: str | None, provider: str | None, pattern: str | None
) -> list[tuple[int, Instrument]]:
    """The stored instruments of a market, a provider and a symbol pattern: ``*`` is any text, ``?`` one character."""
    rows = await database.fetch(STATEMENTS["instruments_matching"], market, provider, like(pattern))
    return [(row["id"], Instrument(row["market"], row["provider"], row["symbol"])) for row in rows]


def like(pattern: str | None) -> str | None:
    """Translate a pattern of symbols for SQL's ``like``."""
    return pattern and re.sub(r"([\\%_])", r"\\\1", pattern).replace("*", "%").replace("?", "_")


def totals(levels: Aggregates, tallies: Iterable[Tally]) -> list[Tally]:
    """One tally for the base and for each aggregate."""
    sums = {relation: Tally(relation) for relation in (BASE_RELATION, *levels.values())}
    for tally in tallies:
        sums[tally.relation] += tally
    return list(sums.values())


def _hull(spans: Spans) -> Span:
    each = list(spans)
    return Span(each[0].since, each[-1].until)


def _pieces(hull: Span, timeframe: Timeframe = MINUTE) -> Iterator[Span]:
    """Split a hull of whole buckets into pieces of whole buckets."""
    at = hull.since
    while at < hull.until:
        until = min(hull.until, timeframe.ceil(at + MAX_PIECE_MS))
        yield Span(at, until)
        at = until
