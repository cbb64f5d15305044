"""One subscription over graphql-transport-ws: the events of one connection, until it ends or fails.

Source of the protocol: https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from candlegraph_client.errors import CandlegraphError, Unauthenticated, error_of
from candlegraph_client.operations import Event, LiveAnswer
from candlegraph_client.session import Session, busy

TIMEOUT_S = 10.0  # of a handshake, and of the answer to a ping
_MAX_MESSAGE = 2**24
_INVALID_TOKEN = 4403  # a close code


async def receive_events(session: Session, document: str, variables: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    """The events of a subscription, until the server completes it.

    Unreachable where the connection fails; Unauthenticated where the token is not valid, or not any more.
    """
    token = await asyncio.to_thread(session.bearer)
    try:
        async with connect(
            f"{session.url.replace('http', 'ws', 1)}/graphql",
            subprotocols=[Subprotocol("graphql-transport-ws")],
            open_timeout=TIMEOUT_S,
            ping_interval=TIMEOUT_S,
            ping_timeout=TIMEOUT_S,
            close_timeout=1.0,
            max_size=_MAX_MESSAGE,
        ) as socket:
            payload = {"Authorization": f"Bearer {token}"} if token else {}
            await _send(socket, {"type": "connection_init", "payload": payload})
            async with asyncio.timeout(TIMEOUT_S):
                while (await _receive(socket))["type"] != "connection_ack":
                    pass
            await _send(
                socket, {"id": "1", "type": "subscribe", "payload": {"query": document, "variables": variables}}
            )
            while (message := await _receive(socket))["type"] != "complete":
                if message["type"] == "ping":
                    await _send(socket, {"type": "pong"})
                elif message["type"] == "error":
                    raise error_of(message["payload"][0])
                elif message["type"] == "next":
                    yield _event_of(message["payload"])
    except ConnectionClosed as error:
        if error.rcvd is not None and error.rcvd.code == _INVALID_TOKEN:
            raise Unauthenticated("The server does not accept the token, or not any more: sign in again.") from error
        raise session.unreachable(error) from error
    except InvalidStatus as error:
        response = error.response
        raise busy(response.status_code, response.headers.get("retry-after")) or CandlegraphError(
            f"{session.url} refused the WebSocket with status {response.status_code}: is it a Candlegraph server?"
        ) from error
    except (InvalidHandshake, WebSocketException, OSError, EOFError, TimeoutError) as error:
        raise session.unreachable(error) from error


async def _send(socket: ClientConnection, message: Mapping[str, Any]) -> None:
    await socket.send(json.dumps(message))


async def _receive(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await socket.recv())
    return message


def _event_of(payload: Mapping[str, Any]) -> Event:
    if errors := payload.get("errors"):
        raise error_of(errors[0])
    answer: LiveAnswer = payload["data"]
    return answer["candles"]
