"""A client's socket with a live subscription, and the record of the candles it has received."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import orjson

from benchmarks.ticking import TICK_MS
from candlegraph.clock import MINUTE_MS

OPERATION = """subscription ($symbol: String!, $since: Timestamp) {
  candles(market: "bench", provider: "ticking", symbol: $symbol, since: $since) {
    kind seq caughtUp resyncFrom nodes { timestamp close volume closed } } }"""

DICE = random.Random(1)  # noqa: S311 - a load


@dataclass
class Book:
    """The record of all sockets of this process; latencies are counted by whole milliseconds."""

    updates: Counter[int] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)  # after the first socket that received it
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[tuple[str, int], float] = field(default_factory=dict)

    def taken(self, listeners: list[Listener]) -> dict[str, object]:
        """Return the record, and start a new one."""
        due = (int(time.time() * 1000) - 4_000) // MINUTE_MS * MINUTE_MS - MINUTE_MS  # must have closed by now
        counts: Counter[str] = Counter(self.counts)
        for one in listeners:
            counts["slow and behind" if one.slow else "behind"] += one.closed < due
        found = {"updates": dict(self.updates), "closes": dict(self.closes), "counts": dict(counts)}
        for counter in (self.updates, self.closes, self.counts):
            counter.clear()
        return found


class Listener(asyncio.Protocol):
    """A socket that speaks the WebSocket protocol, and reads every message."""

    def __init__(self, book: Book, port: int, symbol: str) -> None:
        self.symbol, self.port = symbol, port
        self.closed = self.seq = self.tick = 0
        self.slow = False  # it has stopped reading at some time, so its delays prove nothing
        self.again = True  # whether it connects again after it was disconnected
        self.ready = asyncio.Event()
        self._book = book

    async def connect(self) -> None:
        """Connect and wait until it is caught up."""
        self.ready.clear()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
        await self.ready.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        self._buffer, self._begun = bytearray(), False
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if self.again:
            self._book.counts["cut off"] += 1
            asyncio.get_running_loop().call_later(DICE.uniform(0.1, 1), self._come_back)

    def _come_back(self) -> None:
        self._returning = asyncio.create_task(self.connect())

    def data_received(self, data: bytes) -> None:
        now, buffer = time.time() * 1000, self._buffer
        buffer += data
        if not self._begun:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            assert buffer.startswith(b"HTTP/1.1 101"), bytes(buffer[:200])
            del buffer[: end + 4]
            self._begun = True
            self.send({"type": "connection_init"})
        at = 0
        while len(buffer) - at >= 4:
            length, head = buffer[at + 1], 2
            if length >= 126:
                head = 4 if length == 126 else 10
                length = int.from_bytes(buffer[at + 2 : at + head], "big")
            if len(buffer) - at < head + length:
                break
            self._frame(buffer[at] & 15, bytes(buffer[at + head : at + head + length]), now)
            at += head + length
        del buffer[:at]

    def _frame(self, opcode: int, body: bytes, now: float) -> None:
        if opcode == 9:
            self.write(0x8A, body)
        elif opcode == 8:
            self._book.counts[f"closed with {int.from_bytes(body[:2], 'big')}"] += 1
            self.transport.close()
        else:
            message = orjson.loads(body)
            match message["type"]:
                case "connection_ack":
                    since = self.closed or int(now) // MINUTE_MS * MINUTE_MS - 3 * MINUTE_MS
                    payload = {"query": OPERATION, "variables": {"symbol": self.symbol, "since": since}}
                    self.send({"id": "1", "type": "subscribe", "payload": payload})
                case "next" if message["payload"].get("data"):
                    self._event(message["payload"]["data"]["candles"], now)
                case "next" | "error":
                    self._book.counts["errors"] += 1
                    self.transport.close()

    def _event(self, event: dict[str, object], now: float) -> None:
        kind, nodes, book = event["kind"], cast("list[dict[str, float]]", event["nodes"]), self._book
        if kind == "UPDATE" or (kind == "SNAPSHOT" and nodes):
            tick = int(nodes[-1]["volume"])
            if kind == "UPDATE" and tick > self.tick and not self.slow:
                book.updates[int(now - tick)] += 1
                book.counts["conflated"] += (tick - self.tick) // TICK_MS - 1 if self.tick else 0
            book.counts["put back"] += kind == "UPDATE" and tick < self.tick
            self.tick = max(self.tick, tick)
        if kind in {"SNAPSHOT", "CLOSE"}:
            for node in nodes:
                if node["closed"]:
                    self._close(int(node["timestamp"]), resumes=kind == "SNAPSHOT")
        if kind == "CLOSE":
            book.counts["out of order"] += cast("int", event["seq"]) != self.seq + 1
            if not self.slow:
                book.closes[int(now - book.first.setdefault((self.symbol, self.closed), now))] += 1
        self.seq = cast("int", event["seq"])
        if kind == "RESYNC":
            book.counts["RESYNC"] += 1
            self.closed = cast("int", event["resyncFrom"]) - MINUTE_MS
            self.transport.close()
        if event["caughtUp"]:
            self.ready.set()

    def _close(self, opened: int, *, resumes: bool) -> None:
        if self.closed and opened != self.closed + MINUTE_MS and not (resumes and opened == self.closed):
            self._book.counts["lost" if opened > self.closed else "repeated"] += 1
        self.closed = max(self.closed, opened)

    def send(self, message: object) -> None:
        self.write(0x81, json.dumps(message).encode())

    def write(self, opcode: int, body: bytes) -> None:
        size = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        self.transport.write(bytes([opcode]) + size + bytes(4) + body)  # masked with zeros
