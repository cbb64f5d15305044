"""Adds to ccxt's Kraken class what its websocket lacks: Kraken's own names, refusals, heartbeats, unsubscribing.

As in https://docs.kraken.com/api/docs/websocket-v2/ohlc. Kraken sends a minute only when it has a trade, so silence alone
means nothing: a heartbeat each second shows that the connection is alive, and an acknowledgement that a symbol is subscribed.
After a refusal Kraken sends one error, and then only heartbeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from candlegraph.errors import UnknownSymbol

_RENAMED = {"XBT": "BTC", "XDG": "DOGE"}  # the market list has the old names, the socket accepts only the new ones


class KrakenSocket:
    """A mixin in front of ccxt's class."""

    heartbeat_timeout_s = 10.0  # a connection without a heartbeat for this long is dead

    name: str
    has: Mapping[str, object]
    urls: Mapping[str, Any]
    timeframes: Mapping[str, object]
    markets: Mapping[str, Mapping[str, object]]
    clients: Mapping[str, Any]
    ohlcvs: dict[str, dict[str, Any]]

    def __init__(self, config: object) -> None:
        """As ccxt's class."""
        super().__init__(config)  # type: ignore[call-arg]
        self.has = {**self.has, "unWatchOHLCV": True}
        self._symbols: dict[str, str] = {}  # ccxt's by Kraken's

    def watch(self, url: str, key: str, request: Any = None, *rest: object) -> object:
        """Subscribe with Kraken's name of a symbol: its LUNA is ccxt's LUNC."""
        if request and "symbol" in request.get("params", ()):
            names = [self._name_of(symbol) for symbol in request["params"]["symbol"]]
            request = {**request, "params": {**request["params"], "symbol": names}}
        return super().watch(url, key, request, *rest)  # type: ignore[misc]

    async def un_watch_ohlcv(self, symbol: str, timeframe: str) -> None:
        """Unsubscribe, which ccxt cannot; through the queue of subscriptions, to keep the order of a caller's requests."""
        client, key = self._client(), self._key(symbol)
        if client is not None and key in client.subscriptions:
            await client.throttle(1)
            params = {"channel": "ohlc", "symbol": [self._name_of(symbol)], "interval": self.timeframes[timeframe]}
            await client.send({"method": "unsubscribe", "params": params})
            client.subscriptions.pop(key, None)

    def is_quiet(self, symbol: str) -> bool:
        """Whether it is subscribed on a connection with recent heartbeats."""
        client = self._client()
        if client is None or not isinstance(client.subscriptions.get(self._key(symbol)), dict):
            return False
        return bool(asyncio.get_running_loop().time() - client.beat_at < self.heartbeat_timeout_s)

    def handle_message(self, client: Any, message: object) -> None:
        """Note heartbeats and other data, and the results of subscriptions; a pong is neither."""
        if not isinstance(message, dict):
            return
        subscribed = message.get("method") == "subscribe"
        if subscribed or "channel" in message:  # while there is data, Kraken sends no heartbeat
            client.beat_at = asyncio.get_running_loop().time()
        if subscribed:
            self._note(client, message)
        else:
            super().handle_message(client, message)  # type: ignore[misc]

    def handle_ohlcv(self, client: Any, message: dict[str, Any]) -> None:
        """Handle rows under ccxt's name of the symbol; a snapshot replaces all earlier rows."""
        rows = [row for row in message.get("data") or () if row.get("symbol") in self._symbols]
        if not rows:  # an empty snapshot: no recent trade
            return
        symbol = self._symbols[rows[0]["symbol"]]
        if message.get("type") == "snapshot":
            for stored in self.ohlcvs.get(symbol, {}).values():
                stored.clear()  # keep the list object: a task that an earlier row woke has yet to read it
        super().handle_ohlcv(client, {**message, "data": [{**row, "symbol": symbol} for row in rows]})  # type: ignore[misc]

    def _note(self, client: Any, message: dict[str, Any]) -> None:
        status = message.get("result") or message
        symbol = self._symbols.get(status.get("symbol", ""))
        if symbol is None:
            return
        key = self._key(symbol)
        if message.get("success"):
            client.subscriptions[key] = message
            return
        client.subscriptions.pop(key, None)
        reason = str(message.get("error"))[:200]
        client.reject(UnknownSymbol(f"{self.name} does not stream {symbol}: {reason}."), key)

    def _name_of(self, symbol: str) -> str:
        old = str(self.markets[symbol].get("wsId") or symbol)
        name = "/".join(_RENAMED.get(part, part) for part in old.split("/"))
        self._symbols[name] = symbol
        return name

    def _client(self) -> Any:
        return self.clients.get(self.urls["api"]["ws"]["publicV2"])

    @staticmethod
    def _key(symbol: str) -> str:
        """ccxt's key of a subscription."""
        return f"ohlcv@{symbol}"
