"""graphql-transport-ws frame by frame: each mistake gets its close code and affects no other client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import ClientWebSocketResponse as Socket
from aiohttp import WSMsgType

from tests.server.running import Running
from tests.waiting import HANG_S, eventually

PROTOCOL = "graphql-transport-ws"
INIT = {"type": "connection_init"}
MAX_FRAME = 65_536
LIVE = 'subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD") { kind nodes { close } } }'


@pytest.fixture(autouse=True)
def _quiet_log(server: Running) -> Iterator[None]:
    """Whatever a client sends, nothing of it is an error of ours."""
    before = len(server.log.read_text(encoding="utf-8"))
    yield
    log = server.log.read_text(encoding="utf-8")[before:]
    assert "Traceback" not in log, log[-3000:]
    assert "ERROR" not in log, log[-3000:]


@asynccontextmanager
async def connected(http: aiohttp.ClientSession, *, initialised: bool = True) -> AsyncIterator[Socket]:
    async with http.ws_connect("/graphql", protocols=[PROTOCOL], max_msg_size=0) as socket:
        assert socket.protocol == PROTOCOL
        if initialised:
            await socket.send_json(INIT)
            assert await said(socket) == {"type": "connection_ack"}
        yield socket


async def said(socket: Socket) -> dict[str, Any]:
    """The next message, which is a text frame."""
    message = await socket.receive(timeout=HANG_S)
    assert message.type is WSMsgType.TEXT, (message, socket.close_code)
    return json.loads(message.data)


async def said_of(socket: Socket, id_: str, type_: str = "next") -> dict[str, Any]:
    """The next message of that type about that operation."""
    while True:
        message = await said(socket)
        if message.get("id") == id_ and message["type"] == type_:
            return message


async def close_code(socket: Socket) -> int | None:
    """The code that the server closes with, whatever it says before."""
    async with asyncio.timeout(HANG_S):
        while (await socket.receive()).type is WSMsgType.TEXT:
            pass
    return socket.close_code


def subscribe(id_: object = "1", query: object = "{ __typename }", **payload: object) -> dict[str, object]:
    return {"id": id_, "type": "subscribe", "payload": {"query": query, **payload}}


MALFORMED: dict[str, object] = {
    "a list": [],
    "a list of messages": [subscribe()],
    "a number": 7,
    "null": None,
    "true": True,
    "a text": "connection_init",
    "an empty object": {},
    "no type": {"id": "1", "payload": {"query": "{ __typename }"}},
    "an unknown type": {"type": "start", "id": "1", "payload": {}},
    "a type of the server's": {"type": "next", "id": "1", "payload": {}},
    "type null": {"type": None},
    "type 7": {"type": 7},
    "type a list": {"type": ["subscribe"]},
    "type an object": {"type": {}},
    "ping with a text": {"type": "ping", "payload": "x"},
    "pong with a list": {"type": "pong", "payload": []},
    "complete without id": {"type": "complete"},
    "complete with id 1": {"type": "complete", "id": 1},
    "complete with id a list": {"type": "complete", "id": []},
    "subscribe alone": {"type": "subscribe"},
    "subscribe without id": {"type": "subscribe", "payload": {"query": "{ __typename }"}},
    "subscribe without payload": {"type": "subscribe", "id": "1"},
    "subscribe without query": {"type": "subscribe", "id": "1", "payload": {}},
    "payload null": {"type": "subscribe", "id": "1", "payload": None},
    "payload a list": {"type": "subscribe", "id": "1", "payload": []},
    "payload a text": {"type": "subscribe", "id": "1", "payload": "{ __typename }"},
    "payload 7": {"type": "subscribe", "id": "1", "payload": 7},
    "id 1": subscribe(1),
    "id null": subscribe(None),
    "id an object": subscribe({}),
    "id a list": subscribe(["1"]),
    "id empty": subscribe(""),
    "query null": subscribe(query=None),
    "query 7": subscribe(query=7),
    "query an object": subscribe(query={}),
    "variables a list": subscribe(variables=[]),
    "variables a text": subscribe(variables="x"),
    "operationName 7": subscribe(operationName=7),
    "extensions a text": subscribe(extensions="x"),
}
NOT_JSON = {
    "nothing": "",
    "a word": "hello",
    "half an object": '{"type": "connection_init"',
    "two objects": '{"type": "ping"}{"type": "ping"}',
    "NaN": '{"type": "ping", "payload": {"a": NaN}}',
    "half a surrogate pair": '{"type": "ping", "payload": {"a": "\\ud800"}}',
    "30,000 lists": "[" * 30_000 + "]" * 30_000,
}


@pytest.mark.parametrize("initialised", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_message_closes_with_4400(
    http: aiohttp.ClientSession, message: object, initialised: bool
) -> None:
    async with connected(http, initialised=initialised) as socket:
        await socket.send_json(message)
        assert await close_code(socket) == 4400


@pytest.mark.parametrize("text", NOT_JSON.values(), ids=NOT_JSON)
async def test_what_is_no_json_closes_with_4400(http: aiohttp.ClientSession, text: str) -> None:
    async with connected(http) as socket:
        await socket.send_str(text)
        assert await close_code(socket) == 4400


async def test_a_binary_frame_closes_with_4400(http: aiohttp.ClientSession) -> None:
    async with connected(http) as socket:
        await socket.send_bytes(json.dumps(subscribe()).encode())
        assert await close_code(socket) == 4400


async def test_a_text_frame_that_is_no_utf_8_closes_with_1007(http: aiohttp.ClientSession) -> None:
    async with connected(http) as socket:
        await socket._writer.send_frame(b"\xff\xfe", WSMsgType.TEXT)
        assert await close_code(socket) == 1007


@pytest.mark.parametrize("payload", [[], "x", 7, True])
async def test_the_payload_of_connection_init_is_an_object(http: aiohttp.ClientSession, payload: object) -> None:
    async with connected(http, initialised=False) as socket:
        await socket.send_json({**INIT, "payload": payload})
        assert await close_code(socket) == 4400


@pytest.mark.parametrize("payload", [None, {}, {"Authorization": "Basic eDp4"}, {"headers": {"x": 1}}])
async def test_connection_init_may_carry_anything_that_is_one(http: aiohttp.ClientSession, payload: object) -> None:
    async with connected(http, initialised=False) as socket:
        await socket.send_json({**INIT, "payload": payload})
        assert await said(socket) == {"type": "connection_ack"}


async def test_subscribing_before_connection_init_closes_with_4401(http: aiohttp.ClientSession) -> None:
    async with connected(http, initialised=False) as socket:
        await socket.send_json(subscribe())
        assert await close_code(socket) == 4401


async def test_a_second_connection_init_closes_with_4429(http: aiohttp.ClientSession) -> None:
    async with connected(http) as socket:
        await socket.send_json(INIT)
        assert await close_code(socket) == 4429


async def test_an_id_in_use_closes_with_4409(http: aiohttp.ClientSession) -> None:
    async with connected(http) as socket:
        await socket.send_json(subscribe("1", LIVE))
        await said_of(socket, "1")
        await socket.send_json(subscribe("1"))
        assert await close_code(socket) == 4409


async def test_an_id_may_be_used_again_once_its_operation_is_over(http: aiohttp.ClientSession) -> None:
    async with connected(http) as socket:
        for _ in range(3):
            await socket.send_json(subscribe("1"))
            assert (await said(socket))["payload"] == {"data": {"__typename": "Query"}}
            assert await said(socket) == {"id": "1", "type": "complete"}
        for _ in range(20):
            await socket.send_json(subscribe("1", LIVE))
            await socket.send_json({"id": "1", "type": "complete"})
        await socket.send_json(subscribe("1", LIVE))
        await said_of(socket, "1")


async def test_a_frame_is_at_most_64_kib_long(http: aiohttp.ClientSession) -> None:
    def padded(length: int) -> str:
        text = json.dumps(subscribe(query="{ __typename } #"))
        return text.replace("#", "#" * (length - len(text) + 1))

    async with connected(http) as socket:
        await socket.send_str(padded(MAX_FRAME))
        assert (await said(socket))["payload"] == {"data": {"__typename": "Query"}}
        assert len(padded(MAX_FRAME)) == MAX_FRAME
    for length in (MAX_FRAME + 1, 1_000_000):
        async with connected(http) as socket:
            await socket.send_str(padded(length))
            assert await close_code(socket) == 1009


async def test_operations_of_every_kind_are_answered_in_text(http: aiohttp.ClientSession) -> None:
    wrong = {
        "{": "GRAPHQL_PARSE_FAILED",
        "": "GRAPHQL_PARSE_FAILED",
        "{ nothing }": "GRAPHQL_VALIDATION_FAILED",
        "subscription { nothing }": "GRAPHQL_VALIDATION_FAILED",
        "query A { __typename } query B { __typename }": "BAD_USER_INPUT",
        "fragment F on Query { __typename }": "BAD_USER_INPUT",
        LIVE.replace("demo", "nowhere"): "NOT_FOUND",
        LIVE.replace("BTC/USD", "NO/SUCH"): "NOT_FOUND",
    }
    async with connected(http) as socket:
        for at, (query, code) in enumerate(wrong.items()):
            await socket.send_json(subscribe(str(at), query))
            message = await said(socket)
            errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
            assert [error["extensions"]["code"] for error in errors] == [code], query
            if message["type"] == "next":
                assert await said(socket) == {"id": str(at), "type": "complete"}
        await socket.send_json(
            subscribe("named", "query A { __typename } query B { b: __typename }", operationName="B")
        )
        assert (await said(socket))["payload"] == {"data": {"b": "Query"}}
        assert await said(socket) == {"id": "named", "type": "complete"}
        await socket.send_json({"type": "pong"})
        await socket.send_json({"type": "complete", "id": "unknown"})
        await socket.send_json({"type": "ping", "payload": {"a": 1}})
        assert (await said(socket))["type"] == "pong"


async def test_a_hundred_operations_share_a_socket_and_one_more_gets_the_reason(http: aiohttp.ClientSession) -> None:
    async with connected(http) as socket:
        for at in range(101):
            await socket.send_json(subscribe(str(at), LIVE))
        refused = await said_of(socket, "100", "error")
        assert refused["payload"][0]["extensions"]["code"] == "OVERLOADED"
        await socket.send_json({"type": "complete", "id": "0"})
        await socket.send_json(subscribe("another", LIVE))
        await said_of(socket, "another")
        await socket.send_json(subscribe("99"))
        assert await close_code(socket) == 4409


async def test_the_legacy_protocol_is_refused(http: aiohttp.ClientSession) -> None:
    for protocols in (["graphql-ws"], []):
        async with http.ws_connect("/graphql", protocols=protocols) as socket:
            assert socket.protocol is None
            await socket.send_json(INIT)
            assert await close_code(socket) == 4406
    async with http.ws_connect("/graphql", protocols=["graphql-ws", PROTOCOL]) as socket:
        assert socket.protocol == PROTOCOL


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "https://[", ""]
)
async def test_a_page_of_another_origin_is_refused_with_403(http: aiohttp.ClientSession, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect("/graphql", protocols=[PROTOCOL], headers={"Origin": origin})
    assert refused.value.status == 403


async def test_our_own_page_is_let_in(http: aiohttp.ClientSession, server: Running) -> None:
    async with http.ws_connect("/graphql", protocols=[PROTOCOL], headers={"Origin": server.url}) as socket:
        await socket.send_json(INIT)
        assert await said(socket) == {"type": "connection_ack"}


async def test_sockets_that_come_and_go_leave_nothing_behind(server: Running) -> None:
    process = psutil.Process(server.process.pid)
    timeframes = ["1m", "5m", "15m", "1h", "1d"]

    async def come_and_go(at: int) -> None:
        # Each with a connection of its own, to be cut off in a different manner.
        async with aiohttp.ClientSession(server.url) as own, connected(own) as socket:
            query = LIVE.replace("BTC/USD", ["BTC/USD", "ETH/USD"][at % 2])
            await socket.send_json(subscribe("1", query.replace(") {", f', timeframe: "{timeframes[at % 5]}") {{')))
            if at % 4 != 3:  # the fourth does not wait for an answer
                assert "errors" not in (await said_of(socket, "1"))["payload"]
            if at % 4 == 0:
                await socket.send_json({"type": "complete", "id": "1"})
            elif at % 4 == 1:
                assert socket._response.connection is not None
                socket._response.connection.transport.abort()

    await asyncio.gather(*(come_and_go(at) for at in range(50)))  # by now the pool has as many connections as it gets
    files, threads = process.num_fds(), process.num_threads()
    for _ in range(2):
        await asyncio.gather(*(come_and_go(at) for at in range(50)))
    await eventually(lambda: process.num_fds() <= files + 3)
    assert process.num_threads() <= threads + 2
    async with aiohttp.ClientSession(server.url) as own, connected(own) as socket:
        await socket.send_json(subscribe("1", LIVE))
        while (await said_of(socket, "1"))["payload"]["data"]["candles"]["kind"] != "UPDATE":
            pass
