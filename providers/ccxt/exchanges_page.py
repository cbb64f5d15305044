"""Writes the table of ``docs/exchanges.md`` from the requests of ccxt's classes and the traits.

``python -m providers.ccxt.exchanges_page`` renews it between the marks of the page. It calls no exchange.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from candlegraph.errors import ConfigurationError, ProviderError
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from providers.ccxt.errors import translating_errors
from providers.ccxt.exchange import Exchange, Until, live_source, make_exchange, native_timeframes
from providers.ccxt.sent import SentWindow, read_window
from providers.ccxt.settings import known_exchanges
from providers.ccxt.traits import Answers, ExchangeTraits, traits_by_kind, traits_of

PAGE = Path(__file__).parents[2] / "docs" / "exchanges.md"
BEGIN, END = "<!-- exchanges -->\n", "<!-- /exchanges -->\n"
_ASKED = Span(1_704_067_200_000, 1_704_067_200_000 + 100 * 60_000)
_NEWEST = "the newest page only"
SYMBOLS = ("AAA/USDT", "AAA/USDT:USDT")
_HEAD = "| exchange | history | rows a call | reaches back | live | days | volume |\n|---|---|---|---|---|---|---|\n"


def market(symbol: str) -> dict[str, object]:
    """The market that ccxt needs to make a request."""
    swap = ":" in symbol
    kinds = {"type": "swap" if swap else "spot", "spot": not swap, "swap": swap, "contract": swap, "linear": swap}
    others = {"margin": False, "future": False, "option": False, "active": True, "inverse": False, "contractSize": 1.0}
    ids = dict.fromkeys(("id", "lowercaseId", "uppercaseId"), "AAAUSDT")
    parts = {"base": "AAA", "quote": "USDT", "baseId": "AAA", "quoteId": "USDT", "baseName": "AAA"}
    settle = {"settle": "USDT", "settleId": "usdt"} if swap else {"settle": None, "settleId": None}
    bounds: dict[str, object] = {"limits": {"amount": {}, "price": {}, "cost": {}}, "precision": {}, "info": {}}
    return {**ids, **parts, **kinds, **others, **settle, **bounds, "symbol": symbol}


OPTIONS = {"markets": {symbol: market(symbol) for symbol in SYMBOLS}, "timeout_on_exit": 1}


async def table() -> str:
    """The table: one line for each exchange with candles."""
    lines = []
    for exchange_id in sorted(known_exchanges()):
        try:
            exchange = make_exchange(exchange_id, OPTIONS)
        except ConfigurationError:
            continue
        try:
            lines.append(await _line(exchange_id, exchange))
        finally:
            await exchange.close()
    return _HEAD + "".join(lines)


async def _line(exchange_id: str, exchange: Exchange) -> str:
    traits = traits_of(exchange_id)
    limit = exchange.feature_value_by_type("spot", None, "fetchOHLCV", "limit")
    limit = limit or exchange.feature_value_by_type("swap", "linear", "fetchOHLCV", "limit")
    kinds = traits_by_kind(exchange_id)
    histories = [(kind, await _history(exchange, kinds, kind)) for kind in kinds]
    reaches = [(kind, _reach(kinds[kind], history)) for kind, history in histories]
    cells = (
        exchange_id,
        _by_kind(histories),
        str(traits.rows_per_call or limit or "not declared"),
        _by_kind(reaches),
        _live(exchange),
        _days(traits, exchange),
        ", ".join(f"{kind}: {unit}" for kind, unit in traits.volume.items()) or "base",
    )
    return f"| {' | '.join(cells)} |\n"


def _by_kind(found: list[tuple[str, str]]) -> str:
    """The text of an exchange; where a kind of market differs, its own text behind."""
    return "; ".join(f"{kind}: {text}" if kind else text for kind, text in found if not kind or text != found[0][1])


async def _sent(exchange: Exchange, symbols: Sequence[str], params: Mapping[str, object]) -> SentWindow | None:
    """The request of ccxt's class for a hundred minutes; None if it makes none."""
    for symbol in symbols:
        if found := await sent_for(exchange, symbol, MINUTE, _ASKED, 100, {"until": Until(_ASKED.until), **params}):
            return found
    return None


async def sent_for(
    exchange: Exchange, symbol: str, timeframe: Timeframe, asked: Span, limit: int, params: Mapping[str, object]
) -> SentWindow | None:
    """The window of the request that ccxt's class makes, without sending it; None if it makes none."""
    sent: list[tuple[str, object]] = []

    async def fetch(url: str, method: str = "GET", headers: object = None, body: object = None) -> None:  # noqa: ARG001
        sent.append((url, body))
        raise ConnectionAbortedError

    held: Any = exchange
    held.fetch, held.enableRateLimit = fetch, False
    try:
        with translating_errors(exchange.name):
            await exchange.fetch_ohlcv(symbol, str(timeframe), asked.since, limit, params)
    except ProviderError:
        pass
    return read_window(*sent[-1], asked) if sent else None


async def _history(exchange: Exchange, kinds: Mapping[str, ExchangeTraits], kind: str) -> str:
    traits = kinds[kind]
    swaps = kind not in {"", "spot"} or (not kind and "spot" in kinds)  # spot pairs, where these have no table
    sent = await _sent(exchange, SYMBOLS[1:] if swaps else SYMBOLS, traits.history)
    if sent is None:
        return "needs a key or a parameter"
    if traits.offset_step:
        return "by an offset from now"
    if (traits.answers is Answers.NEWEST and not traits.history) or (sent.start is None and sent.end is None):
        return _NEWEST
    if traits.answers is Answers.FROM_START:
        return "from a start on"
    ways = {(True, True): "between two instants", (True, False): "from a start on", (False, True): "before an end"}
    return ways[sent.start is not None, sent.end is not None]


def _reach(traits: ExchangeTraits, history: str) -> str:
    if traits.lookback is None:
        return "one page" if history == _NEWEST else "no bound known"
    return f"{traits.lookback} {'buckets' if traits.lookback_counts_quiet else 'candles'}"


def _live(exchange: Exchange) -> str:
    return live_source(exchange) or "polling"


def _days(traits: ExchangeTraits, exchange: Exchange) -> str:
    if traits.day_offset:
        return f"{traits.day_offset}:00 UTC, folded from hours"
    days = Timeframe(1, "d") in native_timeframes(traits, exchange.timeframes or {})
    return "UTC" if days else "folded from hours"


def renewed(page: str, rows: str) -> str:
    """``page`` with ``rows`` as its table."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + rows + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8"), asyncio.run(table())), "utf-8")
