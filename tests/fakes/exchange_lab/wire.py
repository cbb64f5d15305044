"""The wire formats of exchanges, as ccxt's ``parse_ohlcv`` reads them: where a window stands and how rows are written.

Where an exchange's documents were at hand they are named in ``source``; the rest is taken from ccxt's code alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.fakes.exchange_lab.paging import Edge, Paging, Window

DAY_MS = 86_400_000
OPEN, HIGH, LOW, CLOSE = 10.0, 12.0, 9.0, 11.0


def volume(at: int) -> float:
    """The volume of a row: another one for each of its neighbours."""
    return 1.0 + at // 60_000 % 89


def iso(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True, slots=True)
class Wire:
    """One exchange: the names of start, end and count, their unit, a row and the body around the rows."""

    row: Callable[[int], Any]
    body: Callable[[list[Any]], Any]
    start: str = ""
    end: str = ""
    count: str = ""
    unit: str = "ms"
    paging: Paging = field(default_factory=Paging)
    symbol: str = "AAA/USDT"
    source: str = "ccxt"
    offset: str = ""
    step: int = 1  # of count and offset, which are rounded up to a multiple

    def window(self, url: str, sent: str) -> Window:
        """What a request asks for."""
        values = dict(parse_qsl(urlsplit(url).query))
        values |= _leaves(json.loads(sent)) if sent else {}
        if self.unit == "day":
            day = re.search(r"/(\d{8})$", urlsplit(url).path)
            since = round(datetime.strptime(day[1], "%Y%m%d").replace(tzinfo=UTC).timestamp() * 1000) if day else 0
            return Window(since, since + DAY_MS, None)
        start, end = (self._instant(values.get(name)) for name in (self.start, self.end))
        count, offset = (-(-int(values.get(name) or 0) // self.step) * self.step for name in (self.count, self.offset))
        return Window(start, end, count or None, offset)

    def _instant(self, text: str | None) -> int | None:
        if text is None:
            return None
        if self.unit == "iso":
            return round(datetime.fromisoformat(text).timestamp() * 1000)
        return int(text) * (1000 if self.unit == "s" else 1)


def _leaves(payload: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in payload.items():
        found |= _leaves(value) if isinstance(value, Mapping) else {name: str(value)}
    return found


def _plain(at: int) -> list[Any]:
    return [at, str(OPEN), str(HIGH), str(LOW), str(CLOSE), str(volume(at)), at + 59_999, "1", 1, "1", "1", "0"]


def _seconds(at: int) -> list[Any]:
    return [at // 1000, *_plain(at)[1:6], "1"]


def _open_close(at: int) -> list[Any]:
    """Seconds, open, close, high, low, volume."""
    return [at // 1000, str(OPEN), str(CLOSE), str(HIGH), str(LOW), str(volume(at)), "1", "AAA_USDT"]


def _named(at: int, names: str, stamp: Any) -> dict[str, Any]:
    """Open, high, low, close, volume and the opening by these names."""
    values = (OPEN, HIGH, LOW, CLOSE, volume(at))
    return {**dict(zip(names.split(), map(str, (*values,)), strict=False)), names.split()[5]: stamp}


def _bitfinex(at: int) -> list[Any]:
    return [at, OPEN, CLOSE, HIGH, LOW, volume(at)]


def _gate(at: int) -> list[Any]:
    return [str(at // 1000), "1", *map(str, (CLOSE, HIGH, LOW, OPEN, volume(at))), "true"]


def _kraken(at: int) -> list[Any]:
    return [at // 1000, *_plain(at)[1:5], "10", str(volume(at)), 3]


def _htx(at: int) -> dict[str, Any]:
    return {
        "id": at // 1000,
        "open": OPEN,
        "close": CLOSE,
        "low": LOW,
        "high": HIGH,
        "amount": volume(at),
        "vol": 1,
        "count": 1,
    }


def _upbit(at: int) -> dict[str, Any]:
    names = "opening_price high_price low_price trade_price candle_acc_trade_volume timestamp"
    return {**_named(at, names, at), "market": "x", "candle_date_time_utc": iso(at)[:19]}


def _bitbank(at: int) -> list[Any]:
    return [*_plain(at)[1:6], at]


def _hitbtc(at: int) -> dict[str, Any]:
    return _named(at, "open max min close volume timestamp", iso(at))


def _deribit(rows: list[int]) -> Any:
    columns = {"open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE}
    columns_sent: dict[str, Any] = {name: [value] * len(rows) for name, value in columns.items()}
    return {"result": {**columns_sent, "ticks": rows, "volume": [volume(at) for at in rows], "status": "ok"}}


def _phemex(at: int) -> list[Any]:
    scaled = [int(value * 10**8) for value in (OPEN, OPEN, HIGH, LOW, CLOSE, volume(at))]
    return [at // 1000, 60, *scaled, 1]


_NEWEST_FIRST = Paging(keeps_newest=True, descending=True)
_INCLUSIVE = Paging(end=Edge.INCLUSIVE)
_BINANCE = Wire(_plain, lambda rows: rows, "startTime", "endTime", "limit", paging=_INCLUSIVE)
_UPBIT = Wire(
    _upbit,
    lambda rows: rows,
    "",
    "to",
    "count",
    "iso",
    Paging(descending=True, cap=200),
    source="https://docs.upbit.com",
)


def _data(**around: Any) -> Callable[[list[Any]], Any]:
    return lambda rows: {**around, "data": rows}


NOT_BIG = frozenset({"extended", "p2b", "weex", "bitbank"})  # carriers of a kind of paging alone

WIRES: Mapping[str, Wire] = {
    "binance": _BINANCE,
    "tokocrypto": _BINANCE,
    "coinbase": Wire(
        lambda at: _named(at, "open high low close volume start", str(at // 1000)),
        lambda rows: {"candles": rows},
        "start",
        "end",
        "",
        "s",
        Paging(end=Edge.INCLUSIVE, keeps_newest=True, descending=True, cap=350),
        source="docs.cdp.coinbase.com",
    ),
    "kraken": Wire(
        _kraken,
        lambda rows: {"error": [], "result": {"AAAUSDT": rows, "last": 1}},
        "since",
        unit="s",
        paging=Paging(start=Edge.EXCLUSIVE, keeps_newest=True, kept=720),
        source="docs.kraken.com",
    ),
    "okx": Wire(
        _plain,
        _data(code="0", msg=""),
        "before",
        "after",
        "limit",
        paging=Paging(Edge.EXCLUSIVE, Edge.EXCLUSIVE, keeps_newest=True, descending=True, cap=300),
        source="ccxt #21036, #20756, #21040",
    ),
    "bybit": Wire(
        _plain,
        lambda rows: {"retCode": 0, "result": {"category": "spot", "symbol": "AAAUSDT", "list": rows}},
        "start",
        "end",
        "limit",
        paging=Paging(end=Edge.INCLUSIVE, keeps_newest=True, descending=True, cap=1000),
    ),
    "bitget": Wire(
        _plain,
        _data(code="00000"),
        "startTime",
        "endTime",
        "limit",
        paging=Paging(keeps_newest=True, cap=1000),
        source="ccxt #20587",
    ),
    "gate": Wire(_gate, lambda rows: rows, "from", "to", "", "s", _INCLUSIVE, source="gate.io/docs"),
    "kucoin": Wire(
        _open_close,
        _data(code="200000"),
        "startAt",
        "endAt",
        "",
        "s",
        Paging(keeps_newest=True, descending=True, cap=1500),
    ),
    "mexc": Wire(
        _plain, lambda rows: rows, "startTime", "endTime", "limit", paging=Paging(cap=500), source="ccxt #21069"
    ),
    "htx": Wire(_htx, _data(status="ok"), "from", "to", "size", "s", _INCLUSIVE, source="huobi API_Docs_en #8"),
    "cryptocom": Wire(
        lambda at: _named(at, "o h l c v t", at),
        lambda rows: {"code": 0, "result": {"data": rows}},
        "start_ts",
        "end_ts",
        "count",
        paging=Paging(keeps_newest=True, cap=300),
    ),
    "bingx": Wire(
        lambda at: _plain(at)[:8],
        _data(code=0),
        "startTime",
        "endTime",
        "limit",
        paging=Paging(keeps_newest=True, descending=True, cap=1440),
    ),
    "bitfinex": Wire(
        _bitfinex,
        lambda rows: rows,
        "start",
        "end",
        "limit",
        paging=_INCLUSIVE,
        source="docs.bitfinex.com, ccxt #22562",
    ),
    "bitstamp": Wire(
        lambda at: _named(at, "open high low close volume timestamp", str(at // 1000)),
        lambda rows: {"data": {"pair": "AAA/USDT", "ohlc": rows}},
        "start",
        "end",
        "limit",
        "s",
        Paging(end=Edge.INCLUSIVE, cap=1000),
        source="ccxt #20222",
    ),
    "upbit": _UPBIT,
    "bithumb": _UPBIT,
    "hyperliquid": Wire(
        lambda at: _named(at, "o h l c v t", at),
        lambda rows: rows,
        "startTime",
        "endTime",
        paging=Paging(end=Edge.INCLUSIVE, kept=5000),
        source="ccxt #23243, #23614",
        symbol="AAA/USDC:USDC",
    ),
    "deribit": Wire(
        lambda at: at, _deribit, "start_timestamp", "end_timestamp", paging=Paging(end=Edge.INCLUSIVE, cap=5000)
    ),
    "phemex": Wire(
        _phemex,
        lambda rows: {"code": 0, "data": {"total": -1, "rows": rows}},
        count="limit",
        unit="s",
        paging=Paging(keeps_newest=True, descending=True, cap=1000),
        source="ccxt #18044",
    ),
    "gemini": Wire(lambda at: _plain(at)[:6], lambda rows: rows, paging=Paging(descending=True, kept=1441)),
    "whitebit": Wire(_open_close, lambda rows: {"success": True, "result": rows}, "start", "", "limit", "s"),
    "lbank": Wire(_seconds, _data(result="true", error_code=0), "time", "", "size", "s"),
    "xt": Wire(
        lambda at: _named(at, "o h l c q t", at),
        lambda rows: {"rc": 0, "result": rows},
        "startTime",
        "endTime",
        "limit",
        paging=Paging(end=Edge.INCLUSIVE, cap=1000),
        source="doc.xt.com",
    ),
    "bitvavo": Wire(
        lambda at: _plain(at)[:6],
        lambda rows: rows,
        "start",
        "end",
        "limit",
        paging=Paging(end=Edge.INCLUSIVE, keeps_newest=True, descending=True, cap=1440),
        source="bitvavo api #19, #28: the end is assumed inclusive",
    ),
    "hitbtc": Wire(
        _hitbtc,
        lambda rows: rows,
        "from",
        "till",
        "limit",
        "iso",
        Paging(end=Edge.INCLUSIVE, keeps_newest=True, descending=True),
        source="api.hitbtc.com",
    ),
    "dydx": Wire(
        lambda at: _named(at, "open high low close baseTokenVolume startedAt", iso(at)),
        lambda rows: {"candles": rows},
        "fromIso",
        "toIso",
        "limit",
        "iso",
        Paging(keeps_newest=True, descending=True, cap=1000),
        symbol="AAA/USD:USD",
        source="dydx v4-chain #3059, pdr-backend #879",
    ),
    # Not among the biggest: they carry kinds of paging that no other sends.
    "extended": Wire(
        lambda at: _named(at, "o h l c v T", at),
        lambda rows: {"status": "OK", "data": rows},
        "",
        "endTime",
        "limit",
        symbol="AAA/USD:USD",
        paging=_NEWEST_FIRST,
    ),
    "p2b": Wire(
        _open_close,
        lambda rows: {"success": True, "result": rows},
        count="limit",
        offset="offset",
        step=50,
        unit="s",
        paging=Paging(keeps_newest=True, cap=500),
        source="https://github.com/P2B-team/p2b-api-docs",
    ),
    "weex": Wire(
        _plain,
        lambda rows: rows,
        "startTime",
        "endTime",
        "limit",
        paging=Paging(keeps_newest=True, cap=1000),
        symbol="AAA/USDT:USDT",
    ),
    "bitbank": Wire(
        _bitbank,
        lambda rows: {"success": 1, "data": {"candlestick": [{"type": "1min", "ohlcv": rows}], "timestamp": 1}},
        unit="day",
        paging=Paging(),
        source="bitbank's documents: a UTC day a call",
    ),
}


def written(wire: Wire, stamps: Sequence[int]) -> Any:
    """The body of an answer."""
    return wire.body([wire.row(at) for at in stamps])
