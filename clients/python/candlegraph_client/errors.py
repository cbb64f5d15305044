"""What may go wrong. Each class has the ``code`` that the server uses for it, and each error is one sentence.

CandlegraphError
|-- BadUserInput          BAD_USER_INPUT        change the request
|-- NotFound              NOT_FOUND             ask for something that exists
|-- Unauthenticated       UNAUTHENTICATED       sign in
|-- Forbidden             FORBIDDEN             use an account that may
|-- Conflict              CONFLICT              read again
|-- RateLimited           RATE_LIMITED          wait ``retry_after`` seconds
|-- Overloaded            OVERLOADED            come back later
|-- Unavailable           UNAVAILABLE           the server's storage is away
|-- ProviderUnavailable   PROVIDER_UNAVAILABLE  the upstream is down
|-- ProviderRefused       PROVIDER_REFUSED      the upstream refuses: keys, region or plan
|-- Unreachable           UNREACHABLE           the server does not answer
`-- MissingLibrary        MISSING_LIBRARY       install the named extra
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CandlegraphError(Exception):
    """The server failed; ``retry_after`` is in seconds, where it knows when to try again."""

    code = "INTERNAL"

    def __init__(self, message: str, *, retry_after: float | None = None, reason: str | None = None) -> None:
        """Take the sentence for the user."""
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason

    @property
    def message(self) -> str:
        """The sentence for the user."""
        return str(self.args[0])

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.retry_after is not None


class BadUserInput(CandlegraphError):
    """The request cannot be answered as it stands."""

    code = "BAD_USER_INPUT"


class NotFound(CandlegraphError):
    """There is no such thing on the server."""

    code = "NOT_FOUND"


class Unauthenticated(CandlegraphError):
    """The server wants an account, or does not accept this one."""

    code = "UNAUTHENTICATED"


class Forbidden(CandlegraphError):
    """The account may not do this."""

    code = "FORBIDDEN"


class Conflict(CandlegraphError):
    """It changed meanwhile."""

    code = "CONFLICT"


class _Passing(CandlegraphError):
    """An error that passes by itself."""

    @property
    def may_pass(self) -> bool:
        return True


class RateLimited(_Passing):
    """Too many requests."""

    code = "RATE_LIMITED"


class Overloaded(_Passing):
    """The server has too much to do."""

    code = "OVERLOADED"


class Unavailable(_Passing):
    """The server's storage does not answer."""

    code = "UNAVAILABLE"


class ProviderUnavailable(CandlegraphError):
    """The upstream does not answer the server."""

    code = "PROVIDER_UNAVAILABLE"


class ProviderRefused(CandlegraphError):
    """The upstream refuses to answer the server."""

    code = "PROVIDER_REFUSED"


class Unreachable(_Passing):
    """The server does not answer."""

    code = "UNREACHABLE"


class MissingLibrary(CandlegraphError, ImportError):
    """An extra of this package is not installed."""

    code = "MISSING_LIBRARY"


_ERRORS: tuple[type[CandlegraphError], ...] = (
    BadUserInput,
    NotFound,
    Unauthenticated,
    Forbidden,
    Conflict,
    RateLimited,
    Overloaded,
    Unavailable,
    ProviderUnavailable,
    ProviderRefused,
)
_BY_CODE = {one.code: one for one in _ERRORS} | {
    "GRAPHQL_VALIDATION_FAILED": BadUserInput,
    "GRAPHQL_PARSE_FAILED": BadUserInput,
    "ORIGIN_NOT_ALLOWED": Forbidden,
}


def error_of(error: Mapping[str, Any]) -> CandlegraphError:
    """The error that an item of the ``errors`` of an answer stands for."""
    extensions = error.get("extensions") or {}
    kind = _BY_CODE.get(extensions.get("code", ""), CandlegraphError)
    return kind(
        str(error.get("message", "The server failed.")),
        retry_after=extensions.get("retryAfter"),
        reason=extensions.get("reason"),
    )
