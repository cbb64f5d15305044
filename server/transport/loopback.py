"""Whether a request comes from this very machine."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def is_loopback(request: HTTPConnection) -> bool:
    """Whether a request comes from this machine, and uses a loopback name for it.

    A local proxy sends requests of others; and a page whose name resolves to us (DNS rebinding) uses that name.
    """
    named = is_loopback_name(request.url.hostname or "")
    forwarded = any(name in request.headers for name in _FORWARDED)
    return named and not forwarded and request.client is not None and is_loopback_name(request.client.host)


def is_loopback_name(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
