"""What comes before the parser: connections that send nothing, too much or too slowly, and how many there may be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
import uvicorn
from uvicorn.server import ServerState

from candlegraph.timings import Timings
from server.transport.proxies import TrustedProxies, parse_networks
from server.transport.tcp_connections import TcpConnections, TcpLimits
from server.transport.uvicorn_protocols import MAX_HEAD_BYTES, MAX_HEADERS, MAX_URL_BYTES, SLOW_BODY, protocols
from server.transport.write_deadline import WriteDeadline
from tests.server.stage import Stage, services, staged
from tests.waiting import HANG_S, eventually

POST = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
STREAM = b"accept: text/event-stream\r\n"
IMPATIENT = replace(
    Timings(), first_byte_timeout_s=0.1, head_timeout_s=0.1, body_timeout_s=0.1, stream_comment_interval_s=0.1
)
PATIENT = replace(
    Timings(), first_byte_timeout_s=HANG_S, head_timeout_s=HANG_S, body_timeout_s=HANG_S, farewell_timeout_s=0.5
)
LIVE = json.dumps(
    {"query": 'subscription { candles(market: "m", provider: "p", symbol: "s") { kind caughtUp } }'}
).encode()


@dataclass
class Raw:
    """A TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def status(self) -> int | None:
        """The status of the next answer; None where the server hung up without one."""
        with suppress(ConnectionError):
            line = await asyncio.wait_for(self.reader.readline(), HANG_S)
            return int(line.split()[1]) if line else None
        return None

    async def send(self, *pieces: bytes) -> None:
        """Write until all is written, or the server hangs up."""
        with suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()

    async def ended(self) -> bytes:
        """What the server still said before it hung up."""
        said = b""
        with suppress(ConnectionError):
            while piece := await asyncio.wait_for(self.reader.read(65_536), HANG_S):
                said += piece
        return said


@dataclass
class Door:
    """A server, and the count of its connections."""

    url: str
    stage: Stage
    tcp: TcpConnections
    open: AsyncExitStack

    async def connect(self) -> Raw:
        parts = urlsplit(self.url)
        raw = Raw(*await asyncio.open_connection(parts.hostname, parts.port))
        self.open.callback(_abort, raw)
        return raw


def _abort(raw: Raw) -> None:
    raw.writer.transport.abort()


@asynccontextmanager
async def door(
    timings: Timings | None = None, limits: TcpLimits | None = None, proxies: str = ""
) -> AsyncIterator[Door]:
    stage, tcp = Stage(), TcpConnections(limits, TrustedProxies(parse_networks(proxies)))
    async with staged(services(stage), timings=timings or PATIENT, tcp=tcp) as serving:
        async with AsyncExitStack() as stack:
            yield Door(serving.url, stage, tcp, stack)
        await eventually(lambda: len(tcp) == 0)  # whatever happened, every connection is counted off


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    async with door(IMPATIENT) as at:
        silent = [await at.connect() for _ in range(20)]
        assert [await one.status() for one in silent] == [None] * 20
        await eventually(lambda: len(at.tcp) == 0)


async def test_a_head_that_does_not_end_is_answered_408() -> None:
    """A byte now and then is no excuse; nor are empty lines before a request, which are none of it."""
    async with door(IMPATIENT) as at:
        for begun in (b"GET / HTTP/1.1\r\nx-slow: ", b"\r\n"):
            slow = await at.connect()
            answer = asyncio.create_task(slow.status())
            await slow.send(begun)
            while not answer.done():
                await slow.send(b"\r\n" if begun == b"\r\n" else b"x")
                await asyncio.sleep(0.01)
            assert answer.result() in (408, None)  # None: it went on to send, so that the answer was lost
        await eventually(lambda: len(at.tcp) == 0)


class Timers:
    """Takes the place of the event loop's timers: a deadline passes where the test says so."""

    def __init__(self) -> None:
        self.create_task = asyncio.get_running_loop().create_task
        self.passes: Callable[[], object] = lambda: None

    def call_later(self, _: float, callback: Callable[..., object], *given: object) -> Timers:
        self.passes = lambda: callback(*given)
        return self

    def cancel(self) -> None:
        self.passes = lambda: None


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_body_that_an_application_takes_slowly_is_cut_only_where_it_stops(allowed: bool) -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        while (await receive())["type"] != "http.disconnect":
            pass

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", **protocols(PATIENT))
    config.load()
    protocol: Any = config.http_protocol_class(config=config, server_state=ServerState(), app_state={})
    transport, timers = Mock(asyncio.Transport), Timers()
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = None
    protocol.connection_made(transport)
    protocol.loop = timers
    protocol.data_received(POST + b"content-length: 1000\r\n\r\n")
    await eventually(lambda: scopes)
    if allowed:
        scopes[0]["extensions"][SLOW_BODY]()
    for _ in range(3):
        protocol.data_received(b"x")
        timers.passes()
        assert transport.abort.called != allowed
    timers.passes()
    assert transport.abort.called
    protocol.connection_lost(None)


async def test_a_body_that_does_not_end_is_cut_off_even_behind_its_answer() -> None:
    async with door(IMPATIENT) as at:
        slow = await at.connect()
        await slow.send(POST + b"content-length: 1000\r\n\r\n{")
        assert await slow.ended() == b""
        refused = await at.connect()
        await refused.send(POST.replace(b"json", b"xml") + b"content-length: 1000000000\r\n\r\n{")
        assert await refused.status() == 415
        await refused.ended()


async def test_streams_and_who_waits_behind_them_outlive_every_deadline_of_arrival() -> None:
    """A second request in the pipeline is not read while the first is answered: its sender is not to blame."""
    async with door(IMPATIENT) as at:
        stream, silent = await at.connect(), None
        await stream.send(POST + STREAM + b"content-length: %d\r\n\r\n" % len(LIVE) + LIVE)
        assert await stream.status() == 200
        await stream.send(POST + b"content-length: 1000\r\n\r\n{")
        for _ in range(3):  # each is closed by a deadline that began after that request
            silent = await at.connect()
            assert await silent.status() is None
        at.stage.close()
        async with asyncio.timeout(HANG_S):
            while b"CLOSE" not in await stream.reader.readline():
                pass


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ([b"GET / HTTP/1.1\r\nx: ", b"x" * 2 * MAX_HEAD_BYTES], 431, "HEADERS_TOO_LARGE"),
        ([b"GET / HTTP/1.1\r\n", b"a:\r\n" * (MAX_HEADERS + 2)], 431, "HEADERS_TOO_LARGE"),
        ([POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", *[b"x" * 16_384] * 64], None, ""),
        ([POST + b"transfer-encoding: chunked\r\n\r\n1;", *[b"x" * 16_384] * 64], None, ""),
        ([b"GET /" + b"x" * (MAX_URL_BYTES + 1) + b" HTTP/1.1\r\n\r\n"], 414, "URI_TOO_LONG"),
        ([b"rubbish\r\n\r\n"], 400, "BAD_REQUEST"),
    ],
    ids=["one long header", "many headers", "a long trailer", "a long chunk extension", "a long URL", "no HTTP"],
)
async def test_what_is_too_large_is_refused_before_it_is_kept(
    pieces: list[bytes], status: int | None, code: str
) -> None:
    """The server hangs up after some kilobytes; behind a request that is being answered without another answer."""
    async with door() as at:
        raw = await at.connect()
        sending = asyncio.create_task(raw.send(*pieces))
        answered = await raw.status()
        said = await raw.ended()
        await sending
        if status is None:
            assert answered in (None, 400)
        else:
            assert answered == status
            assert code.encode() in said
            assert b"nosniff" in said
        await eventually(lambda: len(at.tcp) == 0)


async def test_what_is_just_small_enough_is_answered() -> None:
    async with door() as at:
        raw = await at.connect()
        await raw.send(
            b"GET /nothing?" + b"x" * (MAX_URL_BYTES - 100) + b" HTTP/1.1\r\n",
            b"a: " + b"x" * (MAX_HEAD_BYTES - MAX_URL_BYTES - 20_000) + b"\r\n",
            b"b: c\r\n" * (MAX_HEADERS - 1) + b"\r\n",
        )
        assert await raw.status() == 404


async def test_one_address_has_so_many_connections_and_the_process_too() -> None:
    for limits, status in ((TcpLimits(10, 2), 429), (TcpLimits(2, 10), 503)):
        async with door(replace(PATIENT, farewell_timeout_s=HANG_S), limits) as at:
            first, _ = await at.connect(), await at.connect()
            await eventually(lambda: len(at.tcp) == 2)
            refused = [await at.connect() for _ in range(20)]
            assert [await one.status() for one in refused] == [status] * 20
            assert len(at.tcp) == 2
            first.writer.close()
            await eventually(lambda: len(at.tcp) == 1)
            again = await at.connect()
            await again.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await again.status() == 404


async def test_the_connections_of_a_trusted_proxy_are_limited_in_total_only() -> None:
    async with door(limits=TcpLimits(5, 1), proxies="127.0.0.0/8") as at:
        for _ in range(5):
            await at.connect()
        await eventually(lambda: len(at.tcp) == 5)
        assert await (await at.connect()).status() == 503


async def test_a_peer_that_takes_a_byte_is_not_stalled() -> None:
    """Only bytes that leave count: those in the buffer of the kernel, which takes none before it has much room, too."""
    stalled: list[bool] = []
    accepted: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            accepted.put_nowait(transport)

    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1_024)
        transport = await accepted.get()
        deadline = WriteDeadline(transport, HANG_S, lambda: stalled.append(True))
        transport.write(b"x" * 50_000_000)
        await eventually(lambda: transport.get_write_buffer_size() > 0)
        deadline.start()
        for _ in range(3):
            await reader.readexactly(4_000_000)
            deadline._check()
        assert not stalled
        deadline.cancel()
        transport.abort()
        writer.transport.abort()


async def test_a_peer_that_takes_no_byte_is_stalled() -> None:
    stalled = asyncio.Event()

    async def fill(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 50_000_000)
        WriteDeadline(writer.transport, 0.05, stalled.set).start()  # type: ignore[arg-type]
        await stalled.wait()
        writer.transport.abort()

    async with await asyncio.start_server(fill, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1_024)
        await asyncio.wait_for(stalled.wait(), HANG_S)
        writer.transport.abort()
