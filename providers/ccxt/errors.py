"""Translates errors of ccxt into ours, and keeps the HTTP answer to each request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module

from candlegraph import clock
from candlegraph.errors import (
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)

_LONGEST_WAIT_S = 3 * 86_400.0  # the longest ban Binance documents
_SECRETS = re.compile(r"(?<=\?)\S+|(?<=//)[^/@\s]+(?=@)")  # a URL's query (keys, signatures) and its user:password@


@dataclass(slots=True)
class HttpResponse:
    """The HTTP answer to one request, and the URL and body of that request."""

    url: str = ""
    sent_body: object = None
    status: int = 0
    retry_after: float | None = None
    body: object = None


last_response: ContextVar[HttpResponse | None] = ContextVar("ccxt_answer", default=None)
"""The answer to the current task's last request; an instance of ccxt only keeps the last answer of all tasks."""


@contextmanager
def translating_errors(name: str) -> Iterator[None]:
    """Turn every exception of the block into a ProviderError."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        raise translate_error(name, error) from error


def translate_error(name: str, error: Exception) -> ProviderError:
    """Our error for an error of ccxt, without the query of a URL: messages of ccxt quote whole requests."""
    errors = import_module("ccxt.base.errors")
    answer = getattr(error, "answer", None) or _handshake(error) or HttpResponse()
    if isinstance(error, errors.BaseError):
        error.args = tuple(_SECRETS.sub("...", str(arg))[:500] for arg in error.args)
    if answer.status in {418, 429} or isinstance(error, errors.DDoSProtection | errors.RateLimitExceeded):
        return RateLimited(f"{name} asks us to slow down.", retry_after=answer.retry_after)
    if answer.status == 451 or isinstance(error, errors.RestrictedLocation):
        return ProviderRefused(f"{name} does not serve the region we are in.")
    if answer.status >= 500:  # whatever the body says
        return ProviderUnavailable(f"{name} answered with HTTP {answer.status}.", retry_after=answer.retry_after)
    kinds: tuple[tuple[type[Exception], type[ProviderError], str], ...] = (
        (errors.AuthenticationError, ProviderRefused, "refuses us: the API key, or what it is allowed to"),
        (errors.BadSymbol, UnknownSymbol, "does not know this symbol"),
        (errors.BadRequest, Unsupported, "does not support this request"),
        (errors.NotSupported, Unsupported, "does not support this request"),
        (errors.RequestTimeout, ProviderUnavailable, "did not answer in time"),
        (TimeoutError, ProviderUnavailable, "did not answer in time"),
        (errors.InvalidProxySettings, ProviderUnavailable, "cannot be reached with the proxy settings of CCXT_OPTIONS"),
    )
    for kind, ours, reason in kinds:
        if isinstance(error, kind):
            return ours(f"{name} {reason}.")
    if not isinstance(error, errors.BaseError):  # ccxt could not parse the answer
        return unreadable(name)
    status = f" (HTTP {answer.status})" if answer.status >= 400 else ""
    return ProviderUnavailable(f"{name} is not available{status}.")


def unreadable(name: str) -> ProviderUnavailable:
    """The error for an answer that cannot be parsed."""
    return ProviderUnavailable(f"{name} sent an answer that could not be read.")


def _handshake(error: Exception) -> HttpResponse | None:
    """The answer to a websocket handshake, from aiohttp's error, which ccxt wraps in its own."""
    inner = error.args[0] if error.args else None
    status, headers = getattr(inner, "status", None), getattr(inner, "headers", None)
    return HttpResponse(status=status, retry_after=retry_after(headers or {})) if isinstance(status, int) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait by the header Retry-After, which is a number of seconds or a date."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    try:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            seconds = float(text)
        else:
            at = parsedate_to_datetime(text)
            now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)
