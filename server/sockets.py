"""graphql-transport-ws: every message is checked before it is acted upon, and a mistake in one operation ends only that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from graphql import GraphQLError
from starlette.websockets import WebSocketDisconnect
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import WebSocketDisconnected
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_transport_ws.types import SubscribeMessage

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
    """One socket."""

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
