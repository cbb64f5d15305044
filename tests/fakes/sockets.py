"""What the websockets of the local exchanges have in common: lines with subscriptions, and the ways in which they fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from candlegraph.candle import Candle
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from tests.fakes.exchange import FakeExchange, Pair

Frame = dict[str, Any]


@dataclass(eq=False)
class Connection:
    """One connection: its subscriptions, and the last message of each stream."""

    socket: web.WebSocketResponse
    request: web.Request
    sent: dict[str, Candle | None] = field(default_factory=dict)

    async def send(self, frame: Frame) -> None:
        """Send a frame of text."""
        await self.socket.send_str(orjson.dumps(frame).decode())


class Sockets:
    """The connections. Every knob may be turned at any time. What they speak is for a subclass."""

    def __init__(self, exchange: FakeExchange, app: web.Application, *paths: str) -> None:
        """Listen under ``paths``."""
        self.opened = 0
        self.looks = 0  # how often it was looked for what has moved
        self.frames: Counter[str] = Counter()  # by method, and pongs
        self.lines: set[Connection] = set()
        self.every_s = 0.02  # how often changes are sent
        self.stalled: set[str] | None = set()  # symbols without messages; None: all of them
        self.ignores_pings = False  # answers no ping, as a dead line
        self.twice = False  # sends everything twice
        self.backwards = False  # sends the minute before after the newest one
        self._exchange = exchange
        for path in paths:
            app.router.add_get(path, self._serve)

    @property
    def streams(self) -> set[str]:
        """The subscriptions of a connection."""
        return {stream for line in self.lines for stream in line.sent}

    def calm(self) -> None:
        """Turn every knob back, and forget the counts."""
        self.opened = 0
        self.frames.clear()
        self.stalled, self.ignores_pings = set(), False
        self.twice = self.backwards = False

    async def cut(self, *, abort: bool = False, code: int = 1001) -> None:
        """End every connection: politely, or as a broken cable would."""
        for line in list(self.lines):
            if abort and line.request.transport is not None:
                line.request.transport.abort()
            else:
                await line.socket.close(code=code)

    async def ping(self) -> None:
        """Ask every client whether it lives."""
        for line in self.lines:
            await line.socket.ping()

    # What a subclass speaks

    async def greet(self, line: Connection) -> None:
        """Send the first messages of a connection."""

    async def obey(self, line: Connection, frame: Frame) -> None:
        """Do what a frame asks for, and answer it."""
        raise NotImplementedError

    def pair_of(self, stream: str) -> str:
        """The name under which the exchange lists what a stream is of."""
        raise NotImplementedError

    def frame_of(self, stream: str, candle: Candle, *, final: bool) -> Frame:
        """The message about a candle."""
        raise NotImplementedError

    async def rest(self, line: Connection) -> None:
        """Say what is said where nothing has moved."""

    # What all of them do

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fault = self._exchange.next_fault("socket")
        if fault.status:
            return await self._exchange.answer(request, {}, fault=fault)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self.opened += 1
        line = Connection(socket, request)
        self.lines.add(line)
        telling = asyncio.create_task(self._send_updates(line))
        try:
            await self.greet(line)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    frame = orjson.loads(message.data)
                    self.frames[str(frame.get("method") or frame["type"])] += 1
                    await self.obey(line, frame)
                elif message.type is WSMsgType.PING and not self.ignores_pings:
                    await socket.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    self.frames["pong"] += 1
        finally:
            self.lines.discard(line)
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        return socket

    async def _send_updates(self, line: Connection) -> None:
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(self.every_s)
                self.looks += 1
                results = [await self._send_stream(line, stream) for stream in list(line.sent)]
                if not any(results):
                    await self.rest(line)

    async def _send_stream(self, line: Connection, stream: str) -> bool:
        name = self.pair_of(stream)
        if self.stalled is None or name in self.stalled or name not in self._exchange.pairs:
            return False
        moved = self.moved(self._exchange.pairs[name], line.sent.get(stream))
        for candle, final in moved * (2 if self.twice else 1):
            await line.send(self.frame_of(stream, candle, final=final))
        if moved and stream in line.sent:
            line.sent[stream] = max((candle for candle, _ in moved), key=lambda candle: candle.timestamp)
        return bool(moved)

    def moved(self, pair: Pair, last: Candle | None) -> list[tuple[Candle, bool]]:
        """What there is to tell: the last minute once more when it has ended, then the one that is forming."""
        now = self._exchange.now
        since = last.timestamp if last else now - now % MINUTE_MS
        minutes = self._exchange.drawn(pair.candles.between(Span(since, now + 1)), now)
        # A second look at the same moment has nothing new.
        moved = [(candle, candle.timestamp + MINUTE_MS <= now) for candle in minutes if candle != last]
        return moved[-2:][::-1] if self.backwards else moved[-2:]
