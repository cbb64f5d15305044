"""The websocket of the local Binance: kline streams that are subscribed to by frames."""

from __future__ import annotations

import orjson

from candlegraph.candle import Candle
from candlegraph.clock import MINUTE_MS
from tests.fakes.sockets import Connection, Frame, Sockets


class BinanceSockets(Sockets):
    """Speaks Binance's frames; a stream is called ``btcusdt@kline_1m``."""

    async def obey(self, line: Connection, frame: Frame) -> None:
        """SUBSCRIBE, UNSUBSCRIBE."""
        for stream in frame["params"]:
            if frame["method"] == "SUBSCRIBE":
                line.sent.setdefault(stream, None)
            else:
                line.sent.pop(stream, None)
        await line.socket.send_bytes(orjson.dumps({"result": None, "id": frame["id"]}))

    def pair_of(self, stream: str) -> str:
        """The symbol, in capitals."""
        return stream.partition("@")[0].upper()

    def frame_of(self, stream: str, candle: Candle, *, final: bool) -> Frame:
        """A kline."""
        symbol = self.pair_of(stream)
        numbers = zip("ohlcv", (candle.open, candle.high, candle.low, candle.close, candle.volume), strict=True)
        kline = {
            "t": candle.timestamp,
            "T": candle.timestamp + MINUTE_MS - 1,
            "s": symbol,
            "i": "1m",
            "f": 1,
            "L": 2,
            **{name: f"{number:.8f}" for name, number in numbers},
            "n": int(candle.volume * 3),
            "x": final,
            "q": "0.00000000",
            "V": "0.00000000",
            "Q": "0.00000000",
            "B": "0",
        }
        return {"e": "kline", "E": self._exchange.now, "s": symbol, "k": kline}
