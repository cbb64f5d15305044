"""The servers that are measured: `python -m benchmarks.server ours|stock memory|postgres|cached DSN`; prints its port.

`stock` is the same schema and resolvers on Strawberry's own executor, view and JSON.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from strawberry.asgi import GraphQL
from strawberry.schema.config import StrawberryConfig

from candlegraph import Candles, Instrument, Record
from candlegraph.answer import Answer, Ask
from providers.registry import Registry
from realtime.hub import Hub
from resolvers.accounts import Accounts
from resolvers.context import Context, Services
from resolvers.tokens import Tokens
from schema.build import build_schema
from schema.query import Query
from schema.scalars import SCALARS
from server.app import WEB
from server.endpoint import Endpoint
from storage.cache import Cache
from storage.database import Database
from storage.history import History
from storage.limits import Limiter
from storage.users import Users


class MemoryHistory:
    """Answers every question with the newest candles of one fixed batch."""

    def __init__(self) -> None:
        close = np.round(30_000 + np.cumsum(np.random.default_rng(3).normal(0, 5, 5_000)), 2)
        stamps = 1_700_000_040_000 + np.arange(5_000) * 60_000
        self._candles = Candles.of(stamps, close, close + 3, close - 3, close, np.abs(close % 7).round(3))
        self._record = Record(1, Instrument("bench", "memory", "A"), None, None, None, "UTC", True, True, None, None)

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        from candlegraph import UTC

        return [Answer(self._record, ask, UTC, self._candles[-ask.limit :], (), (), True, None, None) for ask in asks]


async def main(kind: str, source: str, dsn: str) -> None:
    """Serve until ended."""
    database = Database(dsn, max_connections=4)
    registry = Registry({}, points=[])
    if source != "memory":
        await database.open()
    stored = History.over(database, registry, cache=Cache(64 << 20) if source == "cached" else None)
    watching = asyncio.create_task(stored.store.changes.watch()) if source == "cached" else None
    history: Any = stored
    if source == "memory":
        history = MemoryHistory()
    accounts = Accounts(Users(database), Tokens(list), Limiter())
    services = Services(history, stored.instruments, registry, Hub(stored), 500, 5_000, accounts)
    endpoint: Any = Endpoint(build_schema(), services, WEB, [])
    if kind == "stock":
        schema = strawberry.Schema(Query, config=StrawberryConfig(scalar_map=SCALARS))

        class Stock(GraphQL[Context, None]):
            async def get_context(self, request: Any, response: Any) -> Context:
                return Context(services, "")

        endpoint = Stock(schema)
    app = Starlette(routes=[Route("/graphql", endpoint)])
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
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
