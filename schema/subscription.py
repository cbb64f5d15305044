"""The root of what moves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import strawberry
from strawberry import Info, Parent

from candlegraph import backfill as job
from candlegraph.event import Event, EventKind
from candlegraph.series import Series
from candlegraph.series_candles import SeriesCandles
from candlegraph.timeframe import MINUTE
from candlegraph.viewer import Role
from resolvers.backfills import stream_backfill
from resolvers.candles import stream_candles
from resolvers.context import Context
from resolvers.names import instrument
from schema import arguments as arg
from schema.backfill import Backfill
from schema.candles import Candle
from schema.permission import requires_role
from schema.scalars import Timestamp

strawberry.enum(
    EventKind,
    name="CandleEventKind",
    description=(
        "SNAPSHOT history; UPDATE the forming candle moved; CLOSE a candle became final; CORRECTION a final candle "
        "changed; HEARTBEAT nothing for 15 s; RESYNC this listener fell behind: resume from resyncFrom (the subscription "
        "then completes)."
    ),
)


@strawberry.type(
    description=(
        "One message of a live series. seq counts the closed and corrected candles of the series, the same number for every "
        "listener: a jump by more than one between two such events means something was missed. UPDATE repeats the last one."
    )
)
class CandleEvent:
    """Resolved from `candlegraph.event.Event`."""

    kind: EventKind = strawberry.field(description="Why it is sent.")
    seq: int = strawberry.field(description="How many candles of the series were closed or corrected so far.")

    @strawberry.field(description="The candles it is about, ascending.", graphql_type=list[Candle])
    def nodes(parent: Parent[Event]) -> SeriesCandles:
        return parent.series_candles

    caught_up: bool = strawberry.field(description="On the last snapshot: what follows is live.")
    resync_from: Timestamp | None = strawberry.field(description="On RESYNC: the `since` to subscribe with again.")


@strawberry.type(description="The root of what moves; over graphql-transport-ws.")
class Subscription:
    """The contract's subscriptions."""

    @strawberry.subscription(
        description=(
            "History since `since` first (snapshots of at most 1,000 candles, 50,000 in all), caughtUp on the last of "
            "them, then live events, without gap or repeat."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=AsyncGenerator[CandleEvent, None],
    )
    async def candles(
        self,
        info: Info[Context, None],
        market: arg.MarketArg,
        provider: arg.ProviderArg,
        symbol: arg.SymbolArg,
        timeframe: arg.TimeframeArg = MINUTE,
        since: arg.SinceArg = None,
        timezone: arg.TimezoneArg = None,
    ) -> AsyncIterator[Event]:
        series = Series(instrument(market, provider, symbol), timeframe)
        return stream_candles(info.context, series, since, timezone)

    @strawberry.subscription(
        description="A job as it is, then whenever it has moved, at most twice a second; completes when it has ended.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=AsyncGenerator[Backfill, None],
    )
    async def backfill(self, info: Info[Context, None], id: arg.JobArg) -> AsyncIterator[job.Backfill]:
        return stream_backfill(info.context, id)
