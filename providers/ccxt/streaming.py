"""Live minutes over the websocket of an exchange: one task per symbol, and one ccxt instance for all, which needs few sockets.

ccxt does not report a connection that was lost while no task waited (it reconnects, and minutes are missing) nor which minute
is final, and it changes rows that it has returned. So this stream yields copies, and treats a replaced connection and a long
silence as errors: a follower then starts again, with the history first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import ProviderError, ProviderUnavailable
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt.errors import translating_errors
from providers.ccxt.exchange import Exchange, LiveSource, OhlcvRows, socket
from providers.ccxt.timings import CcxtTimings
from providers.ccxt.trades import TradeFold
from providers.ccxt.volumes import VolumeScale

_KEPT_ROWS = 10  # rows to examine after each message: a minute may be corrected or come late
_ALL_TIME = Span(0, 2**53)

Row = tuple[float, ...]


@dataclass(slots=True, eq=False)
class _SymbolStream:
    """The stream of a followed symbol."""

    rows: dict[float, Row] = field(default_factory=dict)  # the newest ones by their opening
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # replaced when it is set
    failure: ProviderError | None = None
    followers: int = 0
    client: Any = None  # ccxt's client of its socket
    moved_at: float = 0.0
    fold: TradeFold | None = None  # if trades come instead of candles
    task: asyncio.Task[None] | None = None

    def push(self, rows: OhlcvRows, now: float) -> None:
        """Keep copies of the rows, and wake the waiting tasks."""
        self.rows = {row[0]: tuple(row[:6]) for row in rows}
        self.moved_at = now
        self._wake()

    def fail(self, error: ProviderError) -> None:
        """End the stream for all followers."""
        self.failure = error
        self._wake()

    def _wake(self) -> None:
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()


class CandleStreams:
    """The live minutes of the followed symbols of an exchange."""

    def __init__(
        self, exchange: Exchange, timings: CcxtTimings, source: LiveSource | None, scale: Callable[[str], VolumeScale]
    ) -> None:
        """Follow nothing yet; ``scale`` converts the volumes of a symbol's candles or trades into units of the base."""
        self.timings = timings
        self._trades = source is LiveSource.TRADES
        self._scale = scale
        self._exchange = exchange
        self._name = exchange.name
        self._streams: dict[str, _SymbolStream] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        self._silences: dict[str, float] = {}  # by symbol: its longest silence so far, in seconds

    async def stream(self, symbol: str) -> AsyncGenerator[Candles]:
        """Yield the minutes that changed, until a ProviderError. A slow reader gets only the newest state."""
        while symbol in self._leaving:
            await self._leaving[symbol].wait()
        watch = self._streams.get(symbol) or self._begin(symbol)
        watch.followers += 1
        known: dict[float, Row] = {}
        try:
            while True:
                moved, rows = watch.moved, watch.rows
                changed = [row for stamp, row in rows.items() if known.get(stamp) != row]
                known = rows
                if changed:
                    if len(candles := _candles(changed, None if self._trades else self._scale(symbol))):
                        yield candles
                elif watch.failure:
                    raise type(watch.failure)(watch.failure.message, retry_after=watch.failure.retry_after)
                else:
                    await moved.wait()
        finally:
            watch.followers -= 1
            if not watch.followers:
                await self._leave(symbol, watch)

    async def close(self) -> None:
        """End all streams."""
        tasks = [watch.task for watch in self._streams.values() if watch.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, symbol: str) -> _SymbolStream:
        watch = self._streams[symbol] = _SymbolStream(moved_at=asyncio.get_running_loop().time())
        watch.task = asyncio.create_task(self._follow(symbol, watch))
        watch.task.add_done_callback(lambda _: self._end(symbol, watch))
        return watch

    def _end(self, symbol: str, watch: _SymbolStream) -> None:
        """End the stream for its followers. A callback, because a task cancelled before its first step runs no ``finally``."""
        if (
            not watch.failure
        ):  # ccxt cancels the tasks that wait on a socket when it closes it: report a lost connection
            watch.fail(ProviderUnavailable(f"The line to {self._name} was closed."))
        if self._streams.get(symbol) is watch:
            del self._streams[symbol]  # the next follower starts a new stream

    async def _leave(self, symbol: str, watch: _SymbolStream) -> None:
        """Stop the stream of a symbol; with the last one, close the sockets."""
        left = self._leaving[symbol] = asyncio.Event()
        task, followed = watch.task, self._streams.get(symbol) is watch
        try:
            if task and followed:
                task.cancel()
                await asyncio.wait([task])
            with suppress(Exception):  # an unsubscription that fails does no harm
                if not self._streams:
                    await self._exchange.close_ws_clients()
                elif followed:
                    await self._unsubscribe(symbol)
        finally:
            left.set()
            if self._leaving.get(symbol) is left:
                del self._leaving[symbol]

    async def _unsubscribe(self, symbol: str) -> None:
        if not self._can_unsubscribe:
            return
        async with asyncio.timeout(self.timings.leave_timeout_s):
            if self._trades:
                await self._exchange.un_watch_trades(symbol)
            else:
                await self._exchange.un_watch_ohlcv(symbol, "1m")

    @property
    def _can_unsubscribe(self) -> bool:
        return bool(self._exchange.has.get("unWatchTrades" if self._trades else "unWatchOHLCV"))

    async def _follow(self, symbol: str, watch: _SymbolStream) -> None:
        """Wait for rows and pass them on, until something fails."""
        # An unfinished minute of an earlier subscription would look like a whole one.
        (self._exchange.trades if self._trades else self._exchange.ohlcvs).pop(symbol, None)
        watch.fold = TradeFold(self._scale(symbol)) if self._trades else None
        try:
            with translating_errors(self._name):
                while True:
                    rows = await self._rows(symbol, watch)
                    client = socket.get()
                    if watch.client not in {None, client}:
                        raise ProviderUnavailable(f"The line to {self._name} was cut.")
                    watch.client = client
                    watch.push(rows, asyncio.get_running_loop().time())
        except ProviderError as error:
            watch.fail(error)
        finally:
            self._end(symbol, watch)

    async def _rows(self, symbol: str, watch: _SymbolStream) -> OhlcvRows:
        """The newest rows after a change; ProviderUnavailable after a silence without an explanation."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            usual = self._silences.get(symbol, 0.0)
            # ccxt takes up to a second to subscribe each symbol before this one.
            patience = min(max(self.timings.min_silence_s, 3 * usual, len(self._streams)), self.timings.max_silence_s)
            try:
                async with asyncio.timeout(patience):
                    rows = await self._watch(symbol, watch)
            except TimeoutError:
                if self._exchange.is_quiet(symbol):
                    continue
                self._silences[symbol] = patience
                await self._break(symbol, watch, patience)
            else:
                self._silences[symbol] = max(loop.time() - began, usual * 0.9)
                return rows

    async def _watch(self, symbol: str, watch: _SymbolStream) -> OhlcvRows:
        if watch.fold is None:
            return await self._exchange.watch_ohlcv(symbol, "1m", None, _KEPT_ROWS)
        return watch.fold.add(await self._exchange.watch_trades(symbol), clock.now_ms())

    async def _break(self, symbol: str, watch: _SymbolStream, patience: float) -> None:
        """Restart a silent symbol: alone if its socket has data of other symbols, else with the socket.

        If a symbol cannot be unsubscribed, the other symbols of its socket are not disconnected for it: each minute is read
        from the history anyway when it closes.
        """
        client: Any = watch.client or socket.get()
        since = asyncio.get_running_loop().time() - patience
        others = any(other.client is client and other.moved_at > since for other in self._streams.values())
        if not others:
            if client is not None:
                client.on_error(import_module("ccxt").NetworkError("silence"))
        elif self._can_unsubscribe:
            with suppress(TimeoutError):
                await self._unsubscribe(symbol)
        else:
            return
        raise ProviderUnavailable(f"{self._name} sent nothing of {symbol} for {patience:.0f} seconds.")


def _candles(rows: list[Row], scale: VolumeScale | None) -> Candles:
    """The valid candles among the rows: every price is present, and the volume is positive or unknown."""
    candles = Candles.from_rows(rows)
    if scale:
        candles = scale.in_base(candles)
    candles, unknown = candles.with_known_volumes()
    bad = np.isin(np.arange(len(candles)), list(candles.problems(MINUTE, _ALL_TIME)))
    return candles[~bad & ((candles.volume > 0) | unknown)]
