"""A provider as the core uses it: the registry returns it, and every package above uses it.

A plugin's author needs none of this: `candlegraph.provider` is the interface.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from candlegraph.candle import Candles
from candlegraph.provider import Budget, Capabilities, Market, Page, ProviderInfo, Revision, Taint
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe


class Urgency(StrEnum):
    """The purpose of an upstream call. If a budget is short, the ones above go first."""

    LIVE = "LIVE"
    QUERY = "QUERY"
    BACKFILL = "BACKFILL"


class ProviderState(StrEnum):
    """The state of a provider."""

    READY = "READY"
    DEGRADED = "DEGRADED"
    RATE_LIMITED = "RATE_LIMITED"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    FAILED = "FAILED"


class BreakerState(StrEnum):
    """The state of the circuit breaker of a provider."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@runtime_checkable
class Upstream(ProviderInfo, Protocol):
    """A provider as the core uses it: guarded by retries, a rate budget, a circuit breaker and a deadline.

    Raises only ProviderError; its ``retry_after`` is the time after which a retry makes sense.
    """

    def now_ms(self) -> int:
        """The instant by the upstream's clock: its last time, plus the monotonic time since."""
        ...

    async def fetch(
        self, instrument: Instrument, timeframe: Timeframe, span: Span, urgency: Urgency = Urgency.QUERY
    ) -> Page:
        """As `Provider.fetch`, once its turn has come."""
        ...

    async def first_available(self, instrument: Instrument) -> int | None:
        """As `SupportsFirstAvailable.first_available`; None if the provider does not support it."""
        ...

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """As `Revised.revision`; ``stored`` if the provider declares no revisions."""
        ...

    def stream(self, instrument: Instrument) -> AsyncGenerator[Candles, None] | None:
        """As `SupportsStreaming.stream`, for the caller to close; None if it has to be polled."""
        ...

    def count_refused_rows(self, rows: int) -> None:
        """Count invalid rows of it, which were not stored."""
        ...


@dataclass(frozen=True, slots=True)
class CallFailure:
    """A failed upstream call, without any secret, and when it failed (ms, UTC)."""

    message: str
    at: int


@dataclass(frozen=True, slots=True)
class CallCounters:
    """The calls of this process to a provider since the start, including retries. ``last_call_at`` in ms, UTC."""

    calls: int = 0
    failures: int = 0
    retries: int = 0
    rows: int = 0
    refused_rows: int = 0
    last_call_at: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """A provider as the registry sees it; ``reason`` says why it is not READY, or which of its data cannot be served.

    ``retry_at`` in milliseconds, UTC.

    ``budget`` is the effective one: the provider's own, or a cautious one; None if the provider cannot be called. ``breaker``
    is the state of its circuit breaker in this process; None in the same case.
    """

    market: Market
    id: str
    name: str
    description: str
    version: str
    state: ProviderState
    reason: str | None = None
    retry_at: int | None = None
    capabilities: Capabilities = field(default=Capabilities(()))
    budget: Budget | None = None
    last_failure: CallFailure | None = None
    counters: CallCounters = CallCounters()
    taints: tuple[Taint, ...] = ()
    breaker: BreakerState | None = None


class Providers(Protocol):
    """The registry, as the packages below the server use it."""

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> Upstream | None:
        """The provider, started and guarded; None if no plugin has it.

        ProviderError if it cannot be started now; ProviderStarting if it is not ready within ``timeout_s``.
        """
        ...

    def running(self, market: str, provider: str) -> Upstream | None:
        """The provider if it runs already; this starts nothing and makes no call."""
        ...

    def status(self, market: str, provider: str) -> ProviderStatus | None:
        """The status of one provider; None if no plugin has it. It starts nothing."""
        ...

    def statuses(self) -> Sequence[ProviderStatus]:
        """Every provider of every plugin, failed ones too."""
        ...

    async def budget_left(self, market: str, provider: str) -> float | None:
        """The weight of calls to a provider that may be made now; None if it cannot be called. It starts nothing."""
        ...

    async def inspect(self) -> None:
        """Let the `Inspected` providers check their data; their findings are the reason of their status."""
        ...
