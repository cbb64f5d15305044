"""graphql-transport-ws: every message is checked before it is acted upon, and a mistake in one operation ends only that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
from graphql import GraphQLError
from starlette.websockets import WebSocketDisconnect
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import WebSocketDisconnected
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_transport_ws.types import ConnectionInitMessage, SubscribeMessage

from candlegraph.errors import TokenExpired, Unauthenticated
from candlegraph.viewer import User
from resolvers.context import Context

MAX_OPERATIONS = 100


class TextFrames(ASGIWebSocketAdapter):
    """Writes text frames: a binary one, which orjson's bytes would become, ends every graphql-ws client."""

    async def send_json(self, message: Mapping[str, object]) -> None:
        """Send one message of the protocol."""
        try:
            await self.ws.send_text(orjson.dumps(message).decode())
        except (WebSocketDisconnect, RuntimeError) as error:
            raise WebSocketDisconnected from error


class TransportHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """One socket. It belongs to whom its `connection_init` says, and is closed when the token ends."""

    _closing: asyncio.Task[None] | None = None

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        """Find out who it is, then acknowledge; a token that is not good closes the socket with 4403."""
        payload = message.get("payload")
        if not self.connection_init_received and isinstance(payload, dict | None):
            sent = {name.lower(): value for name, value in (payload or {}).items()}
            shown = sent.get("authorization", (self.context.connection_params or {}).get("Authorization"))
            # What is no text is no token either, and is not to be taken for nobody's.
            viewer = await self.context.services.accounts.identify(shown if isinstance(shown, str | None) else "Bearer")
            if viewer.refusal:
                # graphql-ws takes 4401 for final; these two it tries again, with a token that was refreshed meanwhile.
                code = 4403 if isinstance(viewer.refusal, Unauthenticated) else 1013
                await self.websocket.close(code, viewer.refusal.message)
                return
            self.context.viewer = viewer
            if viewer.user:
                self._closing = asyncio.create_task(self._close_in_time(viewer.user, viewer.expires_at or 0))
        await super().handle_connection_init(message)

    async def _close_in_time(self, user: User, expires_at: float) -> None:
        reason = "The access token is not valid any more: sign in again."
        try:
            async with asyncio.timeout(max(0, expires_at - time.time())):
                await self.context.services.accounts.standing.ended(user)
        except TimeoutError:
            reason = TokenExpired().message
        with suppress(RuntimeError, WebSocketDisconnect):  # its client may have been faster
            await self.websocket.close(4403, reason)

    async def shutdown(self) -> None:
        """End what runs on the socket."""
        if self._closing:
            self._closing.cancel()
        await super().shutdown()

    async def handle_message(self, message: Any) -> None:
        """Act upon a message; one that the protocol does not know closes the socket with 4400."""
        if not _is_well_formed(message):
            await self.handle_invalid_message("The message is not one of graphql-transport-ws")
            return
        if message.get("payload", {}) is None:
            message = {key: value for key, value in message.items() if key != "payload"}
        elif message["type"] == "subscribe" and not message["payload"]["query"]:
            message["payload"]["query"] = " "  # of an empty text Strawberry says no more than that it failed
        await super().handle_message(message)

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        """Start an operation, unless the socket has as many as it may."""
        is_new = self.connection_acknowledged and message["id"] not in self.operations
        if is_new and len(self.operations) >= MAX_OPERATIONS:
            refusal = f"A socket carries at most {MAX_OPERATIONS} operations at once: end one, or open another."
            error = GraphQLError(refusal, extensions={"code": "OVERLOADED"})
            await self.send_message({"id": message["id"], "type": "error", "payload": [error.formatted]})
            return
        await super().handle_subscribe(message)

    async def handle_task_exception(self, error: Exception) -> None:
        """Log what ended an operation; that its client was gone first is nothing to tell."""
        if not isinstance(error, WebSocketDisconnected):
            await super().handle_task_exception(error)

    @staticmethod
    def _get_pre_execution_close_reason(error: GraphQLError) -> str | None:  # noqa: ARG004
        """Close nothing for a document that cannot be parsed: the other operations of the socket have done no wrong."""
        return None


def _is_well_formed(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    payload = message.get("payload")
    if not isinstance(payload, dict | None):
        return bool(message["type"] == "connection_init")  # the handler words this one itself
    if message["type"] == "complete":
        return _is_id(message)
    if message["type"] != "subscribe":
        return True
    return (
        _is_id(message)
        and payload is not None
        and isinstance(payload.get("query"), str)
        and isinstance(payload.get("variables"), dict | None)
        and isinstance(payload.get("operationName"), str | None)
        and isinstance(payload.get("extensions"), dict | None)
    )


def _is_id(message: dict[str, Any]) -> bool:
    return isinstance(message.get("id"), str) and bool(message["id"])
