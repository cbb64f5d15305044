"""A local Binance in a process of its own: `python -m benchmarks.exchange LATENCY_S MINUTES SYMBOLS`, until its stdin ends.

It prints the options that point ccxt's class at it. All symbols have the same candles, and each page is built only once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aiohttp import web

from tests.fakes.binance import FakeBinance
from tests.fakes.exchange import T0, random_candles


class Ready(FakeBinance):
    """A local exchange whose pages of candles take ``after_s``."""

    def __init__(self, after_s: float) -> None:
        """Start without requests."""
        self._after_s = after_s
        self._bodies: dict[tuple[str, str], bytes] = {}
        super().__init__()

    async def _klines(self, request: web.Request) -> web.StreamResponse:
        began = asyncio.get_running_loop().time()
        key = request.query["startTime"], request.query["limit"]
        if key not in self._bodies:
            answer = await super()._klines(request)
            assert isinstance(answer, web.Response)
            assert isinstance(answer.body, bytes)
            self._bodies[key] = answer.body
        await asyncio.sleep(began + self._after_s - asyncio.get_running_loop().time())
        return web.Response(body=self._bodies[key], content_type="application/json")


async def _serve(after_s: float, minutes: int, symbols: int) -> None:
    async with Ready(after_s) as exchange:
        candles = random_candles(T0, minutes)
        for number in range(symbols):
            exchange.add(f"S{number}", "USDT", candles)
        exchange.now = int(time.time() * 1000)
        exchange.run(1)
        print(json.dumps(exchange.ccxt_options()["binance"]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
