"""The one error tree. A class says what the caller can do about it; its ``code`` is what GraphQL clients see.

CandlegraphError
|-- BadUserInput            BAD_USER_INPUT          change the request
|-- NotFound                NOT_FOUND               ask for something that exists
|-- Unauthenticated         UNAUTHENTICATED         sign in
|   |-- TokenExpired        UNAUTHENTICATED         refresh the access token
|   `-- TokenUsed           UNAUTHENTICATED         use the tokens that the first use returned
|-- Forbidden               FORBIDDEN               use an account that may
|-- Conflict                CONFLICT                read again, then retry
|-- TooManyAttempts         RATE_LIMITED            wait ``retry_after`` seconds
|-- Overloaded              OVERLOADED              come back later
|-- PayloadTooLarge         PAYLOAD_TOO_LARGE       send less at once
|-- Unavailable             UNAVAILABLE             our own storage is away: retry
|-- ConfigurationError      CONFIGURATION           change the named setting
|-- InvalidCandles          INVALID_CANDLES         correct the named row
`-- ProviderError           PROVIDER_UNAVAILABLE    the upstream, as a provider plugin reports it
    |-- ProviderUnavailable PROVIDER_UNAVAILABLE    retry; the upstream is down, slow or sends garbage
    |   |-- ProviderStarting PROVIDER_UNAVAILABLE   ask again after ``retry_after`` seconds
    |   `-- FetchPaused     UNAVAILABLE             free some disk space; stored candles are still answered
    |-- RateLimited         RATE_LIMITED            wait ``retry_after`` seconds
    |   `-- FetchLimited    RATE_LIMITED            the same; stored candles are still answered
    |-- ProviderRefused     PROVIDER_REFUSED        do not retry: keys, region or plan
    |-- UnknownSymbol       NOT_FOUND               the upstream does not know the symbol
    `-- Unsupported         BAD_USER_INPUT          the provider does not support this request
"""

from __future__ import annotations


class CandlegraphError(Exception):
    """Something went wrong."""

    code = "INTERNAL"
    reason: str | None = None  # for clients that have to distinguish errors of one code

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        """Take ``message``, or the first line of the class's docstring.

        ``retry_after`` is in seconds and only a hint.
        """
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The sentence for the user."""
        return str(self.args[0])


class BadUserInput(CandlegraphError):
    """The request cannot be answered as it stands."""

    code = "BAD_USER_INPUT"


class NotFound(CandlegraphError):
    """There is no such thing here."""

    code = "NOT_FOUND"


class Unauthenticated(CandlegraphError):
    """Sign in first."""

    code = "UNAUTHENTICATED"


class TokenExpired(Unauthenticated):
    """The access token has expired: refresh it."""

    reason = "TOKEN_EXPIRED"


class TokenUsed(Unauthenticated):
    """This refresh token was used a moment ago: take the tokens that the first use brought."""

    reason = "TOKEN_USED"


class Forbidden(CandlegraphError):
    """You may not do this."""

    code = "FORBIDDEN"


class Conflict(CandlegraphError):
    """It changed meanwhile: read it again."""

    code = "CONFLICT"


class TooManyAttempts(CandlegraphError):
    """Too many attempts: wait a while."""

    code = "RATE_LIMITED"


class Overloaded(CandlegraphError):
    """The server has too much to do: try again later."""

    code = "OVERLOADED"


class PayloadTooLarge(CandlegraphError):
    """The request is too large."""

    code = "PAYLOAD_TOO_LARGE"


class Unavailable(CandlegraphError):
    """The storage does not answer: try again in a moment."""

    code = "UNAVAILABLE"
    logged = False  # whether the outage behind it is in the log already


class ConfigurationError(CandlegraphError):
    """A setting is wrong. The message is one line that names it and never has a secret."""

    code = "CONFIGURATION"


class InvalidCandles(CandlegraphError):
    """Rows that are no candles."""

    code = "INVALID_CANDLES"


class ProviderError(CandlegraphError):
    """The provider failed."""

    code = "PROVIDER_UNAVAILABLE"


class ProviderUnavailable(ProviderError):
    """The provider does not answer."""


class ProviderStarting(ProviderUnavailable):
    """The provider is starting: ask again in a moment."""


class RateLimited(ProviderError):
    """Too many requests."""

    code = "RATE_LIMITED"


class FetchLimited(RateLimited):
    """Too many candles would be fetched for this caller: wait a while."""


class FetchPaused(ProviderUnavailable):
    """The disk of the database is nearly full: nothing is fetched until there is room."""

    code = "UNAVAILABLE"


class ProviderRefused(ProviderError):
    """The provider refuses to answer us."""

    code = "PROVIDER_REFUSED"


class UnknownSymbol(ProviderError):
    """The provider does not know this symbol."""

    code = "NOT_FOUND"


class Unsupported(ProviderError):
    """The provider does not support this request."""

    code = "BAD_USER_INPUT"
