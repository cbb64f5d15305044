"""The websocket of the local Binance: kline streams that are subscribed to by frames, and the ways in which they fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import orjson
from aiohttp import WSMsgType, web

from candlegraph.candle import Candle
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from tests.fakes.exchange import FakeExchange, Pair


@dataclass(eq=False)
class _Line:
    """One connection: what it is subscribed to, and what was told last of each stream."""

    socket: web.WebSocketResponse
    request: web.Request
    told: dict[str, Candle | None] = field(default_factory=dict)


class Sockets:
    """The connections. Every knob may be turned at any time."""

    def __init__(self, exchange: FakeExchange, app: web.Application) -> None:
        """Listen under ``/ws``."""
        self.opened = 0
        self.frames: Counter[str] = Counter()  # SUBSCRIBE, UNSUBSCRIBE, pong
        self.lines: set[_Line] = set()
        self.every_s = 0.02  # how often what moved is told
        self.stalled: set[str] | None = set()  # symbols that are told nothing of; None: all of them
        self.deaf = False  # answers no ping, as a dead line
        self.twice = False  # tells everything twice
        self.backwards = False  # tells the minute before after the newest one
        self._exchange = exchange
        app.router.add_get("/ws", self._serve)
        app.router.add_get("/ws/{index}", self._serve)

    @property
    def streams(self) -> set[str]:
        """What somebody is subscribed to."""
        return {stream for line in self.lines for stream in line.told}

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

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fault = self._exchange.next_fault("socket")
        if fault.status:
            return await self._exchange.answer(request, {}, fault=fault)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self.opened += 1
        line = _Line(socket, request)
        self.lines.add(line)
        telling = asyncio.create_task(self._tell(line))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._obey(line, orjson.loads(message.data))
                elif message.type is WSMsgType.PING and not self.deaf:
                    await socket.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    self.frames["pong"] += 1
        finally:
            self.lines.discard(line)
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        return socket

    async def _obey(self, line: _Line, frame: dict[str, object]) -> None:
        method, streams = str(frame["method"]), frame["params"]
        self.frames[method] += 1
        assert isinstance(streams, list)
        for stream in streams:
            if method == "SUBSCRIBE":
                line.told.setdefault(stream, None)
            else:
                line.told.pop(stream, None)
        await line.socket.send_bytes(orjson.dumps({"result": None, "id": frame["id"]}))

    async def _tell(self, line: _Line) -> None:
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(self.every_s)
                for stream, last in list(line.told.items()):
                    symbol = stream.partition("@")[0].upper()
                    if self.stalled is None or symbol in self.stalled or symbol not in self._exchange.pairs:
                        continue
                    moved = self._moved(self._exchange.pairs[symbol], last)
                    for candle, final in moved * (2 if self.twice else 1):
                        await line.socket.send_str(_kline(symbol, candle, final=final, now=self._exchange.now))
                    if moved and stream in line.told:
                        line.told[stream] = max((candle for candle, _ in moved), key=lambda candle: candle.timestamp)

    def _moved(self, pair: Pair, last: Candle | None) -> list[tuple[Candle, bool]]:
        """What there is to tell: the last minute once more when it has ended, then the one that is forming."""
        now = self._exchange.now
        since = last.timestamp if last else now - now % MINUTE_MS
        minutes = self._exchange.drawn(pair.candles.between(Span(since, now + 1)), now)
        # A second look at the same moment has nothing new.
        moved = [(candle, candle.timestamp + MINUTE_MS <= now) for candle in minutes if candle != last]
        return moved[-2:][::-1] if self.backwards else moved[-2:]


def _kline(symbol: str, candle: Candle, *, final: bool, now: int) -> str:
    numbers = zip("ohlcv", (candle.open, candle.high, candle.low, candle.close, candle.volume), strict=True)
    kline = {
        "t": candle.timestamp,
        "T": candle.timestamp + MINUTE_MS - 1,
        "s": symbol,
        "i": "1m",
        "f": 1,
        "L": 2,
        **{name: f"{number:.8f}" for name, number in numbers},
        "n": int(candle.volume * 3),
        "x": final,
        "q": "0.00000000",
        "V": "0.00000000",
        "Q": "0.00000000",
        "B": "0",
    }
    return orjson.dumps({"e": "kline", "E": now, "s": symbol, "k": kline}).decode()
