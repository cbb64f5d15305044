"""One exchange of the laboratory: a server on 127.0.0.1 that has some rows, and ccxt's unmodified class pointed at it."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import urlsplit

from aiohttp import web

from candlegraph.series import Instrument
from candlegraph.timeframe import Timeframe
from providers.ccxt.provider import Ccxt
from tests.fakes.exchange_lab.paging import Paging, Window
from tests.fakes.exchange_lab.wire import WIRES, written
from tests.timings import PATIENT_CCXT


class LabExchange:
    """Serves the candles of one series; ``async with`` starts and stops it, and its provider."""

    def __init__(self, exchange_id: str, paging: Paging | None = None) -> None:
        """Have no rows yet."""
        self.id, self.wire = exchange_id, WIRES[exchange_id]
        self.paging = paging or self.wire.paging
        self.there: list[int] = []
        self.timeframe = Timeframe.parse("1m")
        self.now = 0
        self.calls, self.sent = 0, ""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def _answer(self, request: web.Request) -> web.Response:
        self.calls += 1
        self.sent = await request.text()
        window = self.wire.window(str(request.url), self.sent)
        return web.json_response(written(self.wire, self.rows_of(window, request)))

    def rows_of(self, window: Window, request: web.Request) -> list[int]:
        """The openings of the rows of an answer."""
        return self.paging.rows([at for at in self.there if at <= self.now], window, self.timeframe)

    async def __aenter__(self) -> Self:
        """Listen, and start the provider."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.provider = await self.make_provider()
        return self

    async def make_provider(self) -> Ccxt:
        """A provider that has learned nothing yet."""
        import ccxt.async_support as classes  # noqa: PLC0415 - the import takes a second, so only do it when needed

        host, port = self._runner.addresses[0][:2]

        def here(url: Any) -> Any:
            if isinstance(url, dict):
                return {key: here(value) for key, value in url.items()}
            return (
                [here(each) for each in url] if isinstance(url, list) else f"http://{host}:{port}{urlsplit(url).path}"
            )

        options = {
            "urls": {"api": here(getattr(classes, self.id)().urls["api"])},
            "enableRateLimit": False,
            "timeout": 600_000,  # however busy the machine is
            "timeout_on_exit": 1,
            "markets": {self.wire.symbol: _market(self.wire.symbol)},
        }
        provider = Ccxt(self.id, options, timings=PATIENT_CCXT)
        await provider.start()
        provider._markets._at = 2**60
        provider._exchange.milliseconds = lambda: self.now  # type: ignore[union-attr]
        return provider

    @property
    def instrument(self) -> Instrument:
        """The one series."""
        return Instrument("crypto", self.id, self.wire.symbol)

    async def __aexit__(self, *_: object) -> None:
        """Stop both."""
        await self.provider.close()
        await self._runner.cleanup()


def _market(symbol: str) -> dict[str, object]:
    base, quote = symbol.split(":", maxsplit=1)[0].split("/")
    swap = ":" in symbol
    parts = {"base": base, "quote": quote, "baseId": base, "quoteId": quote, "baseName": base, "symbol": symbol}
    ids = {"id": base + quote, "lowercaseId": (base + quote).lower(), "uppercaseId": base + quote}
    kinds = {"type": "swap" if swap else "spot", "spot": not swap, "swap": swap, "contract": swap, "option": False}
    settles = {"settle": quote if swap else None, "linear": swap or None, "inverse": False if swap else None}
    limits = {"limits": {"amount": {}, "price": {}, "cost": {}}, "precision": {"amount": 1e-8, "price": 1e-8}}
    scales = {
        "priceScale": 8,
        "valueScale": 8,
        "ratioScale": 8,
        "future": False,
        "margin": False,
        "active": True,
        "contractSize": 1.0,
    }
    return {**ids, **parts, **kinds, **settles, **limits, **scales, "info": {}}
