"""graphql-sse in its distinct connections mode: an operation's answers as server-sent events, for want of a WebSocket.

The protocol is https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md: an event `next` for each payload, then
`complete`. An error of the operation is a `next` too, because an EventSource cannot read a refused request.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from typing import Any

from graphql import GraphQLError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from strawberry.http import GraphQLRequestData
from strawberry.types.graphql import OperationType

from candlegraph.errors import TokenExpired, Unauthenticated
from resolvers.context import Context
from schema.broadcast import OperationRefused, encode
from schema.build import Schema
from server.transport.connections import Connections

EVENT_STREAM = "text/event-stream"
_JSON = ("application/json", "application/graphql-response+json", "application/*", "*/*")


def prefers_events(accept: str) -> bool:
    """Whether a client wants events above all: those of urql and Apollo name the type too, beside JSON."""
    quality = {}
    for item in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        with suppress(ValueError):
            quality[media_type] = float(given)
    return quality.get(EVENT_STREAM, 0) > max(quality.get(media_type, 0) for media_type in _JSON)


class EventStream(Response):
    """The answers to one operation."""

    media_type = EVENT_STREAM

    def __init__(
        self,
        schema: Schema,
        request: GraphQLRequestData,
        context: Context,
        connections: Connections,
        *,
        may_write: bool,
        comment_interval_s: float,
    ) -> None:
        """Answer ``request``; a mutation only where it ``may_write``."""
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-store", "vary": "Accept, Authorization", "x-accel-buffering": "no"})
        self._schema = schema
        self._request = request
        self._context = context
        self._connections = connections
        self._comment_interval_s = comment_interval_s
        self._allowed = {OperationType.QUERY, OperationType.SUBSCRIPTION}
        if may_write:
            self._allowed.add(OperationType.MUTATION)
        self._left = asyncio.Event()
        self._last = ""

    async def leave(self) -> None:
        """End without a `complete`, after which clients would not connect again."""
        self._left.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Write until the operation, the token or the client's interest ends. Overloaded or TooManyAttempts before."""
        with self._connections.admit(self._context.origin.address, self.leave):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            ends = [
                asyncio.create_task(end)
                for end in (
                    self._send_events(send),
                    self._comment(send),
                    self._expire(),
                    self._left.wait(),
                    _gone(receive),
                )
            ]
            try:
                done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in ends:
                    task.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
            for task in done:
                task.result()
            await _write(send, self._last, more=False)

    async def _send_events(self, send: Send) -> None:
        request = self._request
        try:
            answer = await self._schema.open(
                request.query or "", request.variables, request.operation_name, self._context, self._allowed
            )
            async with aclosing(answer):
                async for payload in answer:
                    await _write(send, _next(payload))
        except OperationRefused as refused:
            await _write(send, _next(encode(None, refused.errors)))
        self._last = _COMPLETE

    async def _comment(self, send: Send) -> None:
        """Keep proxies from closing a quiet connection."""
        while True:
            await asyncio.sleep(self._comment_interval_s)
            await _write(send, ":\n\n")

    async def _expire(self) -> None:
        """Wait for the end of the viewer's token, and send the error."""
        viewer = self._context.viewer
        if viewer.user is None:
            await asyncio.Event().wait()
            return
        refusal: Unauthenticated = Unauthenticated("The access token is no longer valid: sign in again.")
        try:
            async with asyncio.timeout(max(0, (viewer.expires_at or 0) - time.time())):
                await self._context.services.accounts.revocations.ended(viewer.user)
        except TimeoutError:
            refusal = TokenExpired()
        extensions: dict[str, Any] = {"code": refusal.code}
        if refusal.reason:
            extensions["reason"] = refusal.reason
        self._last = _next(encode(None, [GraphQLError(refusal.message, extensions=extensions)])) + _COMPLETE


_COMPLETE = "event: complete\ndata: \n\n"


def _next(payload: str) -> str:
    return f"event: next\ndata: {payload}\n\n"


async def _write(send: Send, text: str, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
