"""Coverage, backfills and tracked series in the contract."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import Parent

from candlegraph import answer
from candlegraph import backfill as job
from candlegraph.backfill import BackfillRequest, BackfillState, SymbolSelection
from candlegraph.identity import encode_name
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from history import series_changes as changes
from resolvers.backfills import selection
from schema.candles import Gap
from schema.node import Node, resolved_from
from schema.pagination import connection
from schema.scalars import Timestamp, datetime_of
from schema.symbol import Symbol

strawberry.enum(
    BackfillState,
    name="BackfillState",
    description=(
        "QUEUED no worker has begun; RUNNING a worker has begun, or waits for the provider to recover; DONE all of it is stored "
        "except candles that are not available; CANCELLED a user ended it; FAILED a part of it was given up: order it again."
    ),
)


@strawberry.type(description="A span of time.")
class SpanOf:
    """Resolved from `candlegraph.span.Span`."""

    since: Timestamp = strawberry.field(description="Its beginning, inclusive.")
    until: Timestamp = strawberry.field(description="Its end, exclusive.")


@strawberry.type(
    description=(
        "The spans of a series that a client with a copy has to fetch again, in whole buckets; new candles after its copy "
        "are not among them."
    )
)
class SeriesChanges:
    """Resolved from `history.series_changes.SeriesChanges`."""

    @strawberry.field(description="The `after` of the next call.")
    def revision(parent: Parent[changes.SeriesChanges]) -> str:
        return str(parent.revision)

    @strawberry.field(description="The spans with a corrected or withdrawn final candle.", graphql_type=list[SpanOf])
    def changed(parent: Parent[changes.SeriesChanges]) -> list[Span]:
        return list(parent.changed)

    @strawberry.field(
        description="The spans that lost their coverage; they may have been fetched again since.",
        graphql_type=list[SpanOf],
    )
    def lost(parent: Parent[changes.SeriesChanges]) -> list[Span]:
        return list(parent.lost)


@strawberry.type(description="One upstream call for a series.")
class Fetch:
    """Resolved from `candlegraph.answer.FetchLogEntry`."""

    @strawberry.field(description="When it was answered.")
    def at(parent: Parent[answer.FetchLogEntry]) -> datetime:
        return datetime_of(parent.at)

    since: Timestamp = strawberry.field(description="The beginning of the requested span, inclusive.")
    until: Timestamp = strawberry.field(description="Its end, exclusive.")
    rows: int = strawberry.field(description="The number of candles in the answer.")
    outcome: str = strawberry.field(description="`ok`, `bad rows`, or the code of the error.")
    milliseconds: int = strawberry.field(description="How long it took, including the wait in the queue.")


@strawberry.type(description="The covered spans of a series, its gaps with reasons, and its newest upstream calls.")
class Coverage:
    """Resolved from `candlegraph.answer.CoverageReport`."""

    @strawberry.field(
        description="The spans whose candles are all stored, ascending; a minute without one had no trade.",
        graphql_type=list[SpanOf],
    )
    def covered(parent: Parent[answer.CoverageReport]) -> list[Span]:
        return list(parent.covered)

    @strawberry.field(description="The gaps between the first candle and now, with reasons.", graphql_type=list[Gap])
    def holes(parent: Parent[answer.CoverageReport]) -> tuple[answer.Gap, ...]:
        return parent.gaps

    @strawberry.field(description="The symbol's first candle, if that is known.", graphql_type=Timestamp | None)
    def first_available(parent: Parent[answer.CoverageReport]) -> int | None:
        return parent.record.first_available

    @strawberry.field(description="When the symbol stopped trading.", graphql_type=Timestamp | None)
    def ended_at(parent: Parent[answer.CoverageReport]) -> int | None:
        return parent.record.ended_at

    rows: int = strawberry.field(description="How many candles of this timeframe are stored, or kept as an aggregate.")

    @strawberry.field(description="The newest upstream calls at this timeframe, at most 20.", graphql_type=list[Fetch])
    def last_fetches(parent: Parent[answer.CoverageReport]) -> tuple[answer.FetchLogEntry, ...]:
        return parent.fetches


@strawberry.input(description="An order to fetch history: `symbols` or a `pattern`, one of the two.")
class BackfillInput:
    """The input of `startBackfill`."""

    market: strawberry.ID = strawberry.field(description="The id of a market.")
    provider: strawberry.ID = strawberry.field(description="The short name of a provider, or its id.")
    symbols: list[str] | None = strawberry.field(default=None, description="Symbols by name.")
    pattern: str | None = strawberry.field(
        default=None, description="A shell pattern that symbols match, such as `*/USDT`; delisted ones match too."
    )
    timeframe: Timeframe = strawberry.field(default=MINUTE, description="A timeframe of the provider's own.")
    since: Timestamp = strawberry.field(description="The beginning, inclusive.")
    until: Timestamp | None = strawberry.field(default=None, description="The end, exclusive; now if null.")
    priority: int = strawberry.field(
        default=0, description="Higher ones go first, at most 1,000,000; tracked series have -1."
    )

    def order(self, by: str | None) -> BackfillRequest:
        """The order of a user."""
        chosen = selection(self.market, self.provider, self.symbols, self.pattern)
        return BackfillRequest(chosen, self.since, self.until, self.timeframe, self.priority, by)


@strawberry.type(description="A job that fetches history. Its stored candles stay, however it ends.")
class Backfill(Node):
    """Resolved from `candlegraph.backfill.Backfill`."""

    is_type_of = staticmethod(resolved_from(job.Backfill))

    @strawberry.field(description="The id of the market.")
    def market(parent: Parent[job.Backfill]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.market))

    @strawberry.field(description="The short name of the provider.")
    def provider(parent: Parent[job.Backfill]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.provider))

    symbols: list[str] = strawberry.field(description="The symbols, including those that a pattern matched.")
    timeframe: Timeframe = strawberry.field(description="The timeframe.")

    @strawberry.field(description="The beginning of the ordered span, inclusive.")
    def since(parent: Parent[job.Backfill]) -> Timestamp:
        return Timestamp(parent.span.since)

    @strawberry.field(description="Its end, exclusive.")
    def until(parent: Parent[job.Backfill]) -> Timestamp:
        return Timestamp(parent.span.until)

    priority: int = strawberry.field(description="Higher ones go first.")
    state: BackfillState = strawberry.field(description="Its state.")
    pieces_done: int = strawberry.field(description="How many of the pieces are done.")
    pieces_total: int = strawberry.field(
        description="The estimated number of upstream calls, from the gaps at the time of the order."
    )
    calls: int = strawberry.field(description="How many upstream calls were made, including failed ones.")

    @strawberry.field(description="How many candles it has stored.")
    def candles_written(parent: Parent[job.Backfill]) -> float:
        return float(parent.candles_written)

    candles_per_second: float = strawberry.field(description="The average rate since it began.")

    @strawberry.field(description="The estimated end, at the rate so far.")
    def estimated_end_at(parent: Parent[job.Backfill]) -> datetime | None:
        return None if parent.estimated_end_at is None else datetime_of(parent.estimated_end_at)

    last_error: str | None = strawberry.field(description="The last error; the job may have recovered from it.")
    holes: list[Gap] = strawberry.field(
        description=(
            "The spans that are not available, with reasons, at most 1,000; the detail begins with the symbol if there are several."
        )
    )

    @strawberry.field(description="When it was ordered.")
    def created_at(parent: Parent[job.Backfill]) -> datetime:
        return datetime_of(parent.created_at)

    created_by: str | None = strawberry.field(description="The user who ordered it; null is the owner of the server.")

    @strawberry.field(description="When it ended.")
    def ended_at(parent: Parent[job.Backfill]) -> datetime | None:
        return None if parent.ended_at is None else datetime_of(parent.ended_at)


BackfillConnection = connection(Backfill, "job", "A page of jobs, the newest first.")


@strawberry.input(description="Symbols to track: `symbols` or a `pattern`, one of the two.")
class TrackInput:
    """The input of `track` and `untrack`."""

    market: strawberry.ID = strawberry.field(description="The id of a market.")
    provider: strawberry.ID = strawberry.field(description="The short name of a provider, or its id.")
    symbols: list[str] | None = strawberry.field(default=None, description="Symbols by name.")
    pattern: str | None = strawberry.field(
        default=None, description="A shell pattern that symbols match, such as `*/USDT`: only existing symbols."
    )
    since: Timestamp | None = strawberry.field(
        default=None, description="The beginning; the last 30 days if null. `untrack` ignores it."
    )

    def selection(self) -> SymbolSelection:
        """The selected symbols."""
        return selection(self.market, self.provider, self.symbols, self.pattern)


@strawberry.type(description="A tracked symbol: the server keeps its 1m candles complete.")
class Tracked:
    """Resolved from `candlegraph.backfill.TrackedSeries`."""

    @strawberry.field(description="The symbol.", graphql_type=Symbol)
    def symbol(parent: Parent[job.TrackedSeries]) -> InstrumentRecord:
        return parent.record

    since: Timestamp = strawberry.field(description="The beginning.")

    @strawberry.field(description="The number of gaps now; `coverage` lists them.")
    def holes(parent: Parent[job.TrackedSeries]) -> int:
        return len(parent.gaps)

    @strawberry.field(description="When it last had no gap.")
    def up_to_date_at(parent: Parent[job.TrackedSeries]) -> datetime | None:
        return None if parent.complete_at is None else datetime_of(parent.complete_at)


TrackedConnection = connection(Tracked, "tracked symbol", "A page of tracked symbols.")
