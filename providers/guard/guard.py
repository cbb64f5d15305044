"""The guard around a provider: it takes a plugin's raw provider and implements `Upstream` with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import replace
from operator import index
from typing import TypeVar

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import CandlegraphError, ProviderUnavailable, UnknownSymbol
from candlegraph.provider import (
    Capabilities,
    Inspected,
    Listing,
    LiveMode,
    Market,
    Page,
    Provider,
    Revised,
    Revision,
    SupportsFirstAvailable,
    SupportsStreaming,
    Tainted,
)
from candlegraph.rate_budget import LocalRateBudget, RateBudget
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.stream import closing_stream
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import ProviderStatus, Urgency
from providers.guard.call_queue import budget_of
from providers.guard.calls import BACKOFF_S, UpstreamCalls
from providers.guard.provider_clock import CallClock, ProviderClock

T = TypeVar("T")

LISTINGS_TIMEOUT_S = 60.0  # more than other calls get, because a list of symbols is long
POLLING_TTL_S = 3_600.0  # how long a symbol that the stream does not know is polled


class Guard:
    """One provider, with retries, a rate budget, a circuit breaker and deadlines; implements `Upstream`."""

    def __init__(self, provider: Provider, quota: RateBudget | None = None, *, backoff_s: float = BACKOFF_S) -> None:
        """Start nothing yet. ``quota`` counts the rate budget; None: count it in this process."""
        self._provider = provider
        self._calls = UpstreamCalls(provider, quota or LocalRateBudget(), backoff_s)
        self._clock = ProviderClock(provider, self._calls)
        self._polled: dict[Instrument, float] = {}  # symbols unknown to its stream: until when to poll them
        self._rows = self._refused = 0

    @property
    def market(self) -> Market:
        """The market of the provider."""
        return self._provider.market

    @property
    def id(self) -> str:
        """Its name within the market."""
        return self._provider.id

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._provider.name

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the provider."""
        return self._provider.capabilities

    async def start(self) -> None:
        """Start the provider, and measure its upstream's clock. Raises what the provider's start raises."""
        with clock.read_from(CallClock(self._clock)):
            await self._provider.start()
        await self._clock.measure()

    async def close(self) -> None:
        """Close the provider."""
        await self._clock.close()
        await self._provider.close()

    def now_ms(self) -> int:
        """As `Upstream.now_ms`."""
        self._clock.keep()
        return self._clock.now_ms()

    async def listings(self) -> Sequence[Listing]:
        """As `Upstream.listings`."""

        async def ask() -> Sequence[Listing]:
            with clock.read_from(CallClock(self._clock)):
                found: Sequence[object] = await self._provider.listings()
            return [_expected(item, Listing) for item in found]

        return await self._calls.make(ask, Urgency.QUERY, max(LISTINGS_TIMEOUT_S, self.capabilities.deadline_s))

    async def fetch(
        self, instrument: Instrument, timeframe: Timeframe, span: Span, urgency: Urgency = Urgency.QUERY
    ) -> Page:
        """As `Upstream.fetch`."""

        async def ask() -> Page:
            with clock.read_from(CallClock(self._clock)):
                page = _checked(await self._provider.fetch(instrument, timeframe, span))
            self._clock.note_rows(_valid(page.candles, timeframe, span))
            return replace(page, proved_until=self._clock.proved_until())

        self._clock.keep()
        page = await self._calls.make(ask, urgency, self.capabilities.deadline_s)
        self._rows += len(page.candles)
        return page

    async def first_available(self, instrument: Instrument) -> int | None:
        """As `Upstream.first_available`."""
        provider = self._provider
        if not isinstance(provider, SupportsFirstAvailable):
            return None

        async def ask() -> int | None:
            with clock.read_from(CallClock(self._clock)):
                found = await provider.first_available(instrument)
            return None if found is None else index(found)

        return await self._calls.make(ask, Urgency.QUERY, self.capabilities.deadline_s)

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """As `Upstream.revision`; outside the rate budget, because every query calls it. ProviderError."""
        provider = self._provider
        if not isinstance(provider, Revised):
            return stored
        return await self._own(provider.revision(instrument, timeframe, stored), Revision)

    async def inspect(self) -> str | None:
        """As `Inspected.inspect`; None if the provider does not inspect its data. ProviderError."""
        provider = self._provider
        return await self._own(provider.inspect(), str) if isinstance(provider, Inspected) else None

    @property
    def inspected(self) -> bool:
        """Whether the provider can inspect its own data."""
        return isinstance(self._provider, Inspected)

    async def _own(self, answer: Awaitable[object], kind: type[T]) -> T | None:
        """Await the provider's report on its own data, within the deadline; it must be a ``kind`` or None."""
        try:
            async with asyncio.timeout(self.capabilities.deadline_s):
                found = await answer
            return None if found is None else _expected(found, kind)
        except CandlegraphError:
            raise
        except Exception as error:  # a plugin may raise anything
            raise ProviderUnavailable(f"{self.name} failed: {type(error).__name__}.") from error

    def stream(self, instrument: Instrument) -> AsyncGenerator[Candles, None] | None:
        """As `Upstream.stream`."""
        provider = self._provider
        if self.capabilities.live is not LiveMode.STREAM or not isinstance(provider, SupportsStreaming):
            return None
        if self._polled.get(instrument, 0) > asyncio.get_running_loop().time():
            return None
        return self._stream(provider, instrument)

    async def _stream(self, provider: SupportsStreaming, instrument: Instrument) -> AsyncGenerator[Candles, None]:
        try:
            async with closing_stream(provider.stream(instrument)) as source:
                while True:
                    with clock.read_from(
                        CallClock(self._clock)
                    ):  # the time-out must not include the yield, which runs the listener's code
                        candles = await anext(source, None)
                    if candles is None:
                        return
                    yield _expected(candles, Candles)
        except UnknownSymbol as error:  # the history may know the symbol all the same
            self._polled[instrument] = asyncio.get_running_loop().time() + POLLING_TTL_S
            raise ProviderUnavailable(error.message) from error
        except Exception as error:
            raise await self._calls.count_failure(error) from error

    def count_refused_rows(self, rows: int) -> None:
        """As `Upstream.count_refused_rows`."""
        self._refused += rows

    async def budget_left(self) -> float:
        """The weight of calls that may be made now."""
        return await self._calls.budget_left()

    def status(self) -> ProviderStatus:
        """The state of the provider, and the counts of its calls."""
        provider = self._provider
        state, reason, seconds = self._calls.health()
        return ProviderStatus(
            provider.market,
            provider.id,
            provider.name,
            provider.description,
            provider.version,
            state,
            reason,
            None if seconds is None else clock.now_ms() + round(seconds * 1000),
            provider.capabilities,
            budget_of(provider.capabilities),
            self._calls.last_failure,
            self._calls.counters(self._rows, self._refused),
            tuple(provider.taints) if isinstance(provider, Tainted) else (),
            self._calls.breaker,
        )


def _checked(page: object) -> Page:
    """The page, if its type is right; `judge_page` checks the rows later."""
    page = _expected(page, Page)
    candles: object = page.candles
    stamps, opened, high, low, close, volume, closed, synthetic = _expected(candles, Candles).columns
    made = Candles.of(stamps, opened, high, low, close, volume, closed=closed, synthetic=synthetic)
    revision: object = page.revision
    source = None if revision is None else _expected(revision, Revision)
    return Page(made, index(page.complete_from), index(page.complete_to), source)


def _valid(candles: Candles, timeframe: Timeframe, span: Span) -> Candles:
    """The valid candles that open within ``span``, ascending."""
    within = candles.sorted().between(span)
    # The zone of longer timeframes is not known here, so check only the grid of minutes for them.
    grid = timeframe if timeframe.width_ms else MINUTE
    return within[~np.isin(np.arange(len(within)), list(within.problems(grid, span)))]


def _expected(answer: object, kind: type[T]) -> T:
    if not isinstance(answer, kind):
        raise TypeError(f"the plugin answered with a {type(answer).__name__} instead of a {kind.__name__}")
    return answer
