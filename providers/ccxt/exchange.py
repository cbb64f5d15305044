"""An instrumented exchange class of ccxt: unreadable answers become errors, and no row is hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from copy import deepcopy
from enum import StrEnum
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol, cast

from candlegraph import clock
from candlegraph.clock import DAY_MS, HOUR_MS
from candlegraph.errors import BadUserInput, ConfigurationError, ProviderUnavailable
from candlegraph.timeframe import Timeframe
from providers.ccxt.errors import HttpResponse, last_response, retry_after, unreadable
from providers.ccxt.kraken import KrakenSocket
from providers.ccxt.traits import ExchangeTraits, traits_of

TICK_SIZE = 4  # ccxt's precision mode in which a precision is the smallest step of a number
KEEP_ALIVE_MS = 15_000  # Binance's class would wait 180 s before it notices a dead connection
_SOCKET_CLASSES = {"kraken": (KrakenSocket,)}  # extra base classes, in front of ccxt's

OhlcvRows = list[list[float]]
MarketInfo = Mapping[str, object]  # ccxt's description of one symbol
spent: ContextVar[list[float] | None] = ContextVar("ccxt_spent", default=None)
"""The costs that ccxt's rate limiter charged for the requests of the current task."""
socket: ContextVar[object] = ContextVar("ccxt_socket", default=None)
"""The websocket client that the current task watches."""


class Exchange(Protocol):
    """The part of a ccxt exchange instance that we use."""

    name: str
    rateLimit: float  # noqa: N815
    precisionMode: int  # noqa: N815
    timeout: float
    has: Mapping[str, object]
    timeframes: Mapping[str, object] | None
    markets: dict[str, MarketInfo] | None
    markets_by_id: dict[str, list[MarketInfo]] | None
    symbols: list[str]
    ids: list[str]
    ohlcvs: dict[str, object]
    trades: dict[str, object]
    options: Mapping[str, object]
    clients: dict[str, Any]

    async def load_markets(self) -> object: ...
    async def fetch_ohlcv(
        self, symbol: str, timeframe: str, since: int, limit: int, params: Mapping[str, object]
    ) -> OhlcvRows: ...
    async def fetch_time(self) -> object: ...
    async def watch_ohlcv(self, symbol: str, timeframe: str, since: None, limit: int) -> OhlcvRows: ...
    async def un_watch_ohlcv(self, symbol: str, timeframe: str) -> object: ...
    async def watch_trades(self, symbol: str) -> Sequence[Mapping[str, object]]: ...
    async def un_watch_trades(self, symbol: str) -> object: ...
    def is_quiet(self, symbol: str) -> bool: ...
    async def close_ws_clients(self) -> None: ...
    async def close(self) -> None: ...
    def feature_value(self, symbol: str, method: str, param: str) -> object: ...
    def feature_value_by_type(self, kind: str, sub: str | None, method: str, param: str) -> object: ...


class Until(int):
    """The end of the requested span, for the ``params`` of ccxt's ``fetch_ohlcv``.

    If it is still among the parameters when the request is made, ccxt's class has ignored it.
    """


class _Instrumented:
    """A mixin in front of an exchange class of ccxt.

    In ccxt, ``last_response_headers`` of an instance belongs to the request that ended last; here each request keeps its own
    answer, and an error carries it.
    """

    id: str
    name: str
    own_session: bool
    session: Any
    aiohttp_trust_env: bool
    clients: dict[str, Any]
    _bounded: object = None

    def open(self, lazy: bool = False) -> None:
        """Open the session, and replace it by a bounded one."""
        super().open(lazy)  # type: ignore[misc]
        if self.own_session and self.session is not None and self.session is not self._bounded:
            bounded = import_module("providers.ccxt.http_session").bounded_session
            self.session = self._bounded = bounded(self.session, trust_env=self.aiohttp_trust_env)

    async def throttle(self, cost: float | None = None) -> None:
        """Wait for ccxt's rate limiter, and note what it charges."""
        if (charges := spent.get()) is not None:
            charges.append(1.0 if cost is None else float(cost))
        await super().throttle(cost)  # type: ignore[misc]

    def sign(self, path: str, api: object = "public", method: str = "GET", params: object = None, *rest: object) -> Any:
        """Build a request; its end gets the exchange's own name if ccxt's class uses another or none."""
        if isinstance(params, dict) and "until" in params:
            name, until = traits_of(self.id).until, params["until"]
            if name != "until" and (name is not None or isinstance(until, Until)):
                params = {key: value for key, value in params.items() if key != "until"}
            if name not in {None, "until"}:
                params[name] = super().iso8601(int(until))  # type: ignore[misc]
        return super().sign(path, api, method, params or {}, *rest)  # type: ignore[misc]

    async def fetch(
        self, url: str, method: str = "GET", headers: object = None, body: object = None
    ) -> dict[str, object] | list[object]:
        """Send one HTTP request. If the body is not JSON, ccxt returns its text: that is an error here."""
        answer = HttpResponse(url, body)
        last_response.set(answer)
        try:
            parsed: object = await super().fetch(url, method, headers, body)  # type: ignore[misc]
        except Exception as error:
            error.answer = answer  # type: ignore[attr-defined]
            raise
        if not isinstance(parsed, dict | list):
            raise unreadable(self.name)
        answer.body = parsed
        return parsed

    def on_rest_response(
        self, code: int, reason: str, url: str, method: str, headers: dict[str, str], *rest: str
    ) -> str:
        """Note the status, Retry-After and Date; ccxt calls this for every answer before it looks for errors."""
        clock.note_date(headers)
        if answer := last_response.get():
            answer.status = code
            answer.retry_after = retry_after(headers)
        return cast(str, super().on_rest_response(code, reason, url, method, headers, *rest))  # type: ignore[misc]

    def parse_ohlcvs(self, rows: object, market: object = None, timeframe: str = "1m", *_: object) -> object:
        """Parse and sort without ``since`` and ``limit``: rows outside the request show how the exchange answers."""
        return super().parse_ohlcvs(rows, market, timeframe)  # type: ignore[misc]

    def watch(self, url: str, *rest: object) -> object:
        """Subscribe; see `_note_socket`."""
        self._note_socket(url)
        return super().watch(url, *rest)  # type: ignore[misc]

    def watch_multiple(self, url: str, *rest: object) -> object:
        """Subscribe; see `_note_socket`."""
        self._note_socket(url)
        return super().watch_multiple(url, *rest)  # type: ignore[misc]

    def is_quiet(self, symbol: str) -> bool:  # noqa: ARG002 - most exchanges give no sign of it
        """Whether a silent symbol is known to have no trades, by the other messages on its connection."""
        return False

    def _note_socket(self, url: str) -> None:
        """Note the watched socket; if ccxt would sleep before it opens one, raise instead."""
        wait = 0.0 if url in self.clients else super().ws_dial_delay(url)  # type: ignore[misc]
        if wait > 0:
            raise ProviderUnavailable(f"{self.name} is not to be connected to yet.", retry_after=wait)
        socket.set(super().client(url))  # type: ignore[misc]

    def on_connected(self, client: Any, message: object = None) -> None:
        """Close the socket if its last follower left before it was open."""
        super().on_connected(client, message)  # type: ignore[misc]
        if self.clients.get(client.url) is not client:
            asyncio.ensure_future(client.close(1000))  # noqa: RUF006 - as ccxt itself closes one


def make_exchange(exchange_id: str, options: Mapping[str, object]) -> Exchange:
    """Import ccxt and make an instance; slow, so run it in a thread. The id must be one of ccxt's. ConfigurationError."""
    bases = [getattr(import_module(module), exchange_id, None) for module in ("ccxt.pro", "ccxt.async_support")]
    base = next(base for base in bases if base is not None)
    try:
        exchange = type(exchange_id, (*_SOCKET_CLASSES.get(exchange_id, ()), _Instrumented, base), {})(
            deepcopy(dict(options))
        )
    except Exception as error:  # noqa: BLE001 - wrong options may raise anything inside ccxt
        kind = type(error).__name__
        raise ConfigurationError(f"CCXT_OPTIONS: ccxt takes no such options for {exchange_id} ({kind}).") from None
    if not exchange.has.get("fetchOHLCV"):
        raise ConfigurationError(f"CCXT_EXCHANGES: {exchange_id} publishes no candles, or ccxt cannot read them.")
    exchange.newUpdates = False  # each listener gets the new rows, not only the first
    if "streaming" not in options:
        keep_alive = min(exchange.streaming.get("keepAlive") or KEEP_ALIVE_MS, KEEP_ALIVE_MS)
        exchange.streaming = {**exchange.streaming, "keepAlive": keep_alive}
    return cast(Exchange, exchange)


def native_timeframes(traits: ExchangeTraits, names: Iterable[str]) -> dict[Timeframe, str]:
    """ccxt's name of each native timeframe whose buckets open where ours do.

    Weeks, months and timeframes of more than four hours are used only if the traits allow it: on some exchanges weeks begin on
    a Thursday or a Sunday, and long hours count from an Asian midnight. Up to four hours fit everywhere; the rest is folded.
    """
    found: dict[Timeframe, str] = {}
    for name in names:
        try:
            timeframe = Timeframe.parse(name)
        except BadUserInput:  # seconds, for one
            continue
        widest = DAY_MS if traits.long_buckets else 4 * HOUR_MS
        fits = bool(timeframe.width_ms) and timeframe.width_ms <= widest and DAY_MS % timeframe.width_ms == 0
        fits |= timeframe == Timeframe(1, "d") and not traits.day_offset
        fits |= timeframe in {Timeframe(1, "w"), Timeframe(1, "mon")} and traits.long_buckets
        if fits:
            found.setdefault(timeframe, name)
    return found


class LiveSource(StrEnum):
    """The messages of an exchange's websocket that the forming minute is made of."""

    CANDLES = "candles"
    TRADES = "trades"


def live_source(exchange: Exchange) -> LiveSource | None:
    """What ccxt's class can watch: 1m candles, else trades; None if it can watch neither."""
    names = _websocket_timeframes(exchange)
    if exchange.has.get("watchOHLCV") is True and "1m" in names:
        return LiveSource.CANDLES
    return LiveSource.TRADES if exchange.has.get("watchTrades") is True else None


def _websocket_timeframes(exchange: Exchange) -> set[str]:
    """The timeframes of the websocket: from the options, perhaps a map for each kind of market, or else those of REST."""
    watch = exchange.options.get("watchOHLCV")
    maps = [exchange.options.get("timeframes"), exchange.options.get("wsTimeframes")]
    for own in (*maps, watch.get("timeframes") if isinstance(watch, Mapping) else None):
        if isinstance(own, Mapping) and own:
            return {*own, *(name for inner in own.values() if isinstance(inner, Mapping) for name in inner)}
    return set(exchange.timeframes or ())


def declared_limit(exchange: Exchange) -> int | None:
    """The rows per call that ccxt declares; None if it does not."""
    kinds: tuple[tuple[str, str | None], ...] = (("spot", None), ("swap", "linear"))
    limits = (exchange.feature_value_by_type(*kind, "fetchOHLCV", "limit") for kind in kinds)
    return next((limit for limit in limits if isinstance(limit, int) and limit), None)


@lru_cache(maxsize=1)
def ccxt_version() -> str:
    return f"ccxt {version('ccxt')}"
