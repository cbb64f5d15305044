"""One subscription over graphql-transport-ws: the events of one connection, until it ends or fails.

Source of the protocol: https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from candlegraph_client.errors import CandlegraphError, Unauthenticated, error_of
from candlegraph_client.operations import Event, LiveAnswer
from candlegraph_client.session import Session, busy

TIMEOUT_S = 10.0  # of a handshake, and of the answer to a ping
_MAX_MESSAGE = 2**24
_INVALID_TOKEN = 4403  # a close code


class Subscription:
    """An open subscription: `async with`, then `receive`. A class, because a generator within another is not closed in order.

    Unreachable where the connection fails; Unauthenticated where the token is not valid, or not any more.
    """

    def __init__(self, session: Session, document: str, variables: Mapping[str, Any]) -> None:
        """Connect to nothing yet."""
        self._session = session
        self._request = {"query": document, "variables": variables}
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Self:
        """Connect, sign in and subscribe."""
        token = await asyncio.to_thread(self._session.bearer)
        with self._translated():
            self._socket = await connect(
                f"{self._session.url.replace('http', 'ws', 1)}/graphql",
                subprotocols=[Subprotocol("graphql-transport-ws")],
                open_timeout=TIMEOUT_S,
                ping_interval=TIMEOUT_S,
                ping_timeout=TIMEOUT_S,
                close_timeout=1.0,
                max_size=_MAX_MESSAGE,
            )
        try:
            with self._translated():
                payload = {"Authorization": f"Bearer {token}"} if token else {}
                await self._send({"type": "connection_init", "payload": payload})
                async with asyncio.timeout(TIMEOUT_S):
                    while (await self._receive())["type"] != "connection_ack":
                        pass
                await self._send({"id": "1", "type": "subscribe", "payload": self._request})
        except BaseException:
            await self._socket.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._socket is not None:
            await self._socket.close()

    async def receive(self) -> Event | None:
        """The next event; None when the server has completed the subscription."""
        with self._translated():
            while (message := await self._receive())["type"] != "complete":
                if message["type"] == "ping":
                    await self._send({"type": "pong"})
                elif message["type"] == "error":
                    raise error_of(message["payload"][0])
                elif message["type"] == "next":
                    return _event_of(message["payload"])
        return None

    async def _send(self, message: Mapping[str, Any]) -> None:
        assert self._socket is not None  # noqa: S101 - for mypy
        await self._socket.send(json.dumps(message))

    async def _receive(self) -> dict[str, Any]:
        assert self._socket is not None  # noqa: S101 - for mypy
        message: dict[str, Any] = json.loads(await self._socket.recv())
        return message

    @contextmanager
    def _translated(self) -> Iterator[None]:
        url = self._session.url
        try:
            yield
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == _INVALID_TOKEN:
                raise Unauthenticated(
                    "The server does not accept the token, or not any more: sign in again."
                ) from error
            raise self._session.unreachable(error) from error
        except InvalidStatus as error:
            status, retry_after = error.response.status_code, error.response.headers.get("retry-after")
            raise busy(status, retry_after) or CandlegraphError(
                f"{url} refused the WebSocket with status {status}: is it a Candlegraph server?"
            ) from error
        except (WebSocketException, OSError, EOFError, TimeoutError) as error:
            raise self._session.unreachable(error) from error


def _event_of(payload: Mapping[str, Any]) -> Event:
    if errors := payload.get("errors"):
        raise error_of(errors[0])
    answer: LiveAnswer = payload["data"]
    return answer["candles"]
