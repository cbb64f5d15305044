"""The crypto market through the ccxt library: one provider for each exchange named in ``CCXT_EXCHANGES``.

Importing ccxt costs 1 s (8 s without bytecode) and 90 MiB, so it happens in a thread at first use. Results of ccxt need
checks: it returns an empty list for a 200 with a truncated body, and raises a plain ``ExchangeError`` for a 503 of Binance.
`exchange` keeps each HTTP answer, `errors` translates errors, `pages` decides what an answer proves, `markets` has the
symbols, and `streaming` follows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType

from candlegraph.candle import Candles
from candlegraph.clock import HOUR_MS
from candlegraph.errors import ConfigurationError, ProviderRefused, ProviderUnavailable, UnknownSymbol, Unsupported
from candlegraph.provider import Listing, LiveMode, Market, Page, Provider, Taint
from candlegraph.resample import fold
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from providers.ccxt import streaming
from providers.ccxt.capabilities import UNDECLARED_LIMIT, first_capabilities, learned_capabilities
from providers.ccxt.delisting import EmptyAnswers
from providers.ccxt.errors import HttpResponse, last_response, translating_errors, unreadable
from providers.ccxt.exchange import (
    Exchange,
    MarketInfo,
    ccxt_version,
    live_source,
    make_exchange,
    native_timeframes,
    spent,
)
from providers.ccxt.first_candle import STEPS, find_first
from providers.ccxt.markets import Markets, listing
from providers.ccxt.observations import Observations, SeriesKey
from providers.ccxt.page_requests import margin_of, rows_request
from providers.ccxt.pages import PageRequest, has_rows_list, page_of
from providers.ccxt.sent import SentWindow, read_window
from providers.ccxt.settings import known_exchanges, read_options
from providers.ccxt.timings import CcxtTimings
from providers.ccxt.traits import Answers, traits_of
from providers.ccxt.volumes import VolumeScale, kind_of, taints_of

DEFAULT_EXCHANGES = "binance,kraken,coinbase"
NO_PARAMS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Answer:
    found: Candles
    rows: int
    sent: SentWindow


class Ccxt:
    """The provider of one exchange."""

    api_version = 1
    market = Market("crypto", "Crypto", "Cryptocurrencies: spot pairs and perpetual swaps, exchange by exchange.")

    def __init__(
        self,
        exchange_id: str,
        options: Mapping[str, object] | None = None,
        *,
        folder: Path | None = None,
        timings: CcxtTimings | None = None,
    ) -> None:
        """``options`` are passed to the constructor of ccxt's class unchanged; ``folder``, if any, keeps the symbols."""
        self.id = exchange_id
        self.name = exchange_id.capitalize()
        self._traits = traits_of(exchange_id)
        self.capabilities = first_capabilities(exchange_id, self._traits, margin_of(self._traits))
        self._seen = Observations(self._traits.rows_per_call)
        self._options = options or {}
        self._timings = timings or CcxtTimings()
        self._exchange: Exchange | None = None
        self._live: streaming.CandleStreams | None = None
        self._native: dict[Timeframe, str] = {}
        self._folder = folder
        self._markets = Markets(exchange_id, self._options, ccxt_version(), self._timings, folder)
        self._empty_answers = EmptyAnswers()

    def __repr__(self) -> str:
        """Leave the options out, because they may have keys."""
        return f"<Ccxt {self.id}>"

    @property
    def description(self) -> str:
        """A sentence for the user."""
        return f"Candles of {self.name}, through its public API and the ccxt library."

    @property
    def taints(self) -> Sequence[Taint]:
        """As `Tainted.taints`."""
        return taints_of(self._traits)

    @property
    def version(self) -> str:
        """The version of ccxt."""
        return ccxt_version()

    async def start(self) -> None:
        """Import ccxt and make the instance; send no request yet. ConfigurationError if ccxt rejects the settings."""
        if self._exchange is None:
            exchange = await asyncio.to_thread(make_exchange, self.id, self._options)
            self._learn(exchange)
            self._markets = Markets(self.id, self._options, self.version, self._timings, self._folder)
            source, self._exchange = live_source(exchange), exchange
            self._live = streaming.CandleStreams(exchange, self._timings, source, self._volume_scale)

    def _learn(self, exchange: Exchange) -> None:
        self._native = native_timeframes(self._traits, exchange.timeframes or {})
        self.name = str(exchange.name)
        margin = margin_of(self._traits)
        self.capabilities = learned_capabilities(self.capabilities, exchange, self._native, self._options, margin)

    async def close(self) -> None:
        """Close the connections, and stop a list of symbols that is being loaded."""
        exchange, self._exchange = self._exchange, None
        await self._markets.close()
        if self._live is not None:
            await self._live.close()
        if exchange is not None:
            await exchange.close()

    async def listings(self) -> Sequence[Listing]:
        """Spot pairs and perpetual swaps, fetched now."""
        exchange = self._started()
        await self._markets.refresh(exchange)
        known = (exchange.markets or {}).values()
        return [
            replace(listing(market, self._traits, exchange), ended_at=self._empty_answers.ended_at(market))
            for market in known
            if market.get("spot") or market.get("swap")
        ]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Make one call; see `Provider.fetch`."""
        native = self._native.get(timeframe)
        if native is None and self._exchange is not None:
            raise Unsupported(f"{self.name} has no {timeframe} candles of its own.")
        exchange, market = await self._find(instrument)
        if not span:
            return Page(Candles.empty(), span.since, span.since)
        kind = kind_of(market)
        key = SeriesKey(kind, instrument.symbol, timeframe)
        request = rows_request(traits_of(self.id, kind), timeframe, span, self._most_rows(exchange, key))
        if request.is_history:
            key = key._replace(kind=f"{kind} history")
        answer = await self._ask(exchange, key, request.since, request.limit, request.params)
        if timeframe.nominal_ms > HOUR_MS and _is_off_grid(answer.found, timeframe):
            return await self._fold_hours(instrument, timeframe, span)
        asked = PageRequest(timeframe, span, answer.sent, request.traits, key)
        page = page_of(VolumeScale.of_rows(self._traits, market).in_base(answer.found), answer.rows, asked, self._seen)
        self._learn_cap(key)
        self._empty_answers.count(market, timeframe, page)
        return page

    def _most_rows(self, exchange: Exchange, key: SeriesKey) -> int:
        """The most rows of one answer."""
        declared = exchange.feature_value(key.symbol, "fetchOHLCV", "limit")
        most = declared if isinstance(declared, int) and declared else UNDECLARED_LIMIT
        return min(most, self._seen.cap(key) or most)

    def _learn_cap(self, key: SeriesKey) -> None:
        """Limit requests to the rows of one answer: the rest of a longer window would have to be requested again."""
        cap = self._seen.cap(key)
        most = None if cap is None else cap - margin_of(self._traits)
        if most is not None and most < self.capabilities.max_rows_per_call:
            self.capabilities = replace(self.capabilities, max_rows_per_call=most)

    async def _fold_hours(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Answer with candles folded from hours, and stop offering the timeframe: its buckets open elsewhere than ours."""
        base = Timeframe(1, "h")
        if base not in self._native:
            raise Unsupported(f"The {timeframe} candles of {self.name} open at another hour than ours.")
        self._native.pop(timeframe, None)
        left = tuple(each for each in self.capabilities.timeframes if each != timeframe)
        self.capabilities = replace(self.capabilities, timeframes=left)
        page = await self.fetch(instrument, base, Span(timeframe.floor(span.since), timeframe.ceil(span.until)))
        whole = Span(timeframe.ceil(page.complete_from), timeframe.floor(page.complete_to))
        folded = fold(page.candles.between(whole), timeframe).between(span)
        return Page(folded, max(whole.since, span.since), min(whole.until, span.until))

    async def first_available(self, instrument: Instrument) -> int | None:
        """The opening of its first minute: listed by the exchange, or found by a few calls. ProviderError."""
        exchange, market = await self._find(instrument)
        listed = listing(market, self._traits, exchange).first_available
        if listed is not None or MINUTE not in self._native:
            return listed
        traits = traits_of(self.id, kind_of(market))
        if traits.answers is Answers.FROM_START and not market.get("inverse"):
            return await self._oldest_row(exchange, market, 1)
        if traits.answers is Answers.NEWEST:  # it is the first of all only if the page is not full
            return await self._oldest_row(exchange, market, traits.rows_per_call or 1, fewer=True)
        if traits.lookback is not None:
            return None
        steps = [step for step in STEPS if step in self._native]
        first = await find_first(partial(self.fetch, instrument), steps, self.capabilities.max_rows_per_call)
        keys = [SeriesKey(kind_of(market), instrument.symbol, step) for step in steps]
        # If any answer had rows from before it, the bisection took the end of a long pause for the beginning.
        return None if first is None or any(self._seen.has_row_before(key, first) for key in keys) else first

    async def _oldest_row(
        self, exchange: Exchange, market: MarketInfo, most: int, *, fewer: bool = False
    ) -> int | None:
        """The first of the rows from the beginning on; with ``fewer`` only if they are fewer than ``most``."""
        answer = await self._ask(exchange, SeriesKey(kind_of(market), str(market["symbol"]), MINUTE), 0, most)
        there = len(answer.found) and not (fewer and answer.rows >= most)
        return int(answer.found.timestamp[0]) if there else None

    async def server_time(self) -> int:
        """The time by the exchange's clock (ms, UTC); Unsupported if it has no such call. ProviderError."""
        exchange = self._started()
        if exchange.has.get("fetchTime") is not True:
            raise Unsupported(f"{self.name} does not tell the time.")
        with self._upstream_call():
            server_ms = await exchange.fetch_time()
        if not isinstance(server_ms, int):
            raise unreadable(self.name)
        return server_ms

    async def stream(self, instrument: Instrument) -> AsyncGenerator[Candles]:
        """Yield 1m candles as they change; see `SupportsStreaming.stream`. Minutes between them may be missing."""
        _, market = await self._find(instrument)
        if self._live is None or self.capabilities.live is not LiveMode.STREAM:
            raise Unsupported(f"{self.name} has no websocket for candles or trades.")
        try:
            async with aclosing(self._live.stream(str(market["symbol"]))) as moving:
                async for candles in moving:
                    yield candles
        except (ProviderRefused, Unsupported):
            self.capabilities = replace(
                self.capabilities, live=LiveMode.POLL
            )  # the websocket may need an account: poll from now on
            raise

    def _volume_scale(self, symbol: str) -> VolumeScale:
        market = (self._started().markets or {}).get(symbol, {})
        return VolumeScale.of_stream(self._traits, market, trades=self.capabilities.streams_trades)

    async def _find(self, instrument: Instrument) -> tuple[Exchange, MarketInfo]:
        exchange = self._started()
        await self._markets.ensure_loaded(exchange)
        market = (exchange.markets or {}).get(instrument.symbol)
        if market is None:
            raise UnknownSymbol(f"{self.name} has no symbol {instrument.symbol[:64]!r}.")
        return exchange, market

    async def _ask(
        self, exchange: Exchange, key: SeriesKey, since: int, limit: int, params: Mapping[str, object] = NO_PARAMS
    ) -> _Answer:
        """Make one upstream call."""
        native, until = self._native[key.timeframe], key.timeframe.shift(since, limit - 1)
        with self._upstream_call() as charges:
            rows = await exchange.fetch_ohlcv(key.symbol, native, since, limit, params)
            response = last_response.get() or HttpResponse()
            if not rows and not has_rows_list(response.body):
                raise unreadable(self.name)
            found = Candles.from_rows(rows)
        if charges and sum(charges) != self.capabilities.call_weight:
            self.capabilities = replace(self.capabilities, call_weight=sum(charges))
        return _Answer(found, len(rows), read_window(response.url, response.sent_body, Span(since, until)))

    @contextmanager
    def _upstream_call(self) -> Iterator[list[float]]:
        """Run one upstream call: translate its errors, and yield the costs that ccxt's rate limiter charged."""
        charges: list[float] = []
        tokens = last_response.set(None), spent.set(charges)
        try:
            with translating_errors(self.name):
                yield charges
        finally:
            last_response.reset(tokens[0])
            spent.reset(tokens[1])

    def _started(self) -> Exchange:
        if self._exchange is None:
            raise ProviderUnavailable(f"{self.name} has not been started.")
        return self._exchange


def _is_off_grid(found: Candles, timeframe: Timeframe) -> bool:
    """Whether most rows open where none of our buckets does; a single such row is invalid, and `judge_page` refuses it."""
    return bool(len(found)) and bool((timeframe.floor_all(found.timestamp) != found.timestamp).mean() > 0.5)


def create(environ: Mapping[str, str]) -> Iterable[Provider]:
    """The providers of the exchanges in ``CCXT_EXCHANGES``, for the entry point ``crypto.ccxt``; imports no ccxt."""
    named = environ.get("CCXT_EXCHANGES", DEFAULT_EXCHANGES).split(",")
    wanted = list(dict.fromkeys(name.strip() for name in named if name.strip()))
    options = read_options(environ.get("CCXT_OPTIONS", ""))
    if not wanted and not options:
        return []
    known = known_exchanges()
    for name in wanted:
        if name not in known:
            near = get_close_matches(name.lower()[:32], known, cutoff=0.7)
            hint = f" Did you mean {' or '.join(near)}?" if near else " It takes ccxt's ids, such as binance,kraken."
            raise ConfigurationError(f"CCXT_EXCHANGES: ccxt knows no exchange {name[:32]!r}.{hint}")
    if options.keys() - known:
        raise ConfigurationError("CCXT_OPTIONS: every key must be one of ccxt's exchange ids, such as binance.")
    folder = Path(environ["DATA_DIR"]) if environ.get("DATA_DIR") else None
    return [Ccxt(name, options.get(name), folder=folder) for name in wanted]
