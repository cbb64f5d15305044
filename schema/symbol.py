"""Symbols in the contract, and their Relay-style pages."""

from __future__ import annotations

from collections.abc import Sequence

import strawberry
from strawberry import Info, Parent

from candlegraph.answer import Fill, Wait
from candlegraph.series import Record, Series
from candlegraph.timeframe import MINUTE
from resolvers.candles import resolve_candles
from resolvers.context import Context
from resolvers.markets import Page, SymbolPage, T, encode_cursor
from schema import arguments as arg
from schema.candles import CandleSeries
from schema.scalars import Timestamp


@strawberry.type(description="Something that is traded: a pair, a share, a file of candles.")
class Symbol:
    """Resolved from `candlegraph.series.Record`."""

    @strawberry.field(description="Opaque and stable.")
    def id(parent: Parent[Record]) -> strawberry.ID:
        instrument = parent.instrument
        return strawberry.ID(f"{instrument.market}:{instrument.provider}:{instrument.symbol}")

    @strawberry.field(description="The id of its market.")
    def market(parent: Parent[Record]) -> strawberry.ID:
        return strawberry.ID(parent.instrument.market)

    @strawberry.field(description="The id of its provider.")
    def provider(parent: Parent[Record]) -> strawberry.ID:
        return strawberry.ID(parent.instrument.provider)

    @strawberry.field(description="The provider's name for it, to ask for candles with.")
    def symbol(parent: Parent[Record]) -> str:
        return parent.instrument.symbol

    name: str | None = strawberry.field(description="What people call it.")
    base: str | None = strawberry.field(description="What is traded; volumes are in its units.")
    quote: str | None = strawberry.field(description="What prices are in.")
    active: bool = strawberry.field(description="Whether it is still traded.")
    timezone: str = strawberry.field(description="The IANA zone in which its days open.")
    first_available: Timestamp | None = strawberry.field(description="Its first candle, where that is known.")

    @strawberry.field(description="Its candles.")
    async def candles(
        parent: Parent[Record],
        info: Info[Context, None],
        timeframe: arg.TimeframeArg = MINUTE,
        since: arg.SinceArg = None,
        until: arg.UntilArg = None,
        before: arg.BeforeArg = None,
        limit: arg.LimitArg = None,
        fill: arg.FillArg = Fill.NONE,
        timezone: arg.TimezoneArg = None,
        wait: arg.WaitArg = Wait.COMPLETE,
    ) -> CandleSeries | None:
        return await resolve_candles(  # type: ignore[return-value]
            info.context,
            Series(parent.instrument, timeframe),
            since=since,
            until=until,
            before=before,
            limit=limit,
            fill=fill,
            timezone=timezone,
            wait=wait,
        )


@strawberry.type(description="A symbol and its place in the list.")
class SymbolEdge:
    """Resolved from `candlegraph.series.Record`."""

    @strawberry.field(description="Where a page that begins behind it starts.")
    def cursor(parent: Parent[Record]) -> str:
        return encode_cursor(parent.instrument.symbol)

    @strawberry.field(description="The symbol.")
    def node(parent: Parent[Record]) -> Symbol:
        return parent  # type: ignore[return-value]


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    """Built for each page."""

    has_next_page: bool = strawberry.field(description="There is more behind it.")
    has_previous_page: bool = strawberry.field(description="There is more before it.")
    start_cursor: str | None = strawberry.field(description="The cursor of its first item.")
    end_cursor: str | None = strawberry.field(description="The cursor of its last item: the `after` of the next page.")


def page_info(page: Page[T], cursors: Sequence[str]) -> PageInfo:
    """Where a page lies, by the cursors of its items."""
    return PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=cursors[0] if cursors else None,
        end_cursor=cursors[-1] if cursors else None,
    )


@strawberry.type(description="A page of symbols, in the order of their names.")
class SymbolConnection:
    """Resolved from `resolvers.markets.SymbolPage`."""

    @strawberry.field(description="The symbols with their cursors.")
    def edges(parent: Parent[SymbolPage]) -> list[SymbolEdge]:
        return parent.items  # type: ignore[return-value]

    @strawberry.field(description="The symbols.")
    def nodes(parent: Parent[SymbolPage]) -> list[Symbol]:
        return parent.items  # type: ignore[return-value]

    @strawberry.field(description="Where the page lies.")
    def page_info(parent: Parent[SymbolPage]) -> PageInfo:
        return page_info(parent, [encode_cursor(record.instrument.symbol) for record in parent.items])

    @strawberry.field(description="How many symbols there are in all.")
    def total_count(parent: Parent[SymbolPage]) -> int:
        return parent.total
