"""A local server that speaks Kraken's REST wire format: whatever ``since`` says, the newest 720 rows at most.

`kraken_socket` is its websocket.
"""

from __future__ import annotations

from aiohttp import web

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from tests.fakes.exchange import FakeExchange, Row
from tests.fakes.kraken_socket import KrakenSockets

_MINUTES = {1: "1m", 5: "5m", 15: "15m", 30: "30m", 60: "1h", 240: "4h", 1_440: "1d"}


class FakeKraken(FakeExchange):
    """Kraken's public endpoints; ``since`` is exclusive and in seconds."""

    NEWEST = 720

    def __init__(self) -> None:
        """Lay the routes; see `FakeExchange`."""
        super().__init__()
        self.fillers = True
        self._app.router.add_get("/0/public/Time", self._time)
        for name in ("Assets", "AssetPairs", "OHLC"):
            self._app.router.add_get(f"/0/public/{name}", getattr(self, f"_{name.lower()}"))
        self.sockets = KrakenSockets(self, self._app, "/v2")

    def ccxt_options(self) -> dict[str, dict[str, object]]:
        """What points the unmodified class here, for ``CCXT_OPTIONS``."""
        feeds = ("public", "private", "privateV2", "publicV2", "beta", "beta-private")
        urls: dict[str, object] = dict.fromkeys(("public", "private", "zendesk"), self.url)
        urls["ws"] = dict.fromkeys(feeds, f"ws://127.0.0.1:{self.port}/v2")
        return {"kraken": {"urls": {"api": urls}, "rateLimit": 20, "timeout_on_exit": 10}}

    async def _time(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request, _good({"unixtime": self.now // 1_000, "rfc1123": ""}))

    async def _assets(self, request: web.Request) -> web.StreamResponse:
        names = sorted({name for pair in self.pairs.values() for name in (pair.base, pair.quote)})
        asset = {"aclass": "currency", "decimals": 8, "display_decimals": 5, "status": "enabled"}
        return await self.answer(request, _good({name: {"altname": name, **asset} for name in names}))

    async def _assetpairs(self, request: web.Request) -> web.StreamResponse:
        pairs = {
            name: {
                "altname": name,
                "wsname": f"{pair.base}/{pair.quote}",
                "aclass_base": "currency",
                "base": pair.base,
                "aclass_quote": "currency",
                "quote": pair.quote,
                "pair_decimals": 2,
                "lot_decimals": 8,
                "lot_multiplier": 1,
                "leverage_buy": [],
                "leverage_sell": [],
                "fees": [[0, 0.26]],
                "fees_maker": [[0, 0.16]],
                "ordermin": "0.0001",
                "costmin": "0.5",
                "tick_size": "0.01",
                "status": "online" if pair.trading else "delisted",
            }
            for name, pair in self.pairs.items()
        }
        return await self.answer(request, _good(pairs), path="markets")

    async def _ohlc(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        name, minutes = query.get("pair", ""), int(query.get("interval", 1))
        if name not in self.pairs:
            return await self.answer(request, {"error": ["EQuery:Unknown asset pair"]})
        if minutes not in _MINUTES:
            return await self.answer(request, {"error": ["EGeneral:Invalid arguments"]})
        candles = self.seen(self.pairs[name], Timeframe.parse(_MINUTES[minutes]))
        newest = candles[max(0, len(candles) - self.NEWEST) :]
        after = int(query.get("since", 0)) * 1_000 + 1
        fault = self.next_fault("candles")
        rows = fault.bend(_rows(newest.between(Span(after, self.now + MINUTE_MS))), [])
        last = int(candles.timestamp[-1]) // 1_000 if len(candles) else 0
        return await self.answer(request, _good({name: rows, "last": last}), fault=fault)


def _good(result: object) -> dict[str, object]:
    return {"error": [], "result": result}


def _rows(candles: Candles) -> list[Row]:
    """Rows of time, open, high, low, close, vwap, volume, count."""
    return [
        [
            candle.timestamp // 1_000,
            *(f"{price:.2f}" for price in (candle.open, candle.high, candle.low, candle.close)),
            f"{candle.close if candle.volume else 0:.2f}",
            f"{candle.volume:.8f}",
            int(candle.volume * 3),
        ]
        for candle in candles
    ]
