"""The query root."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

import strawberry
from strawberry import Info

from candlegraph import answer, clock, provider, upstream, viewer
from candlegraph import backfill as job
from candlegraph.answer import Answer, Fill, Wait
from candlegraph.backfill import BackfillState
from candlegraph.series import InstrumentRecord, Series
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.trading_calendar import SessionFilter
from candlegraph.trading_calendar import TradingSession as SessionNoun
from candlegraph.viewer import Role
from history import series_changes
from history.series_list import SeriesCoverage as StoredSeries
from resolvers.backfills import author, resolve_backfill, resolve_backfills, resolve_coverage, resolve_tracked
from resolvers.candles import resolve_batch, resolve_candles, resolve_changes
from resolvers.context import Context
from resolvers.latest import LatestBuckets, LatestPage, resolve_latest
from resolvers.markets import (
    SymbolPage,
    resolve_markets,
    resolve_providers,
    resolve_sessions,
    resolve_symbol,
    resolve_symbols,
)
from resolvers.names import instrument
from resolvers.nodes import NodeNoun, resolve_node, resolve_server_id
from resolvers.operators import (
    CorrectedCandle,
    Storage,
    resolve_corrections,
    resolve_estimate,
    resolve_series_list,
    resolve_storage,
)
from resolvers.pagination import ListPage
from schema import arguments as arg
from schema.backfill import Backfill, BackfillConnection, Coverage, SeriesChanges, TrackedConnection
from schema.candles import CandleSeries, SeriesInput
from schema.latest import LatestConnection, LatestTimeframeArg, PatternArg, SymbolsArg
from schema.market import Market, Provider
from schema.node import Node
from schema.operators import (
    BackfillEstimate,
    CorrectionConnection,
    MarketFilterArg,
    OrderArg,
    ProviderFilterArg,
    SeriesCoverageConnection,
    StorageStats,
    SymbolFilterArg,
)
from schema.permission import requires_role
from schema.scalars import Timestamp
from schema.symbol import Symbol, SymbolConnection, TradingSession
from schema.user import User

DAY = Timeframe(1, "d")

StateArg = Annotated[BackfillState | None, strawberry.argument(description="Only jobs in this state.")]
NodeArg = Annotated[strawberry.ID, strawberry.argument(description="The `id` of any object that has one.")]
RevisionArg = Annotated[
    str, strawberry.argument(description="The `revision` of a CandleSeries or of the last changes.")
]
SessionsSinceArg = Annotated[Timestamp, strawberry.argument(description="The beginning of the span, inclusive.")]
SessionsUntilArg = Annotated[Timestamp, strawberry.argument(description="The end of the span, exclusive.")]
SeriesArg = Annotated[list[SeriesInput], strawberry.argument(description="The series, at most 100.")]


@strawberry.type(description="The query root. A field that can fail on its own is nullable.")
class Query:
    """The contract's queries."""

    @strawberry.field(
        description="The object with an id; null if there is none. Calls no provider.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=Node | None,
    )
    async def node(self, info: Info[Context, None], id: NodeArg) -> NodeNoun | None:
        return await resolve_node(info.context, id)

    @strawberry.field(description="Now, by the server's clock.")
    def server_time(self) -> Timestamp:
        return Timestamp(clock.now_ms())

    @strawberry.field(
        description="The id of the database behind this server: a client's mirror or cache of another database is not valid here.",
        extensions=requires_role(Role.VIEWER),
    )
    async def server_id(self, info: Info[Context, None]) -> strawberry.ID | None:
        return strawberry.ID(str(await resolve_server_id(info.context)))

    @strawberry.field(description="Every market.", extensions=requires_role(Role.VIEWER), graphql_type=list[Market])
    async def markets(self, info: Info[Context, None]) -> list[provider.Market]:
        return await resolve_markets(info.context)

    @strawberry.field(
        description="The providers of a market.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=list[Provider] | None,
    )
    async def providers(self, info: Info[Context, None], market: arg.MarketArg) -> list[upstream.ProviderStatus]:
        return await resolve_providers(info.context, market)

    @strawberry.field(
        description="The symbols of a provider, in the order of their names.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=SymbolConnection | None,
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
    ) -> SymbolPage:
        return await resolve_symbols(
            info.context, market, provider, search, inactive=include_inactive, first=first, after=after
        )

    @strawberry.field(description="One symbol.", extensions=requires_role(Role.VIEWER), graphql_type=Symbol | None)
    async def symbol(
        self, info: Info[Context, None], market: arg.MarketArg, provider: arg.ProviderArg, symbol: arg.SymbolArg
    ) -> InstrumentRecord:
        return await resolve_symbol(info.context, instrument(market, provider, symbol))

    @strawberry.field(
        description=(
            "Candles: the oldest `limit` from `since`, or without it the newest before `until` (or now); always "
            "ascending, with gaps, reasons and sources."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=CandleSeries | None,
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
        session: arg.SessionArg = SessionFilter.ALL,
    ) -> Answer:
        return await resolve_candles(
            info.context,
            Series(instrument(market, provider, symbol), timeframe),
            since=since,
            until=until,
            before=before,
            limit=limit,
            fill=fill,
            timezone=timezone,
            wait=wait,
            session=session,
        )

    @strawberry.field(
        description=(
            "Same arguments for many series, one round trip; an item that fails is null and its error carries its path."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=list[CandleSeries | None],
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
        session: arg.SessionArg = SessionFilter.ALL,
    ) -> list[Awaitable[Answer] | Exception]:
        return resolve_batch(
            info.context,
            [(one.market, one.provider, one.symbol, one.timeframe) for one in series],
            since=since,
            until=until,
            before=before,
            limit=limit,
            fill=fill,
            timezone=timezone,
            wait=wait,
            session=session,
        )

    @strawberry.field(
        description=(
            "The newest candle of many symbols in one statement, for watchlists and screeners. Exactly one of `symbols` (at "
            "most 1,000, all answered, in their order; `first` does not apply) and `pattern`. Calls no provider."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=LatestConnection | None,
    )
    async def latest(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbols: SymbolsArg = None,
        pattern: PatternArg = None,
        timeframe: LatestTimeframeArg = DAY,
        timezone: arg.TimezoneArg = None,
        session: arg.SessionArg = SessionFilter.ALL,
        first: arg.FirstArg = 100,
        after: arg.AfterArg = None,
    ) -> LatestPage:
        buckets = LatestBuckets(timeframe, timezone, session)
        return await resolve_latest(info.context, (market, provider), symbols, pattern, buckets, first, after)

    @strawberry.field(
        description=(
            "Corrected and lost spans since a `revision` of CandleSeries: a client with a copy has to fetch them again; new "
            "candles after its copy are not among them. Null if the revision is too old: copy the series again."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=SeriesChanges | None,
    )
    async def changes(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbol: arg.SymbolArg,
        after: RevisionArg,
        timeframe: arg.TimeframeArg = MINUTE,
    ) -> series_changes.SeriesChanges | None:
        return await resolve_changes(info.context, Series(instrument(market, provider, symbol), timeframe), after)

    @strawberry.field(
        description=(
            "The regular trading sessions of a symbol that overlap a span, by its calendar, at most 1,000; null if it has "
            "none, because it always trades."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=list[TradingSession] | None,
    )
    async def sessions(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbol: arg.SymbolArg,
        since: SessionsSinceArg,
        until: SessionsUntilArg,
    ) -> list[SessionNoun] | None:
        return await resolve_sessions(info.context, instrument(market, provider, symbol), since, until)

    @strawberry.field(
        description="The covered spans of a series, its gaps with reasons, and its newest upstream calls.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=Coverage | None,
    )
    async def coverage(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbol: arg.SymbolArg,
        timeframe: arg.TimeframeArg = MINUTE,
    ) -> answer.CoverageReport:
        series = Series(instrument(market, provider, symbol), timeframe)
        return await resolve_coverage(info.context, series)

    @strawberry.field(
        description="One job that fetches history.", extensions=requires_role(Role.VIEWER), graphql_type=Backfill | None
    )
    async def backfill(self, info: Info[Context, None], id: arg.JobArg) -> job.Backfill:
        return await resolve_backfill(info.context, id)

    @strawberry.field(
        description="The jobs that fetch history, the newest first.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=BackfillConnection | None,
    )
    async def backfills(
        self,
        info: Info[Context, None],
        state: StateArg = None,
        first: arg.FirstArg = 50,
        after: arg.AfterArg = None,
    ) -> ListPage[job.Backfill]:
        return await resolve_backfills(info.context, state, first, after)

    @strawberry.field(
        description="The tracked symbols.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=TrackedConnection | None,
    )
    async def tracked(
        self, info: Info[Context, None], first: arg.FirstArg = 100, after: arg.AfterArg = None
    ) -> ListPage[job.TrackedSeries]:
        return await resolve_tracked(info.context, first, after)

    @strawberry.field(
        description="What is stored and what it takes. For operators.",
        extensions=requires_role(Role.OPERATOR),
        graphql_type=StorageStats | None,
    )
    async def storage(self, info: Info[Context, None]) -> Storage:
        return await resolve_storage(info.context)

    @strawberry.field(
        description="The corrections of final candles, the newest first. For operators.",
        extensions=requires_role(Role.OPERATOR),
        graphql_type=CorrectionConnection | None,
    )
    async def corrections(
        self,
        info: Info[Context, None],
        market: MarketFilterArg = None,
        provider: ProviderFilterArg = None,
        symbol: SymbolFilterArg = None,
        first: arg.FirstArg = 50,
        after: arg.AfterArg = None,
    ) -> ListPage[CorrectedCandle]:
        return await resolve_corrections(info.context, market, provider, symbol, first, after)

    @strawberry.field(
        description="What `startBackfill` would cost with the same input. Calls no provider. For operators.",
        extensions=requires_role(Role.OPERATOR),
        graphql_type=BackfillEstimate | None,
    )
    async def estimate_backfill(self, info: Info[Context, None], input: OrderArg) -> job.BackfillEstimate:
        return await resolve_estimate(info.context, input.order(author(info.context)))

    @strawberry.field(
        description="The series with stored candles, in the order of their names. For operators.",
        extensions=requires_role(Role.OPERATOR),
        graphql_type=SeriesCoverageConnection | None,
    )
    async def series_list(
        self,
        info: Info[Context, None],
        market: MarketFilterArg = None,
        provider: ProviderFilterArg = None,
        search: arg.SearchArg = None,
        first: arg.FirstArg = 50,
        after: arg.AfterArg = None,
    ) -> ListPage[StoredSeries]:
        return await resolve_series_list(info.context, market, provider, search, first, after)

    @strawberry.field(
        description="The signed-in user: identity, roles, saved configuration. Null when anonymous.",
        graphql_type=User | None,
    )
    def me(self, info: Info[Context, None]) -> viewer.User | None:
        viewer = info.context.viewer
        if viewer.refusal:
            raise viewer.refusal
        return viewer.user
