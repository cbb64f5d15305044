"""The client's address of a request, by the forwarded headers of the proxies in `FORWARDED_ALLOW_IPS` only."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_networks(text: str) -> tuple[_Network, ...]:
    """Comma-separated addresses and networks. ValueError names the one that is neither."""
    found = []
    for item in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ipaddress.ip_network(item))
        except ValueError:
            raise ValueError(f"{item[:64]!r} is no address, and no network such as 10.0.0.0/8") from None
    return tuple(found)


class TrustedProxies:
    """The proxies in front of this server; without any, forwarded headers are ignored."""

    def __init__(self, networks: Iterable[_Network] = ()) -> None:
        """Trust peers in ``networks``."""
        self._networks = tuple(networks)
        self.ignored_from: str | None = None  # the first peer whose forwarded header did not count

    def trusts(self, address: str) -> bool:
        """Whether a peer is one of the proxies."""
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_of(self, peer: str, forwarded: str) -> str:
        """The client of a request that the proxy ``peer`` passed on: the rightmost address that is no proxy.

        Everything to its left is the client's own text. If the entry is no address, the proxy's address counts.
        """
        client = peer
        for entry in reversed(forwarded.split(",")):
            parsed = _parse(_without_port(entry.strip()))
            if parsed is None:
                return client
            client = str(parsed)
            if not self.trusts(client):
                return client
        return client

    def ignore(self, peer: str) -> None:
        """Ignore a header; the first one logs a warning."""
        if self.ignored_from is None:
            self.ignored_from = peer
            log.warning(
                "X-Forwarded-For from %s is ignored: if this is your proxy, put its address into FORWARDED_ALLOW_IPS, "
                "or all of its clients share the limits of one address",
                peer,
            )

    @property
    def advice(self) -> str | None:
        """A sentence for the operator, if a header was ignored."""
        if self.ignored_from is None:
            return None
        return f"X-Forwarded-For from {self.ignored_from} is ignored; FORWARDED_ALLOW_IPS names the proxies that count."


class ForwardedHeaders:
    """An ASGI application around another: requests through a trusted proxy come from the proxy's client."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        """Wrap ``app``."""
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the client's address and scheme into the scope, if the peer is a trusted proxy."""
        if scope["type"] in ("http", "websocket"):
            forwarded = _joined(scope, b"x-forwarded-for")
            scheme = _joined(scope, b"x-forwarded-proto").rpartition(",")[2].strip().lower()
            peer = scope["client"][0] if scope.get("client") else ""
            if not self._proxies.trusts(peer):
                if forwarded or scheme:
                    self._proxies.ignore(peer)
            else:
                if forwarded:
                    scope["client"] = (self._proxies.client_of(peer, forwarded), 0)
                if scheme in ("http", "https"):
                    scope["scheme"] = scheme if scope["type"] == "http" else {"http": "ws", "https": "wss"}[scheme]
        await self._app(scope, receive, send)


def _joined(scope: Scope, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, colon, _ = entry.partition(":")
    return host if colon and entry.count(":") == 1 else entry


def _parse(address: str) -> _Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
