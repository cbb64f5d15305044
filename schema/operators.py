"""What operators see in the contract: stored series, corrections, sizes, and the cost of a backfill."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import strawberry
from strawberry import Parent

from candlegraph.backfill import BackfillEstimate as Estimate
from candlegraph.series import InstrumentRecord
from candlegraph.series_candles import SeriesCandle
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from history import series_list
from resolvers import operators
from schema.backfill import BackfillInput, SpanOf
from schema.candles import Candle, Gap
from schema.pagination import connection
from schema.scalars import Timestamp, datetime_of
from schema.symbol import Symbol

MarketFilterArg = Annotated[strawberry.ID | None, strawberry.argument(description="Only those of this market.")]
ProviderFilterArg = Annotated[
    strawberry.ID | None,
    strawberry.argument(description="Only those of this provider: its id, or its short name."),
]
SymbolFilterArg = Annotated[str | None, strawberry.argument(description="Only those of this symbol.")]
OrderArg = Annotated[BackfillInput, strawberry.argument(description="The order, as for `startBackfill`.")]


@strawberry.type(description="What is stored and what it takes, estimated: the planner's statistics, not a count.")
class StorageStats:
    """Resolved from `resolvers.operators.Storage`."""

    @strawberry.field(
        description="About how many candles are stored; exact while they are few. Aggregates do not count."
    )
    def rows(parent: Parent[operators.Storage]) -> float | None:
        return parent.sizes.rows

    @strawberry.field(description="The size of the stored candles with their index.")
    def bytes(parent: Parent[operators.Storage]) -> float | None:
        return float(parent.sizes.bytes)

    @strawberry.field(description="The size of the aggregates with their indexes.")
    def aggregate_bytes(parent: Parent[operators.Storage]) -> float | None:
        size = parent.sizes.aggregate_bytes
        return None if size is None else float(size)

    @strawberry.field(
        description="The oldest candle of the hundred series that are covered furthest back.",
        graphql_type=Timestamp | None,
    )
    def oldest(parent: Parent[operators.Storage]) -> int | None:
        return parent.sizes.oldest

    @strawberry.field(
        description="The newest candle of the hundred series that are covered furthest forward.",
        graphql_type=Timestamp | None,
    )
    def newest(parent: Parent[operators.Storage]) -> int | None:
        return parent.sizes.newest

    @strawberry.field(description="The free space on the disk of the database; null where it cannot be read.")
    def free_bytes(parent: Parent[operators.Storage]) -> float | None:
        return None if parent.free_bytes is None else float(parent.free_bytes)


@strawberry.type(description="A change of a candle that was final.")
class Correction:
    """Resolved from `resolvers.operators.CorrectedCandle`."""

    @strawberry.field(description="The symbol.", graphql_type=Symbol)
    def symbol(parent: Parent[operators.CorrectedCandle]) -> InstrumentRecord:
        return parent.symbol

    timeframe: Timeframe = strawberry.field(description="The stored timeframe of the candle.")
    timestamp: Timestamp = strawberry.field(description="The instant its bucket opens.")

    @strawberry.field(description="The candle before; null if there was none.", graphql_type=Candle | None)
    def old(parent: Parent[operators.CorrectedCandle]) -> SeriesCandle | None:
        return parent.old

    @strawberry.field(description="The candle after; null if it was withdrawn.", graphql_type=Candle | None)
    def new(parent: Parent[operators.CorrectedCandle]) -> SeriesCandle | None:
        return parent.new

    @strawberry.field(description="When it was corrected.")
    def at(parent: Parent[operators.CorrectedCandle]) -> datetime:
        return datetime_of(parent.at)


CorrectionConnection = connection(Correction, "correction", "A page of corrections, the newest first.")


@strawberry.type(description="What a backfill would cost by what is known now; its provider was not called.")
class BackfillEstimate:
    """Resolved from `candlegraph.backfill.BackfillEstimate`."""

    symbols: int = strawberry.field(description="The number of symbols, including those that a pattern matches.")
    calls: int = strawberry.field(description="The upstream calls for the gaps, without repeated ones.")

    @strawberry.field(description="The `piecesTotal` of the job: the same number as `calls`.")
    def pieces(parent: Parent[Estimate]) -> int:
        return parent.calls

    candles: float = strawberry.field(
        description="The most candles that it may bring: one for each bucket of the gaps."
    )
    seconds: float | None = strawberry.field(
        description=(
            "The shortest time: that of the calls at the part of the rate limit that backfills may use. Null if the provider "
            "cannot be called."
        )
    )


@strawberry.type(
    description=(
        "A series with stored candles, by its own timeframe: `coverage` also shows candles that are folded from a finer one."
    )
)
class SeriesCoverage:
    """Resolved from `history.series_list.SeriesCoverage`."""

    @strawberry.field(description="The symbol.", graphql_type=Symbol)
    def symbol(parent: Parent[series_list.SeriesCoverage]) -> InstrumentRecord:
        return parent.record

    timeframe: Timeframe = strawberry.field(description="The stored timeframe.")
    covered: list[SpanOf] = strawberry.field(
        description="The spans whose candles are all stored, ascending, at most 1,000, the newest."
    )
    gaps: list[Gap] = strawberry.field(description="The gaps up to now, with reasons, at most 1,000, the newest.")

    @strawberry.field(description="The spans that a server is fetching now.", graphql_type=list[SpanOf])
    def fetching(parent: Parent[series_list.SeriesCoverage]) -> Sequence[Span]:
        return parent.fetching

    rows: float | None = strawberry.field(
        description="About how many candles are stored: exact up to 1,000, beyond that by the density of the newest."
    )

    @strawberry.field(description="The `revision` of its CandleSeries.")
    def revision(parent: Parent[series_list.SeriesCoverage]) -> str:
        return str(parent.revision)


SeriesCoverageConnection = connection(
    SeriesCoverage, "series", "A page of stored series, in the order of market, provider, symbol and timeframe."
)
