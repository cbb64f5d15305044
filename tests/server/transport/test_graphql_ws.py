"""What ends a socket when its time has come: no `connection_init`, and a token that expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse as Socket
from aiohttp import WSMsgType

from candlegraph.timings import Timings
from candlegraph.viewer import Role
from resolvers.accounts.tokens import Tokens
from server.transport import graphql_ws as sockets
from storage.database import Database
from storage.users import UserStore
from tests.server.stage import Serving, Stage, services, staged
from tests.waiting import HANG_S

PROTOCOL = "graphql-transport-ws"
LIVE = 'subscription { candles(market: "m", provider: "p", symbol: "s") { kind caughtUp } }'


@asynccontextmanager
async def connected(serving: Serving) -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession(serving.url) as http,
        http.ws_connect("/graphql", protocols=[PROTOCOL]) as socket,
    ):
        yield socket


@asynccontextmanager
async def initialised(serving: Serving, **payload: str) -> AsyncIterator[Socket]:
    async with connected(serving) as socket:
        await socket.send_json({"type": "connection_init", "payload": payload})
        assert (await socket.receive_json(timeout=HANG_S))["type"] == "connection_ack"
        yield socket


async def answers(socket: Socket) -> bool:
    await socket.send_json({"type": "ping"})
    return (await socket.receive_json(timeout=HANG_S))["type"] == "pong"


async def close_code(socket: Socket) -> int | None:
    while (await socket.receive(timeout=HANG_S)).type is WSMsgType.TEXT:
        pass
    return socket.close_code


async def test_who_sends_no_connection_init_is_closed_after_a_while() -> None:
    """A ping is none. What comes at the moment of the timeout, and after it, is as good as never sent."""
    assert Timings().socket_init_timeout_s == 5

    async def silent() -> int | None:
        async with connected(serving) as socket:
            return await close_code(socket)

    async def pinging() -> int | None:
        async with connected(serving) as socket:
            assert await answers(socket)
            return await close_code(socket)

    async def late() -> int | None:
        async with connected(serving) as socket:
            await asyncio.sleep(hasty.socket_init_timeout_s * 0.99)
            for _ in range(40):
                await socket._writer.send_frame(b"7", WSMsgType.TEXT)
                await asyncio.sleep(0.001)
            return await close_code(socket)

    hasty = replace(Timings(), socket_init_timeout_s=1.0)
    async with staged(services(Stage()), timings=hasty) as serving, initialised(serving) as idle:
        *never, early_or_late = await asyncio.gather(silent(), pinging(), late())
        assert never == [4408, 4408]
        assert early_or_late in {4400, 4408}
        assert await answers(idle)


async def test_a_socket_is_closed_when_its_token_expires_and_not_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, stage = UserStore(database), Stage()
    tokens = Tokens(lambda: [b"k" * 32])
    token, expires_at = tokens.sign(await users.add("ann", "hash", Role.VIEWER))
    authorization = {"Authorization": f"Bearer {token}"}
    async with staged(services(stage, users, tokens)) as serving, initialised(serving, **authorization) as stays:
        monkeypatch.setattr(sockets, "time", SimpleNamespace(time=lambda: expires_at - 1.0))
        async with initialised(serving, **authorization) as ends:
            await ends.send_json({"id": "1", "type": "subscribe", "payload": {"query": LIVE}})
            assert (await ends.receive_json(timeout=HANG_S))["type"] == "next"
            message = await ends.receive(timeout=HANG_S)
            assert message.type is WSMsgType.CLOSE
            assert (message.data, message.extra) == (4403, "The access token has expired: refresh it.")
        assert await answers(stays)
