"""The crypto market through the ccxt library: one provider for each exchange named in ``CCXT_EXCHANGES``.

Importing ccxt costs 1 s (8 s without bytecode) and 90 MiB, so it is done in a thread at first use. What ccxt returns is
not taken for the truth as it stands: 200 with a cut body is an empty list to it, and a 503 of Binance a plain
``ExchangeError``. `_Guard` watches each answer, `_translated` maps each error, `_page` decides what an answer proves.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.clock import DAY_MS, HOUR_MS
from candlegraph.errors import (
    BadUserInput,
    ConfigurationError,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import Capabilities, Listing, Live, Market, Page, Provider
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe

DEFAULT_EXCHANGES = "binance,kraken,coinbase"

_ID = re.compile(r"[a-z][a-z0-9]{0,31}")
_SLOTS = 4  # ccxt's rate limiter spaces the starts of calls, it does not bound how many are under way
_DEADLINE_S, _MARKETS_DEADLINE_S = 10.0, 60.0
_LONGEST_WAIT_S = 3 * 86_400.0  # the longest ban Binance documents
_UNDECLARED_LIMIT = 500
_SMALLEST_CAP = 100  # no exchange of ccxt's cuts an answer of fewer rows
_SECRETS = re.compile(r"(?<=\?)\S+|(?<=//)[^/@\s]+(?=@)")  # a URL's query (keys, signatures) and its user:password@

_BINANCE = ("binance", "binanceus", "binanceusdm", "binancecoinm")
_SETTLE_MS = {"binance": 5_000}
# Rows behind now that can be had at all: kraken's source and ccxt#215; the text of Gate's error; Hyperliquid's docs.
_LOOKBACK_ROWS = {"kraken": 720, "gate": 10_000, "gateeu": 10_000, "hyperliquid": 5_000}
_DAYS_NOT_UTC = ("htx", "bittrade")  # their days open at midnight in Singapore
_TYPICAL = tuple(map(Timeframe.parse, ("1m", "5m", "15m", "30m", "1h", "4h", "1d")))


class Reach(Enum):
    """What an exchange answers to ``since`` and ``limit``, as ccxt puts them to it (read in ccxt's source)."""

    FORWARD = "the oldest rows from since on, however far away they are"
    WINDOW = "the rows of the window of limit buckets that opens at since"
    NEWEST = "the newest rows it keeps, even where since is older"
    UNKNOWN = "probably a window, perhaps cut at a number of rows we do not know"


_REACH = {
    "binance": Reach.FORWARD,
    "binanceus": Reach.FORWARD,
    "binanceusdm": Reach.FORWARD,
    "coinbase": Reach.WINDOW,
    "gemini": Reach.NEWEST,
    "kraken": Reach.NEWEST,
}


class _Exchange(Protocol):
    """What we use of an instance of ccxt's."""

    name: str
    has: Mapping[str, object]
    timeframes: Mapping[str, object] | None
    markets: Mapping[str, Mapping[str, object]] | None

    async def load_markets(self) -> object: ...
    async def fetch_ohlcv(self, symbol: str, timeframe: str, since: int, limit: int) -> list[list[float]]: ...
    async def close(self) -> None: ...
    def set_markets_from_exchange(self, source: _Exchange) -> object: ...
    def feature_value(self, symbol: str, method: str, param: str) -> object: ...
    def feature_value_by_type(self, kind: str, sub: str | None, method: str, param: str) -> object: ...


@dataclass(slots=True)
class _Answer:
    """The HTTP answer to one request."""

    status: int = 0
    retry_after: float | None = None
    body: object = None


_answer: ContextVar[_Answer | None] = ContextVar("ccxt_answer", default=None)


class _Guard:
    """Put in front of an exchange class of ccxt's: nothing unreadable passes for an answer, and no row is hidden.

    ``last_response_headers`` of an instance is whatever request ended last; here each request keeps its own answer,
    and an error carries it.
    """

    name: str

    async def fetch(
        self, url: str, method: str = "GET", headers: object = None, body: object = None
    ) -> dict[str, object] | list[object]:
        """Do one HTTP request. Where the body is no JSON, ccxt returns its text: that is an error here."""
        answer = _Answer()
        _answer.set(answer)
        try:
            parsed: object = await super().fetch(url, method, headers, body)  # type: ignore[misc]
        except Exception as error:
            error.answer = answer  # type: ignore[attr-defined]
            raise
        if not isinstance(parsed, dict | list):
            raise _unreadable(self.name)
        answer.body = parsed
        return parsed

    def on_rest_response(
        self, code: int, reason: str, url: str, method: str, headers: dict[str, str], *rest: str
    ) -> str:
        """Note the status and Retry-After; ccxt calls it for every answer before it looks for errors."""
        if answer := _answer.get():
            answer.status = code
            answer.retry_after = _retry_after(headers)
        return cast(str, super().on_rest_response(code, reason, url, method, headers, *rest))  # type: ignore[misc]

    def parse_ohlcvs(self, rows: object, market: object = None, timeframe: str = "1m", *_: object) -> object:
        """Parse and sort, but leave out ``since`` and ``limit``: rows that were not asked for show what was done."""
        return super().parse_ohlcvs(rows, market, timeframe)  # type: ignore[misc]


class Ccxt:
    """The provider of one exchange."""

    api_version = 1
    market = Market("crypto", "Crypto", "Cryptocurrencies: spot pairs and perpetual swaps, exchange by exchange.")

    def __init__(
        self, exchange_id: str, options: Mapping[str, object] | None = None, *, deadline_s: float = _DEADLINE_S
    ) -> None:
        """``options`` go to the constructor of ccxt's class as they are. Nothing is imported or opened yet."""
        self.id = exchange_id
        self.name = exchange_id.capitalize()
        self.capabilities = Capabilities(
            _TYPICAL,
            Live.POLL,
            max_rows_per_call=_UNDECLARED_LIMIT,
            max_lookback_candles=_LOOKBACK_ROWS.get(exchange_id),
            settle_ms=_SETTLE_MS.get(exchange_id, 30_000),
        )
        self._options = options or {}
        self._deadline_s = deadline_s
        self._exchange: _Exchange | None = None
        self._make: Callable[[], _Exchange] | None = None
        self._native: dict[Timeframe, str] = {}
        self._slots = asyncio.Semaphore(_SLOTS)
        self._loading: asyncio.Task[None] | None = None
        self._abort_loading: Callable[[], object] = lambda: None

    def __repr__(self) -> str:
        """Print no option: they may hold keys."""
        return f"<Ccxt {self.id}>"

    @property
    def description(self) -> str:
        """One sentence."""
        return f"Candles of {self.name}, through its public API and the ccxt library."

    @property
    def version(self) -> str:
        """The version of ccxt."""
        return _ccxt_version()

    async def start(self) -> None:
        """Import ccxt and make the instance; no request yet. ConfigurationError where the settings do not fit."""
        if self._exchange is None:
            self._make, exchange = await asyncio.to_thread(_prepare, self.id, self._options)
            self._learn(exchange)
            self._exchange = exchange

    def _learn(self, exchange: _Exchange) -> None:
        self._native = _native_timeframes(self.id, exchange.timeframes or {})
        kinds: tuple[tuple[str, str | None], ...] = (("spot", None), ("swap", "linear"))
        limits = (exchange.feature_value_by_type(*kind, "fetchOHLCV", "limit") for kind in kinds)
        self.name = str(exchange.name)
        self.capabilities = replace(
            self.capabilities,
            timeframes=tuple(sorted(self._native, key=lambda timeframe: timeframe.nominal_ms)),
            max_rows_per_call=next((limit for limit in limits if isinstance(limit, int) and limit), _UNDECLARED_LIMIT),
        )

    async def close(self) -> None:
        """Close the connections, and give a list of symbols up that is still being loaded."""
        exchange, self._exchange = self._exchange, None
        if self._loading and not self._loading.done():
            with suppress(RuntimeError):  # its loop has just ended by itself
                self._abort_loading()
            await asyncio.wait([self._loading])
        if exchange is not None:
            await exchange.close()

    async def listings(self) -> Sequence[Listing]:
        """Spot pairs and perpetual swaps, read afresh."""
        await self._load_markets()
        markets = (self._started().markets or {}).values()
        return [_listing(market) for market in markets if market.get("spot") or market.get("swap")]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Ask once; see `Provider.fetch`."""
        exchange = self._started()
        native = self._native.get(timeframe)
        if native is None:
            raise Unsupported(f"{self.name} has no {timeframe} candles of its own.")
        if not exchange.markets:
            await self._load_markets()
        market = (exchange.markets or {}).get(instrument.symbol)
        if market is None:
            raise UnknownSymbol(f"{self.name} has no symbol {instrument.symbol[:64]!r}.")
        if not span:
            return Page(Candles.empty(), span.since, span.since)
        declared = exchange.feature_value(instrument.symbol, "fetchOHLCV", "limit")
        most = declared if isinstance(declared, int) and declared else _UNDECLARED_LIMIT
        limit = min(most, (span.until - span.since) // timeframe.nominal_ms + 1)
        async with self._slots, _upstream(self.name, self._deadline_s):
            rows = await exchange.fetch_ohlcv(instrument.symbol, native, span.since, limit)
            if not rows and not _has_rows_list(answer.body if (answer := _answer.get()) else None):
                raise _unreadable(self.name)
            found = Candles.from_rows(rows)
        asked = _Asked(timeframe, span, limit, self._reach(market), _LOOKBACK_ROWS.get(self.id))
        return _page(found, len(rows), asked)

    def _reach(self, market: Mapping[str, object]) -> Reach:
        reach = _REACH.get(self.id, Reach.UNKNOWN)
        return Reach.WINDOW if reach is Reach.FORWARD and market.get("inverse") else reach  # ccxt sets their endTime

    def _started(self) -> _Exchange:
        if self._exchange is None:
            raise ProviderUnavailable(f"{self.name} has not been started.")
        return self._exchange

    async def _load_markets(self) -> None:
        """Read the symbols; whoever asks meanwhile waits for the same answer."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._reload_markets())
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())  # fetched by somebody
        await asyncio.shield(self._loading)

    async def _reload_markets(self) -> None:
        """Read the symbols in a thread: ccxt takes 2 s of CPU for those of Binance."""
        self._started()
        make = self._make
        assert make is not None  # noqa: S101 - a started provider has it

        async def load() -> _Exchange:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()
            assert task is not None  # noqa: S101 - we are in one
            self._abort_loading = lambda: loop.call_soon_threadsafe(task.cancel)
            self._started()  # closed before there was something to abort?
            exchange = make()
            try:
                async with asyncio.timeout(_MARKETS_DEADLINE_S):
                    await exchange.load_markets()
            except asyncio.CancelledError as error:
                raise ProviderUnavailable(f"{self.name} is being closed.") from error
            finally:
                await exchange.close()
            return exchange

        with _border(self.name):
            loaded = await asyncio.to_thread(lambda: asyncio.run(load()))
        if not loaded.markets:
            raise ProviderUnavailable(f"{self.name} listed no symbols.")
        if self._exchange is not None:
            self._exchange.set_markets_from_exchange(loaded)


def create(environ: Mapping[str, str]) -> Iterable[Provider]:
    """The providers of the exchanges in ``CCXT_EXCHANGES``, for the entry point ``crypto.ccxt``; imports no ccxt."""
    named = environ.get("CCXT_EXCHANGES", DEFAULT_EXCHANGES).split(",")
    wanted = list(dict.fromkeys(name.strip() for name in named if name.strip()))
    options = _read_options(environ.get("CCXT_OPTIONS", ""))
    if not wanted and not options:
        return []
    known = _known_exchanges()
    for name in wanted:
        if name not in known:
            near = get_close_matches(name.lower()[:32], known, cutoff=0.7)
            hint = f" Did you mean {' or '.join(near)}?" if near else " It takes ccxt's ids, such as binance,kraken."
            raise ConfigurationError(f"CCXT_EXCHANGES: ccxt knows no exchange {name[:32]!r}.{hint}")
    if options.keys() - known:
        raise ConfigurationError("CCXT_OPTIONS: every key must be one of ccxt's exchange ids, such as binance.")
    return [Ccxt(name, options.get(name)) for name in wanted]


def _read_options(text: str) -> dict[str, dict[str, object]]:
    """Read ``CCXT_OPTIONS``. No error shows any of it, for it holds keys."""
    text = text.strip()
    if not text:
        return {}
    if not text.startswith(("{", "[")):
        try:
            text = Path(text).read_text("utf-8")
        except (OSError, ValueError):
            raise ConfigurationError("CCXT_OPTIONS: it is neither a JSON object nor a file that can be read.") from None
    try:
        options: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigurationError("CCXT_OPTIONS: it is not valid JSON.") from None
    if not isinstance(options, dict) or not all(isinstance(value, dict) for value in options.values()):
        raise ConfigurationError("CCXT_OPTIONS: it must be a JSON object that holds one object for each exchange id.")
    return options


def _known_exchanges() -> frozenset[str]:
    """The ids of the exchanges ccxt has, without importing it."""
    spec = find_spec("ccxt")
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = (file for folder in folders for file in (Path(folder) / "async_support").glob("*.py"))
    return frozenset(file.stem for file in files if _ID.fullmatch(file.stem))


@lru_cache(maxsize=1)
def _ccxt_version() -> str:
    return f"ccxt {version('ccxt')}"


def _prepare(exchange_id: str, options: Mapping[str, object]) -> tuple[Callable[[], _Exchange], _Exchange]:
    """Import ccxt and make a first instance. Slow: for a thread. The id has been checked against ccxt's files."""
    bases = [getattr(import_module(module), exchange_id, None) for module in ("ccxt.pro", "ccxt.async_support")]
    base = next(base for base in bases if base is not None)
    guarded = cast(Callable[[object], _Exchange], type(exchange_id, (_Guard, base), {}))

    def make() -> _Exchange:
        return guarded(deepcopy(dict(options)))

    try:
        exchange = make()
    except Exception as error:  # noqa: BLE001 - whatever odd options lead to inside ccxt
        kind = type(error).__name__
        raise ConfigurationError(f"CCXT_OPTIONS: ccxt takes no such options for {exchange_id} ({kind}).") from None
    if not exchange.has.get("fetchOHLCV"):
        raise ConfigurationError(f"CCXT_EXCHANGES: {exchange_id} publishes no candles, or ccxt cannot read them.")
    return make, exchange


def _native_timeframes(exchange_id: str, names: Iterable[str]) -> dict[Timeframe, str]:
    """ccxt's name of each native timeframe whose buckets open where ours do.

    Weeks, months and long hours are believed of Binance alone: elsewhere weeks begin on a Thursday or a Sunday, and
    long hours count from an Asian midnight. Hours up to four fit any of these; the rest is folded from them.
    """
    found: dict[Timeframe, str] = {}
    for name in names:
        try:
            timeframe = Timeframe.parse(name)
        except BadUserInput:  # seconds, for one
            continue
        widest = DAY_MS if exchange_id in _BINANCE else 4 * HOUR_MS
        fits = bool(timeframe.width_ms) and timeframe.width_ms <= widest and DAY_MS % timeframe.width_ms == 0
        fits |= timeframe == Timeframe(1, "d") and exchange_id not in _DAYS_NOT_UTC
        fits |= timeframe in {Timeframe(1, "w"), Timeframe(1, "mon")} and exchange_id in _BINANCE
        if fits:
            found.setdefault(timeframe, name)
    return found


def _listing(market: Mapping[str, object]) -> Listing:
    created = market.get("created")
    texts = {key: str(market[key]) if market.get(key) else None for key in ("id", "base", "quote")}
    return Listing(
        symbol=str(market["symbol"]),
        name=texts["id"],
        base=texts["base"],
        quote=texts["quote"],
        active=market.get("active") is not False,  # None: the exchange does not say
        first_available=created if isinstance(created, int) and created > 0 else None,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question to an exchange."""

    timeframe: Timeframe
    span: Span
    limit: int
    reach: Reach
    lookback_rows: int | None = None


def _page(found: Candles, rows: int, asked: _Asked) -> Page:
    """Judge what ``rows`` rows prove that made the candles ``found``, some perhaps outside of the span asked for."""
    span, timeframe, reach = asked.span, asked.timeframe, asked.reach
    now = clock.now_ms()
    since = complete_from = span.since
    window_ends = timeframe.shift(since, asked.limit)
    if not len(found):
        complete_to = {Reach.FORWARD: span.until, Reach.NEWEST: since}.get(reach, window_ends)
    else:
        first, after_last = int(found.timestamp[0]), timeframe.next(int(found.timestamp[-1]))
        unsure = reach is Reach.UNKNOWN and rows >= _SMALLEST_CAP
        # A row behind the window (its end may be meant inclusively) was not looked for in a window.
        strayed = reach is not Reach.FORWARD and after_last > timeframe.next(window_ends)
        if reach is Reach.NEWEST or unsure or strayed:
            complete_from = max(since, first)
        if reach is Reach.NEWEST:
            complete_to = span.until
        elif rows >= asked.limit or unsure or strayed:
            complete_to = after_last
        else:
            # Not the whole span: should the page have been cut short behind our back, the next one will tell.
            complete_to = max(after_last, window_ends)
    if asked.lookback_rows:
        complete_from = max(complete_from, timeframe.shift(now, -asked.lookback_rows))
    # Nothing is proved of the forming bucket, nor of the future.
    return Page(found.between(span), complete_from, min(complete_to, span.until, timeframe.floor(now)))


def _has_rows_list(body: object, depth: int = 4) -> bool:
    """Whether an answer without candles holds the list they would be in: ``{}`` is no answer, ``[]`` is one."""
    if isinstance(body, dict) and depth:
        return any(_has_rows_list(value, depth - 1) for key, value in body.items() if "error" not in str(key).lower())
    return isinstance(body, list)


@asynccontextmanager
async def _upstream(name: str, deadline_s: float) -> AsyncIterator[None]:
    """One call upstream: a deadline, and errors in our terms."""
    token = _answer.set(None)
    try:
        with _border(name):
            async with asyncio.timeout(deadline_s):
                yield
    finally:
        _answer.reset(token)


@contextmanager
def _border(name: str) -> Iterator[None]:
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        raise _translated(name, error) from error


def _translated(name: str, error: Exception) -> ProviderError:
    """What an error of ccxt's means to us. It keeps no URL's query: the messages of ccxt quote whole requests."""
    errors = import_module("ccxt.base.errors")
    if isinstance(error, errors.BaseError):
        error.args = tuple(_SECRETS.sub("...", str(arg))[:500] for arg in error.args)
    answer = getattr(error, "answer", None) or _Answer()
    if answer.status in {418, 429} or isinstance(error, errors.DDoSProtection | errors.RateLimitExceeded):
        return RateLimited(f"{name} asks us to slow down.", retry_after=answer.retry_after)
    if answer.status == 451 or isinstance(error, errors.RestrictedLocation):
        return ProviderRefused(f"{name} does not serve the region we are in.")
    if answer.status >= 500:  # whatever its body says
        return ProviderUnavailable(f"{name} answered with HTTP {answer.status}.", retry_after=answer.retry_after)
    kinds: tuple[tuple[type[Exception], type[ProviderError], str], ...] = (
        (errors.AuthenticationError, ProviderRefused, "refuses us: the API key, or what it is allowed to"),
        (errors.BadSymbol, UnknownSymbol, "does not know this symbol"),
        (errors.BadRequest, Unsupported, "cannot answer such a question"),
        (errors.NotSupported, Unsupported, "cannot answer such a question"),
        (errors.RequestTimeout, ProviderUnavailable, "did not answer in time"),
        (TimeoutError, ProviderUnavailable, "did not answer in time"),
        (errors.InvalidProxySettings, ProviderUnavailable, "cannot be reached with the proxy settings of CCXT_OPTIONS"),
    )
    for kind, ours, reason in kinds:
        if isinstance(error, kind):
            return ours(f"{name} {reason}.")
    if not isinstance(error, errors.BaseError):  # ccxt stumbled over the answer
        return _unreadable(name)
    said = f" (HTTP {answer.status})" if answer.status >= 400 else ""
    return ProviderUnavailable(f"{name} is not available{said}.")


def _unreadable(name: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"{name} sent an answer that could not be read.")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the header Retry-After: a number of seconds or a date."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    try:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            seconds = float(text)
        else:
            at = parsedate_to_datetime(text)
            seconds = (
                at.replace(tzinfo=at.tzinfo or UTC) - datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
            ).total_seconds()
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)
