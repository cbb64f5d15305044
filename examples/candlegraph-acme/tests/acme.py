"""Acme's exchange: a local server that speaks its wire format, has a made-up truth, and fails on request."""

from __future__ import annotations

import asyncio
from typing import Self

from aiohttp import web

from candlegraph import MINUTE, Candles, Timeframe, clock, fold
from candlegraph.clock import MINUTE_MS
from candlegraph.testing import RETRY_AFTER_S, Fault

SYMBOL = "ROCKET/USD"
MINUTES = 3 * 1_440
_STEPS = {"60": MINUTE, "3600": Timeframe(1, "h"), "86400": Timeframe(1, "d")}


def _walk(since: int) -> Candles:
    """Three days of minutes; every seventh has no trade."""
    rows, price = [], 100.0
    for n in range(MINUTES):
        close = price + (n * 7919 % 13 - 6) / 4
        if n % 7:
            high, low = max(price, close) + 0.5, min(price, close) - 0.5
            rows.append((since + n * MINUTE_MS, price, high, low, close, 1 + n % 5))
        price = close
    return Candles.from_rows(rows)


class AcmeExchange:
    """``async with`` starts and stops it; ``fault`` is what it does to every call."""

    def __init__(self) -> None:
        self.now = clock.now_ms()
        self.truth = _walk(MINUTE.floor(self.now) - (MINUTES - 1) * MINUTE_MS)
        self.fault: Fault | None = None
        self.calls = 0
        self.url = ""
        app = web.Application(middlewares=[self._misbehave])
        app.router.add_get("/symbols", self._symbols)
        app.router.add_get("/candles", self._candles)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def fail(self, fault: Fault | None) -> None:
        """Let every call go wrong, until None."""
        self.fault = fault

    @web.middleware
    async def _misbehave(self, request: web.Request, handler) -> web.StreamResponse:
        self.calls += 1
        response = await handler(request)
        if self.fault is Fault.SERVER_ERROR:
            return web.Response(status=500, text="the database is away")
        if self.fault is Fault.RATE_LIMITED:
            return web.Response(status=429, headers={"Retry-After": str(RETRY_AFTER_S)})
        if self.fault is Fault.HANG:
            await asyncio.sleep(3_600)
        if self.fault is Fault.TRUNCATED:
            return web.Response(body=response.body[: len(response.body) // 2], content_type="application/json")
        if self.fault is Fault.HTML:
            return web.Response(text="<html>Just a moment...</html>", content_type="text/html")
        if self.fault is Fault.NONSENSE:
            return web.json_response({"detail": "scheduled maintenance"})
        return response

    async def _symbols(self, request: web.Request) -> web.Response:
        return web.json_response([{"symbol": SYMBOL, "title": "Rocket skates", "open": True}])

    async def _candles(self, request: web.Request) -> web.Response:
        query = request.query
        if query["symbol"] != SYMBOL:
            return web.json_response({"error": "no such symbol"}, status=404)
        candles = fold(self.truth, _STEPS[query["step"]])
        since, until = int(query["from"]) * 1_000, int(query["to"]) * 1_000
        inside = (candles.timestamp >= since) & (candles.timestamp <= until)
        rows = [
            [c.timestamp // 1_000, c.open, c.high, c.low, c.close, c.volume]
            for c in candles[inside][: int(query["limit"])]
        ]
        return web.json_response({"candles": rows})
