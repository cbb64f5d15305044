"""The root of all questions."""

from __future__ import annotations

from typing import Annotated

import strawberry
from strawberry import Info

from candlegraph.answer import Fill, Wait
from candlegraph.job import BackfillState
from candlegraph.series import Series
from candlegraph.timeframe import MINUTE
from candlegraph.viewer import Role
from resolvers.backfills import resolve_backfill, resolve_backfills, resolve_coverage, resolve_tracked
from resolvers.candles import resolve_batch, resolve_candles
from resolvers.context import Context
from resolvers.markets import instrument, resolve_markets, resolve_providers, resolve_symbol, resolve_symbols
from schema import arguments as arg
from schema.backfill import Backfill, BackfillConnection, Coverage, TrackedConnection
from schema.candles import CandleSeries, SeriesInput
from schema.market import Market, Provider
from schema.permission import needs
from schema.symbol import Symbol, SymbolConnection
from schema.user import User

StateArg = Annotated[BackfillState | None, strawberry.argument(description="Only jobs in this state.")]
SeriesArg = Annotated[list[SeriesInput], strawberry.argument(description="The series, at most 100.")]


@strawberry.type(description="The root of all questions. A field that can fail on its own is nullable.")
class Query:
    """The contract's queries."""

    @strawberry.field(description="Every market.", extensions=needs(Role.VIEWER))
    async def markets(self, info: Info[Context, None]) -> list[Market]:
        return await resolve_markets(info.context)  # type: ignore[return-value]

    @strawberry.field(description="The providers of a market.", extensions=needs(Role.VIEWER))
    async def providers(self, info: Info[Context, None], market: arg.MarketArg) -> list[Provider] | None:
        return await resolve_providers(info.context, market)  # type: ignore[return-value]

    @strawberry.field(
        description="The symbols of a provider, in the order of their names.", extensions=needs(Role.VIEWER)
    )
    async def symbols(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        search: arg.SearchArg = None,
        include_inactive: arg.InactiveArg = False,
        first: arg.FirstArg = 100,
        after: arg.AfterArg = None,
    ) -> SymbolConnection | None:
        return await resolve_symbols(  # type: ignore[return-value]
            info.context, market, provider, search, inactive=include_inactive, first=first, after=after
        )

    @strawberry.field(description="One symbol.", extensions=needs(Role.VIEWER))
    async def symbol(
        self, info: Info[Context, None], market: arg.MarketArg, provider: arg.ProviderArg, symbol: arg.SymbolArg
    ) -> Symbol | None:
        return await resolve_symbol(info.context, instrument(market, provider, symbol))  # type: ignore[return-value]

    @strawberry.field(
        description=(
            "Candles: the oldest `limit` from `since`, or without it the newest before `until` (or now); always "
            "ascending, with the truth about what is missing and who answered."
        ),
        extensions=needs(Role.VIEWER),
    )
    async def candles(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbol: arg.SymbolArg,
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
            Series(instrument(market, provider, symbol), timeframe),
            since=since,
            until=until,
            before=before,
            limit=limit,
            fill=fill,
            timezone=timezone,
            wait=wait,
        )

    @strawberry.field(
        description=(
            "Same arguments for many series, one round trip; an item that fails is null and its error carries its path."
        ),
        extensions=needs(Role.VIEWER),
    )
    async def candles_batch(
        self,
        info: Info[Context, None],
        series: SeriesArg,
        since: arg.SinceArg = None,
        until: arg.UntilArg = None,
        before: arg.BeforeArg = None,
        limit: arg.LimitArg = None,
        fill: arg.FillArg = Fill.NONE,
        timezone: arg.TimezoneArg = None,
        wait: arg.WaitArg = Wait.COMPLETE,
    ) -> list[CandleSeries | None]:
        return resolve_batch(  # type: ignore[return-value]
            info.context,
            [(one.market, one.provider, one.symbol, one.timeframe) for one in series],
            since=since,
            until=until,
            before=before,
            limit=limit,
            fill=fill,
            timezone=timezone,
            wait=wait,
        )

    @strawberry.field(
        description="What is known of a series to the last candle, what is not and why, and how it came.",
        extensions=needs(Role.VIEWER),
    )
    async def coverage(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbol: arg.SymbolArg,
        timeframe: arg.TimeframeArg = MINUTE,
    ) -> Coverage | None:
        series = Series(instrument(market, provider, symbol), timeframe)
        return await resolve_coverage(info.context, series)  # type: ignore[return-value]

    @strawberry.field(description="One job that fetches history.", extensions=needs(Role.VIEWER))
    async def backfill(self, info: Info[Context, None], id: arg.JobArg) -> Backfill | None:
        return await resolve_backfill(info.context, id)  # type: ignore[return-value]

    @strawberry.field(description="The jobs that fetch history, the newest first.", extensions=needs(Role.VIEWER))
    async def backfills(
        self,
        info: Info[Context, None],
        state: StateArg = None,
        first: arg.FirstArg = 50,
        after: arg.AfterArg = None,
    ) -> BackfillConnection | None:
        return await resolve_backfills(info.context, state, first, after)  # type: ignore[return-value]

    @strawberry.field(description="The symbols that are kept complete.", extensions=needs(Role.VIEWER))
    async def tracked(
        self, info: Info[Context, None], first: arg.FirstArg = 100, after: arg.AfterArg = None
    ) -> TrackedConnection | None:
        return await resolve_tracked(info.context, first, after)  # type: ignore[return-value]

    @strawberry.field(description="The signed-in user: identity, roles, saved configuration. Null when anonymous.")
    def me(self, info: Info[Context, None]) -> User | None:
        viewer = info.context.viewer
        if viewer.refusal:
            raise viewer.refusal
        return viewer.user  # type: ignore[return-value]
