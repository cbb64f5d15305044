"""Limits of the TCP connections of a process, in total and for each address."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from candlegraph.errors import CandlegraphError, Overloaded, TooManyAttempts
from resolvers.accounts.accounts import network
from server.transport.proxies import TrustedProxies


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """The most TCP connections of a process, and of one address (of IPv6, one /64 network)."""

    total: int = 20_000
    per_address: int = 200


class TcpConnections:
    """Counts connections from the moment they are accepted; those of trusted proxies count in total only."""

    def __init__(self, limits: TcpLimits | None = None, proxies: TrustedProxies | None = None) -> None:
        """Start with none."""
        self.limits = limits or TcpLimits()
        self._proxies = proxies or TrustedProxies()
        self._total = 0
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        """The number of connections."""
        return self._total

    def refusal(self, address: str) -> CandlegraphError | None:
        """The refusal of another connection of an address; None if it fits."""
        if self._total >= self.limits.total:
            return Overloaded("The server has as many connections as it can carry.", retry_after=5)
        if self._of[network(address)] >= self.limits.per_address:
            return TooManyAttempts(f"An address has at most {self.limits.per_address} connections.", retry_after=5)
        return None

    def add(self, address: str) -> None:
        """Count a connection."""
        self._total += 1
        if not self._proxies.trusts(address):
            self._of[network(address)] += 1

    def remove(self, address: str) -> None:
        """Stop counting a connection."""
        self._total -= 1
        name = network(address)
        if self._of[name] > 1:
            self._of[name] -= 1
        else:
            del self._of[name]
