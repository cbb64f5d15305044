"""The web application: the endpoint, the page's files, and two addresses for monitoring."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from candlegraph.errors import CandlegraphError
from schema.build import build_schema
from server.settings import Env
from server.transport.connections import ConnectionLimits, Connections
from server.transport.graphql_http import GraphQLEndpoint
from server.transport.loopback import is_loopback_name
from server.wiring import Runtime

WEB = Path(__file__).parents[1] / "web"


def create_app(runtime: Runtime) -> Starlette:
    """Build the application over a started runtime."""
    settings = runtime.settings
    origins = settings.origins
    connections = Connections(
        ConnectionLimits(
            settings.max_connections, settings.max_connections_per_address, settings.max_operations_per_socket
        )
    )
    endpoint = _endpoint(runtime, connections)

    async def home(_: Request) -> Response:
        return RedirectResponse("/graphql")

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        return await _readiness(runtime)

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/graphql", endpoint),
            WebSocketRoute("/graphql", endpoint),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Mount("/static", StaticFiles(directory=WEB, check_dir=False)),
        ],
        middleware=[
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"]),
            # Level 1: the default, 9, costs several times what answering a query does, for a fifth fewer bytes.
            Middleware(GZipMiddleware, minimum_size=2048, compresslevel=1),
        ],
    )
    app.state.connections = connections
    return app


def _endpoint(runtime: Runtime, connections: Connections) -> GraphQLEndpoint:
    settings = runtime.settings
    return GraphQLEndpoint(
        build_schema(),
        runtime.services,
        WEB,
        settings.origins,
        connections,
        trusts_loopback=settings.env is Env.DEVELOPMENT and is_loopback_name(settings.host),
        timings=runtime.database.timings,
    )


async def _readiness(runtime: Runtime) -> Response:
    try:
        async with runtime.database.connection() as connection:
            await connection.fetchval("select 1")
    except CandlegraphError as error:
        return JSONResponse({"status": "unavailable", "detail": error.message}, 503)
    problem = await runtime.redis.check()
    details = [f"{problem}: each process works alone."] if problem else []
    details += [f"{name}: {reason}" for name, reason in runtime.supervisor.degraded().items()]
    return JSONResponse({"status": "degraded", "detail": " ".join(details)} if details else {"status": "ready"})
