"""US stocks from Alpaca: one provider for each feed and adjustment, because each has candles of its own.

IEX has about three percent of all trades and SIP has all, and an adjusted price is not a traded one. Candles of two feeds must
never mix, so feed and adjustment are part of the provider's id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.errors import ConfigurationError, ProviderUnavailable, Unsupported
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Market, Page, Provider, UnconfiguredProvider
from candlegraph.series import Instrument, SymbolKind
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import zone
from providers.alpaca.rest import AlpacaAccount, RecentRefused, RestClient, candles_of, json_of, objects_of, unreadable
from providers.alpaca.streaming import BarStream
from providers.alpaca.timings import AlpacaTimings

DEFAULT_FEEDS = "iex"
DATA_URL = "https://data.alpaca.markets"
TRADING_URL = "https://paper-api.alpaca.markets"
STREAM_URL = "wss://stream.data.alpaca.markets"

MARKET = Market("stocks", "Stocks", "American stocks and funds.", "America/New_York")
DELAY_MS = 16 * MINUTE_MS  # the free plan delays SIP by 15 minutes; one more because clocks differ

_FEEDS = {"iex": LiveMode.STREAM, "sip": LiveMode.STREAM, "otc": LiveMode.POLL}
_ADJUSTMENTS = {
    "raw": "",
    "split": "adjusted for splits",
    "dividend": "adjusted for dividends",
    "spin-off": "adjusted for spin-offs",
    "all": "adjusted for splits, dividends and spin-offs",
}
# The timeframes whose buckets are sure to open where ours do; longer ones are folded from days, 10,000 per call.
_NATIVE = {
    Timeframe.parse(ours): theirs
    for ours, theirs in (
        ("1m", "1Min"), ("5m", "5Min"), ("15m", "15Min"), ("30m", "30Min"), ("1h", "1Hour"), ("1d", "1Day"),
    )
}  # fmt: skip
_MAX_ROWS = 10_000
_CALLS_A_MINUTE = 200  # of the free plan; all providers of the account share them
_SETTLE_MS = 45_000  # late trades are reported within 10 s, and corrected bars come 30 s after the minute
_ASSETS_DEADLINE_S = 60.0
_MAX_EMPTY_PAGES = 5
_VERSION = "1"


class Alpaca:
    """The provider of one feed at one adjustment."""

    api_version = 1
    market = MARKET
    version = _VERSION

    def __init__(
        self, account: AlpacaAccount, stream: BarStream, feed: str, adjustment: str, *, sharers: int = 1
    ) -> None:
        """Open nothing yet. ``stream`` is that of the feed; ``sharers`` is the number of providers that use the account."""
        self.id, self.name, self.description = identity(feed, adjustment)
        self.capabilities = Capabilities(
            tuple(_NATIVE),
            _FEEDS[feed],
            max_rows_per_call=_MAX_ROWS,
            settle_ms=_SETTLE_MS,
            corrects_within_ms=DAY_MS,
            regular_days=True,
            budget=Budget(_CALLS_A_MINUTE / sharers, 60, credential=account.key),
        )
        self._question = {"feed": feed, "adjustment": adjustment, "sort": "asc"}
        self._account = account
        self._stream = stream
        self._rest = RestClient(account)

    def __repr__(self) -> str:
        """Print no key."""
        return f"<Alpaca {self.id}>"

    async def start(self) -> None:
        """Create the HTTP session; send no request yet."""
        await self._rest.start()

    async def close(self) -> None:
        """Close the connections, including the stream."""
        await self._stream.close()
        await self._rest.close()

    async def listings(self) -> Sequence[Listing]:
        """Every US equity that Alpaca lists, active or not."""
        url = f"{self._account.trading_url}/v2/assets"
        body = await self._rest.get(url, {"asset_class": "us_equity"}, _ASSETS_DEADLINE_S)
        return await asyncio.to_thread(_listings, body)

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Make one call; see `Provider.fetch`. If Alpaca refuses only recent candles, fetch the older part again."""
        if timeframe not in _NATIVE:
            raise Unsupported(f"Alpaca's candles of {timeframe} are not used: fold them from shorter ones.")
        delay = self.capabilities.delay_ms
        now = clock.now_ms() - delay
        asked = Span(span.since, min(span.until, now)) if delay else span
        if not asked:
            return Page(Candles.empty(), span.since, span.since)
        final = timeframe.floor(now, zone(MARKET.timezone))
        try:
            candles, more = await self._bars(instrument.symbol, timeframe, asked)
        except RecentRefused:
            if delay:
                raise
            self.capabilities = replace(self.capabilities, delay_ms=DELAY_MS)
            return await self.fetch(instrument, timeframe, span)
        reached = timeframe.next(int(candles.timestamp[-1]), zone(MARKET.timezone)) if more else span.until
        if more and reached <= span.since:
            raise unreadable()
        return Page(candles.between(span), span.since, min(reached, span.until, final))

    async def _bars(self, symbol: str, timeframe: Timeframe, span: Span, rows: int = _MAX_ROWS) -> tuple[Candles, bool]:
        """The oldest bars of ``span``, and whether there are more; only the page token shows that, not the number of bars."""
        question = {
            **self._question,
            "symbols": symbol,
            "timeframe": _NATIVE[timeframe],
            "start": _rfc3339(span.since),
            "end": _rfc3339(span.until - 1),  # Alpaca's end is inclusive
            "limit": str(rows),
        }
        for _ in range(_MAX_EMPTY_PAGES):
            body = await self._rest.get(
                f"{self._account.data_url}/v2/stocks/bars", question, self.capabilities.deadline_s
            )
            candles, token = await asyncio.to_thread(_page, body, symbol)
            if len(candles) or token is None:
                return candles, token is not None
            question["page_token"] = token  # the page had no bar whose time could be the next start
        raise ProviderUnavailable("Alpaca sent one empty page after the other.")

    def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        """Yield minutes as they end; a corrected minute comes again. Present prices are the same with every adjustment."""
        return self._stream.follow(instrument.symbol)

    async def first_available(self, instrument: Instrument) -> int | None:
        """The opening of its first minute (ms, UTC)."""
        ever = Span(0, clock.now_ms() - DELAY_MS)
        candles, _ = await self._bars(instrument.symbol, MINUTE, ever, rows=1)
        return int(candles.timestamp[0]) if len(candles) else None

    async def server_time(self) -> int:
        """The time by Alpaca's clock (ms, UTC)."""
        body = await self._rest.get(f"{self._account.trading_url}/v2/clock", {}, self.capabilities.deadline_s)
        answer = json_of(body)
        try:
            return round(datetime.fromisoformat(answer["timestamp"]).timestamp() * 1000)  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            raise unreadable() from None


def identity(feed: str, adjustment: str) -> tuple[str, str, str]:
    """The id, the name and the description of a provider; plain IEX is just ``alpaca``."""
    parts = [
        "alpaca",
        *([feed] if (feed, adjustment) != ("iex", "raw") else []),
        *([adjustment] * (adjustment != "raw")),
    ]
    traits = ", ".join(filter(None, (feed.upper(), _ADJUSTMENTS[adjustment])))
    about = {
        "iex": "what trades on IEX alone, about three percent of the volume",
        "sip": "what trades on all American exchanges",
        "otc": "what trades over the counter",
    }[feed]
    return "-".join(parts), f"Alpaca ({traits})", f"American stocks from Alpaca: {about}."


def create(
    environ: Mapping[str, str], timings: AlpacaTimings | None = None
) -> Iterable[Provider | UnconfiguredProvider]:
    """A provider for each entry of ``ALPACA_FEEDS``, for the entry point ``stocks.alpaca``."""
    wanted = _requested_feeds(environ.get("ALPACA_FEEDS", ""))
    urls = [
        _url(environ, "ALPACA_DATA_URL", DATA_URL, "http"),
        _url(environ, "ALPACA_TRADING_URL", TRADING_URL, "http"),
        _url(environ, "ALPACA_STREAM_URL", STREAM_URL, "ws"),
    ]
    keys = {name: environ.get(name, "").strip() for name in ("ALPACA_API_KEY", "ALPACA_API_SECRET")}
    if missing := [name for name, value in keys.items() if not value]:
        reason = f"Set {' and '.join(missing)}: an account at alpaca.markets brings them."
        return [UnconfiguredProvider(MARKET, *identity(*pair), _VERSION, reason) for pair in wanted]
    if not all(value.isascii() and value.isprintable() for value in keys.values()):
        raise ConfigurationError("ALPACA_API_KEY, ALPACA_API_SECRET: a key is one line of letters and digits.")
    account = AlpacaAccount(*keys.values(), *urls)
    tapes = {feed: BarStream(account, feed, timings or AlpacaTimings()) for feed, _ in wanted}
    return [Alpaca(account, tapes[feed], feed, adjustment, sharers=len(wanted)) for feed, adjustment in wanted]


def _requested_feeds(text: str) -> list[tuple[str, str]]:
    """The feeds and adjustments of ``ALPACA_FEEDS``, such as ``iex,sip:split``."""
    entries = [entry.strip().lower() for entry in (text.strip() or DEFAULT_FEEDS).split(",") if entry.strip()]
    pairs: dict[tuple[str, str], None] = {}
    for entry in entries:
        feed, _, adjustment = entry.partition(":")
        adjustment = adjustment or "raw"
        if feed not in _FEEDS or adjustment not in _ADJUSTMENTS:
            raise ConfigurationError(
                f"ALPACA_FEEDS: {entry[:32]!r} is not one of {', '.join(_FEEDS)}, "
                f"perhaps followed by :{', :'.join(_ADJUSTMENTS)}."
            )
        pairs[feed, adjustment] = None
    return list(pairs)


def _url(environ: Mapping[str, str], name: str, default: str, scheme: str) -> str:
    url = environ.get(name, "").strip() or default
    if not re.fullmatch(rf"{scheme}s?://[^\s/?#@]+(/[^\s?#@]*)?", url):
        raise ConfigurationError(f"{name}: it must be the address of a host, such as {default}.")
    return url.rstrip("/")


def _page(body: bytes, symbol: str) -> tuple[Candles, str | None]:
    """The bars of an answer and its ``next_page_token``; ProviderUnavailable if it has another form."""
    answer = json_of(body)
    if not isinstance(answer, dict) or not {"bars", "next_page_token"} <= answer.keys():
        raise unreadable()
    bars, token = answer["bars"] or {}, answer["next_page_token"]
    if not isinstance(bars, dict) or (bars and symbol not in bars) or not isinstance(token, str | None):
        raise unreadable()
    return candles_of(bars.get(symbol) or []), token or None


def _listings(body: bytes) -> list[Listing]:
    """The listings of an answer; of a symbol that was given to another company, only the active one."""
    found: dict[str, Listing] = {}
    for asset in objects_of(body):
        if not isinstance(asset, dict) or not asset.get("symbol") or not isinstance(asset["symbol"], str):
            raise unreadable()
        symbol, active = asset["symbol"], asset.get("status") == "active"
        if active or symbol not in found:
            name = asset.get("name")
            found[symbol] = Listing(
                symbol,
                name if isinstance(name, str) and name else None,
                quote="USD",
                active=active,
                kind=_kind(name),
                calendar="XNYS",
            )
    if not found:
        raise ProviderUnavailable("Alpaca listed no symbols.")
    return list(found.values())


def _kind(name: object) -> SymbolKind | None:
    """The kind by the name, because Alpaca's class `us_equity` has both shares and funds."""
    if not isinstance(name, str):
        return None
    if re.search(r"\bETF\b", name):
        return SymbolKind.ETF
    return SymbolKind.STOCK if re.search(r"(?i)\b(common stock|ordinary shares?|common shares?)\b", name) else None


def _rfc3339(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
