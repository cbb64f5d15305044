"""Servers over one database that follow one local exchange, listeners that come back to any of them, and what goes wrong."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import numpy as np
import orjson

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.resample import fold
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from tests.fakes.binance import FakeBinance
from tests.fakes.exchange import T0, Fault, random_candles
from tests.server.fast import SPEED
from tests.server.running import Running, serving
from tests.waiting import HANG_S, eventually

TRUTH = random_candles(T0, 20_000, keep=0.9)
BEGIN = T0 + 200 * MINUTE_MS
SINCE = BEGIN - 20 * MINUTE_MS
FIVE = Timeframe(5, "m")
FIVES_SINCE = FIVE.floor(SINCE)
SETTLE_MS = 10_000  # more than what the provider waits for after a minute has ended
FOLLOW = """subscription ($since: Timestamp!) {
  candles(market: "crypto", provider: "binance", symbol: "BTC/USDT", since: $since) {
    kind seq caughtUp resyncFrom nodes { timestamp close volume closed } } }"""
FOLLOW_MANY = """subscription ($since: Timestamp!, $fives: Timestamp!) {
  candlesMany(series: [{market: "crypto", provider: "binance", symbol: "BTC/USDT", since: $since},
      {market: "crypto", provider: "crypto/binance", symbol: "BTC/USDT", timeframe: "5m", since: $fives}]) {
    timeframe event { kind seq caughtUp resyncFrom nodes { timestamp close volume closed } } } }"""
LATEST = """{ candles(market: "crypto", provider: "binance", symbol: "BTC/USDT", limit: 1) { nodes { close } } }"""
FAST = [sys.executable, "-m", "tests.server.fast"]
_LED = re.compile(r"^(\S+ \S+) .* is now led by (this|no or another) process$", re.MULTILINE)


class Cluster:
    """The exchange, the servers, and the way to them."""

    def __init__(self, dsn: str, folder: Path, **variables: str) -> None:
        self.truth = TRUTH
        self.exchange = FakeBinance()
        self.exchange.add("BTC", "USDT", TRUTH)
        self.exchange.sockets.every_s = 0.5
        self.servers: list[Running] = []
        self.urls: list[str] = []  # where listeners go
        self.logs: list[Path] = []  # of the dead too
        self._stack = AsyncExitStack()
        self._folder = folder
        self._variables = {"DB_CONNECTION_STRING": dsn, "CCXT_EXCHANGES": "binance", **variables}
        self._began = 0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.exchange)
        self.exchange.now = BEGIN
        self.exchange.run(SPEED)
        self._variables |= {"FAST_BEGAN_AT": str(time.time()), "FAST_INSTANT": str(BEGIN)}
        self._variables["CCXT_OPTIONS"] = orjson.dumps(self.exchange.ccxt_options()).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self) -> Running:
        """Start one more server; it has answered a query, so that its provider is there too."""
        self._began += 1
        folder = self._folder / str(self._began)
        folder.mkdir()
        made = serving(folder / "log", command=FAST, DATA_DIR=str(folder), **self._variables)
        running = await asyncio.to_thread(made.__enter__)
        self._stack.push_async_callback(asyncio.to_thread, made.__exit__, None, None, None)
        async with (
            aiohttp.ClientSession(running.url) as http,
            http.post("/graphql", json={"query": LATEST}) as response,
        ):
            await response.read()
        self.servers.append(running)
        self.logs.append(running.log)
        self.urls.append(running.url)
        return running

    def leader(self) -> Running:
        """The server that said last that it leads, and has not said since that it does not."""
        said = [(_LED.findall(server.log.read_text(encoding="utf-8")), server) for server in self.servers]
        leads = [(lines[-1][0], server) for lines, server in said if lines and lines[-1][1] == "this"]
        return max(leads, key=lambda lead: lead[0])[1]

    async def kill(self, victim: Running) -> None:
        """Kill -9 the leader, note how long it takes until the exchange is followed again, and start another server."""
        self.servers.remove(victim)
        await self._lose(victim, signal.SIGKILL)
        await self.start()

    @asynccontextmanager
    async def frozen(self, victim: Running) -> AsyncIterator[None]:
        """Stop the leader where it stands until another server has taken over, and for as long as the block takes."""
        try:
            await self._lose(victim, signal.SIGSTOP)
            yield
        finally:
            victim.process.send_signal(signal.SIGCONT)
        self.urls.append(victim.url)

    async def asked(self) -> int:
        """Wait until the leader asks for a minute that is over: its opening (ms). The answer is on its way for a second yet."""
        while True:
            seen = len(self._questions())
            self.exchange.fail(Fault(delay_s=1.5))
            await eventually(lambda seen=seen: len(self._questions()) > seen)
            since = self._questions()[-1]
            if len(self.over(since)):
                return since

    def _questions(self) -> list[int]:
        return [int(query["startTime"]) for path, query in self.exchange.requests if path.endswith("/klines")]

    def over(self, since: int) -> Candles:
        """The minutes from ``since`` on that are final by now."""
        return self.truth.between(Span(since, self.exchange.now - MINUTE_MS - SETTLE_MS))

    def correct(self, since: int) -> None:
        """Let the exchange say from now on that more was traded in the minutes that are ``over``."""
        more = np.isin(self.truth.timestamp, self.over(since).timestamp)
        opened, high, low, close, volume = self.truth.columns[1:6]
        self.truth = Candles.of(self.truth.timestamp, opened, high, low, close, np.round(volume + more, 3))
        self.exchange.add("BTC", "USDT", self.truth)

    async def _lose(self, leader: Running, number: int) -> None:
        opened = self.exchange.sockets.opened
        leader.process.send_signal(number)
        self.urls.remove(leader.url)
        await eventually(lambda: self.exchange.sockets.opened > opened)


class Follower:
    """A listener that reconnects to any server and resumes from its last closed candle; to ``many`` series, from that of each."""

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession, *, many: bool = False) -> None:
        self.closed: list[tuple[int, float, float]] = []
        self.fives: list[tuple[int, float, float]] = []  # of five minutes, where it listens to many
        self._many = many
        self.repeats = 0
        self.connects = 0
        self.errors: list[str] = []
        self.ready = asyncio.Event()
        self._cluster = cluster
        self._http = http
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self.task = asyncio.create_task(self._follow())

    def cut(self) -> None:
        """Lose the connection as a broken cable would."""
        if self._socket and self._socket._response.connection and self._socket._response.connection.transport:
            self._socket._response.connection.transport.abort()

    async def _follow(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError, TypeError, ValueError):  # cut, or the server is gone
                await self._once(random.choice(self._cluster.urls))
            await asyncio.sleep(random.uniform(0.05, 0.3))

    async def _once(self, url: str) -> None:
        since = self.closed[-1][0] if self.closed else SINCE
        fives = self.fives[-1][0] if self.fives else FIVES_SINCE
        variables = {"since": since, "fives": fives} if self._many else {"since": since}
        query = FOLLOW_MANY if self._many else FOLLOW
        async with self._http.ws_connect(f"{url}/graphql", protocols=["graphql-transport-ws"]) as socket:
            self._socket = socket
            self.connects += 1
            await socket.send_json({"type": "connection_init"})
            await socket.send_json(
                {"id": "1", "type": "subscribe", "payload": {"query": query, "variables": variables}}
            )
            async for message in socket:
                answer = orjson.loads(message.data)
                match answer["type"]:
                    case "next":
                        if not self._take(answer["payload"], since, fives):
                            return
                    case "ping":
                        await socket.send_json({"type": "pong"})
                    case "error":
                        self.errors.append(answer["payload"][0]["message"])
                        return

    def _take(self, payload: dict[str, Any], since: int, fives: int) -> bool:
        if payload.get("errors"):
            self.errors.append(str(payload["errors"]))
            return False
        received = payload["data"]["candlesMany" if self._many else "candles"]
        event = received["event"] if self._many else received
        slow = self._many and received["timeframe"] == "5m"
        rows, asked = (self.fives, fives) if slow else (self.closed, since)
        for node in event["nodes"]:
            if node["closed"] and event["kind"] in {"SNAPSHOT", "CLOSE"}:
                row = (node["timestamp"], node["close"], node["volume"])
                if not rows or row[0] > rows[-1][0]:
                    rows.append(row)
                elif row[0] != asked:  # the one asked for comes once more
                    self.repeats += 1
        if event["kind"] == "RESYNC":
            rows[:] = [row for row in rows if row[0] < event["resyncFrom"]]
            return False
        if event["caughtUp"] and not slow:
            self.ready.set()
        return True

    def missing(self, end: int) -> int:
        """The number of candles before ``end`` that it did not receive, or received wrongly."""
        truth = self._cluster.truth.between(Span(SINCE, end))
        rows = set(zip(truth.timestamp.tolist(), truth.close.tolist(), truth.volume.tolist(), strict=True))
        lacks = len(rows - set(self.closed))
        if self._many:
            folded = fold(self._cluster.truth, FIVE).between(Span(FIVES_SINCE, FIVE.floor(end - 5 * MINUTE_MS)))
            known = {(stamp, close) for stamp, close, _ in self.fives}
            lacks += len(set(zip(folded.timestamp.tolist(), folded.close.tolist(), strict=True)) - known)
        return lacks


@asynccontextmanager
async def following(cluster: Cluster, count: int) -> AsyncIterator[list[Follower]]:
    """So many listeners, half of them to two series at once, all of them caught up."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        followers = [Follower(cluster, http, many=number % 2 == 1) for number in range(count)]
        try:
            async with asyncio.timeout(HANG_S):
                await asyncio.gather(*(follower.ready.wait() for follower in followers))
            yield followers
        finally:
            for follower in followers:
                follower.task.cancel()
            await asyncio.gather(*(follower.task for follower in followers), return_exceptions=True)


async def all_received(followers: list[Follower], end: int) -> None:
    """Wait until every follower has every candle before ``end``."""
    with suppress(TimeoutError):  # the caller says what is missing
        await eventually(lambda: not any(follower.missing(end) for follower in followers))
