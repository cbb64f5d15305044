"""A local server that speaks Coinbase's REST wire format: newest first, 300 buckets at most, perhaps some from before."""

from __future__ import annotations

from aiohttp import web

from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from tests.fakes.coinbase_socket import CoinbaseSockets
from tests.fakes.exchange import FakeExchange, Row

_GRANULARITIES = {
    "ONE_MINUTE": "1m",
    "FIVE_MINUTE": "5m",
    "FIFTEEN_MINUTE": "15m",
    "THIRTY_MINUTE": "30m",
    "ONE_HOUR": "1h",
    "ONE_DAY": "1d",
}


class FakeCoinbase(FakeExchange):
    """Coinbase's public products and their candles; both ends of a range are inclusive and in seconds."""

    MOST = 300

    def __init__(self) -> None:
        """Lay the routes; see `FakeExchange`."""
        super().__init__()
        root = "/api/v3/brokerage/market/products"
        self._app.router.add_get(root, self._products)
        self._app.router.add_get(root + "/{product}/candles", self._candles)
        self._app.router.add_get("/v2/{which:.*}", self._v2)
        self.sockets = CoinbaseSockets(self, self._app, "/ws")

    def ccxt_options(self) -> dict[str, dict[str, object]]:
        """What points the unmodified class here, for ``CCXT_OPTIONS``."""
        urls = {"api": {"rest": self.url, "ws": self.url.replace("http", "ws") + "/ws"}}
        return {"coinbase": {"urls": urls, "rateLimit": 1, "timeout_on_exit": 10}}

    async def _v2(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/time"):
            return await self.answer(request, {"data": {"iso": "", "epoch": self.now // 1_000}})
        return await self.answer(request, {"data": {"rates": {}} if "rates" in request.path else []})

    async def _products(self, request: web.Request) -> web.StreamResponse:
        products = [
            {
                "product_id": f"{pair.base}-{pair.quote}",
                "price": "1",
                "base_increment": "0.00000001",
                "quote_increment": "0.01",
                "quote_min_size": "1",
                "quote_max_size": "1000000",
                "base_min_size": "0.00000001",
                "base_max_size": "1000",
                "status": "online",
                "trading_disabled": not pair.trading,
                "product_type": "SPOT",
                "quote_currency_id": pair.quote,
                "base_currency_id": pair.base,
                "price_increment": "0.01",
            }
            for pair in self.pairs.values()
        ]
        spot = request.query.get("product_type") in {None, "SPOT"}
        return await self.answer(request, {"products": products if spot else []}, path="markets")

    async def _candles(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        pair = self.pairs.get(request.match_info["product"].replace("-", ""))
        if pair is None:
            return await self.answer(
                request, {"error": "NOT_FOUND", "message": "valid product_id required"}, status=404
            )
        timeframe = Timeframe.parse(_GRANULARITIES[query["granularity"]])
        start, end = int(query["start"]) * 1_000, int(query["end"]) * 1_000
        if (end - start) // timeframe.nominal_ms > self.MOST:
            refusal = {"error": "INVALID_ARGUMENT", "message": "number of candles requested should be less than 350"}
            return await self.answer(request, refusal, status=400)
        candles = self.seen(pair, timeframe)
        fault = self.next_fault("candles")
        asked = candles.between(Span(start - fault.before * timeframe.nominal_ms, end + 1))
        rows: list[Row] = [
            [candle.timestamp, candle.open, candle.high, candle.low, candle.close, candle.volume] for candle in asked
        ]
        names = ("start", "open", "high", "low", "close", "volume")
        page = [
            dict(zip(names, map(str, (int(str(row[0])) // 1_000, *row[1:])), strict=True))
            for row in reversed(fault.bend(rows, []))
        ]
        return await self.answer(request, {"candles": page}, fault=fault)
