"""Candles in the contract: a series' answer as objects and as columns, with gaps and sources."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import strawberry
from strawberry import Info, Parent

from candlegraph import answer
from candlegraph.answer import Answer, GapReason, SourceKind
from candlegraph.candle import Candles
from candlegraph.identity import encode_name
from candlegraph.series_candles import SeriesCandles
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.trading_calendar import SessionFilter
from resolvers.candles import AnswerSource, resolve_fetched_at
from resolvers.context import Context
from schema.encoding import LazyRows, are_finite, reader
from schema.scalars import Timestamp, datetime_of

strawberry.enum(
    GapReason,
    name="GapReason",
    description=(
        "NOT_FETCHED it was never requested; PENDING it is being fetched; OUTAGE the provider failed; UNAVAILABLE the provider "
        "does not have it; BEFORE_LISTING and AFTER_DELISTING the symbol did not trade; REFUSED the provider refused, or "
        "sent invalid rows."
    ),
)
strawberry.enum(
    SourceKind,
    name="SourceKind",
    description=(
        "CACHE memory; AGGREGATE pre-aggregated candles; STORE the database; PROVIDER fetched upstream for this answer; "
        "LIVE the stream."
    ),
)


@strawberry.type(description="Open, high, low, close and volume of one bucket.")
class Candle:
    """Resolved from `candlegraph.series_candles.SeriesCandle` by attribute; the bulk executor completes whole batches."""

    timestamp: Timestamp = strawberry.field(description="The instant the bucket opens.")
    time: datetime = strawberry.field(description="The timestamp as text.")
    date: str = strawberry.field(
        description="The local date on which the bucket opens, in the series' time zone, such as 2024-07-02."
    )
    end: Timestamp = strawberry.field(
        description="When the bucket ends; less than a timeframe away at the end of a session."
    )
    open: float = strawberry.field(description="The first price.")
    high: float = strawberry.field(description="The highest price.")
    low: float = strawberry.field(description="The lowest price.")
    close: float = strawberry.field(description="The last price.")
    volume: float = strawberry.field(description="The traded volume, in units of the base.")
    closed: bool = strawberry.field(description="Final: the bucket has ended and the provider has settled it.")
    synthetic: bool = strawberry.field(description="Added by `fill`; there was no trade.")


@strawberry.type(description="The candles as equally long arrays, ascending by timestamp: compact, for charts.")
class CandleColumns:
    """Resolved from `candlegraph.candle.Candles`."""

    @strawberry.field(description="The instants the buckets open.")
    def timestamp(parent: Parent[Candles]) -> list[Timestamp]:
        return _values(parent.timestamp)

    @strawberry.field(description="The first prices.")
    def open(parent: Parent[Candles]) -> list[float]:
        return _values(parent.open)

    @strawberry.field(description="The highest prices.")
    def high(parent: Parent[Candles]) -> list[float]:
        return _values(parent.high)

    @strawberry.field(description="The lowest prices.")
    def low(parent: Parent[Candles]) -> list[float]:
        return _values(parent.low)

    @strawberry.field(description="The last prices.")
    def close(parent: Parent[Candles]) -> list[float]:
        return _values(parent.close)

    @strawberry.field(description="The traded volumes.")
    def volume(parent: Parent[Candles]) -> list[float]:
        return _values(parent.volume)

    @strawberry.field(description="Which candles are final.")
    def closed(parent: Parent[Candles]) -> list[bool]:
        return _values(parent.closed)

    @strawberry.field(description="Which candles `fill` added.")
    def synthetic(parent: Parent[Candles]) -> list[bool]:
        return _values(parent.synthetic)


def _values(column: np.ndarray) -> list[Any]:
    """A list of a column, which `schema.executor` leaves as it is until it is encoded."""
    if not are_finite(column):
        return column.tolist()  # type: ignore[no-any-return]
    return LazyRows({"": reader(column)}, len(column), named=False)  # type: ignore[return-value]


@strawberry.type(description="A span that is not covered, and why.")
class Gap:
    """Resolved from `candlegraph.answer.Gap`."""

    since: Timestamp = strawberry.field(description="Its beginning, inclusive.")
    until: Timestamp = strawberry.field(description="Its end, exclusive.")
    reason: GapReason = strawberry.field(description="Why it is not covered.")
    detail: str | None = strawberry.field(description="The same in words, with the provider's message.")


@strawberry.type(description="The source of a part of the range.")
class SourceSpan:
    """Resolved from `resolvers.candles.AnswerSource`."""

    @strawberry.field(description="Its beginning, inclusive.")
    def since(parent: Parent[AnswerSource]) -> Timestamp:
        return Timestamp(parent.source_span.since)

    @strawberry.field(description="Its end, exclusive.")
    def until(parent: Parent[AnswerSource]) -> Timestamp:
        return Timestamp(parent.source_span.until)

    @strawberry.field(description="The kind of source.")
    def source(parent: Parent[AnswerSource]) -> SourceKind:
        return parent.source_span.source

    @strawberry.field(description="When a part of it was last fetched upstream; null if it was imported or is live.")
    async def fetched_at(parent: Parent[AnswerSource], info: Info[Context, None]) -> datetime | None:
        at = await resolve_fetched_at(info.context, parent)
        return None if at is None else datetime_of(at)


@strawberry.type(description="Candles of one series, with the gaps and the sources of their range.")
class CandleSeries:
    """Resolved from `candlegraph.answer.Answer`."""

    @strawberry.field(description="The id of the market.")
    def market(parent: Parent[Answer]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.record.instrument.market))

    @strawberry.field(description="The short name of the provider.")
    def provider(parent: Parent[Answer]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.record.instrument.provider))

    @strawberry.field(description="The symbol.")
    def symbol(parent: Parent[Answer]) -> str:
        return parent.record.instrument.symbol

    @strawberry.field(description="The timeframe, reduced.")
    def timeframe(parent: Parent[Answer]) -> Timeframe:
        return parent.request.series.timeframe

    @strawberry.field(description="The IANA zone in which days, weeks, months and years open.")
    def timezone(parent: Parent[Answer]) -> str:
        return parent.zone.name

    @strawberry.field(description="The requested `session`.")
    def session(parent: Parent[Answer]) -> SessionFilter:
        return parent.request.session

    @strawberry.field(description="The candles, ascending and unique.", graphql_type=list[Candle])
    def nodes(parent: Parent[Answer]) -> SeriesCandles:
        return SeriesCandles(parent.candles, parent.request.series.timeframe, parent.zone)

    @strawberry.field(description="The same candles as equally long arrays.", graphql_type=CandleColumns)
    def columns(parent: Parent[Answer]) -> Candles:
        return parent.candles

    @strawberry.field(
        description="Every settled bucket of the requested range is covered (the forming one never counts)."
    )
    def complete(parent: Parent[Answer]) -> bool:
        return parent.complete

    @strawberry.field(description="The spans that are not covered, with reasons.", graphql_type=list[Gap])
    def gaps(parent: Parent[Answer]) -> tuple[answer.Gap, ...]:
        return parent.gaps

    @strawberry.field(description="The source of each part.", graphql_type=list[SourceSpan])
    def sources(parent: Parent[Answer]) -> list[AnswerSource]:
        return [AnswerSource(part, parent) for part in parent.sources]

    @strawberry.field(description="There are, or may be, more candles in the requested direction.")
    def has_more(parent: Parent[Answer]) -> bool:
        return parent.has_more

    @strawberry.field(
        description=(
            "Opaque. It changes when a final candle is corrected or withdrawn, or coverage is withdrawn; not when candles are "
            "added."
        )
    )
    def revision(parent: Parent[Answer]) -> str:
        return str(parent.revision)

    @strawberry.field(
        description="The `since` of the next page, if the range was read from its beginning.",
        graphql_type=Timestamp | None,
    )
    def next_since(parent: Parent[Answer]) -> int | None:
        return parent.next_since

    @strawberry.field(
        description="The `before` of the next page, if the range was read from its end.",
        graphql_type=Timestamp | None,
    )
    def next_before(parent: Parent[Answer]) -> int | None:
        return parent.next_before


@strawberry.input(description="One series of a batch.")
class SeriesInput:
    """An item of `candlesBatch`."""

    market: strawberry.ID = strawberry.field(description="The id of a market.")
    provider: strawberry.ID = strawberry.field(description="The short name of a provider, or its id.")
    symbol: str = strawberry.field(description="The provider's symbol.")
    timeframe: Timeframe = strawberry.field(default=MINUTE, description="How long a candle is.")
