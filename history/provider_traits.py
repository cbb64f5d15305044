"""What is known of a provider without a call to it, whether it runs or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from candlegraph import clock
from candlegraph.provider import Capabilities
from candlegraph.upstream import Providers, ProviderStatus


class ProviderTraits(Protocol):
    """The part of an `Upstream` that makes no call."""

    @property
    def name(self) -> str:
        """Its name for people."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it supports."""
        ...

    def now_ms(self) -> int:
        """The instant by its clock."""
        ...


@dataclass(frozen=True, slots=True)
class IdleProvider:
    """A provider that does not run: its clock has not been read, so this machine's replaces it."""

    name: str
    capabilities: Capabilities

    def now_ms(self) -> int:
        """The instant by the clock of this machine."""
        return clock.now_ms()


def traits_of(providers: Providers, status: ProviderStatus) -> ProviderTraits:
    """The traits of the provider with this status; it starts nothing."""
    running = providers.running(status.market.id, status.id)
    return running or IdleProvider(status.name, status.capabilities)
