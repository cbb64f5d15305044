"""The web application: the endpoint, the pages with their files, and two addresses for monitoring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from strawberry.http.websocket_origin import normalize_origin

from schema.build import Schema, build_schema
from server.export import export_endpoint
from server.settings import Env, Settings
from server.transport.connections import ConnectionLimits, Connections
from server.transport.graphql_http import GraphQLEndpoint
from server.transport.loopback import is_loopback_name
from server.transport.origins import OriginCheck
from server.transport.pages import page_endpoint
from server.transport.proxies import ForwardedHeaders, TrustedProxies, parse_networks
from server.transport.root_path import RootPath
from server.transport.schema_text import SchemaText
from server.transport.security_headers import SecurityHeaders
from server.upload import upload_endpoint
from server.wiring import Runtime

_EXPOSED = [
    f"candlegraph-{name}"
    for name in ("server-id", "series", "timeframe", "complete", "gaps", "timezone", "since", "until", "revision")
]
WEB = Path(__file__).parents[1] / "web"


def create_app(runtime: Runtime) -> Starlette:
    """Build the application over a started runtime."""
    settings = runtime.settings
    schema = build_schema()
    connections = Connections(
        ConnectionLimits(
            settings.max_connections, settings.max_connections_per_address, settings.max_operations_per_socket
        )
    )
    proxies = TrustedProxies(parse_networks(settings.forwarded_allow_ips))
    endpoint = _endpoint(runtime, schema, connections)

    async def to_graphql(request: Request) -> Response:
        query = request.url.query
        return RedirectResponse(f"{settings.root_path}/graphql" + (f"?{query}" if query else ""))

    async def readyz(_: Request) -> Response:
        return _readiness(runtime, proxies)

    app = Starlette(
        routes=[
            Route("/", page_endpoint(WEB / "index.html")),
            Route("/console", page_endpoint(WEB / "console.html")),
            Route("/graphql", endpoint),
            Route("/graphql/", to_graphql, methods=["GET", "POST"]),
            WebSocketRoute("/graphql", endpoint),
            Route("/schema.graphql", SchemaText(schema, endpoint).answer),
            Route("/healthz", _healthz),
            Route("/readyz", readyz),
            Route("/export/candles.{kind}", _exports(settings, endpoint)),
            _uploads(runtime, endpoint),
            Mount("/static", StaticFiles(directory=WEB, check_dir=False)),
        ],
        exception_handlers={Exception: _failed},
        middleware=_middleware(settings, proxies),
    )
    app.router.redirect_slashes = False  # its redirects take the host from the request
    app.state.connections, app.state.proxies = connections, proxies
    return app


def _exports(settings: Settings, endpoint: GraphQLEndpoint) -> Callable[[Request], Awaitable[Response]]:
    limits = settings.exports, settings.exports_per_address, settings.export_rows_per_day
    origins = [normalize_origin(origin) or origin for origin in settings.origins]
    return export_endpoint(endpoint.identify, limits, origins)


def _uploads(runtime: Runtime, endpoint: GraphQLEndpoint) -> Route:
    path = "/import/{market}/{provider}/{symbol:path}"
    return Route(path, upload_endpoint(endpoint.identify, runtime), methods=["PUT"])


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _failed(_: Request, __: Exception) -> Response:
    """Uvicorn logs the exception."""
    body = {
        "errors": [{"message": "Something went wrong here, and it was logged.", "extensions": {"code": "INTERNAL"}}]
    }
    return JSONResponse(body, 500, {"x-content-type-options": "nosniff"})


def _middleware(settings: Settings, proxies: TrustedProxies) -> list[Middleware]:
    origins = [normalize_origin(origin) or origin for origin in settings.origins]
    return [
        Middleware(RootPath, root_path=settings.root_path),
        Middleware(SecurityHeaders),
        Middleware(ForwardedHeaders, proxies=proxies),
        Middleware(OriginCheck, allowed=origins),
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        ),
        # Level 1: the default, 9, costs several times what answering a query does, for a fifth fewer bytes.
        Middleware(GZipMiddleware, minimum_size=2048, compresslevel=1),
    ]


def _endpoint(runtime: Runtime, schema: Schema, connections: Connections) -> GraphQLEndpoint:
    settings = runtime.settings
    return GraphQLEndpoint(
        schema,
        runtime.services,
        WEB,
        connections,
        trusts_loopback=settings.env is Env.DEVELOPMENT and is_loopback_name(settings.host),
        timings=runtime.database.timings,
    )


def _readiness(runtime: Runtime, proxies: TrustedProxies) -> Response:
    """What the supervised checks found last: floods that keep the database busy do not make the server unready."""
    state = runtime.readiness.state
    if state.unavailable:
        return JSONResponse({"status": "unavailable", "detail": state.unavailable}, 503)
    details = [state.redis_problem] if state.redis_problem else []
    details += [f"{name}: {reason}" for name, reason in runtime.supervisor.degraded().items()]
    answer = {"status": "degraded", "detail": " ".join(details)} if details else {"status": "ready"}
    return JSONResponse({**answer, "note": proxies.advice} if proxies.advice else answer)
