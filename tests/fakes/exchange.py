"""What the local exchanges have in common: a truth table of 1m candles for each symbol, a clock, faults and counters.

``now`` is the clock, set or `run` faster than time. ``fail`` schedules faults for the next calls of a path; ``calls``
and ``requests`` tell what was asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Self

import numpy as np
import orjson
from aiohttp import web

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.resample import fold
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe

T0 = 1_735_689_600_000  # 2025-01-01T00:00Z: where the truth begins unless a test says otherwise
Row = list[object]


def random_candles(since: int, minutes: int, *, seed: int = 1, keep: float = 1.0) -> Candles:
    """So many minutes of a random walk, the same for a seed; each is there with the chance ``keep``."""
    draw = np.random.default_rng(seed)
    close = np.round(100 + np.cumsum(draw.normal(0, 0.05, minutes)), 2)
    opened = np.append(100.0, close[:-1])
    high = np.round(np.maximum(opened, close) + draw.exponential(0.05, minutes), 2)
    low = np.round(np.minimum(opened, close) - draw.exponential(0.05, minutes), 2)
    volume = np.round(draw.exponential(5, minutes) + 0.001, 3)
    stamps = since + MINUTE_MS * np.arange(minutes, dtype=np.int64)
    return Candles.of(stamps, opened, high, low, close, volume)[draw.random(minutes) < keep]


def with_fillers(candles: Candles, until: int) -> Candles:
    """Put a flat candle without volume into each minute that has none, up to ``until``."""
    if not len(candles) or until <= candles.timestamp[0]:
        return candles
    stamps = np.arange(candles.timestamp[0], until, MINUTE_MS, dtype=np.int64)
    behind = np.searchsorted(candles.timestamp, stamps, side="right") - 1
    there = candles.timestamp[behind] == stamps
    close = candles.close[behind]
    opened, high, low = (np.where(there, c[behind], close) for c in (candles.open, candles.high, candles.low))
    return Candles.of(stamps, opened, high, low, close, np.where(there, candles.volume[behind], 0.0))


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call. Those that bend rows act after the limit, as a broken exchange would."""

    status: int = 0
    body: bytes | None = None  # instead of the answer
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang: bool = False
    truncate: bool = False  # half the body, with a Content-Length that fits
    abort: bool = False  # half the body, then the connection is reset
    empty: bool = False
    shuffle: bool = False
    duplicate: bool = False
    drop: float = 0.0  # the share of the rows that is lost
    corrupt: str = ""  # what the first row is: "high below low", "negative volume" or "null"
    before: int = 0  # how many rows from before the range come along

    def bend(self, rows: list[Row], earlier: list[Row]) -> list[Row]:
        """The rows as the exchange gets them wrong; ``high`` is the third and ``low`` the fourth field of a row."""
        rows = [] if self.empty else [*(earlier[-self.before :] if self.before else []), *(list(row) for row in rows)]
        draw = random.Random(len(rows))  # the same faults each time
        if self.duplicate:
            rows = [row for row in rows for _ in range(2)][: len(rows)]
        if self.drop:
            rows = [row for row in rows if draw.random() >= self.drop]
        if self.shuffle:
            draw.shuffle(rows)
        if rows and self.corrupt == "high below low":
            rows[0][2], rows[0][3] = rows[0][3], "1000000.00"
        if rows and self.corrupt == "negative volume":
            rows[0][5] = rows[0][6] = "-1.000"
        if rows and self.corrupt == "null":
            rows[0][1:5] = [None] * 4
        return rows


HTML = Fault(body=b"<html><body>Just a moment...</body></html>", headers={"Content-Type": "text/html"})


@dataclass(slots=True)
class Pair:
    """A symbol: its two currencies, its minutes, and whether it still trades."""

    base: str
    quote: str
    candles: Candles
    trading: bool = True


class FakeExchange:
    """A server on 127.0.0.1 with faults, counters and a clock; ``async with`` starts and stops it."""

    def __init__(self) -> None:
        """Start empty, at `T0`."""
        self.pairs: dict[str, Pair] = {}
        self._now, self._set_at, self._speed = float(T0), time.monotonic(), 0.0
        self.fillers = False
        self.calls: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.port = 0
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._app = web.Application()
        self._app.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)

    async def _date(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(self.now / 1000, usegmt=True)

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, with all that hangs."""
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def now(self) -> int:
        """What time it is there."""
        return int(self._now + (time.monotonic() - self._set_at) * 1000 * self._speed)

    @now.setter
    def now(self, instant: int) -> None:
        self._now, self._set_at = float(instant), time.monotonic()

    def run(self, speed: float) -> None:
        """Let the clock run so many times faster than time; 0 stops it."""
        self.now = self.now
        self._speed = speed

    def add(self, base: str, quote: str, candles: Candles, *, trading: bool = True) -> None:
        """List a symbol."""
        self.pairs[base + quote] = Pair(base, quote, candles, trading)

    def fail(self, fault: Fault, times: int = 1, path: str = "candles") -> None:
        """Let the next calls of ``path`` (``candles``, ``markets``, ``socket``) go wrong."""
        self._faults[path].extend([fault] * times)

    def reset(self) -> None:
        """Forget the faults and the counts."""
        self._faults.clear()
        self.calls.clear()
        self.requests.clear()

    def seen(self, pair: Pair, timeframe: Timeframe = MINUTE) -> Candles:
        """All candles there are by now, the forming one built from the part of its minute that is over."""
        now = self.now
        candles = pair.candles.between(Span(0, now + 1))
        if self.fillers and pair.trading:
            candles = with_fillers(candles, now)
        candles = self.drawn(candles, now)
        return candles if timeframe == MINUTE else fold(candles, timeframe)

    @staticmethod
    def drawn(candles: Candles, now: int) -> Candles:
        """The candles with the last one as far as it has come."""
        if not len(candles) or candles.timestamp[-1] + MINUTE_MS <= now:
            return candles
        return concat([candles[:-1], _part(candles[-1:], (now - int(candles.timestamp[-1])) / MINUTE_MS)])

    async def answer(
        self,
        request: web.Request,
        payload: object,
        *,
        path: str = "",
        status: int = 200,
        fault: Fault | None = None,
    ) -> web.StreamResponse:
        """Count the call, then send ``payload`` as JSON, or what the fault scheduled for ``path`` makes of it."""
        self.calls[request.path] += 1
        self.requests.append((request.path, dict(request.query)))
        fault = fault or self.next_fault(path)
        await asyncio.sleep(3_600 if fault.hang else fault.delay_s)
        body = orjson.dumps(payload) if fault.body is None else fault.body
        headers = {"Content-Type": "application/json", **fault.headers}
        half = body[: len(body) // 2]
        if fault.abort:
            response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(half)
            if request.transport is not None:
                request.transport.abort()
            return response
        return web.Response(body=half if fault.truncate else body, status=fault.status or status, headers=headers)

    def next_fault(self, path: str) -> Fault:
        """The fault that is due for this call."""
        return self._faults[path].popleft() if self._faults[path] else Fault()


def _part(candle: Candles, share: float) -> Candles:
    def toward(number: np.ndarray) -> np.ndarray:
        return np.round(candle.open + (number - candle.open) * share, 2)

    ends = toward(candle.high), toward(candle.low), toward(candle.close)
    return Candles.of(candle.timestamp, candle.open, *ends, np.round(candle.volume * share, 3), closed=False)
