"""Volumes are in units of the base: ccxt's unmodified classes against a server that speaks each exchange's rows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from aiohttp import web

from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Page, TaintKind
from candlegraph.series import Instrument, SymbolKind
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt.markets import listing
from providers.ccxt.provider import Ccxt
from providers.ccxt.traits import traits_of
from providers.ccxt.volumes import VolumeScale
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import T0
from tests.timings import PATIENT_CCXT

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

Ask = Callable[..., Awaitable[Page]]
SECONDS = T0 // 1_000
STEPS: Any = SimpleNamespace(
    precisionMode=4
)  # an exchange class whose precisions are steps, and one where they are digits
DIGITS: Any = SimpleNamespace(precisionMode=3)


def market(symbol: str, size: float | None = None) -> dict[str, Any]:
    """A symbol as ccxt keeps it: BTC/USDT, BTC/USDT:USDT, BTC/USD:BTC, BTC/USD:ETH."""
    pair, _, settle = symbol.partition(":")
    base, quote = pair.split("/")
    contract = bool(settle)
    return {
        "id": base + quote, "lowercaseId": (base + quote).lower(), "symbol": symbol, "base": base, "quote": quote,
        "baseId": base, "quoteId": quote, "settle": settle or None, "settleId": settle.lower() or None,
        "type": "swap" if contract else "spot", "spot": not contract, "margin": False, "swap": contract, "future": False,
        "option": False, "contract": contract, "linear": settle == quote if contract else None,
        "inverse": settle == base if contract else None, "active": True, "contractSize": size,
        "precision": {"amount": 1e-3, "price": 0.5}, "limits": {"amount": {}, "price": {}, "cost": {}}, "info": {},
        "baseName": base,
    }  # fmt: skip


@pytest.fixture
async def ask(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ask]:
    """Ask an exchange for one minute of a symbol; its server answers each call with ``body``."""
    set_clock(monkeypatch, lambda: T0 + 60 * MINUTE_MS)
    bodies: list[object] = []

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(bodies[-1])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    def here(urls: Any) -> Any:
        if isinstance(urls, dict):
            return {name: here(value) for name, value in urls.items()}
        return url + urlsplit(urls).path if isinstance(urls, str) else urls

    async def one(exchange: str, symbol: str, size: float | None, body: object) -> Page:
        bodies.append(body)
        kind = getattr(import_module("ccxt.async_support"), exchange)
        known = market(symbol, size)
        options = {"urls": {"api": here(kind().urls["api"])}, "enableRateLimit": False, "markets": {symbol: known}}
        provider = Ccxt(exchange, options, timings=PATIENT_CCXT)
        provider._markets.ensure_loaded = _nothing  # type: ignore[method-assign]
        await provider.start()
        provider._markets.ensure_loaded = _nothing  # type: ignore[method-assign]
        try:
            return await provider.fetch(Instrument("crypto", exchange, symbol), MINUTE, Span(T0, T0 + MINUTE_MS))
        finally:
            await provider.close()

    yield one
    await runner.cleanup()


async def _nothing(_: object) -> None:
    """The symbols are there."""


def gate(volume: object) -> list[dict[str, object]]:
    return [{"t": SECONDS, "o": "100", "h": "101", "l": "99", "c": "100", "v": volume, "sum": "1600"}]


KUCOIN = {"code": "200000", "data": [[T0, 100, 101, 99, 100, 16_000]]}
MEXC = {
    "success": True, "code": 0,
    "data": {"time": [SECONDS], "open": [100], "high": [101], "low": [99], "close": [100], "vol": [16_000]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("exchange", "symbol", "size", "body", "volume"),
    [
        pytest.param("gate", "AAA/USDT:USDT", 0.001, gate(16_000), 16.0, id="gate, linear"),
        pytest.param("gate", "AAA/USD:AAA", 1.0, gate(16_000), 160.0, id="gate, inverse: by the close"),
        pytest.param("gate", "AAA/USD:BBB", 0.001, gate(16_000), 16.0, id="gate, quanto"),
        pytest.param("kucoinfutures", "AAA/USDT:USDT", 0.001, KUCOIN, 16.0, id="kucoin futures"),
        pytest.param("mexc", "AAA/USDT:USDT", 0.0001, MEXC, 1.6, id="mexc swap"),
    ],
)
async def test_contracts_become_units_of_the_base(
    ask: Ask, exchange: str, symbol: str, size: float, body: object, volume: float
) -> None:
    page = await ask(exchange, symbol, size, body)
    assert page.candles.timestamp.tolist() == [T0]
    assert page.candles.volume.tolist() == pytest.approx([volume])


@pytest.mark.parametrize(
    ("exchange", "symbol", "size", "body"),
    [
        pytest.param("gate", "AAA/USDT:USDT", None, gate(16_000), id="the size is not known"),
        pytest.param("gate", "AAA/USDT:USDT", 0.001, gate(None), id="a single volume is null"),
        pytest.param("btse", "AAA/USDT", None, {"data": [[SECONDS, 100, 101, 99, 100, 1600]]}, id="quote units"),
    ],
)
async def test_a_volume_that_cannot_be_converted_is_unknown(
    ask: Ask, exchange: str, symbol: str, size: float | None, body: object
) -> None:
    page = await ask(exchange, symbol, size, body)
    assert page.candles.close.tolist() == [100]
    assert np.isnan(page.candles.volume).all()


def test_a_listing_says_what_is_known_of_a_symbol() -> None:
    swap = listing(market("AAA/USDT:USDT", 0.001), traits_of("gate"), STEPS)
    assert (swap.kind, swap.has_volume, swap.contract_size) == (SymbolKind.SWAP, True, 0.001)
    assert (swap.price_increment, swap.quantity_increment) == (0.5, 0.001)
    assert listing(market("AAA/USDT:USDT"), traits_of("gate"), STEPS).has_volume is False
    spot = listing(market("AAA/USDT"), traits_of("btse"), DIGITS)
    assert (spot.kind, spot.has_volume, spot.contract_size) == (SymbolKind.SPOT, False, None)
    assert spot.price_increment is None, "the exchange counts digits"
    assert listing(market("AAA/USDT"), traits_of("binance"), STEPS).has_volume is True


def test_the_amounts_of_trades_are_contracts() -> None:
    assert VolumeScale.of_trades(market("AAA/USDT")).times == 1
    assert VolumeScale.of_trades(market("AAA/USDT:USDT", 0.01)) == VolumeScale(0.01)
    assert VolumeScale.of_trades(market("AAA/USD:AAA", 1.0)) == VolumeScale(1.0, inverse=True)
    assert VolumeScale.of_trades(market("AAA/USDT:USDT")).times is None


def test_a_taint_of_volumes_finds_the_symbols_of_its_kinds() -> None:
    symbols = ["A/USDT", "A/USDT:USDT", "A/USD:A", "A/USD:B"]

    def found(exchange: str) -> set[str]:
        taints = [taint for taint in Ccxt(exchange).taints if taint.kind is TaintKind.VOLUME]
        return {symbol for symbol in symbols for taint in taints if re.search(taint.symbols, symbol)}

    assert found("gate") == {"A/USDT:USDT", "A/USD:A", "A/USD:B"}
    assert found("krakenfutures") == {"A/USD:A"}
    assert found("btse") == set(symbols)
    assert found("binance") == set()
    assert {taint.kind for taint in Ccxt("mexc").taints} == {TaintKind.COVERAGE, TaintKind.VOLUME}
