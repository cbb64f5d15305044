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

from resolvers.context import Context


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
        await super().handle_message(message)

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
    )


def _is_id(message: dict[str, Any]) -> bool:
    return isinstance(message.get("id"), str) and bool(message["id"])
