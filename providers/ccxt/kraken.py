"""What ccxt's class for Kraken leaves out of its websocket: Kraken's own names, refusals, heartbeats, unsubscribing.

As in https://docs.kraken.com/api/docs/websocket-v2/ohlc. Kraken sends a minute when it trades, so that silence means
nothing by itself: a heartbeat each second shows a live connection, an acknowledgement a subscribed symbol. A refused
subscriber gets one error, and the heartbeat ever after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from candlegraph.errors import UnknownSymbol

_RENAMED = {"XBT": "BTC", "XDG": "DOGE"}  # the socket takes no other name, the market list has the old ones


class KrakenSocket:
    """Put in front of ccxt's class."""

    heartbeat_timeout_s = 10.0  # a line that sent no heartbeat for so long is dead

    name: str
    has: Mapping[str, object]
    urls: Mapping[str, Any]
    timeframes: Mapping[str, object]
    markets: Mapping[str, Mapping[str, object]]
    clients: Mapping[str, Any]
    ohlcvs: dict[str, dict[str, Any]]

    def __init__(self, config: object) -> None:
        """As ccxt's."""
        super().__init__(config)  # type: ignore[call-arg]
        self.has = {**self.has, "unWatchOHLCV": True}
        self._symbols: dict[str, str] = {}  # ccxt's by Kraken's

    def watch(self, url: str, key: str, request: Any = None, *rest: object) -> object:
        """Subscribe by the name that Kraken has for a symbol: its LUNA is ccxt's LUNC."""
        if request and "symbol" in request.get("params", ()):
            names = [self._name_of(symbol) for symbol in request["params"]["symbol"]]
            request = {**request, "params": {**request["params"], "symbol": names}}
        return super().watch(url, key, request, *rest)  # type: ignore[misc]

    async def un_watch_ohlcv(self, symbol: str, timeframe: str) -> None:
        """Unsubscribe; ccxt cannot. In the queue of subscriptions, because a caller must not overtake its own request."""
        client, key = self._client(), self._key(symbol)
        if client is not None and key in client.subscriptions:
            await client.throttle(1)
            params = {"channel": "ohlc", "symbol": [self._name_of(symbol)], "interval": self.timeframes[timeframe]}
            await client.send({"method": "unsubscribe", "params": params})
            client.subscriptions.pop(key, None)

    def is_quiet(self, symbol: str) -> bool:
        """Whether it is on a line whose heart beats."""
        client = self._client()
        if client is None or not isinstance(client.subscriptions.get(self._key(symbol)), dict):
            return False
        return bool(asyncio.get_running_loop().time() - client.beat_at < self.heartbeat_timeout_s)

    def handle_message(self, client: Any, message: object) -> None:
        """Note signs of life and the results of subscriptions; a pong is neither."""
        if not isinstance(message, dict):
            return
        subscribed = message.get("method") == "subscribe"
        if subscribed or "channel" in message:  # where something moves there is no heartbeat
            client.beat_at = asyncio.get_running_loop().time()
        if subscribed:
            self._note(client, message)
        else:
            super().handle_message(client, message)  # type: ignore[misc]

    def handle_ohlcv(self, client: Any, message: dict[str, Any]) -> None:
        """Take rows in under ccxt's name; a snapshot in the place of whatever came before it."""
        rows = [row for row in message.get("data") or () if row.get("symbol") in self._symbols]
        if not rows:  # an empty snapshot: there was no recent trade
            return
        symbol = self._symbols[rows[0]["symbol"]]
        if message.get("type") == "snapshot":
            for stored in self.ohlcvs.get(symbol, {}).values():
                stored.clear()  # the same list: a task that an earlier row woke has yet to read it
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
        said = str(message.get("error"))[:200]
        client.reject(UnknownSymbol(f"{self.name} does not stream {symbol}: {said}."), key)

    def _name_of(self, symbol: str) -> str:
        old = str(self.markets[symbol].get("wsId") or symbol)
        name = "/".join(_RENAMED.get(part, part) for part in old.split("/"))
        self._symbols[name] = symbol
        return name

    def _client(self) -> Any:
        return self.clients.get(self.urls["api"]["ws"]["publicV2"])

    @staticmethod
    def _key(symbol: str) -> str:
        """What ccxt knows a subscription by."""
        return f"ohlcv@{symbol}"
