"""The answers to one operation as one long response, for clients without a WebSocket.

Two framings: graphql-sse in its distinct connections mode, https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md,
and Apollo's multipart subscriptions, https://www.apollographql.com/docs/graphos/routing/operations/subscriptions/multipart-protocol.
An error of the operation is a payload too, because an EventSource cannot read a refused request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from strawberry.http import GraphQLRequestData
from strawberry.types.graphql import OperationType

from candlegraph.errors import TokenExpired, Unauthenticated
from resolvers.context import Context
from schema.broadcast import OperationRefused, encode
from schema.build import Schema
from server.transport.connections import Connections
from server.transport.persisted_queries import PersistedQueries
from server.transport.streamed_answer import disconnected, run_until_first


@dataclass(frozen=True, slots=True)
class Framing:
    """The framing of payloads: the beginning of the response, the keep-alive, and the end."""

    media_type: str
    start: str
    payload: Callable[[str], str]
    failure: Callable[[str], str]  # of the errors that end the stream, in JSON
    heartbeat: str
    end: str


def _event(payload: str) -> str:
    return f"event: next\ndata: {payload}\n\n"


def _part(body: str) -> str:
    """A part, and the delimiter behind it: clients read a part once they see its end."""
    return f"\r\ncontent-type: application/json\r\n\r\n{body}\r\n--graphql"


EVENTS = Framing(
    "text/event-stream",
    "",
    _event,
    lambda errors: _event(f'{{"data":null,"errors":{errors}}}'),
    ":\n\n",
    "event: complete\ndata: \n\n",
)
MULTIPART = Framing(
    'multipart/mixed;boundary="graphql";subscriptionSpec=1.0',
    "\r\n--graphql",
    lambda payload: _part(f'{{"payload":{payload}}}'),
    lambda errors: _part(f'{{"payload":null,"errors":{errors}}}'),
    _part("{}"),
    "--\r\n",
)


@dataclass(frozen=True, slots=True)
class StreamedOperations:
    """The settings that all streams of a server share."""

    schema: Schema
    persisted: PersistedQueries
    connections: Connections
    heartbeat_interval_s: float


class OperationStream(Response):
    """The answers to one operation."""

    def __init__(
        self,
        operations: StreamedOperations,
        framing: Framing,
        request: GraphQLRequestData,
        context: Context,
        *,
        may_write: bool,
    ) -> None:
        """Answer ``request``; a mutation only where it ``may_write``."""
        self.status_code, self.media_type, self.background = 200, framing.media_type, None
        self.init_headers({"cache-control": "no-store", "vary": "Accept, Authorization", "x-accel-buffering": "no"})
        self._operations = operations
        self._framing = framing
        self._request = request
        self._context = context
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
        with self._operations.connections.admit(self._context.origin.address, self.leave):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _write(send, self._framing.start)
            await run_until_first(
                self._send_payloads(send),
                self._send_heartbeats(send),
                self._expire(),
                self._left.wait(),
                disconnected(receive),
            )
            await _write(send, self._last, more=False)

    async def _send_payloads(self, send: Send) -> None:
        request, schema = self._request, self._operations.schema
        try:
            with self._operations.persisted.document(request.query, request.extensions) as document:
                answer = await schema.open(
                    document, request.variables, request.operation_name, self._context, self._allowed
                )
            async with aclosing(answer):
                async for payload in answer:
                    await _write(send, self._framing.payload(payload))
        except OperationRefused as refused:
            await _write(send, self._framing.payload(encode(None, refused.errors)))
        self._last = self._framing.end

    async def _send_heartbeats(self, send: Send) -> None:
        """Keep proxies from closing a quiet connection."""
        while True:
            await asyncio.sleep(self._operations.heartbeat_interval_s)
            await _write(send, self._framing.heartbeat)

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
        errors = orjson.dumps([{"message": refusal.message, "extensions": extensions}]).decode()
        self._last = self._framing.failure(errors) + self._framing.end


async def _write(send: Send, text: str, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
