"""Checks the origin of requests: pages of this server and of the origins in `ALLOWED_ORIGINS` may use the API."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.http.websocket_origin import is_same_origin, normalize_origin

log = logging.getLogger(__name__)

_LONGEST = 200


class OriginCheck:
    """An ASGI application around another: a request from a page of another site is refused with the way on.

    It would be of no use to the page: browsers show the answer to none that CORS does not name. To a WebSocket they apply
    no CORS.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        """Wrap ``app``."""
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self._may_ask(origin, headers):
                await _refuse(origin[:_LONGEST], headers.get("host", "")[:_LONGEST], scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _may_ask(self, origin: str, headers: Headers) -> bool:
        from_here = headers.get("sec-fetch-site") == "same-origin" or is_same_origin(origin, headers.get("host"))
        return from_here or normalize_origin(origin) in self._allowed


async def _refuse(origin: str, host: str, scope: Scope, receive: Receive, send: Send) -> None:
    log.warning("pages of %r are refused by %r: ALLOWED_ORIGINS names the origins whose pages may ask", origin, host)
    message = f"Pages of {origin} may not use this server: its setting ALLOWED_ORIGINS does not name that origin."
    body = {"errors": [{"message": message, "extensions": {"code": "ORIGIN_NOT_ALLOWED"}}]}
    headers = {"vary": "Origin", "cache-control": "no-store"}
    response = Response(orjson.dumps(body), 403, headers, "application/json; charset=utf-8")
    if scope["type"] == "http":
        await response(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(response)
