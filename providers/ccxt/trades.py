"""Folds the forming minute from trades, for exchanges whose websocket has no 1m candles.

A minute is shown only if the stream began before it opened. Trades of the minute in which the stream began are missing, so that
minute comes from the history; the same holds after each reconnection, and for a symbol that was silent until its first trade.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from candlegraph.clock import MINUTE_MS
from candlegraph.timeframe import MINUTE
from providers.ccxt.volumes import VolumeScale

KEPT_MINUTES = 3  # more than one, because a trade may come late, and a snapshot repeats old ones

Trade = Mapping[str, object]  # in ccxt's form


@dataclass(slots=True)
class _Minute:
    """One minute: the values of its candle, and the trades that they include."""

    open: float
    high: float
    low: float
    close: float
    first_at: int
    last_at: int
    volume: float = 0.0
    trades: dict[object, Trade] = field(
        default_factory=dict
    )  # the trades are kept, so that no other one gets their `id`

    def add(self, key: object, trade: Trade, at: int, price: float, volume: float) -> None:
        """Add a trade, in any order; adding it twice changes nothing."""
        if key in self.trades:
            return
        self.trades[key] = trade
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.volume += volume
        if at < self.first_at:
            self.open, self.first_at = price, at
        if at >= self.last_at:
            self.close, self.last_at = price, at


@dataclass(slots=True)
class TradeFold:
    """Folds the trades of one symbol, from one connection, into minutes."""

    scale: VolumeScale
    whole_from: int | None = None  # the first minute that the stream has seen from its opening
    _minutes: dict[int, _Minute] = field(default_factory=dict)

    def add(self, trades: Iterable[Trade], now: int) -> list[list[float]]:
        """The rows ``[timestamp, open, high, low, close, volume]`` of the newest whole minutes; ``now`` in ms."""
        found = [(at, trade) for trade in trades if isinstance(at := trade.get("timestamp"), int)]
        if self.whole_from is None:
            self.whole_from = MINUTE.next(max([now, *(at for at, _ in found if at < now + MINUTE_MS)]))
        for at, trade in found:
            if self.whole_from <= at < now + 2 * MINUTE_MS:  # clocks may differ, but not by more
                self._add(MINUTE.floor(at), at, trade)
        for stamp in sorted(self._minutes)[:-KEPT_MINUTES]:
            del self._minutes[stamp]
            self.whole_from = max(self.whole_from, stamp + MINUTE_MS)
        return [[at, m.open, m.high, m.low, m.close, m.volume] for at, m in sorted(self._minutes.items())]

    def _add(self, stamp: int, at: int, trade: Trade) -> None:
        price, amount = trade.get("price"), trade.get("amount")
        if not isinstance(price, int | float) or price <= 0 or not isinstance(amount, int | float):
            return
        minute = self._minutes.setdefault(stamp, _Minute(price, price, price, price, at, at))
        minute.add(trade.get("id") or id(trade), trade, at, price, self.scale.of_trade(amount, price))
