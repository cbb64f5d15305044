"""Markets and providers in the contract."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import Info, Parent

from candlegraph.identity import encode_name
from candlegraph.provider import Budget, LiveMode
from candlegraph.provider import Market as MarketNoun
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import BreakerState, CallCounters, CallFailure, ProviderState, ProviderStatus
from candlegraph.viewer import Role
from resolvers.context import Context
from resolvers.markets import SymbolPage, resolve_providers, resolve_symbols
from schema import arguments as arg
from schema.node import Node, resolved_from
from schema.permission import requires_role
from schema.scalars import datetime_of
from schema.symbol import SymbolConnection

strawberry.enum(
    ProviderState,
    name="ProviderState",
    description=(
        "READY it answers; DEGRADED it is starting, failed within the last minute, or is being probed after a pause; RATE_LIMITED it asked "
        "us to wait, or its budget is spent; NOT_CONFIGURED a setting is missing; FAILED it cannot be used."
    ),
)
strawberry.enum(
    BreakerState,
    name="BreakerState",
    description="CLOSED calls pass; OPEN none does, after failures in a row; HALF_OPEN the next call probes the provider.",
)
strawberry.enum(
    LiveMode,
    name="LiveKind",
    description="STREAM it pushes candles; POLL the server polls it; NONE it has history only.",
)


@strawberry.type(description="A failed call to a provider.")
class ProviderFailure:
    """Resolved from `candlegraph.upstream.CallFailure`."""

    message: str = strawberry.field(description="The message.")

    @strawberry.field(description="When it happened.")
    def at(parent: Parent[CallFailure]) -> datetime:
        return datetime_of(parent.at)


@strawberry.type(description="Rate limits of a provider; with Redis all processes share them.")
class ProviderLimits:
    """Resolved from a `ProviderStatus` that has a budget."""

    @strawberry.field(description="The weight of calls in any `perSeconds` seconds.")
    def weight(parent: Parent[ProviderStatus]) -> float:
        return _budget(parent).weight

    @strawberry.field(description="The length of the window.")
    def per_seconds(parent: Parent[ProviderStatus]) -> float:
        return _budget(parent).per_s

    @strawberry.field(description="The most simultaneous calls, in this process.")
    def concurrent(parent: Parent[ProviderStatus]) -> int:
        return _budget(parent).concurrent

    @strawberry.field(description="The weight of one call for candles.")
    def call_weight(parent: Parent[ProviderStatus]) -> float:
        return parent.capabilities.call_weight


@strawberry.type(description="The calls of the answering process to a provider since its start.")
class ProviderCounters:
    """Resolved from `candlegraph.upstream.CallCounters`."""

    calls: int = strawberry.field(description="Upstream calls, including retries.")
    failures: int = strawberry.field(description="Calls and streams that failed.")
    retries: int = strawberry.field(description="Calls that repeat a failed one.")
    rows: float = strawberry.field(description="Received candles; a Float, because an Int could overflow.")
    refused_rows: float = strawberry.field(
        description="Invalid rows, which were not stored, and candles without a volume."
    )

    @strawberry.field(description="When the last call was made.")
    def last_call_at(parent: Parent[CallCounters]) -> datetime | None:
        return None if parent.last_call_at is None else datetime_of(parent.last_call_at)


@strawberry.type(
    description=(
        "An upstream: an exchange, a broker, a folder of files. Its id is `market/provider`; the argument `provider` takes "
        "the id and the short name."
    )
)
class Provider(Node):
    """Resolved from `candlegraph.upstream.ProviderStatus`."""

    is_type_of = staticmethod(resolved_from(ProviderStatus))

    @strawberry.field(description="Its short name, unique within its market.")
    def provider(parent: Parent[ProviderStatus]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.id))

    @strawberry.field(description="The id of its market.")
    def market(parent: Parent[ProviderStatus]) -> strawberry.ID:
        return strawberry.ID(encode_name(parent.market.id))

    name: str = strawberry.field(description="Its name for people.")
    description: str = strawberry.field(description="A description; it says so if the data are not real.")
    version: str = strawberry.field(description="The version of its plugin; empty if there is none.")
    state: ProviderState = strawberry.field(description="Its state.")

    @strawberry.field(description="Why it is not READY, or which of its data cannot be served and why, one line each.")
    def state_reason(parent: Parent[ProviderStatus]) -> str | None:
        return parent.reason

    @strawberry.field(description="When it will be tried again.")
    def retry_at(parent: Parent[ProviderStatus]) -> datetime | None:
        return None if parent.retry_at is None else datetime_of(parent.retry_at)

    @strawberry.field(description="The last error, however old.", graphql_type=ProviderFailure | None)
    def last_error(parent: Parent[ProviderStatus]) -> CallFailure | None:
        return parent.last_failure

    @strawberry.field(
        description="Rate limits; null if the provider cannot be called.", graphql_type=ProviderLimits | None
    )
    def limits(parent: Parent[ProviderStatus]) -> ProviderStatus | None:
        return parent if parent.budget else None

    counters: ProviderCounters = strawberry.field(description="The calls to it.")

    @strawberry.field(
        description="The weight of calls that may be made now, of `limits.weight`; with Redis of all processes. For operators.",
        extensions=requires_role(Role.OPERATOR),
    )
    async def budget_left(parent: Parent[ProviderStatus], info: Info[Context, None]) -> float | None:
        return await info.context.services.providers.budget_left(parent.market.id, parent.id)

    @strawberry.field(
        description="Its circuit breaker in the answering process; null if it cannot be called. For operators.",
        extensions=requires_role(Role.OPERATOR),
    )
    async def breaker(parent: Parent[ProviderStatus]) -> BreakerState | None:
        return parent.breaker

    @strawberry.field(
        description="How many series subscribers of the answering process follow live, each counted. For operators.",
        extensions=requires_role(Role.OPERATOR),
    )
    async def listeners(parent: Parent[ProviderStatus], info: Info[Context, None]) -> int | None:
        return info.context.loaders.listener_counts[parent.market.id, parent.id]

    @strawberry.field(description="Its native timeframes; every other one is folded from these.")
    def timeframes(parent: Parent[ProviderStatus]) -> list[Timeframe]:
        return list(parent.capabilities.timeframes)

    @strawberry.field(description="How the server gets its forming candle.")
    def live(parent: Parent[ProviderStatus]) -> LiveMode:
        return parent.capabilities.live

    @strawberry.field(description="Whether its candles have a volume.")
    def has_volume(parent: Parent[ProviderStatus]) -> bool:
        return parent.capabilities.has_volume

    @strawberry.field(description="The most candles in one upstream call.")
    def max_rows_per_call(parent: Parent[ProviderStatus]) -> int | None:
        return parent.capabilities.max_rows_per_call or None

    @strawberry.field(description="How far back its 1m candles are available, as an ISO 8601 duration.")
    def max_lookback(parent: Parent[ProviderStatus]) -> str | None:
        reach = parent.capabilities.reach_ms(MINUTE)
        return None if reach is None else f"PT{reach // 60_000}M"

    @strawberry.field(description="The most candles that are available back from now, at any timeframe.")
    def max_lookback_candles(parent: Parent[ProviderStatus]) -> int | None:
        return parent.capabilities.max_lookback_candles

    @strawberry.field(description="Its symbols, in the order of their names.", graphql_type=SymbolConnection | None)
    async def symbols(
        parent: Parent[ProviderStatus],
        info: Info[Context, None],
        search: arg.SearchArg = None,
        include_inactive: arg.InactiveArg = False,
        first: arg.FirstArg = 100,
        after: arg.AfterArg = None,
    ) -> SymbolPage:
        return await resolve_symbols(
            info.context,
            encode_name(parent.market.id),
            encode_name(parent.id),
            search,
            inactive=include_inactive,
            first=first,
            after=after,
        )


@strawberry.type(
    description="A market: where symbols are traded, with one calendar of days. Its id is the name that arguments take."
)
class Market(Node):
    """Resolved from `candlegraph.provider.Market`."""

    is_type_of = staticmethod(resolved_from(MarketNoun))

    name: str = strawberry.field(description="Its name for people.")
    description: str = strawberry.field(description="What is traded there.")
    timezone: str = strawberry.field(description="The IANA zone in which its days open.")

    @strawberry.field(description="The providers of its candles.", graphql_type=list[Provider])
    async def providers(parent: Parent[MarketNoun], info: Info[Context, None]) -> list[ProviderStatus]:
        return await resolve_providers(info.context, encode_name(parent.id))


def _budget(status: ProviderStatus) -> Budget:
    assert status.budget  # noqa: S101 - `limits` is null without
    return status.budget
