"""The subscription root."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

import strawberry
from strawberry import Info, Parent

from candlegraph import backfill as job
from candlegraph.event import Event, EventKind, SeriesFailure
from candlegraph.identity import encode_name
from candlegraph.series import Series
from candlegraph.series_candles import SeriesCandles
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.trading_calendar import SessionFilter
from candlegraph.viewer import Role
from resolvers.backfills import stream_backfill
from resolvers.candles import stream_candles, stream_many
from resolvers.context import Context
from resolvers.names import instrument
from schema import arguments as arg
from schema.backfill import Backfill
from schema.candles import Candle
from schema.permission import requires_role
from schema.scalars import Timestamp

ClosedOnlyArg = Annotated[
    bool, strawberry.argument(description="Without the forming candle: no UPDATE, and none in the snapshots.")
]

strawberry.enum(
    EventKind,
    name="CandleEventKind",
    description=(
        "SNAPSHOT history; UPDATE the forming candle moved: one candle, never older than that of the last UPDATE; CLOSE a "
        "candle became final: where the provider settles later than 5 s after the end of a bucket, it comes behind the first "
        "UPDATE of the next candle, else before it; CORRECTION a final candle changed; HEARTBEAT no event for 15 s; RESYNC this "
        "listener fell behind: resume from resyncFrom (the subscription then completes)."
    ),
)


@strawberry.type(
    description=(
        "One message of a live series. seq counts the closed and corrected candles of the series, the same number for every "
        "listener: a jump by more than one between two of them means that one was missed. UPDATE repeats the last one."
    )
)
class CandleEvent:
    """Resolved from `candlegraph.event.Event`."""

    kind: EventKind = strawberry.field(description="The kind of the event.")
    seq: int = strawberry.field(description="The number of closed and corrected candles of the series so far.")

    @strawberry.field(description="The affected candles, ascending.", graphql_type=list[Candle])
    def nodes(parent: Parent[Event]) -> SeriesCandles:
        return parent.series_candles

    caught_up: bool = strawberry.field(description="On the last snapshot: later events are live.")
    resync_from: Timestamp | None = strawberry.field(description="On RESYNC: the `since` to subscribe with again.")


@strawberry.input(description="One series to listen to.")
class LiveSeriesInput:
    """What `candlesMany` listens to."""

    market: strawberry.ID = strawberry.field(description="The id of a market.")
    provider: strawberry.ID = strawberry.field(description="The short name of a provider, or its id.")
    symbol: str = strawberry.field(description="The provider's symbol.")
    timeframe: Timeframe = strawberry.field(default=MINUTE, description="How long a candle is.")
    since: Timestamp | None = strawberry.field(
        default=None, description="Its history from here on comes first; only the forming candle if null."
    )


LiveSeriesArg = Annotated[
    list[LiveSeriesInput], strawberry.argument(description="The series, 1 to 100, each with its own `since`.")
]


@strawberry.type(description="One message of one of many live series.")
class SeriesEvent:
    """Resolved from `candlegraph.event.Event`, whose series is known, or `candlegraph.event.SeriesFailure`."""

    @strawberry.field(description="The id of the market.")
    def market(parent: Parent[Event | SeriesFailure]) -> strawberry.ID:
        return strawberry.ID(encode_name(_series(parent).instrument.market))

    @strawberry.field(description="The short name of the provider.")
    def provider(parent: Parent[Event | SeriesFailure]) -> strawberry.ID:
        return strawberry.ID(encode_name(_series(parent).instrument.provider))

    @strawberry.field(description="The symbol.")
    def symbol(parent: Parent[Event | SeriesFailure]) -> str:
        return _series(parent).instrument.symbol

    @strawberry.field(description="The timeframe, reduced.")
    def timeframe(parent: Parent[Event | SeriesFailure]) -> Timeframe:
        return _series(parent).timeframe

    @strawberry.field(
        description="The event; null, with an error, if this series has failed.",
        graphql_type=CandleEvent | None,
    )
    def event(parent: Parent[Event | SeriesFailure]) -> Event | BaseException:
        return parent.error if isinstance(parent, SeriesFailure) else parent


def _series(event: Event | SeriesFailure) -> Series:
    assert event.series  # noqa: S101 - of many series, each event names its own
    return event.series


@strawberry.type(description="The subscription root; over graphql-transport-ws.")
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
        session: arg.SessionArg = SessionFilter.ALL,
        closed_only: ClosedOnlyArg = False,
    ) -> AsyncIterator[Event]:
        series = Series(instrument(market, provider, symbol), timeframe)
        return stream_candles(info.context, series, since, timezone, session, closed_only=closed_only)

    @strawberry.subscription(
        description=(
            "Many series on one subscription, at most 100; each counts in its own seq. A series that fails is null with an "
            "error of its path and the others go on; RESYNC ends that series only; the subscription completes when all have "
            "ended. History: 50,000 candles, counted over all series. One HEARTBEAT if no series had an event for 15 s; it "
            "names the first one."
        ),
        extensions=requires_role(Role.VIEWER),
        graphql_type=AsyncGenerator[SeriesEvent, None],
    )
    async def candles_many(
        self,
        info: Info[Context, None],
        series: LiveSeriesArg,
        timezone: arg.TimezoneArg = None,
        session: arg.SessionArg = SessionFilter.ALL,
        closed_only: ClosedOnlyArg = False,
    ) -> AsyncIterator[Event | SeriesFailure]:
        batch = [(one.market, one.provider, one.symbol, one.timeframe, one.since) for one in series]
        return stream_many(info.context, batch, timezone, session, closed_only=closed_only)

    @strawberry.subscription(
        description="A job, now and after each change, at most twice a second; completes when the job has ended.",
        extensions=requires_role(Role.VIEWER),
        graphql_type=AsyncGenerator[Backfill, None],
    )
    async def backfill(self, info: Info[Context, None], id: arg.JobArg) -> AsyncIterator[job.Backfill]:
        return stream_backfill(info.context, id)
