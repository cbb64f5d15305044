"""Many listeners of one series: our server against stock Strawberry and against graphql-ws on Node, in one run.

`python -m benchmarks.fanout PORT LISTENERS EVENTS BURSTS` is the client, a process of its own. It only counts frames, so that
the server limits the speed, and prints the seconds of each burst.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import cast

import psutil

LISTENERS, EVENTS, BURSTS, ROUNDS = 1_000, 20, 3, 3
OPERATION = """subscription Live($symbol: String!, $since: Timestamp) {
  candles(market: "bench", provider: "memory", symbol: $symbol, since: $since) {
    kind seq caughtUp nodes { timestamp open high low close volume closed } resyncFrom
  }
}"""
SERVERS = {
    "stock Strawberry": (sys.executable, "-m", "benchmarks.server", "stock", "live", ""),
    "graphql-ws on Node": ("node", str(Path(__file__).with_name("fanout.mjs"))),
    "ours": (sys.executable, "-m", "benchmarks.server", "ours", "live", ""),
}


async def fan_out() -> Iterable[tuple[object, ...]]:
    """1,000 listeners of one series, bursts of 20 events; the bars are 8 times stock Strawberry and twice graphql-ws on Node."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVERS}
    for _ in range(ROUNDS):
        for name, command in SERVERS.items():
            async with _server(command) as (port, process):
                found[name] += await _measure(port, process)
    rate = {name: median(rate for rate, _ in figures) for name, figures in found.items()}
    rows: list[tuple[object, ...]] = [
        ("server", "messages/s", "least..most", "server CPU us/message", "ours / this"),
        ("---",) * 5,
    ]
    for name, figures in found.items():
        rates = [one for one, _ in figures]
        cpu = median(one for _, one in figures)
        ratio = f"{rate['ours'] / rate[name]:.1f}"
        rows.append((name, f"{rate[name]:,.0f}", f"{min(rates):,.0f}..{max(rates):,.0f}", f"{cpu:.1f}", ratio))
    return rows


@asynccontextmanager
async def _server(command: tuple[str, ...]) -> AsyncIterator[tuple[int, psutil.Process]]:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        yield int(await process.stdout.readline()), psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _measure(port: int, server: psutil.Process) -> list[tuple[float, float]]:
    """For each burst: messages per second, and the server's CPU microseconds per message."""
    arguments = map(str, (port, LISTENERS, EVENTS, BURSTS))
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.fanout", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert client.stdin
    assert client.stdout
    figures = []
    assert await client.stdout.readline() == b"ready\n", "not every client could connect"
    for _ in range(BURSTS):
        before = sum(server.cpu_times()[:2])
        client.stdin.write(b"go\n")
        seconds = float(await client.stdout.readline())
        cpu = sum(server.cpu_times()[:2]) - before
        figures.append((LISTENERS * EVENTS / seconds, cpu * 1e6 / (LISTENERS * EVENTS)))
    server.kill()  # before the clients, because stock Strawberry logs each listener that disconnects
    client.stdin.close()
    await client.wait()
    return figures


class _Listener(asyncio.Protocol):
    """A socket that subscribes and counts the frames it receives."""

    def __init__(self, count: _Count) -> None:
        self._count = count
        self._buffer = bytearray()
        self._begun = self._subscribed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._begun:
            head = buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            assert buffer.startswith(b"HTTP/1.1 101"), bytes(buffer[:200])
            del buffer[: head + 4]
            self._begun = True
            self._send({"type": "connection_init"})
        at, end, frames = 0, len(buffer), 0
        while end - at >= 4:
            length, head = buffer[at + 1], 2
            if length == 126:
                length, head = buffer[at + 2] << 8 | buffer[at + 3], 4
            if end - at < head + length:
                break
            frames += 1
            at += head + length
        del buffer[:at]
        if frames and not self._subscribed:  # the first frame is the acknowledgement
            self._subscribed = True
            payload = {"query": OPERATION, "variables": {"symbol": "A"}}
            self._send({"id": str(uuid.uuid4()), "type": "subscribe", "payload": payload})
        if frames:
            self._count.add(frames)

    def _send(self, message: object) -> None:
        body = json.dumps(message).encode()
        size = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        self._transport.write(b"\x81" + size + bytes(4) + body)  # masked with zeros


class _Count:
    """The number of received frames, and a waiter for a number of them."""

    def __init__(self) -> None:
        self.frames = 0
        self._goal = 0
        self._reached = asyncio.Event()

    def add(self, frames: int) -> None:
        self.frames += frames
        if self.frames >= self._goal:
            self._reached.set()

    async def reach(self, frames: int) -> None:
        self._goal = frames
        self._reached.clear()
        if self.frames < frames:
            await asyncio.wait_for(self._reached.wait(), 120)


async def _listen(port: int, listeners: int, events: int, bursts: int) -> None:
    loop, count = asyncio.get_running_loop(), _Count()
    for _ in range(listeners):
        await loop.create_connection(lambda: _Listener(count), "127.0.0.1", port)
    await count.reach(2 * listeners)  # connection_ack and the snapshot
    print("ready", flush=True)
    for _ in range(bursts):
        await loop.run_in_executor(None, sys.stdin.readline)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        goal = count.frames + listeners * events
        began = time.perf_counter()
        writer.write(b"GET /burst?events=%d HTTP/1.1\r\nHost: x\r\n\r\n" % events)
        await count.reach(goal)
        print(time.perf_counter() - began, flush=True)
        writer.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_listen(*map(int, sys.argv[1:])))
