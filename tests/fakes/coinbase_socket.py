"""The websocket of the local Coinbase: the ``market_trades`` channel, which has trades and no candles.

The shapes are those of https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels. Each minute
of the truth is four trades: its open, high, low and close, a quarter of its volume each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from tests.fakes.exchange import FakeExchange, Pair
from tests.fakes.sockets import Connection, Frame, Sockets

_OFFSETS_MS = (5_000, 20_000, 35_000, 50_000)
_SNAPSHOT_MS = 2 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Trade:
    """A trade of the truth."""

    id: str
    at: int
    price: float
    size: float


class CoinbaseSockets(Sockets):
    """Speaks Coinbase's frames; a stream is called ``BTC-USD``."""

    def __init__(self, exchange: FakeExchange, app: web.Application, *paths: str) -> None:
        """See `Sockets`."""
        super().__init__(exchange, app, *paths)
        self._told: dict[tuple[int, str], int] = {}  # until when each line knows the trades of a stream

    async def obey(self, line: Connection, frame: Frame) -> None:
        """Subscribe with a snapshot, or unsubscribe."""
        for stream in frame["product_ids"]:
            if frame["type"] == "unsubscribe":
                line.sent.pop(stream, None)
            else:
                line.sent[stream] = None
                now = self._exchange.now
                self._told[id(line), stream] = now
                recent = self.trades(self._exchange.pairs[self.pair_of(stream)], now - _SNAPSHOT_MS, now)
                await line.send(self._frame("snapshot", stream, recent))
        await line.send(self._event("subscriptions", [{"subscriptions": {"market_trades": list(line.sent)}}]))

    def pair_of(self, stream: str) -> str:
        """The pair of a product."""
        return stream.replace("-", "")

    @staticmethod
    def trades(pair: Pair, since: int, until: int) -> list[Trade]:
        """The trades after ``since``, up to ``until``, oldest first."""
        found = []
        for candle in pair.candles.between(Span(since - MINUTE_MS, until + 1)):
            prices = candle.open, candle.high, candle.low, candle.close
            for offset, price in zip(_OFFSETS_MS, prices, strict=True):
                if since < (at := candle.timestamp + offset) <= until:
                    found.append(Trade(str(at), at, price, candle.volume / 4))
        return found

    async def _send_stream(self, line: Connection, stream: str) -> bool:
        name, now = self.pair_of(stream), self._exchange.now
        if self.stalled is None or name in self.stalled or (id(line), stream) not in self._told:
            return False
        new = self.trades(self._exchange.pairs[name], self._told[id(line), stream], now)
        self._told[id(line), stream] = now
        if self.backwards:
            new = new[::-1]
        # One frame a trade where order matters, else all of them in one, newest first, as Coinbase does.
        frames = [[trade] for trade in new] if self.backwards or self.twice else [new] * bool(new)
        for trades in frames * (2 if self.twice else 1):
            await line.send(self._frame("update", stream, trades))
        return bool(new)

    def _frame(self, kind: str, stream: str, trades: list[Trade]) -> Frame:
        shown = [
            {
                "trade_id": trade.id,
                "product_id": stream,
                "price": str(trade.price),
                "size": str(trade.size),
                "side": "BUY",
                "time": _rfc3339(trade.at),
            }
            for trade in reversed(trades)
        ]
        return self._event("market_trades", [{"type": kind, "trades": shown}])

    def _event(self, channel: str, events: list[Frame]) -> Frame:
        time = _rfc3339(self._exchange.now)
        return {"channel": channel, "client_id": "", "timestamp": time, "sequence_num": 0, "events": events}


def _rfc3339(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
