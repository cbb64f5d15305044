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
        "QUEUED nobody has begun; RUNNING it is worked on, or rests until the provider is back; DONE all of it is stored "
        "but what cannot be had; CANCELLED somebody ended it; FAILED some of it was given up: order it again."
    ),
)


@strawberry.type(description="A span of time.")
class SpanOf:
    """Resolved from `candlegraph.span.Span`."""

    since: Timestamp = strawberry.field(description="Its beginning, inclusive.")
    until: Timestamp = strawberry.field(description="Its end, exclusive.")


@strawberry.type(
    description=(
        "What a mirror of a series has to fetch again, in whole buckets: what was added lies beyond what it holds already."
    )
)
class SeriesChanges:
    """Resolved from `history.series_changes.SeriesChanges`."""

    @strawberry.field(description="The `after` of the next call.")
    def revision(parent: Parent[changes.SeriesChanges]) -> str:
        return str(parent.revision)

    @strawberry.field(description="Where a final candle was corrected or withdrawn.", graphql_type=list[SpanOf])
    def changed(parent: Parent[changes.SeriesChanges]) -> list[Span]:
        return list(parent.changed)

    @strawberry.field(
        description="Where coverage was taken back; it may have been fetched again since.", graphql_type=list[SpanOf]
    )
    def lost(parent: Parent[changes.SeriesChanges]) -> list[Span]:
        return list(parent.lost)


@strawberry.type(description="One upstream call for a series.")
class Fetch:
    """Resolved from `candlegraph.answer.FetchNote`."""

    @strawberry.field(description="When it was answered.")
    def at(parent: Parent[answer.FetchLogEntry]) -> datetime:
        return datetime_of(parent.at)

    since: Timestamp = strawberry.field(description="The beginning of what was asked, inclusive.")
    until: Timestamp = strawberry.field(description="Its end, exclusive.")
    rows: int = strawberry.field(description="How many candles came.")
    outcome: str = strawberry.field(description="`ok`, `bad rows`, or the code of the error.")
    milliseconds: int = strawberry.field(description="How long it took, the wait for its turn included.")


@strawberry.type(description="What is known of a series to the last candle, what is not and why, and how it came.")
class Coverage:
    """Resolved from `candlegraph.answer.Coverage`."""

    @strawberry.field(
        description="Where every candle there is is stored, ascending; a minute without one had no trade.",
        graphql_type=list[SpanOf],
    )
    def covered(parent: Parent[answer.CoverageReport]) -> list[Span]:
        return list(parent.covered)

    @strawberry.field(
        description="What is not known between the first candle and now, and why.", graphql_type=list[Gap]
    )
    def holes(parent: Parent[answer.CoverageReport]) -> tuple[answer.Gap, ...]:
        return parent.gaps

    @strawberry.field(description="The symbol's first candle, where that is known.", graphql_type=Timestamp | None)
    def first_available(parent: Parent[answer.CoverageReport]) -> int | None:
        return parent.record.first_available

    @strawberry.field(description="When the symbol ceased to be traded.", graphql_type=Timestamp | None)
    def ended_at(parent: Parent[answer.CoverageReport]) -> int | None:
        return parent.record.ended_at

    rows: int = strawberry.field(description="How many candles of this timeframe are stored, or kept as an aggregate.")

    @strawberry.field(description="The newest upstream calls at this timeframe, at most 20.", graphql_type=list[Fetch])
    def last_fetches(parent: Parent[answer.CoverageReport]) -> tuple[answer.FetchLogEntry, ...]:
        return parent.fetches


@strawberry.input(description="An order to fetch history: `symbols` or a `pattern`, one of the two.")
class BackfillInput:
    """What `startBackfill` is given."""

    market: strawberry.ID = strawberry.field(description="The id of a market.")
    provider: strawberry.ID = strawberry.field(description="The short name of a provider, or its id.")
    symbols: list[str] | None = strawberry.field(default=None, description="Symbols by name.")
    pattern: str | None = strawberry.field(
        default=None, description="A shell pattern that symbols match, such as `*/USDT`; delisted ones match too."
    )
    timeframe: Timeframe = strawberry.field(default=MINUTE, description="A timeframe of the provider's own.")
    since: Timestamp = strawberry.field(description="From where on, inclusive.")
    until: Timestamp | None = strawberry.field(default=None, description="Up to where, exclusive; now if null.")
    priority: int = strawberry.field(
        default=0, description="Higher ones go first, at most 1,000,000; tracked series have -1."
    )

    def order(self, by: str | None) -> BackfillRequest:
        """The order, in somebody's name."""
        chosen = selection(self.market, self.provider, self.symbols, self.pattern)
        return BackfillRequest(chosen, self.since, self.until, self.timeframe, self.priority, by)


@strawberry.type(description="A job that fetches history. What it has stored stays, whatever becomes of it.")
class Backfill(Node):
    """Resolved from `candlegraph.backfill.Backfill`."""

    is_type_of = staticmethod(resolved_from(job.Backfill))

    @strawberry.field(description="The id of the market.")
    def market(parent: Parent[job.Backfill]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.market))

    @strawberry.field(description="The short name of the provider.")
    def provider(parent: Parent[job.Backfill]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.provider))

    symbols: list[str] = strawberry.field(description="The symbols, those that a pattern matched.")
    timeframe: Timeframe = strawberry.field(description="The timeframe.")

    @strawberry.field(description="The beginning of what was ordered, inclusive.")
    def since(parent: Parent[job.Backfill]) -> Timestamp:
        return Timestamp(parent.span.since)

    @strawberry.field(description="Its end, exclusive.")
    def until(parent: Parent[job.Backfill]) -> Timestamp:
        return Timestamp(parent.span.until)

    priority: int = strawberry.field(description="Higher ones go first.")
    state: BackfillState = strawberry.field(description="How far it is.")
    pieces_done: int = strawberry.field(description="How many of the pieces are done.")
    pieces_total: int = strawberry.field(
        description="How many upstream calls were reckoned for what was missing when it was ordered."
    )
    calls: int = strawberry.field(description="How many upstream calls were made, those that failed among them.")

    @strawberry.field(description="How many candles it has stored.")
    def candles_written(parent: Parent[job.Backfill]) -> float:
        return float(parent.candles_written)

    candles_per_second: float = strawberry.field(description="How many a second, on average since it was begun.")

    @strawberry.field(description="When it will be done, if it goes on as it has so far.")
    def estimated_end_at(parent: Parent[job.Backfill]) -> datetime | None:
        return None if parent.estimated_end_at is None else datetime_of(parent.estimated_end_at)

    last_error: str | None = strawberry.field(description="What went wrong last; it may have been overcome.")
    holes: list[Gap] = strawberry.field(
        description=(
            "What cannot be had, and why, at most 1,000; the detail begins with the symbol where there are several."
        )
    )

    @strawberry.field(description="When it was ordered.")
    def created_at(parent: Parent[job.Backfill]) -> datetime:
        return datetime_of(parent.created_at)

    created_by: str | None = strawberry.field(description="Who ordered it; null is the owner of the server.")

    @strawberry.field(description="When it ended.")
    def ended_at(parent: Parent[job.Backfill]) -> datetime | None:
        return None if parent.ended_at is None else datetime_of(parent.ended_at)


BackfillConnection = connection(Backfill, "job", "A page of jobs, the newest first.")


@strawberry.input(description="Symbols to be kept complete: `symbols` or a `pattern`, one of the two.")
class TrackInput:
    """What `track` and `untrack` are given."""

    market: strawberry.ID = strawberry.field(description="The id of a market.")
    provider: strawberry.ID = strawberry.field(description="The short name of a provider, or its id.")
    symbols: list[str] | None = strawberry.field(default=None, description="Symbols by name.")
    pattern: str | None = strawberry.field(
        default=None, description="A shell pattern that symbols match, such as `*/USDT`: those there are now."
    )
    since: Timestamp | None = strawberry.field(
        default=None, description="From where on; the last 30 days if null. `untrack` takes no notice of it."
    )

    def selection(self) -> SymbolSelection:
        """The symbols that are meant."""
        return selection(self.market, self.provider, self.symbols, self.pattern)


@strawberry.type(description="A symbol whose 1m candles are kept complete.")
class Tracked:
    """Resolved from `candlegraph.backfill.Tracked`."""

    @strawberry.field(description="The symbol.", graphql_type=Symbol)
    def symbol(parent: Parent[job.TrackedSeries]) -> InstrumentRecord:
        return parent.record

    since: Timestamp = strawberry.field(description="From where on.")

    @strawberry.field(description="How many holes there are now; `coverage` says where.")
    def holes(parent: Parent[job.TrackedSeries]) -> int:
        return len(parent.gaps)

    @strawberry.field(description="When it was last seen without a hole.")
    def up_to_date_at(parent: Parent[job.TrackedSeries]) -> datetime | None:
        return None if parent.complete_at is None else datetime_of(parent.complete_at)


TrackedConnection = connection(Tracked, "tracked symbol", "A page of tracked symbols.")
