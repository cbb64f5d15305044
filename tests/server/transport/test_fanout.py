"""Live candles on the wire: slow peers, ghosts, caps, event streams and the end of the server."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import socket
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse as Socket

from candlegraph.event import EventKind
from candlegraph.timings import Timings
from candlegraph.viewer import Role
from realtime import topic
from resolvers.accounts.tokens import Tokens
from schema.executor import BulkExecutor
from server.transport import graphql_ws as sockets
from server.transport import operation_stream as streams
from server.transport import uvicorn_protocols as wire
from server.transport.connections import ConnectionLimits
from server.transport.negotiation import MediaType, negotiate
from storage.database import Database
from storage.users import UserStore
from tests.server.stage import FIRST, Serving, Stage, services, staged
from tests.waiting import HANG_S, eventually

PROTOCOL = "graphql-transport-ws"
LIVE = (
    'subscription L($since: Timestamp) { candles(market: "m", provider: "p", symbol: "s", since: $since) '
    "{ kind seq caughtUp nodes { timestamp close } resyncFrom } }"
)
# A message of a few kilobytes: what a peer does not read fills its buffers sooner.
WIDE = LIVE.replace("timestamp close", " ".join(f"{'x' * 100}{at}: timestamp" for at in range(16)) + " close")


@asynccontextmanager
async def listening(serving: Serving, query: str = LIVE, id_: str = "1", **variables: object) -> AsyncIterator[Socket]:
    """A client that listens, and has received the history."""
    async with (
        aiohttp.ClientSession(serving.url) as http,
        http.ws_connect("/graphql", protocols=[PROTOCOL]) as socket,
    ):
        await socket.send_json({"type": "connection_init"})
        assert (await socket.receive_json(timeout=HANG_S))["type"] == "connection_ack"
        payload = {"query": query, "variables": variables}
        await socket.send_json({"id": id_, "type": "subscribe", "payload": payload})
        while not (await next_event(socket))["caughtUp"]:
            pass
        yield socket


async def next_event(socket: Socket) -> dict[str, Any]:
    message = await socket.receive_json(timeout=HANG_S)
    assert message["type"] == "next", message
    event: dict[str, Any] = message["payload"]["data"]["candles"]
    return event


class Stalled:
    """A client that subscribes and then reads nothing until the test lets it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, url: str, query: str) -> Stalled:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**12)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /graphql HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        client = cls(reader, writer)
        client.send({"type": "connection_init"})
        assert (await client.frame())[0] == 1
        client.send({"id": "1", "type": "subscribe", "payload": {"query": query}})
        while b'"caughtUp":true' not in (await client.frame())[1]:
            pass
        return client

    def send(self, message: object) -> None:
        body = json.dumps(message).encode()
        self.writer.write(b"\x81\xfe" + len(body).to_bytes(2, "big") + bytes(4) + body)

    async def frame(self) -> tuple[int, bytes]:
        """The opcode and the body of the next frame."""
        opcode, length = await self.reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2), "big")
        return opcode & 15, await self.reader.readexactly(length)


def buffered(serving: Serving) -> int:
    """The most that is buffered for one peer."""
    return max(one.transport.get_write_buffer_size() for one in serving.server.server_state.connections)


async def test_a_thousand_listeners_are_served_and_leave_nothing() -> None:
    """On twenty sockets, so that the test's own client is not what it measures."""
    stage = Stage()
    async with staged(services(stage)) as serving:
        before = len(asyncio.all_tasks())

        async def listen() -> list[str]:
            async with (
                aiohttp.ClientSession(serving.url) as http,
                http.ws_connect("/graphql", protocols=[PROTOCOL]) as ws,
            ):
                await ws.send_json({"type": "connection_init"})
                for id_ in range(50):
                    await ws.send_json({"id": str(id_), "type": "subscribe", "payload": {"query": LIVE}})
                closed = []
                while len(closed) < 50 * 5:
                    message = await ws.receive_json(timeout=HANG_S)
                    if message["type"] == "next" and message["payload"]["data"]["candles"]["kind"] == "CLOSE":
                        closed.append(message["id"])
                return closed

        clients = [asyncio.create_task(listen()) for _ in range(20)]
        await eventually(lambda: len(stage.listeners) == 1000)
        for _ in range(5):
            stage.close()
        for ids in await asyncio.gather(*clients):
            assert sorted(ids) == sorted(map(str, [*range(50)] * 5))
        await stage.empty()
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        assert len(serving.connections) == 0


HOW = pytest.mark.parametrize("how", ["dropped", "with a goodbye", "an event stream"])
KINDS = {
    asyncio.Task, topic.Listener, BulkExecutor, sockets.GraphQLSocket, streams.OperationStream,
    wire.HttpProtocol, wire.WebSocketProtocol,
}  # fmt: skip


def alive() -> dict[int, object]:
    """What the collector finds in use of what a client costs."""
    gc.collect()
    return {id(one): one for one in gc.get_objects() if type(one) in KINDS}


async def come(serving: Serving, stage: Stage, how: str) -> Stalled:
    """Listen, and receive a candle."""
    client = await (Stalled.connect if how != "an event stream" else streaming)(serving.url, LIVE)
    stage.close()
    await eventually(lambda: all(not one._events for one in stage.listeners))
    return client


async def go(stage: Stage, client: Stalled, how: str) -> None:
    """Leave, and wait until there is no listener."""
    if how == "with a goodbye":
        client.send({"id": "1", "type": "complete"})
        client.writer.close()
    else:
        client.writer.transport.abort()
    await stage.empty()


@HOW
async def test_nothing_holds_what_there_was_for_a_client_that_went(how: str) -> None:
    stage = Stage()
    async with staged(services(stage)) as serving:
        before = alive().keys()
        client = await come(serving, stage, how)
        held = [(type(one), weakref.ref(one)) for id_, one in alive().items() if id_ not in before]
        assert {kind for kind, _ in held} >= {asyncio.Task, topic.Listener, BulkExecutor}
        await go(stage, client, how)
        with suppress(TimeoutError):
            await eventually(lambda: gc.collect() >= 0 and not any(one() for _, one in held))
        assert [one() for _, one in held if one()] == []


@HOW
async def test_clients_that_come_and_go_leave_no_garbage_that_grows(how: str) -> None:
    """The collector reaches all that they leave, and what it finds in use becomes no more with each of them."""
    stage = Stage()
    async with staged(services(stage)) as serving:
        counts, frozen = [], gc.get_freeze_count()
        for _ in range(10):
            for _ in range(16):
                await go(stage, await come(serving, stage, how), how)
            stage.published.clear()
            await eventually(lambda: not serving.server.server_state.connections)
            gc.collect()
            counts.append(len(gc.get_objects()))
        assert min(counts[5:]) - min(counts[:5]) < 80, "not one object for each visit between the two"
        assert gc.get_freeze_count() == frozen


async def streaming(url: str, query: str) -> Stalled:
    """A client that asked for events over HTTP, and reads no more of them once it is caught up."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"query": query}).encode()
    writer.write(
        f"POST /graphql HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await reader.readuntil(b'"caughtUp":true')
    return Stalled(reader, writer)


async def test_a_client_that_does_not_read_delays_no_other_and_is_closed_with_4410() -> None:
    stage = Stage()
    async with staged(
        services(stage),
        timings=replace(Timings(), stalled_peer_timeout_s=0.5, farewell_timeout_s=HANG_S),
        ws_ping_interval=None,
    ) as serving:
        stalled = await Stalled.connect(serving.url, WIDE)
        clients = [asyncio.create_task(_count(serving, 3000)) for _ in range(10)]
        await eventually(lambda: len(stage.listeners) == 11)
        for _ in range(3000):
            stage.close()
            if stage.seq % 50 == 0:
                await asyncio.sleep(0.001)
                assert buffered(serving) < 256 * 1024
        for stamps in await asyncio.wait_for(asyncio.gather(*clients), HANG_S):
            assert stamps == list(range(FIRST, FIRST + 3000 * 60_000, 60_000))
        await stage.empty()  # what it listened to is let go of, though it reads nothing yet
        frames = []
        while not frames or frames[-1][0] != 8:
            frames.append(await asyncio.wait_for(stalled.frame(), HANG_S))
        assert int.from_bytes(frames[-1][1][:2], "big") == 4410
        stalled.writer.close()


async def test_the_messages_of_all_sockets_share_the_passes_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty sockets send two hundred pings each in one packet: no pass of the event loop parses more than some."""
    passes, parsed = 0, Counter[int]()
    parse = wire.WebSocketProtocol.send_receive_event_to_app

    def counted(self: wire.WebSocketProtocol) -> None:
        parsed[passes] += 1
        parse(self)

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(wire.WebSocketProtocol, "send_receive_event_to_app", counted)
    stage = Stage()
    async with staged(services(stage)) as serving:
        clients = [await Stalled.connect(serving.url, LIVE) for _ in range(30)]
        ping = b"\x81\x8f" + bytes(4) + b'{"type":"ping"}'
        parsed.clear()
        counting = asyncio.create_task(count())
        for client in clients:
            client.writer.write(ping * 200)
        for client in clients:
            pongs = 0
            while pongs < 200:
                pongs += b"pong" in (await asyncio.wait_for(client.frame(), HANG_S))[1]
        counting.cancel()
        assert sum(parsed.values()) == 30 * 200
        assert max(parsed.values()) <= (4_096 + 1024) // len(ping) + 1
        for client in clients:
            client.writer.transport.abort()


async def _count(serving: Serving, closed: int) -> list[int]:
    async with listening(serving) as socket:
        stamps: list[int] = []
        while len(stamps) < closed:
            stamps += [node["timestamp"] for node in (await next_event(socket))["nodes"]]
        return stamps


async def test_a_peer_that_never_reads_again_is_cut_off() -> None:
    stage = Stage()
    async with staged(
        services(stage),
        timings=replace(Timings(), stalled_peer_timeout_s=0.1, farewell_timeout_s=0.1),
        ws_ping_interval=None,
    ) as serving:
        stalled = await Stalled.connect(serving.url, WIDE)
        async with asyncio.timeout(HANG_S):
            while stage.listeners:
                stage.close()
                await asyncio.sleep(0)
        await eventually(lambda: not serving.server.server_state.connections)
        stalled.writer.close()


async def test_a_client_that_falls_behind_learns_where_to_resume_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed candles are never dropped silently: those received before and after the RESYNC are all there are."""
    monkeypatch.setattr(topic, "MAX_QUEUED_EVENTS", 20)
    stage = Stage()
    async with staged(services(stage)) as serving:
        slow = await Stalled.connect(serving.url, WIDE)
        (listener,) = stage.listeners
        while not listener._events or listener._events[-1].kind is not EventKind.RESYNC:
            stage.close()
            stage.move()
            await asyncio.sleep(0)
        stamps: list[int] = []
        while True:
            message = json.loads((await asyncio.wait_for(slow.frame(), HANG_S))[1])
            if message["type"] == "complete":
                break
            event = message["payload"]["data"]["candles"]
            if event["kind"] == "CLOSE":
                stamps.append(event["nodes"][0]["x" * 100 + "0"])
            resume_from = event["resyncFrom"]
        assert resume_from == stamps[-1] + 60_000
        assert not stage.listeners
        async with aiohttp.ClientSession(serving.url) as http, http.ws_connect("/graphql", protocols=[PROTOCOL]) as ws:
            await ws.send_json({"type": "connection_init"})
            await ws.receive_json()
            payload = {"query": LIVE, "variables": {"since": resume_from}}
            await ws.send_json({"id": "1", "type": "subscribe", "payload": payload})
            while not (event := await next_event(ws))["caughtUp"]:
                stamps += [node["timestamp"] for node in event["nodes"]]
        assert stamps == [int(candle.timestamp[0]) for candle in stage.published]
        slow.writer.close()


async def test_the_forming_candle_conflates_for_who_is_slow() -> None:
    stage = Stage()
    async with staged(services(stage)) as serving:
        slow = await Stalled.connect(serving.url, WIDE)
        (listener,) = stage.listeners
        for at in range(20_000):
            stage.move(float(at))
            if at % 100 == 0:
                await asyncio.sleep(0)
        assert len(listener._events) <= 1
        told_of = 0
        closes: list[float] = []
        while not closes or closes[-1] != 19_999:
            message = json.loads((await asyncio.wait_for(slow.frame(), HANG_S))[1])
            closes.append(message["payload"]["data"]["candles"]["nodes"][0]["close"])
            told_of += 1
        assert closes == sorted(closes)
        assert told_of < 20_000
        slow.writer.close()


async def test_a_ghost_is_noticed_by_the_pings_it_does_not_answer() -> None:
    """With a code after which graphql-ws connects again: a laptop that wakes up has to."""
    stage, timings = Stage(), replace(Timings(), farewell_timeout_s=HANG_S)
    async with (
        staged(services(stage), timings=timings, ws_ping_interval=0.1, ws_ping_timeout=1.0) as serving,
        listening(serving) as alive,
    ):
        ghost = await Stalled.connect(serving.url, LIVE)
        assert len(stage.listeners) == 2
        receiving = asyncio.create_task(next_event(alive))  # which answers pings
        await eventually(lambda: len(stage.listeners) == 1)
        while (frame := await asyncio.wait_for(ghost.frame(), HANG_S))[0] != 8:
            pass
        assert int.from_bytes(frame[1][:2], "big") == 4410
        ghost.writer.close()
        stage.close()
        assert (await receiving)["kind"] == "CLOSE"


class Cable:
    """A way to the server. Once it is cut nothing passes in either direction, and neither side notices."""

    def __init__(self, behind: str) -> None:
        self._behind = urlsplit(behind)
        self._ends: list[asyncio.StreamWriter] = []
        self._pipes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    async def cut(self) -> None:
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for end in self._ends:
            transport: Any = end.transport
            transport.pause_reading()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = socket.socket()
        far.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1
        )  # as little as there is: what it holds is taken for delivered
        far.connect((self._behind.hostname, self._behind.port))
        far_reader, far_writer = await asyncio.open_connection(sock=far)
        self._ends += writer, far_writer
        self._pipes += map(asyncio.create_task, (_pipe(reader, far_writer), _pipe(far_reader, writer)))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65_536):
        writer.write(part)
    writer.close()


@pytest.mark.parametrize("how", ["graphql-ws", "graphql-sse"])
async def test_a_client_whose_network_vanished_is_let_go_of(how: str) -> None:
    """It is gone without a word. A socket's pings find that out; a stream has none, and the network gives it up."""
    hasty = replace(Timings(), farewell_timeout_s=0.1)
    if how == "graphql-sse":
        hasty = replace(hasty, unread_timeout_s=0.5)
    stage = Stage()
    async with (
        staged(services(stage), timings=hasty, ws_ping_interval=0.2, ws_ping_timeout=1.0) as serving,
        Cable(serving.url) as cable,
        aiohttp.ClientSession(cable.url) as http,
        AsyncExitStack() as stack,
    ):
        if how == "graphql-ws":
            client = await stack.enter_async_context(listening(replace(serving, url=cable.url)))
            answering = asyncio.create_task(client.receive())  # which answers pings
            stack.callback(answering.cancel)
        else:
            await next_sse_event(
                await stack.enter_async_context(http.post("/graphql", json={"query": LIVE}, headers=SSE))
            )
        assert len(stage.listeners) == 1
        await cable.cut()
        for _ in range(50):
            stage.close()
        await stage.empty()
        await eventually(lambda: not serving.server.server_state.connections)
        assert len(serving.connections) == 0


async def test_an_address_and_a_server_have_so_many_connections(caplog: pytest.LogCaptureFixture) -> None:
    """Refused before they are accepted, with a code and a status that say when to come again, and no line in the log."""
    stage = Stage()
    for caps, status, code in (
        (ConnectionLimits(2, 100), 503, "OVERLOADED"),
        (ConnectionLimits(100, 2), 429, "RATE_LIMITED"),
    ):
        async with staged(services(stage), caps) as serving, aiohttp.ClientSession(serving.url) as http:
            async with listening(serving), listening(serving):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect("/graphql", protocols=[PROTOCOL])
                assert refused.value.status == status
                async with http.post("/graphql", json={"query": LIVE}, headers=SSE) as response:
                    assert response.status == status
                    assert (await response.json())["errors"][0]["extensions"]["code"] == code
                    assert "retry-after" in response.headers
                async with http.post("/graphql", json={"query": "{ __typename }"}) as response:
                    assert await response.json() == {"data": {"__typename": "Query"}}
            await eventually(lambda: not len(serving.connections))
            async with listening(serving):
                pass
    assert not caplog.records


SSE = {"accept": "text/event-stream"}


async def next_sse_event(response: aiohttp.ClientResponse) -> tuple[str, Any]:
    """The next event of a stream."""
    assert response.headers["content-type"].startswith("text/event-stream")
    name, data = "", None
    while line := (await asyncio.wait_for(response.content.readline(), HANG_S)).decode():
        if line == "\n" and name:
            return name, json.loads(data) if data else None
        key, _, value = line.rstrip("\n").partition(": ")
        name, data = (value, data) if key == "event" else (name, value) if key == "data" else (name, data)
    return "", None


async def test_a_subscription_comes_as_events_to_who_asks_for_them() -> None:
    stage = Stage()
    for _ in range(3):
        stage.close()
    async with staged(services(stage)) as serving, aiohttp.ClientSession(serving.url) as http:
        asked = {"query": LIVE, "variables": {"since": FIRST + 60_000}}
        async with http.post("/graphql", json=asked, headers=SSE) as response, listening(serving) as socket:
            assert response.status == 200
            kinds = [(await next_sse_event(response))[1]["data"]["candles"]["kind"] for _ in range(3)]
            assert kinds == ["SNAPSHOT"] * 3
            stage.close()
            name, payload = await next_sse_event(response)
            assert name == "next"
            assert payload["data"]["candles"] == await next_event(socket)
        await stage.empty()
        async with http.get("/graphql", params={"query": LIVE}, headers=SSE) as response:
            assert (await next_sse_event(response))[1]["data"]["candles"]["caughtUp"]
        await stage.empty()
        await eventually(lambda: not len(serving.connections))


async def test_queries_and_errors_come_as_events_too() -> None:
    async with staged(services(Stage())) as serving, aiohttp.ClientSession(serving.url) as http:
        for query, code in {
            "{ __typename }": None,
            "{": "GRAPHQL_PARSE_FAILED",
            "subscription { nothing }": "GRAPHQL_VALIDATION_FAILED",
            LIVE.replace("L($since", "L($no: Boolean!, $since"): "GRAPHQL_VALIDATION_FAILED",
            "query A { __typename } query B { __typename }": "BAD_USER_INPUT",
        }.items():
            async with http.post("/graphql", json={"query": query}, headers=SSE) as response:
                name, payload = await next_sse_event(response)
                assert name == "next"
                assert [e["extensions"]["code"] for e in payload.get("errors", [])] == ([code] if code else [])
                assert await next_sse_event(response) == ("complete", None)
        mutation = {"query": 'mutation { logout(token: "x") }'}
        async with http.get("/graphql", params=mutation, headers=SSE) as response:
            assert (await next_sse_event(response))[1]["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        async with http.post("/graphql", data=b"{", headers={**SSE, "content-type": "application/json"}) as response:
            assert response.status == 400
        async with http.put("/graphql", json=mutation, headers=SSE) as response:
            assert response.status == 405


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/event-stream", MediaType.EVENTS),
        ("Text/Event-Stream", MediaType.EVENTS),
        ("text/*", MediaType.EVENTS),
        ("text/event-stream, application/json;q=0.5", MediaType.EVENTS),
        ("text/event-stream, */*;q=0.1", MediaType.EVENTS),
        ("", MediaType.JSON),
        ("*/*", MediaType.JSON),
        ("application/*", MediaType.JSON),
        ("application/json", MediaType.JSON),
        ("application/json; charset=utf-8", MediaType.JSON),
        ("text/event-stream, application/json", MediaType.JSON),
        ("text/event-stream;q=0.9, application/json", MediaType.JSON),
        ("text/event-stream;q=x, application/json", MediaType.JSON),
        ("application/graphql-response+json;q=0.5, application/json", MediaType.JSON),
        ("application/graphql-response+json;q=0, */*", MediaType.JSON),
        ("application/graphql-response+json, */*", MediaType.GRAPHQL_RESPONSE),
        ("application/json;q=0, */*", MediaType.GRAPHQL_RESPONSE),
        ("text/event-stream;q=0", None),
        ("application/json;q=0", None),
        ("text/html", None),
        ("application/xml, image/*", None),
        ("multipart/mixed", None),
        ("multipart/mixed;deferSpec=20220824", None),
        # urql's, and Apollo's for a query, with @defer, and for a subscription
        (
            "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed",
            MediaType.GRAPHQL_RESPONSE,
        ),
        ("application/graphql-response+json,application/json;q=0.9", MediaType.GRAPHQL_RESPONSE),
        ("multipart/mixed;deferSpec=20220824,application/json", MediaType.JSON),
        ("multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json", MediaType.MULTIPART),
        ('multipart/mixed; boundary="graphql"; subscriptionSpec="1.0"', MediaType.MULTIPART),
        ("multipart/mixed;subscriptionSpec=1.0;q=0.5,application/json", MediaType.JSON),
    ],
)
def test_an_answer_has_the_media_type_that_is_preferred(accept: str, media_type: MediaType | None) -> None:
    assert negotiate(accept) is media_type


async def test_a_subscription_comes_in_parts_to_who_asks_for_them() -> None:
    """Apollo's protocol to the byte: a part is read once the delimiter behind it is there."""
    stage = Stage()
    accept = {"accept": "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json"}
    begin, head = b"\r\n--graphql", b"\r\ncontent-type: application/json\r\n\r\n"
    timings = replace(Timings(), stream_comment_interval_s=0.02)
    async with staged(services(stage), timings=timings) as serving, aiohttp.ClientSession(serving.url) as http:
        async with http.post("/graphql", json={"query": LIVE}, headers=accept) as response:
            assert response.headers["content-type"] == 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0'
            assert await response.content.readexactly(len(begin)) == begin
            parts = set()
            while b"{}" not in parts or len(parts) < 2:
                part = await asyncio.wait_for(response.content.readuntil(begin), HANG_S)
                assert part.startswith(head)
                parts.add(part.removeprefix(head).removesuffix(begin))
            (payload,) = parts - {b"{}"}
            assert json.loads(payload)["payload"]["data"]["candles"]["caughtUp"]
        await stage.empty()
        async with http.post("/graphql", json={"query": "{ nope }"}, headers=accept) as response:
            assert response.status == 200
            body = await response.content.read()
        assert b'{"payload":{"data":null,"errors":[{"message":"Cannot query field' in body
        assert body.endswith(begin + b"--\r\n")


async def test_a_quiet_stream_has_comments_and_a_client_that_goes_frees_it() -> None:
    stage = Stage()
    async with (
        staged(services(stage), timings=replace(Timings(), stream_comment_interval_s=0.02)) as serving,
        aiohttp.ClientSession(serving.url) as http,
    ):
        async with http.post("/graphql", json={"query": LIVE}, headers=SSE) as response:
            await next_sse_event(response)
            assert await response.content.readline() == b":\n"
        await stage.empty()
        await eventually(lambda: not len(serving.connections))


async def test_a_stream_that_is_not_read_is_cut_off() -> None:
    stage = Stage()
    async with staged(services(stage), timings=replace(Timings(), stalled_peer_timeout_s=0.1)) as serving:
        host, port = serving.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**12)
        body = json.dumps({"query": WIDE}).encode()
        writer.write(
            b"POST /graphql HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await eventually(lambda: len(stage.listeners))
        async with asyncio.timeout(HANG_S):
            while stage.listeners:
                stage.close()
                await asyncio.sleep(0)
        await eventually(lambda: not serving.server.server_state.connections)
        assert reader
        writer.close()


async def test_a_stream_ends_with_the_token_it_was_asked_for_with(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, stage = UserStore(database), Stage()
    user = await users.add("ann", "hash", Role.VIEWER)
    tokens = Tokens(lambda: [b"k" * 32])
    token, expires_at = tokens.sign(user)
    monkeypatch.setattr(streams, "time", SimpleNamespace(time=lambda: expires_at - 1.0))
    async with staged(services(stage, users, tokens)) as serving, aiohttp.ClientSession(serving.url) as http:
        headers = {**SSE, "authorization": f"Bearer {token}"}
        async with http.post("/graphql", json={"query": LIVE}, headers=headers) as response:
            assert (await next_sse_event(response))[1]["data"]["candles"]["caughtUp"]
            _, payload = await next_sse_event(response)
            assert payload["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED", "reason": "TOKEN_EXPIRED"}
            assert await next_sse_event(response) == ("complete", None)
        headers["accept"] = "multipart/mixed;subscriptionSpec=1.0"
        async with http.post("/graphql", json={"query": LIVE}, headers=headers) as response:
            last = (await response.content.read()).split(b"\r\n")[-3]
            assert last == (
                b'{"payload":null,"errors":[{"message":"The access token has expired: refresh it.",'
                b'"extensions":{"code":"UNAUTHENTICATED","reason":"TOKEN_EXPIRED"}}]}'
            )
        await stage.empty()


async def test_the_error_of_a_plain_request_for_a_subscription_explains_the_way() -> None:
    async with (
        staged(services(Stage())) as serving,
        aiohttp.ClientSession(serving.url) as http,
        http.post("/graphql", json={"query": LIVE}) as response,
    ):
        (error,) = (await response.json())["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert PROTOCOL in error["message"]
    assert "text/event-stream" in error["message"]


async def test_a_server_that_stops_closes_sockets_with_1001_and_streams_without_a_complete() -> None:
    """A `complete` would tell clients that there is no more; after these two they connect again."""
    stage = Stage()
    async with staged(services(stage)) as serving, aiohttp.ClientSession(serving.url) as http:
        async with listening(serving) as socket, http.post("/graphql", json={"query": LIVE}, headers=SSE) as response:
            await next_sse_event(response)
            await asyncio.wait_for(serving.connections.close(), HANG_S)
            assert (await socket.receive(timeout=HANG_S)).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1001
            assert await next_sse_event(response) == ("", None)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect("/graphql", protocols=[PROTOCOL])
            assert refused.value.status == 503
        await stage.empty()


async def test_heartbeats_are_the_same_for_all() -> None:
    """By either transport, also for a listener that came while it was quiet, and with the number of the last event."""
    stage = Stage(patience=0.05)
    stage.close()
    quiet = {"kind": "HEARTBEAT", "seq": 1, "caughtUp": False, "nodes": [], "resyncFrom": None}
    async with staged(services(stage)) as serving, aiohttp.ClientSession(serving.url) as http:
        async with listening(serving) as one, http.post("/graphql", json={"query": LIVE}, headers=SSE) as response:
            await next_sse_event(response)
            assert await next_event(one) == quiet
            async with listening(serving) as late:
                for _ in range(2):
                    assert await next_event(late) == await next_event(one) == quiet
                    assert (await next_sse_event(response))[1]["data"]["candles"] == quiet
        await stage.empty()
