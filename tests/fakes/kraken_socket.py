"""The websocket of the local Kraken, version 2: the ``ohlc`` channel, which sends a minute when it has a trade.

The shapes are those of https://docs.kraken.com/api/docs/websocket-v2/ohlc. A refusal comes without a word more, and the
heartbeat goes on.
"""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from candlegraph.candle import Candle, Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span
from tests.fakes.exchange import FakeExchange, Pair, with_fillers
from tests.fakes.sockets import Connection, Frame, Sockets

_RENAMED = {"XBT": "BTC", "XDG": "DOGE"}  # version 2 knows them by no other name
_SNAPSHOT_MS = 12 * MINUTE_MS  # what a snapshot reaches back
_TIMES = {"time_in": "2025-01-01T00:00:00.000001Z", "time_out": "2025-01-01T00:00:00.000002Z"}


class KrakenSockets(Sockets):
    """Speaks Kraken's frames; a stream is called ``BTC/USD``."""

    def __init__(self, exchange: FakeExchange, app: web.Application, *paths: str) -> None:
        """See `Sockets`."""
        super().__init__(exchange, app, *paths)
        self.beats = True  # each time that nothing has moved; Kraken's heart beats once a second
        self.fillers = False  # tell minutes without a trade, too, as the history does
        self.refusals: dict[str, str] = {}  # what a subscription to a stream is refused with

    def calm(self) -> None:
        """See `Sockets`."""
        super().calm()
        self.beats, self.fillers = True, False
        self.refusals.clear()

    async def greet(self, line: Connection) -> None:
        """The state of the system."""
        status = {"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 16174536464690282295}
        await line.send({"channel": "status", "type": "update", "data": [status]})

    async def obey(self, line: Connection, frame: Frame) -> None:
        """Ping, subscribe, unsubscribe."""
        method, asked = str(frame["method"]), {"req_id": frame["req_id"]} if "req_id" in frame else {}
        if method == "ping":
            if not self.ignores_pings:
                await line.send({"method": "pong", **asked, **_TIMES})
            return
        params = frame["params"]
        result = {"channel": params["channel"], "interval": params["interval"]}
        for stream in params["symbol"]:
            if method == "unsubscribe":
                line.sent.pop(stream, None)
                done = {"method": method, "result": {**result, "symbol": stream}, "success": True}
                await line.send({**done, **_TIMES, **asked})
            elif said := self._refusal(stream):
                await line.send(
                    {"error": said, "method": method, "success": False, "symbol": stream, **_TIMES, **asked}
                )
            else:
                warnings = ["timestamp is deprecated, use interval_begin"]
                done = {**result, "snapshot": True, "symbol": stream, "warnings": warnings}
                await line.send({"method": method, "result": done, "success": True, **_TIMES, **asked})
                await self._snapshot(line, stream)

    def pair_of(self, stream: str) -> str:
        """The pair that version 2 calls so; the stream's own name where there is none."""
        names = (name for name, pair in self._exchange.pairs.items() if _name_of(pair) == stream)
        return next(names, stream)

    def frame_of(self, stream: str, candle: Candle, *, final: bool) -> Frame:
        """An update; it does not say whether it is final."""
        return self._frame("update", [_row(stream, candle)])

    async def rest(self, line: Connection) -> None:
        """A heartbeat, where there is a subscription."""
        if self.beats and line.sent:
            await line.send({"channel": "heartbeat"})

    def moved(self, pair: Pair, last: Candle | None) -> list[tuple[Candle, bool]]:
        """Only minutes with a trade."""
        shown = Pair(pair.base, pair.quote, self._shown(pair))
        return [(candle, final) for candle, final in super().moved(shown, last) if self.fillers or candle.volume > 0]

    def _refusal(self, stream: str) -> str | None:
        unknown = None if self.pair_of(stream) in self._exchange.pairs else f"Currency pair not supported {stream}"
        return self.refusals.get(stream, unknown)

    async def _snapshot(self, line: Connection, stream: str) -> None:
        """The last minutes, those without a trade left out."""
        now, pair = self._exchange.now, self._exchange.pairs[self.pair_of(stream)]
        span = Span(now - now % MINUTE_MS - _SNAPSHOT_MS, now + 1)
        minutes = self._exchange.drawn(self._shown(pair).between(span), now)
        rows = [candle for candle in minutes if self.fillers or candle.volume > 0]
        await line.send(self._frame("snapshot", [_row(stream, candle) for candle in rows]))
        line.sent[stream] = rows[-1] if rows else None

    def _shown(self, pair: Pair) -> Candles:
        return with_fillers(pair.candles, self._exchange.now) if self.fillers else pair.candles

    def _frame(self, kind: str, rows: list[Frame]) -> Frame:
        return {"channel": "ohlc", "type": kind, "timestamp": _rfc3339(self._exchange.now), "data": rows}


def _name_of(pair: Pair) -> str:
    return "/".join(_RENAMED.get(name, name) for name in (pair.base, pair.quote))


def _row(stream: str, candle: Candle) -> Frame:
    return {
        "symbol": stream,
        "open": candle.open,
        "high": candle.high,
        "low": candle.low,
        "close": candle.close,
        "trades": int(candle.volume * 3) + 1,
        "volume": candle.volume,
        "vwap": candle.close,
        "interval_begin": _rfc3339(candle.timestamp),
        "interval": 1,
        "timestamp": _rfc3339(candle.timestamp + MINUTE_MS),
    }


def _rfc3339(at: int) -> str:
    """With the nine digits that Kraken writes."""
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"
