"""A provider as the core uses it: what `providers` hands out, and every floor above it reads.

A plugin's author needs none of this: `candlegraph.provider` is the interface.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from candlegraph.candle import Candles
from candlegraph.provider import Budget, Capabilities, Market, Page, ProviderInfo, Revision
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe


class Urgency(StrEnum):
    """What an upstream call is for. Where a budget is short, the ones above go first."""

    LIVE = "LIVE"
    QUERY = "QUERY"
    BACKFILL = "BACKFILL"


class ProviderState(StrEnum):
    """How a provider is."""

    READY = "READY"
    DEGRADED = "DEGRADED"
    RATE_LIMITED = "RATE_LIMITED"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    FAILED = "FAILED"


@runtime_checkable
class Upstream(ProviderInfo, Protocol):
    """A provider as the core uses it: guarded by retries, a rate budget, a circuit breaker and a deadline.

    Raises nothing but ProviderError; ``retry_after`` says when it is worth trying again.
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
        """As `Probing.first_available`; None where the provider cannot say."""
        ...

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """As `Revised.revision`; ``stored`` where the provider declares no revisions."""
        ...

    def stream(self, instrument: Instrument) -> AsyncGenerator[Candles, None] | None:
        """As `Streaming.stream`, for the caller to close; None where it has to be polled."""
        ...

    def count_refused_rows(self, rows: int) -> None:
        """Count rows of it that were no candles and were not kept."""
        ...


@dataclass(frozen=True, slots=True)
class CallFailure:
    """What went wrong with an upstream, without any secret, and when (ms, UTC)."""

    message: str
    at: int


@dataclass(frozen=True, slots=True)
class CallCounters:
    """What this process asked of a provider since it started, retries among the calls. ``last_call_at`` in ms, UTC."""

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

    ``budget`` is the one that is kept: the provider's own, or a cautious one; None where nobody can be asked.
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


class Providers(Protocol):
    """The registry, as the floors below the server see it."""

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> Upstream | None:
        """The provider, started and guarded; None where no plugin brings it.

        ProviderError where it cannot be started now; ProviderStarting where it is not ready within ``timeout_s``.
        """
        ...

    def running(self, market: str, provider: str) -> Upstream | None:
        """The provider where it has been started already; nothing is started, and nobody is asked."""
        ...

    def statuses(self) -> Sequence[ProviderStatus]:
        """Every provider that a plugin brings, failed ones too."""
        ...

    async def inspect(self) -> None:
        """Have the `Inspected` providers look at their data; what they find is the reason of their status."""
        ...
