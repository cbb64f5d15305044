"""Hold the aggregates against the 1m candles they are made of, and see that what is stored hangs together.

Every bucket is folded anew from its minutes by a query of its own, which shares nothing with the functions that keep the
aggregates. Base and aggregate are read in one statement, and so as of one moment: writers do not disturb it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from storage.aggregates.refresh import AggregateRefresher
from storage.aggregates.statements import STATEMENTS
from storage.candles import CandleStore, read_statement
from storage.database import Database
from storage.relations import BASE_RELATION, Aggregates

ALWAYS, NEVER = Span(-(2**62), 2**62), Span(2**62, -(2**62))
MAX_PIECE_MS = 366 * 86_400_000  # of one instrument, checked in one statement: half a million minutes at most


@dataclass(frozen=True, slots=True)
class Tally:
    """How many buckets of a relation were looked at, and how many of them are not as their minutes say.

    Of the base: its 1m candles, those that nothing covers (``extra``), and those that open off the minute (``different``).
    """

    relation: str
    checked: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0

    @property
    def wrong(self) -> int:
        """All that is not as it should be."""
        return self.missing + self.extra + self.different

    def __add__(self, other: Tally) -> Tally:
        """Both together, of one relation."""
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
    """A check of all that is stored, or of the buckets that overlap ``span``; it repairs them where it should."""

    store: CandleStore
    aggregates: Aggregates
    span: Span = ALWAYS
    repair: bool = False
    refresher: AggregateRefresher | None = None  # where aggregates lag

    async def check(self, instrument_id: int) -> AsyncIterator[Tally]:
        """Check one instrument, piece by piece. A piece that was repaired is tallied as it is after that."""
        base = await self._hull(instrument_id, BASE_RELATION)
        horizon = await self.store.horizon()  # before it, aggregates have outlived what they were made of
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
                if found.wrong and self.refresher:  # it may have been written after they had caught up
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
        await self.refresher.catch_up()  # what was written meanwhile

    async def orphans(self) -> list[Tally]:
        """Of each aggregate, how many of its instruments do not exist."""
        database, found = self.store.database, []
        for relation in self.aggregates.values():
            rows = await database.fetch(STATEMENTS["aggregate_orphans"].replace("{relation}", relation))
            found.append(Tally(relation, extra=rows[0]["orphans"]))
        return found

    async def _hull(self, instrument_id: int, relation: str) -> Span:
        """From the first to the last row of a relation, as far as it is to be checked."""
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
            .replace("{edge}", _bucket_open_sql(timeframe))
        )
        row = (await self.store.database.fetch(statement, instrument_id, piece.since, piece.until))[0]
        tally = Tally(relation, row["checked"], row["missing"], row["extra"], row["different"])
        return PieceResult(tally, Spans(Span(timeframe.floor(at), timeframe.next(at)) for at in row["wrong"] or ()))


async def instruments_matching(
    database: Database, market: str | None, provider: str | None, pattern: str | None
) -> list[tuple[int, Instrument]]:
    """What is stored of a market, a provider and the symbols like ``pattern``: ``*`` stands for any text, ``?`` for a character."""
    rows = await database.fetch(STATEMENTS["instruments_matching"], market, provider, like(pattern))
    return [(row["id"], Instrument(row["market"], row["provider"], row["symbol"])) for row in rows]


def like(pattern: str | None) -> str | None:
    """A pattern of symbols as SQL's ``like`` has it."""
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
    """A hull of whole buckets in pieces of whole buckets."""
    at = hull.since
    while at < hull.until:
        until = min(hull.until, timeframe.ceil(at + MAX_PIECE_MS))
        yield Span(at, until)
        at = until


def _bucket_open_sql(timeframe: Timeframe) -> str:
    """The opening of the bucket that holds a 1m candle, in SQL; all of it is made of numbers of ours."""
    if timeframe.months:
        return f"""date_trunc('{"year" if timeframe.months == 12 else "month"}', "timestamp", 'UTC')"""
    return f"""date_bin(interval '{timeframe.nominal_ms} ms', "timestamp", timestamptz '2000-01-03 00:00+00')"""
