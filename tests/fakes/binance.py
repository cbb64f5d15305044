"""A local server that speaks Binance's REST wire format, for ccxt's own ``binance`` class to talk to.

It folds the other intervals from its minutes; `binance_socket` is its websocket.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from candlegraph.candle import Candles
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from tests.fakes.binance_socket import BinanceSockets
from tests.fakes.exchange import T0, FakeExchange, Pair, Row

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
    latency_s = 0.0  # how long each page of candles takes

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
        self.sockets = BinanceSockets(self, self._app, "/ws", "/ws/{index}")

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
        await asyncio.sleep(self.latency_s)
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
