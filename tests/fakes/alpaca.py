"""A local server that speaks Alpaca's wire format, REST and stream, for one account; see `FakeExchange` for faults.

A minute is there once it has ended, without some of its volume for 30 s more. The stream says nothing by itself: a
test lets it speak with ``tick`` and ``correct``, and cuts it.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import orjson
from aiohttp import WSMsgType, web

from candlegraph.candle import Candles, concat
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.resample import fold
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import zone
from tests.fakes.exchange import FakeExchange, Fault, Pair, random_candles
from tests.waiting import HANG_S

KEY, SECRET = "PKCANARYKEYCANARYKEY", "canary-secret-of-alpaca"  # what no message may show
NEW_YORK = ZoneInfo("America/New_York")
LATE_MS = 30_000  # how long after its end a bar lacks the trades that were reported late

_TIMEFRAMES = {"1Min": "1m", "5Min": "5m", "15Min": "15m", "30Min": "30m", "1Hour": "1h", "1Day": "1d"}
Bar = dict[str, object]


def new_york(text: str) -> int:
    """The instant (ms, UTC) of a local time such as ``2024-03-08 09:30``."""
    return round(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000)


def trading_days(first: str, count: int) -> list[date]:
    """So many weekdays."""
    days = (date.fromisoformat(first) + timedelta(days=n) for n in range(count * 2 + 7))
    return [day for day in days if day.weekday() < 5][:count]


def session_candles(first: str, days: int, *, minutes: int = 390, opens: str = "09:30", keep: float = 0.97) -> Candles:
    """The first ``minutes`` of so many sessions; some of them without a trade."""
    return concat(
        [
            random_candles(new_york(f"{day} {opens}"), minutes, seed=n + 1, keep=keep)
            for n, day in enumerate(trading_days(first, days))
        ]
    )


class FakeAlpaca(FakeExchange):
    """All of Alpaca's hosts in one. IEX has a tenth of SIP's volume, prices adjusted for splits are half of the raw."""

    def __init__(self) -> None:
        """Lay the routes; see `FakeExchange`."""
        super().__init__()
        self.free_plan = True
        self.page_rows: int | None = None  # fewer rows a page than asked for
        self.empty_pages = 0  # so many pages without a bar come first
        self.holidays: set[str] = set()
        self.early_closes: set[str] = set()
        self.auction_volume = 0.0  # what its own days have and its minutes have not
        self.stream = _Stream(self)
        get = self._app.router.add_get
        get("/v2/stocks/bars", self._bars)
        get("/v2/assets", self._assets)
        get("/v2/calendar", self._calendar)
        get("/v2/clock", self._clock)
        get("/v2/{feed:iex|sip}", self.stream.serve)

    def environ(self, **more: str) -> dict[str, str]:
        """The settings that point the provider here."""
        return {
            "ALPACA_API_KEY": KEY,
            "ALPACA_API_SECRET": SECRET,
            "ALPACA_DATA_URL": self.url,
            "ALPACA_TRADING_URL": self.url,
            "ALPACA_STREAM_URL": self.url.replace("http", "ws"),
            **more,
        }

    def lists(self, symbol: str, candles: Candles, *, trading: bool = True) -> None:
        """List a symbol whose SIP minutes are these."""
        self.pairs[symbol] = Pair(symbol, "USD", candles, trading)

    def truth(self, symbol: str, feed: str = "iex", adjustment: str = "raw") -> Candles:
        """The final minutes of a symbol."""
        rows = self.pairs[symbol].candles
        if feed == "iex":
            rows = replace(rows, volume=np.round(rows.volume / 10, 4))
        if adjustment == "split":
            rows = replace(rows, open=rows.open / 2, high=rows.high / 2, low=rows.low / 2, close=rows.close / 2)
        return rows

    def minutes(self, symbol: str, feed: str = "iex", adjustment: str = "raw") -> Candles:
        """The minutes as they are known now."""
        rows = self.truth(symbol, feed, adjustment)
        rows = rows[rows.timestamp + MINUTE_MS <= self.now]
        early = rows.timestamp + MINUTE_MS + LATE_MS > self.now
        return replace(rows, volume=np.where(early, np.round(rows.volume / 2, 4), rows.volume))

    def _regular(self, rows: Candles) -> Candles:
        """The minutes of regular sessions, of which alone its days are made."""
        local = zone("America/New_York").local(rows.timestamp)
        days, times = np.unique(local // DAY_MS), local % DAY_MS
        names = {int(day): str(day.astype("datetime64[D]")) for day in days}
        closes = np.array([13 if names[day] in self.early_closes else 16 for day in (local // DAY_MS).tolist()])
        return rows[(times >= 9.5 * HOUR_MS) & (times < closes * HOUR_MS)]

    def _authorised(self, request: web.Request) -> bool:
        headers = request.headers
        return (headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")) == (KEY, SECRET)

    async def _bars(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if not self._authorised(request):
            return await self.answer(request, {"message": "forbidden."}, status=403)
        end = _instant(query["end"]) if "end" in query else self.now
        if self.free_plan and query["feed"] == "sip" and end > self.now - 15 * MINUTE_MS:
            refusal = {"message": "subscription does not permit querying recent SIP data"}
            return await self.answer(request, refusal, status=403)
        if not query["symbols"].replace(".", "").isalnum():
            return await self.answer(request, {"message": f"invalid symbol: {query['symbols']}"}, status=400)
        fault = self.next_fault("candles")
        return await self.answer(request, self._page(dict(query), end, fault), fault=fault)

    def _page(self, query: dict[str, str], end: int, fault: Fault) -> object:
        symbol, token = query["symbols"], query.get("page_token")
        if symbol not in self.pairs or fault.empty:
            return {"bars": {}, "next_page_token": None}
        timeframe = Timeframe.parse(_TIMEFRAMES[query["timeframe"]])
        rows = self.minutes(symbol, query["feed"], query["adjustment"])
        if timeframe.days:
            rows = self._regular(rows)
        rows = fold(rows, timeframe, zone("America/New_York"))
        if timeframe.days:
            rows = replace(rows, volume=rows.volume + self.auction_volume)
        since = _instant(query["start"])
        if token:
            since = int(base64.b64decode(token).decode().split("|")[2])
        if self.empty_pages:
            self.empty_pages -= 1
            return {"bars": {}, "next_page_token": _token(symbol, since)}
        rows = rows.between(Span(since, end + 1))
        most = min(int(query["limit"]), self.page_rows or 10_000)
        more = int(rows.timestamp[most]) if len(rows) > most else None
        bars = _wire(rows[:most])
        if fault.duplicate:
            bars = [bar for bar in bars for _ in range(2)]
        return {"bars": {symbol: bars} if bars else {}, "next_page_token": more and _token(symbol, more)}

    async def _assets(self, request: web.Request) -> web.StreamResponse:
        if not self._authorised(request):
            return await self.answer(request, {"message": "unauthorized."}, status=401)
        assets = [
            {
                "id": f"904837e3-3b76-47ec-b432-{number:012}",
                "class": "us_equity",
                "exchange": "NASDAQ",
                "symbol": symbol,
                "name": f"{symbol} Inc. Common Stock",
                "status": "active" if pair.trading else "inactive",
                "tradable": pair.trading,
                "attributes": [],
            }
            for number, (symbol, pair) in enumerate(self.pairs.items())
        ]
        return await self.answer(request, assets, path="assets")

    async def _calendar(self, request: web.Request) -> web.StreamResponse:
        first, last = (date.fromisoformat(request.query[name]) for name in ("start", "end"))
        days = (first + timedelta(days=n) for n in range((last - first).days + 1))
        sessions = [
            {
                "date": str(day),
                "open": "09:30",
                "close": "13:00" if str(day) in self.early_closes else "16:00",
                "session_open": "0400",
                "session_close": "1700" if str(day) in self.early_closes else "2000",
            }
            for day in days
            if day.weekday() < 5 and str(day) not in self.holidays
        ]
        return await self.answer(request, sessions, path="calendar")

    async def _clock(self, request: web.Request) -> web.StreamResponse:
        at = datetime.fromtimestamp(self.now / 1000, NEW_YORK).isoformat(
            timespec="milliseconds"
        )  # has nanoseconds there
        return await self.answer(request, {"timestamp": f"{at[:23]}123456{at[23:]}", "is_open": True})


class _Stream:
    """The stream of every feed: one connection each, 30 symbols on the free plan."""

    def __init__(self, exchange: FakeAlpaca) -> None:
        self._exchange = exchange
        self.symbol_limit = 30
        self.occupied = 0  # so many sign-ins find that another connection is open
        self.refusal: int | None = None  # the error that answers a sign-in
        self.no_answer = False  # subscriptions are not answered
        self.deaf = False  # nothing is answered any more, no ping either
        self.sockets: dict[web.WebSocketResponse, tuple[web.Request, str, set[str]]] = {}
        self.counts: Counter[str] = Counter()  # of connections, and of actions
        self.most_at_once = 0
        self.farewell_s = 0.2  # how long a client may take to answer that it is closed
        self._changed = asyncio.Condition()

    def subscribed(self) -> set[str]:
        """What is subscribed to over all connections."""
        return {symbol for _, _, symbols in self.sockets.values() for symbol in symbols}

    async def until(self, symbols: set[str]) -> None:
        """Wait until exactly these are subscribed to, over one connection."""
        async with asyncio.timeout(HANG_S), self._changed:
            await self._changed.wait_for(lambda: len(self.sockets) == bool(symbols) and self.subscribed() == symbols)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection."""
        self.counts["connections"] += 1
        ws = web.WebSocketResponse(autoping=False, timeout=self.farewell_s)
        await ws.prepare(request)
        async with self._changed:
            self.sockets[ws] = (request, request.match_info["feed"], set())
            self.most_at_once = max(self.most_at_once, len(self.sockets))
        try:
            await ws.send_json([{"T": "success", "msg": "connected"}])
            signed_in = False
            async for message in ws:
                if self.deaf:
                    await asyncio.sleep(3600)
                if message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                if message.type is WSMsgType.TEXT:
                    said = orjson.loads(message.data)
                    self.counts[said["action"]] += 1
                    if said["action"] == "auth":
                        answer = self._sign_in(said)
                        signed_in = answer["T"] == "success"
                    else:
                        answer = self._subscribe(ws, said) if signed_in else _error(401)
                    if not (self.no_answer and said["action"] != "auth"):
                        await ws.send_json([answer])
                    async with self._changed:
                        self._changed.notify_all()
                    if answer.get("code") in {402, 406, 409}:
                        break
        finally:
            async with self._changed:
                self.sockets.pop(ws, None)
                self._changed.notify_all()
        return ws

    def _sign_in(self, said: dict[str, str]) -> Bar:
        if self.occupied:
            self.occupied -= 1
            return _error(406)
        if (said.get("key"), said.get("secret")) != (KEY, SECRET):
            return _error(402)
        if self.refusal:
            return _error(self.refusal)
        return {"T": "success", "msg": "authenticated"}

    def _subscribe(self, ws: web.WebSocketResponse, said: dict[str, list[str]]) -> Bar:
        symbols = self.sockets[ws][2]
        assert said["bars"] == said["updatedBars"]
        if said["action"] == "subscribe":
            if len(symbols | set(said["bars"])) > self.symbol_limit:
                return _error(405)
            symbols.update(said["bars"])
        else:
            symbols.difference_update(said["bars"])
        lists = {"bars": sorted(symbols), "updatedBars": sorted(symbols)}
        return {"T": "subscription", "trades": [], "quotes": [], **lists, "dailyBars": [], "statuses": []}

    async def tick(self) -> None:
        """Tell the newest minute of everything that is followed."""
        await self._send_bars("b")

    async def correct(self) -> None:
        """Tell it again, as it is known now."""
        await self._send_bars("u")

    async def _send_bars(self, kind: str) -> None:
        for ws, (_, feed, symbols) in list(self.sockets.items()):
            newest = MINUTE.floor(self._exchange.now) - MINUTE_MS
            bars = [
                {"T": kind, "S": symbol, **bar}
                for symbol in sorted(symbols)
                for bar in _wire(self._exchange.minutes(symbol, feed).between(Span(newest, newest + 1)))
            ]
            if bars:
                await ws.send_json(bars)

    async def say(self, payload: object) -> None:
        """Send any message to all connections."""
        for ws in list(self.sockets):
            await (ws.send_str(payload) if isinstance(payload, str) else ws.send_json(payload))

    async def close(self) -> None:
        """Close every connection in good order."""
        for ws in list(self.sockets):
            await ws.close(code=1001)

    def abort(self) -> None:
        """Cut every connection."""
        for request, _, _ in list(self.sockets.values()):
            if request.transport:
                request.transport.abort()


def _error(code: int) -> Bar:
    return {"T": "error", "code": code, "msg": f"error {code}"}


def _token(symbol: str, stamp: int) -> str:
    return base64.b64encode(f"{symbol}|M|{stamp}".encode()).decode()


def _instant(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _wire(candles: Candles) -> list[Bar]:
    return [
        {
            "t": datetime.fromtimestamp(c.timestamp / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "o": c.open, "h": c.high, "l": c.low, "c": c.close, "v": c.volume, "n": 7, "vw": c.close,
        }
        for c in candles
    ]  # fmt: skip
