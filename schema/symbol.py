"""Symbols in the contract, and their Relay-style pages."""

from __future__ import annotations

import strawberry
from strawberry import Info, Parent

from candlegraph.answer import Answer, Fill, Wait
from candlegraph.identity import encode_name
from candlegraph.series import InstrumentRecord, Series, SymbolKind
from candlegraph.timeframe import MINUTE
from candlegraph.trading_calendar import SessionFilter
from resolvers.candles import resolve_candles
from resolvers.context import Context
from schema import arguments as arg
from schema.candles import CandleSeries
from schema.node import Node, resolved_from
from schema.pagination import connection, field
from schema.scalars import Timestamp

strawberry.enum(
    SymbolKind,
    description=(
        "SPOT a pair; SWAP a perpetual contract; FUTURE a dated one; OPTION; STOCK a share; ETF a fund; INDEX; FX two currencies; OTHER."
    ),
)


@strawberry.type(description="A traded thing: a pair, a share, a file of candles.")
class Symbol(Node):
    """Resolved from `candlegraph.series.InstrumentRecord`."""

    is_type_of = staticmethod(resolved_from(InstrumentRecord))

    @strawberry.field(description="The id of its market.")
    def market(parent: Parent[InstrumentRecord]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.instrument.market))

    @strawberry.field(description="The short name of its provider.")
    def provider(parent: Parent[InstrumentRecord]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.instrument.provider))

    @strawberry.field(description="The provider's name for it, as `candles` takes it.")
    def symbol(parent: Parent[InstrumentRecord]) -> str:
        return parent.instrument.symbol

    name: str | None = strawberry.field(description="Its name for people.")
    base: str | None = strawberry.field(description="The traded currency or share; volumes are in its units.")
    quote: str | None = strawberry.field(description="The currency of the prices.")
    active: bool = strawberry.field(description="Whether it is still traded.")
    timezone: str = strawberry.field(description="The IANA zone in which its days open.")
    first_available: Timestamp | None = strawberry.field(description="Its first candle, if that is known.")
    has_volume: bool = strawberry.field(
        description="False if its volumes are unknown; then they are 0, and no candle is dropped as a filler."
    )
    kind: SymbolKind | None = strawberry.field(description="What it is; null if the provider does not report it.")
    price_increment: float | None = strawberry.field(
        description="The smallest step of a price; null if the provider does not report it."
    )
    quantity_increment: float | None = strawberry.field(
        description="The smallest step of a quantity; null if the provider does not report it."
    )
    contract_size: float | None = strawberry.field(
        description=(
            "The value of one contract of a derivative, in units of the base, or of the quote if it is inverse; "
            "null if the provider does not report it."
        )
    )

    calendar: str | None = strawberry.field(
        description="Its trading calendar, such as XNYS; null if it has none, because it always trades."
    )

    @strawberry.field(description="Its candles.", graphql_type=CandleSeries | None)
    async def candles(
        parent: Parent[InstrumentRecord],
        info: Info[Context, None],
        timeframe: arg.TimeframeArg = MINUTE,
        since: arg.SinceArg = None,
        until: arg.UntilArg = None,
        before: arg.BeforeArg = None,
        limit: arg.LimitArg = None,
        fill: arg.FillArg = Fill.NONE,
        timezone: arg.TimezoneArg = None,
        wait: arg.WaitArg = Wait.COMPLETE,
        session: arg.SessionArg = SessionFilter.ALL,
    ) -> Answer:
        return await resolve_candles(
            info.context,
            Series(parent.instrument, timeframe),
            since=since,
            until=until,
            before=before,
            limit=limit,
            fill=fill,
            timezone=timezone,
            wait=wait,
            session=session,
        )


@strawberry.type(description="One regular trading session.")
class TradingSession:
    """Resolved from `candlegraph.trading_calendar.TradingSession`."""

    date: str = strawberry.field(description="Its local date, such as 2024-07-02.")
    opens_at: Timestamp = strawberry.field(description="When it opens.")
    closes_at: Timestamp = strawberry.field(description="When it closes.")
    break_starts_at: Timestamp | None = strawberry.field(description="When its break begins; null if it has none.")
    break_ends_at: Timestamp | None = strawberry.field(description="When its break ends; null if it has none.")
    early: bool = strawberry.field(description="It closes before the usual time.")


SymbolConnection = connection(
    Symbol,
    "symbol",
    "A page of symbols, in the order of their names.",
    field("total_count", int, "The number of all symbols."),
)
