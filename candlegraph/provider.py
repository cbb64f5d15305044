"""The interface of a provider plugin.

A plugin is a pip package with an entry point in the group ``candlegraph.providers``, named ``<market>.<name>``, that
points at a factory: ``def create(environ: Mapping[str, str]) -> Iterable[Provider | UnconfiguredProvider]``. The factory must be cheap and do
no I/O; it may raise ConfigurationError. One factory may yield many providers (one for each exchange, say).

A provider answers a fetch and states what the answer proves. Retries, rate budgets, circuit breaking, storage,
validation and fan-out are the core's business: the provider makes one upstream call for each fetch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from candlegraph.candle import Candles
from candlegraph.series import Instrument, SymbolKind
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe

ENTRY_POINT_GROUP = "candlegraph.providers"
API_VERSION = 1  # of this interface; a provider names the one it was written for


class LiveMode(StrEnum):
    """How the forming candle is obtained."""

    STREAM = "STREAM"
    POLL = "POLL"
    NONE = "NONE"


class TaintKind(StrEnum):
    """Which part of the stored data a fault of an older version affects."""

    COVERAGE = "coverage"  # minutes without a candle may have had trades
    VOLUME = "volume"  # volumes may be in another unit


@dataclass(frozen=True, slots=True)
class Taint:
    """A fault of an older version of a provider: the core repairs the data that this version stored, once.

    ``name`` identifies the fault for ever within the provider. ``symbols`` is a regular expression that finds the affected
    symbols. ``reason`` goes into the log.
    """

    name: str
    kind: TaintKind
    reason: str
    symbols: str = ""


@dataclass(frozen=True, slots=True)
class Market:
    """A market: its id, its name, and the IANA zone in which its days open."""

    id: str
    name: str
    description: str
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Budget:
    """The calls that an upstream allows one credential: ``weight`` in any ``per_s`` seconds, ``concurrent`` at once.

    Another ``credential`` has another budget; it leaves the process only as a short hash.
    """

    weight: float
    per_s: float
    concurrent: int = 4
    credential: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider supports. ``timeframes`` are native ones, with ``1m`` among them unless it truly has none."""

    timeframes: tuple[Timeframe, ...]
    live: LiveMode = LiveMode.NONE
    has_volume: bool = True
    max_rows_per_call: int = 500
    max_lookback_ms: int | None = None
    max_lookback_candles: int | None = None  # at any timeframe: Kraken serves the newest 720 and nothing older
    lookback_counts_quiet: bool = True  # False: only buckets with a trade count, so that a thin market reaches further
    settle_ms: int = 30_000  # how long after its end a candle may still change
    corrects_within_ms: int | None = None  # how long final candles may still be corrected; None: they are not
    delay_ms: int = 0  # younger candles are not available: the feed is delayed
    budget: Budget | None = None  # None: unknown, and the core uses a cautious one
    call_weight: float = 1.0  # what one `Provider.fetch` costs
    deadline_s: float = 10.0  # how long one call may take
    revised: bool = False  # its past may be replaced as a whole: it is `Revised`
    regular_days: bool = False  # its days are made of regular sessions only, for symbols with a calendar
    streams_trades: bool = False  # its stream folds trades: it shows the forming candle and corrects no final one
    earliest_ms: int = (
        0  # the core fetches nothing older, unless a listing says so; negative: there are candles before 1970
    )

    @property
    def final_after_ms(self) -> int:
        """How long after its end a candle is available and final."""
        return max(self.settle_ms, self.delay_ms)

    def reach_ms(self, timeframe: Timeframe) -> int | None:
        """How far back from now candles are available at ``timeframe``; None without a limit."""
        count = self.max_lookback_candles if self.lookback_counts_quiet else None
        by_count = count and count * timeframe.nominal_ms
        return min((reach for reach in (self.max_lookback_ms, by_count) if reach is not None), default=None)


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of a provider's symbol list. Instants are milliseconds since the epoch, UTC; None if not known."""

    symbol: str
    name: str | None = None
    base: str | None = None
    quote: str | None = None
    timezone: str | None = None  # None: the market's
    active: bool = True
    first_available: int | None = None
    ended_at: int | None = None
    has_volume: bool | None = None  # whether its volumes are known; None: as the provider's `Capabilities.has_volume`
    kind: SymbolKind | None = None
    contract_size: float | None = None  # of a derivative: base units a contract, quote units where it is inverse
    price_increment: float | None = None
    quantity_increment: float | None = None
    calendar: str | None = (
        None  # its trading calendar by the name in exchange-calendars, such as XNYS; None: it always trades
    )


@dataclass(frozen=True, slots=True)
class Revision:
    """Identifies the data that a provider has for a series, if these data may be replaced (see `Revised`).

    Revisions of one ``lineage`` differ only by candles added after the last one. ``state`` identifies the data exactly, so
    that after a restart the provider can compare the lineage. Both are opaque to the core.
    """

    lineage: str
    state: str


@dataclass(frozen=True, slots=True)
class Page:
    """An answer, and the span for which it is complete.

    On ``[complete_from, complete_to)`` the provider guarantees that there is no other candle than these. The core does not keep
    final candles outside of it; the forming one comes after it. ``complete_to <= complete_from`` proves nothing; if both are
    an instant before the requested span, the provider has nothing newer than that, and may have older candles.
    A volume is in units of the base; NaN if it is unknown: the core stores 0 and never treats that candle as a filler.
    ``revision`` is for a `Revised` provider: the data from which the page was read.
    ``proved_until`` is for the core, which sets it by the upstream's clock: nothing later has settled for sure.
    """

    candles: Candles
    complete_from: int
    complete_to: int
    revision: Revision | None = None
    proved_until: int | None = None


class ProviderInfo(Protocol):
    """What a provider is, on its own or guarded."""

    @property
    def market(self) -> Market:
        """The market it belongs to."""
        ...

    @property
    def id(self) -> str:
        """Its name within the market, lower case."""
        ...

    @property
    def name(self) -> str:
        """Its name for people."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it supports; may become more exact after the start."""
        ...

    async def listings(self) -> Sequence[Listing]:
        """Every symbol it has, inactive ones too. ProviderError."""
        ...


@runtime_checkable
class Provider(ProviderInfo, Protocol):
    """One upstream: an exchange, a broker, a folder of files."""

    @property
    def api_version(self) -> int:
        """The `API_VERSION` it was written for; a class attribute ``api_version = 1`` is enough."""
        ...

    @property
    def description(self) -> str:
        """One sentence; it says so where the data is not real."""
        ...

    @property
    def version(self) -> str:
        """The version of the plugin."""
        ...

    async def start(self) -> None:
        """Prepare, at first use: import heavy modules, open connections. ConfigurationError, ProviderError.

        It may take minutes; it is cancelled only when the server stops, or after ten minutes.
        """
        ...

    async def close(self) -> None:
        """Release everything; called once, also after a failed start."""
        ...

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Return candles of a native timeframe that open within ``span``: one upstream call, the oldest first where it can choose.

        The page may end early (``max_rows_per_call``): the core fetches the rest from ``complete_to``. The last candle may be
        the forming one. Raises ProviderUnavailable, RateLimited, ProviderRefused, UnknownSymbol or Unsupported; an
        unreadable answer is ProviderUnavailable, never an empty page.
        """
        ...


@runtime_checkable
class SupportsStreaming(Protocol):
    """The further method of a provider with ``LiveMode.STREAM``."""

    def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        """Yield 1m candles as they move, each time those that changed; ends or raises ProviderError when cut.

        A candle that is final already and comes again is a correction.
        """
        ...


@runtime_checkable
class SupportsFirstAvailable(Protocol):
    """The further method of a provider that can find the beginning of an instrument's history."""

    async def first_available(self, instrument: Instrument) -> int | None:
        """When its first 1m candle opens (ms, UTC); None if that is unknown. ProviderError."""
        ...


@runtime_checkable
class Revised(Protocol):
    """The further method of a provider whose past may be replaced as a whole: a file, a snapshot that is published anew.

    The core does not fetch a covered span again. It compares revisions instead: if the lineage differs from that of the
    stored candles, it reads the covered spans again and replaces them in one transaction.
    """

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """The revision of the data that `Provider.fetch` reads now; ``stored`` is that of the stored candles, if known.

        It has the lineage of ``stored`` if candles were only added since, or if the data cannot be read at the moment: then the
        stored candles stay. None if the data of the series no longer exist. It must be cheap: the core calls it for each query.
        ProviderError.
        """
        ...


@runtime_checkable
class Inspected(Protocol):
    """The further method of a provider whose own data may be faulty: a folder with unreadable files, say."""

    async def inspect(self) -> str | None:
        """Which of its data cannot be served and why, one line each; None if all can. Calls no remote upstream."""
        ...


@runtime_checkable
class Tainted(Protocol):
    """The further method of a provider if older versions of it stored faulty data."""

    @property
    def taints(self) -> Sequence[Taint]:
        """The faults; known before the start."""
        ...


@runtime_checkable
class SupportsServerTime(Protocol):
    """The further method of a provider whose upstream gives its time."""

    async def server_time(self) -> int:
        """The upstream's clock (ms, UTC): one call. ProviderError."""
        ...


@dataclass(frozen=True, slots=True)
class UnconfiguredProvider:
    """A provider that lacks a setting, as a factory yields it: it is listed with the reason, and never called."""

    market: Market
    id: str
    name: str
    description: str
    version: str
    reason: str
