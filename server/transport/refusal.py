"""The answer to a request outside of GraphQL that is refused: the error in JSON, with its status."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.responses import Response

from candlegraph.errors import (
    BadUserInput,
    CandlegraphError,
    Conflict,
    Forbidden,
    InvalidCandles,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
)

_STATUSES: tuple[tuple[type[CandlegraphError], int], ...] = (
    (BadUserInput, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (TooManyAttempts, 429),
    (Overloaded, 429),
    (PayloadTooLarge, 413),
    (InvalidCandles, 422),
    (Unavailable, 503),
)


def refusal_of(error: CandlegraphError, more: Mapping[str, object] | None = None) -> Response:
    """An error in JSON, with its status and ``more`` members beside it."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    shown = {"message": error.message, "extensions": {"code": error.code, "retryAfter": error.retry_after}}
    body = {"errors": [shown], **(more or {})}
    headers = {"cache-control": "no-store", "vary": "Authorization, Origin"}
    if status in (429, 503):
        headers["retry-after"] = str(max(1, round(error.retry_after or 1)))
    return Response(orjson.dumps(body), status, headers, "application/json; charset=utf-8")
