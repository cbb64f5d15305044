"""Alpaca's stream: one socket for each feed, shared by all followers, because an account may open no more.

If the socket is lost, every follower fails and reads the missed bars by REST; the next follower opens a new socket. Numbers
of errors: https://docs.alpaca.markets/docs/streaming-market-data
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import NoReturn

import aiohttp

from candlegraph.candle import Candles
from candlegraph.errors import ProviderError, ProviderRefused, ProviderUnavailable
from providers.alpaca.rest import AlpacaAccount, candles_of, json_of, unreadable
from providers.alpaca.timings import AlpacaTimings

log = logging.getLogger(__name__)


_REFUSED = {
    402: "Alpaca's stream refuses the keys: look at ALPACA_API_KEY and ALPACA_API_SECRET.",
    408: "Alpaca's plan does not include this stream.",
    409: "Alpaca's plan does not include the live stream of this feed.",
}
_OCCUPIED = 406
_SYMBOL_LIMIT = 405
_ABOUT_SYMBOLS = (400, _SYMBOL_LIMIT, 410)  # as replies to a subscription, these refuse symbols and not the connection


class _Occupied(Exception):
    """The account has another connection open."""


class BarStream:
    """The stream of one feed of an account."""

    def __init__(self, account: AlpacaAccount, feed: str, timings: AlpacaTimings) -> None:
        """Open nothing yet: the first follower does."""
        self.account = account
        self.timings = timings
        self.url = f"{account.stream_url}/v2/{feed}"
        self.lock = asyncio.Lock()  # held while a socket is open, so that the next one waits until it is closed
        self._socket: _Socket | None = None
        self._refused: tuple[float, str] | None = None

    async def follow(self, symbol: str) -> AsyncIterator[Candles]:
        """Yield minutes of ``symbol`` as they end, and again when they are corrected. Ends by raising a ProviderError."""
        if self._refused and time.monotonic() < self._refused[0]:
            raise ProviderRefused(self._refused[1])
        socket = self._socket
        if socket is None or socket.ended:
            socket = self._socket = _Socket(self)
        follower = socket.join(symbol)
        try:
            while True:
                yield await follower.next()
        finally:
            socket.leave(follower)

    def refuse(self, message: str) -> None:
        """Remember that Alpaca refuses the stream, to make no attempt for a while."""
        self._refused = (time.monotonic() + self.timings.refused_pause_s, message)

    async def close(self) -> None:
        """End the streams of all followers, and close the connection."""
        self._refused = None
        if self._socket:
            self._socket.task.cancel()
        async with self.lock:  # wait for a socket whose last follower left a moment ago, too
            self._socket = None


class _Follower:
    """A follower of a symbol, with the newest bar of each minute since its last read."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self._bars: dict[object, Mapping[str, object]] = {}
        self._error: ProviderError | None = None
        self._arrived = asyncio.Event()

    def push(self, bar: Mapping[str, object]) -> None:
        self._bars[bar.get("t")] = bar
        self._arrived.set()

    def fail(self, error: ProviderError) -> None:
        self._error = error
        self._arrived.set()

    async def next(self) -> Candles:
        await self._arrived.wait()
        bars, self._bars = list(self._bars.values()), {}
        if bars:
            if not self._error:
                self._arrived.clear()
            return candles_of(bars)
        assert self._error  # noqa: S101 - without bars, only an error wakes it
        raise type(self._error)(self._error.message, retry_after=self._error.retry_after)


class _Socket:
    """One connection, from its first follower to its last, or until it is lost."""

    def __init__(self, stream: BarStream) -> None:
        self._stream = stream
        self.ended = False
        self._followers: dict[str, list[_Follower]] = {}
        self._subscribed: set[str] = set()
        self._at_once = 1_000  # symbols per subscription; 1 after one was refused
        self._changed = asyncio.Event()
        self._answer: asyncio.Future[set[str] | int] | None = None
        self._error: ProviderError = ProviderUnavailable("Alpaca's stream was closed.")
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._end)  # a callback runs even if the task is cancelled before its first step

    def join(self, symbol: str) -> _Follower:
        follower = _Follower(symbol)
        self._followers.setdefault(symbol, []).append(follower)
        self._changed.set()
        return follower

    def leave(self, follower: _Follower) -> None:
        followers = self._followers.get(follower.symbol, [])
        if follower in followers:
            followers.remove(follower)
        if not followers:
            self._followers.pop(follower.symbol, None)
            self._changed.set()
        if not self._followers and not self.ended:
            self.ended = True
            self.task.cancel()

    async def _run(self) -> None:
        try:
            async with self._stream.lock:
                await self._connect()
        except ProviderError as error:
            self._error = error
            if isinstance(error, ProviderRefused):
                self._stream.refuse(error.message)
        except Exception as error:
            self._error = ProviderUnavailable(f"Alpaca's stream failed ({type(error).__name__}).")
            log.exception("the stream failed unexpectedly")

    def _end(self, _: asyncio.Task[None]) -> None:
        self.ended = True
        for followers in self._followers.values():
            for follower in followers:
                follower.fail(self._error)

    async def _connect(self) -> None:
        for wait in self._stream.timings.occupied_retries_s:
            try:
                await self._talk()
            except _Occupied:
                log.warning("Alpaca counts another connection of this account to %s: trying again", self._stream.url)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
        raise ProviderUnavailable("Alpaca's stream is occupied: another connection with these keys is open.")

    async def _talk(self) -> NoReturn:
        """Open the socket, sign in, and keep the subscriptions equal to the followed symbols. Ends by raising."""
        close = aiohttp.ClientWSTimeout(ws_close=1.0)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http,
                asyncio.timeout(self._stream.timings.answer_timeout_s) as opening,
                http.ws_connect(
                    self._stream.url, heartbeat=self._stream.timings.heartbeat_interval_s, timeout=close
                ) as ws,
            ):
                await self._sign_in(ws)
                opening.reschedule(None)
                await self._converse(ws)
        except aiohttp.WSServerHandshakeError as error:
            _raise_for({401: 402, 403: 402, 429: _OCCUPIED}.get(error.status, 0), f"HTTP {error.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ProviderUnavailable(f"Alpaca's stream could not be reached ({type(error).__name__}).") from None
        raise _cut()

    async def _converse(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._subscribe(ws))
                await self._listen(ws)
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def _sign_in(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        await self._expect(ws, "connected")
        await ws.send_json({"action": "auth", "key": self._stream.account.key, "secret": self._stream.account.secret})
        await self._expect(ws, "authenticated")

    async def _expect(self, ws: aiohttp.ClientWebSocketResponse, wanted: str) -> None:
        while True:
            for item in _items(await ws.receive()):
                if item.get("T") == "error":
                    _raise_for(item.get("code"))
                if item.get("msg") == wanted:
                    return

    async def _listen(self, ws: aiohttp.ClientWebSocketResponse) -> NoReturn:
        while True:
            for item in _items(await ws.receive()):
                self._on_item(item)

    def _on_item(self, item: Mapping[str, object]) -> None:
        kind = item.get("T")
        if kind in {"b", "u"}:
            for follower in self._followers.get(str(item.get("S")), ()):
                follower.push(item)
        elif kind == "subscription":
            bars = item.get("bars")
            self._on_reply({str(symbol) for symbol in bars} if isinstance(bars, list) else set())
        elif kind == "error":
            code = item.get("code")
            if not (isinstance(code, int) and code in _ABOUT_SYMBOLS and self._on_reply(code)):
                _raise_for(code)

    def _on_reply(self, answer: set[str] | int) -> bool:
        asked = self._answer is not None and not self._answer.done()
        if self._answer and asked:
            self._answer.set_result(answer)
        return asked

    async def _subscribe(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Keep the subscriptions equal to the followed symbols, with one request at a time, in order of arrival."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            gone = [symbol for symbol in self._subscribed if symbol not in self._followers]
            come = [symbol for symbol in self._followers if symbol not in self._subscribed]
            symbols = gone or come[: self._at_once]
            if not symbols:
                continue
            self._answer = asyncio.get_running_loop().create_future()
            action = "unsubscribe" if gone else "subscribe"
            await ws.send_json({"action": action, "bars": symbols, "updatedBars": symbols})
            try:
                async with asyncio.timeout(self._stream.timings.answer_timeout_s):
                    answer = await self._answer
            except TimeoutError:
                raise ProviderUnavailable("Alpaca's stream did not answer a subscription.") from None
            self._changed.set()
            if isinstance(answer, set):
                self._subscribed = answer
            if len(symbols) > 1 and isinstance(answer, int):
                self._at_once = 1  # to find out which symbol is refused
            elif not gone:
                self._refuse([symbol for symbol in symbols if symbol not in self._subscribed], answer)

    def _refuse(self, symbols: list[str], answer: set[str] | int) -> None:
        why = "its plan allows no more symbols at once" if answer == _SYMBOL_LIMIT else "it does not take the symbol"
        for symbol in symbols:
            for follower in self._followers.pop(symbol, []):
                follower.fail(ProviderRefused(f"Alpaca does not stream {symbol[:32]!r}: {why}."))


def _items(message: aiohttp.WSMessage) -> list[Mapping[str, object]]:
    """The objects of one message; ProviderUnavailable if the connection has ended."""
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise _cut()
    items = json_of(message.data)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise unreadable()
    return items


def _raise_for(code: object, reason: str | None = None) -> NoReturn:
    """Raise our error for an error code of the stream."""
    if code == _OCCUPIED:
        raise _Occupied
    if isinstance(code, int) and code in _REFUSED:
        raise ProviderRefused(_REFUSED[code])
    raise ProviderUnavailable(f"Alpaca's stream ended with {reason or f'error {str(code)[:8]}'}.")


def _cut() -> ProviderUnavailable:
    return ProviderUnavailable("Alpaca's stream was cut.")
