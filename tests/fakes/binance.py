"""A local server that speaks Binance's REST wire format, for ccxt's own ``binance`` class to talk to.

It answers from a truth table of 1m candles for each symbol and folds the other intervals from them. ``now`` is its
clock. ``fail`` schedules faults for the next calls of a path; ``calls`` and ``requests`` tell what was asked.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        self.now = T0
        self.fillers = False
        self.calls: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.port = 0
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._app = web.Application()
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)

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

    def add(self, base: str, quote: str, candles: Candles, *, trading: bool = True) -> None:
        """List a symbol."""
        self.pairs[base + quote] = Pair(base, quote, candles, trading)

    def fail(self, fault: Fault, times: int = 1, path: str = "candles") -> None:
        """Let the next calls of ``path`` (``candles``, ``markets``) go wrong."""
        self._faults[path].extend([fault] * times)

    def reset(self) -> None:
        """Forget the faults and the counts."""
        self._faults.clear()
        self.calls.clear()
        self.requests.clear()

    def seen(self, pair: Pair, timeframe: Timeframe = MINUTE) -> Candles:
        """All candles there are by now, the forming one built from the part of its minute that is over."""
        candles = pair.candles.between(Span(0, self.now + 1))
        if self.fillers and pair.trading:
            candles = with_fillers(candles, self.now)
        if len(candles) and candles.timestamp[-1] + MINUTE_MS > self.now:
            candles = concat([candles[:-1], _part(candles[-1:], (self.now - int(candles.timestamp[-1])) / MINUTE_MS)])
        return candles if timeframe == MINUTE else fold(candles, timeframe)

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


_INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "1w", "1M")
_FILTERS = [
    {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01"},
    {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "9000.000", "stepSize": "0.001"},
    {"filterType": "NOTIONAL", "minNotional": "5.00", "applyMinToMarket": True, "avgPriceMins": 5},
]
_ROOTS = {
    "public": "api/v3",
    "private": "api/v3",
    "v1": "api/v1",
    "papi": "papi/v1",
    "papiV2": "papi/v2",
    **{f"sapi{suffix}": f"sapi/{suffix.lower() or 'v1'}" for suffix in ("", "V2", "V3", "V4")},
    **{f"{a}apiPublic{suffix}": f"{a}api/{suffix.lower() or 'v1'}" for a in "def" for suffix in ("", "V2", "V3")},
    **{f"{a}apiPrivate{suffix}": f"{a}api/{suffix.lower() or 'v1'}" for a in "def" for suffix in ("", "V2", "V3")},
    "dapiData": "futures/data",
    "fapiData": "futures/data",
}
_FEEDS = ("spot", "margin", "linear", "inverse", "stock", "option", "optionMarket", "optionPrivate", "papi")
FAR = 4_133_404_800_000  # the delivery date Binance gives its perpetuals


class FakeBinance(FakeExchange):
    """Spot under ``/api/v3``, linear perpetuals under ``/fapi/v1``; ``/dapi/v1`` lists nothing."""

    MAX_ROWS = 1_000

    def __init__(self) -> None:
        """Lay the routes; see `FakeExchange`."""
        super().__init__()
        self.swaps: dict[str, Pair] = {}
        for root in ("api/v3", "fapi/v1", "dapi/v1"):
            self._app.router.add_get(f"/{root}/ping", self._ping)
            self._app.router.add_get(f"/{root}/time", self._time)
            self._app.router.add_get(f"/{root}/exchangeInfo", self._exchange_info)
            self._app.router.add_get(f"/{root}/klines", self._klines)
        self._app.router.add_get("/sapi/v1/{which:.*}", self._nothing)

    def ccxt_options(self, *types: str) -> dict[str, dict[str, object]]:
        """What points the unmodified class here, for ``CCXT_OPTIONS``; ``types`` as ccxt's ``fetchMarkets.types``.

        Every URL the class knows is replaced, so that no test can reach the real exchange; closing takes 10 ms, not 250.
        """
        urls: dict[str, object] = {name: f"{self.url}/{root}" for name, root in _ROOTS.items()}
        feeds = dict.fromkeys(_FEEDS, f"ws://127.0.0.1:{self.port}/ws")
        urls["ws"] = {**feeds, "ws-api": dict.fromkeys(("spot", "linear", "inverse"), feeds["spot"])}
        markets = {"types": list(types or ("spot",))}
        return {"binance": {"urls": {"api": urls}, "options": {"fetchMarkets": markets}, "timeout_on_exit": 10}}

    def add_swap(self, base: str, quote: str, candles: Candles) -> None:
        """List a linear perpetual."""
        self.swaps[base + quote] = Pair(base, quote, candles)

    def _pairs(self, request: web.Request) -> dict[str, Pair]:
        return {"api": self.pairs, "fapi": self.swaps}.get(request.path.split("/")[1], {})

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request, [])

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request, {})

    async def _time(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request, {"serverTime": self.now})

    async def _exchange_info(self, request: web.Request) -> web.StreamResponse:
        perpetual = request.path.startswith("/fapi")
        symbols = [_symbol(name, pair, perpetual=perpetual) for name, pair in self._pairs(request).items()]
        info = {"timezone": "UTC", "serverTime": self.now, "rateLimits": [], "exchangeFilters": [], "symbols": symbols}
        return await self.answer(request, info, path="markets")

    async def _klines(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        pair, interval = self._pairs(request).get(query.get("symbol", "")), query.get("interval", "")
        if pair is None:
            return await self.answer(request, {"code": -1121, "msg": "Invalid symbol."}, status=400)
        if interval not in _INTERVALS:
            return await self.answer(request, {"code": -1120, "msg": "Invalid interval."}, status=400)
        timeframe, limit = Timeframe.parse(interval), min(int(query.get("limit", 500)), self.MAX_ROWS)
        candles = self.seen(pair, timeframe)
        until = int(query.get("endTime", FAR)) + 1
        asked = candles.between(Span(int(query.get("startTime", 0)), until))
        asked = asked[:limit] if "startTime" in query else asked[max(0, len(asked) - limit) :]
        fault = self.next_fault("candles")
        earlier = candles.between(Span(0, int(asked.timestamp[0]) if len(asked) else 0))
        rows = fault.bend(_klines(asked, timeframe), _klines(earlier[-max(fault.before, 1) :], timeframe))
        return await self.answer(request, rows, fault=fault)


def _symbol(name: str, pair: Pair, *, perpetual: bool) -> dict[str, object]:
    first = int(pair.candles.timestamp[0]) if len(pair.candles) else T0
    common = {
        "symbol": name,
        "status": "TRADING" if pair.trading else "BREAK",
        "baseAsset": pair.base,
        "quoteAsset": pair.quote,
        "orderTypes": ["LIMIT", "MARKET"],
        "filters": _FILTERS,
    }
    if not perpetual:
        return {**common, "isSpotTradingAllowed": True, "isMarginTradingAllowed": False, "permissions": ["SPOT"]}
    dates = {"deliveryDate": FAR, "onboardDate": first}
    return {**common, **dates, "pair": name, "contractType": "PERPETUAL", "marginAsset": pair.quote}


def _klines(candles: Candles, timeframe: Timeframe) -> list[Row]:
    return [
        [
            candle.timestamp,
            *(f"{price:.8f}" for price in (candle.open, candle.high, candle.low, candle.close, candle.volume)),
            timeframe.next(candle.timestamp) - 1,
            f"{candle.volume * candle.close:.8f}",
            int(candle.volume * 3),
            "0.00000000",
            "0.00000000",
            "0",
        ]
        for candle in candles
    ]
