"""The API in this process, over series that the test moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from candlegraph import Candles, Series
from candlegraph.event import Event, EventKind, heartbeat
from candlegraph.supervision import Supervisor
from candlegraph.timings import Timings
from candlegraph.trading_calendar import SessionFilter
from candlegraph.zone import Zone
from realtime.subscriber import ListenerGroup
from realtime.topic import Listener
from realtime.topic_limits import ANYONE, Caller
from resolvers.accounts.accounts import Accounts
from resolvers.accounts.tokens import Tokens
from resolvers.context import Context, Services
from schema.build import Schema, build_schema
from server.serve import _bind
from server.transport.app import WEB
from server.transport.connections import ConnectionLimits, Connections
from server.transport.graphql_http import GraphQLEndpoint
from server.transport.schema_text import SchemaText
from server.transport.tcp_connections import TcpConnections
from server.transport.uvicorn_protocols import protocols
from storage.rate_limits import RateLimiter
from storage.users import UserStore
from tests.waiting import eventually

MINUTE_MS = 60_000
FIRST = 1_700_000_040_000


def candle(number: int, close: float = 2.5, *, closed: bool = True) -> Candles:
    """The candle of a minute, by its number."""
    return Candles.of([FIRST + number * MINUTE_MS], [1.5], [3], [1], [close], [4], closed=[closed])


@dataclass
class Stage:
    """A hub of one series: `close` and `move` are what happens to it."""

    published: list[Candles] = field(default_factory=list)
    listeners: set[Listener] = field(default_factory=set)
    page: int = 1000
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # closed: histories wait between their pages
    patience: float = 15.0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def seq(self) -> int:
        return len(self.published)

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
        """As `realtime.hub.Hub.subscribe`: the listener first, then the history, then what came meanwhile."""
        listener, group = Listener(closed_only=closed_only), ListenerGroup()
        group.add(listener)
        self.listeners.add(listener)
        try:
            seq = self.seq
            history = [c for c in self.published if since is not None and c.timestamp[0] >= since]
            while len(history) > self.page:
                for one in history[: self.page]:
                    yield Event(EventKind.SNAPSHOT, seq, one)
                history = history[self.page :]
                await self.gate.wait()
            for one in history:
                yield Event(EventKind.SNAPSHOT, seq, one)
            await self.gate.wait()
            yield Event(EventKind.SNAPSHOT, seq, Candles.empty(), caught_up=True)
            while True:
                found = await group.next(self.patience)
                event = found[1] if found else None
                yield event or heartbeat(self.seq)
                if event and event.kind is EventKind.RESYNC:
                    return
        finally:
            self.listeners.discard(listener)

    def tell(self, event: Event) -> Event:
        for listener in self.listeners:
            listener.push(event)
        return event

    def close(self, close: float = 2.5) -> Event:
        """A candle became final."""
        self.published.append(candle(self.seq, close))
        return self.tell(Event(EventKind.CLOSE, self.seq, self.published[-1]))

    def move(self, close: float = 2.5) -> Event:
        """The forming candle moved."""
        return self.tell(Event(EventKind.UPDATE, self.seq, candle(self.seq, close, closed=False)))

    async def empty(self) -> None:
        """Wait until there is no listener."""
        await eventually(lambda: not self.listeners)


def services(stage: Stage, users: UserStore | None = None, tokens: Tokens | None = None) -> Services:
    """Services that know of nothing but live candles, and of accounts where ``users`` are given."""
    nothing: Any = None
    history: Any = SimpleNamespace(timings=Timings())
    accounts = Accounts(users or nothing, tokens or Tokens(list), RateLimiter())
    hub: Any = stage
    return Services(history, nothing, hub, nothing, nothing, 500, 5_000, accounts)


def context(stage: Stage, **given: Any) -> Context:
    """Surroundings of an operation."""
    return Context(services(stage), "test", **given)


@dataclass
class Serving:
    """The API, which listens."""

    url: str
    connections: Connections
    schema: Schema
    server: uvicorn.Server


@asynccontextmanager
async def staged(
    made: Services,
    caps: ConnectionLimits | None = None,
    timings: Timings | None = None,
    tcp: TcpConnections | None = None,
    **config: Any,
) -> AsyncIterator[Serving]:
    """Serve the API as `candlegraph serve` does, on a free port."""
    timings = timings or Timings()
    schema, connections = build_schema(), Connections(caps or ConnectionLimits())
    endpoint: Any = GraphQLEndpoint(schema, made, WEB, connections, timings=timings)
    text = Route("/schema.graphql", SchemaText(schema, endpoint).answer)
    app = Starlette(routes=[Route("/graphql", endpoint), WebSocketRoute("/graphql", endpoint), text])
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws_per_message_deflate=False,
        **protocols(timings, tcp),
        **config,
    )
    server = uvicorn.Server(settings)
    supervisor = Supervisor()
    supervisor.start("accounts", made.accounts.revocations.run)
    serving = asyncio.create_task(server._serve(_bind("127.0.0.1", 0, timings)))
    await eventually(lambda: server.started)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Serving(f"http://127.0.0.1:{port}", connections, schema, server)
    finally:
        await connections.close()
        server.should_exit = True
        await serving
        await supervisor.close()
