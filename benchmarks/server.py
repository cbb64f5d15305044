"""The servers to measure: `python -m benchmarks.server ours|stock memory|postgres|cached|live DSN`; it prints its port.

`stock` has the same schema and resolvers, with Strawberry's own executor, view and JSON encoder.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from strawberry.asgi import GraphQL
from strawberry.schema.config import StrawberryConfig

from candlegraph import Candles, Instrument, InstrumentRecord, Series
from candlegraph.answer import Answer, CandleRequest
from candlegraph.event import Event, EventKind, heartbeat
from candlegraph.timings import Timings
from candlegraph.trading_calendar import SessionFilter
from candlegraph.zone import Zone
from history.backfill.jobs import BackfillJobs
from history.backfill.tracking import Tracking
from history.fetch_limits import FetchBudget
from history.orchestrator import History
from providers.registry import Registry
from realtime.cluster import Cluster
from realtime.subscriber import ListenerGroup
from realtime.topic import Listener
from realtime.topic_limits import ANYONE, Caller
from resolvers.accounts.accounts import Accounts
from resolvers.accounts.tokens import Tokens
from resolvers.context import Context, Services
from resolvers.cost_budget import CostBudget, CostLimits
from schema.build import build_schema
from schema.query import Query
from schema.scalars import SCALARS
from schema.subscription import Subscription
from server.transport.app import WEB
from server.transport.connections import ConnectionLimits, Connections
from server.transport.graphql_http import GraphQLEndpoint
from server.transport.tcp_connections import TcpConnections, TcpLimits
from server.transport.uvicorn_protocols import protocols
from storage.cache.memory import CandleCache
from storage.database import Database
from storage.rate_limits import RateLimiter
from storage.users import UserStore


class MemoryHistory:
    """Answers every request with the newest candles of one fixed batch."""

    def __init__(self) -> None:
        close = np.round(30_000 + np.cumsum(np.random.default_rng(3).normal(0, 5, 5_000)), 2)
        stamps = 1_700_000_040_000 + np.arange(5_000) * 60_000
        self._candles = Candles.of(stamps, close, close + 3, close - 3, close, np.abs(close % 7).round(3))
        self._record = InstrumentRecord(
            1, Instrument("bench", "memory", "A"), None, None, None, "UTC", True, True, None, None
        )

    async def answer(self, asks: Sequence[CandleRequest], fetch_budget: FetchBudget) -> list[Answer]:
        from candlegraph import UTC

        return [Answer(self._record, ask, UTC, self._candles[-ask.limit :], (), (), True, None, None) for ask in asks]


class BurstHub:
    """Publishes candles to all listeners on request, as fast as possible."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._seq = 0

    async def subscribe(
        self,
        series: Series,
        since: int | None,
        days: Zone | None,
        caller: Caller = ANYONE,
        *,
        closed_only: bool = False,
        session: SessionFilter = SessionFilter.ALL,
    ) -> AsyncIterator[Event]:
        listener, group = Listener(closed_only=closed_only), ListenerGroup()
        group.add(listener)
        self._listeners.add(listener)
        try:
            yield Event(EventKind.SNAPSHOT, self._seq, Candles.empty(), caught_up=True)
            while True:
                found = await group.next(Timings().hub_heartbeat_interval_s)
                yield found[1] if found else heartbeat(self._seq)
        finally:
            self._listeners.discard(listener)

    async def burst(self, request: Request) -> Response:
        for _ in range(int(request.query_params["events"])):
            self._seq += 1
            candle = Candles.of(
                [1_700_000_040_000 + self._seq * 60_000], [30_000.5], [30_003], [29_997], [30_001], [1.25]
            )
            event = Event(EventKind.CLOSE, self._seq, candle)
            for listener in self._listeners:
                listener.push(event)
        return Response()


async def main(kind: str, source: str, dsn: str) -> None:
    """Serve until ended."""
    database = Database(dsn, max_connections=4)
    registry = Registry({}, points=[])
    if source in {"postgres", "cached"}:
        await database.open()
    stored = History.create(database, registry, cache=CandleCache(64 << 20) if source == "cached" else None)
    watching = asyncio.create_task(stored.store.change_feed.run()) if source == "cached" else None
    history: Any = stored
    if source == "memory":
        history = MemoryHistory()
    accounts = Accounts(UserStore(database), Tokens(list), RateLimiter())
    backfills = BackfillJobs(stored)
    hub: Any = BurstHub() if source == "live" else Cluster(stored).hub
    unlimited = CostBudget(CostLimits(10**12, 10**12))
    services = Services(history, registry, hub, backfills, Tracking(backfills), 500, 5_000, accounts, unlimited)
    everybody = Connections(ConnectionLimits(connections=100_000, per_address=100_000))
    endpoint: Any = GraphQLEndpoint(build_schema(), services, WEB, everybody)
    if kind == "stock":
        schema = strawberry.Schema(Query, subscription=Subscription, config=StrawberryConfig(scalar_map=SCALARS))

        class Stock(GraphQL[Context, None]):
            async def get_context(self, request: Any, response: Any) -> Context:
                return Context(services, "")

        endpoint = Stock(schema)
    routes: list[BaseRoute] = [Route("/graphql", endpoint), WebSocketRoute("/graphql", endpoint)]
    if source == "live":
        routes.append(Route("/burst", hub.burst))
    ours = protocols(Timings(), TcpConnections(TcpLimits(200_000, 200_000))) if kind == "ours" else {}
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, access_log=False, lifespan="off", **ours)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving
    if watching:
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
