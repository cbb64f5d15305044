"""Requests to one server: its address, sign-in, and repetition of what failed for a moment."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

import httpx

from candlegraph_client.errors import (
    BadUserInput,
    CandlegraphError,
    RateLimited,
    Unauthenticated,
    Unavailable,
    Unreachable,
    error_of,
)
from candlegraph_client.operations import LOGIN, RENEW, Tokens

LOCAL_URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # a query waits up to 12 s for a provider and the storage
MAX_RETRIES = 6
MAX_PAUSE_S = 5.0  # of our own backoff
MAX_RETRY_AFTER_S = 60.0  # a longer wait is the caller's to decide about
_BUSY: dict[int, type[CandlegraphError]] = {429: RateLimited, 502: Unreachable, 503: Unavailable, 504: Unreachable}

T = TypeVar("T")


class SessionOptions(TypedDict, total=False):
    """The account of a session: ``username`` and ``password``, or a ``token``; ``http`` for proxies and certificates."""

    username: str | None
    password: str | None
    token: str | None
    http: httpx.Client | None


class Session:
    """Sends requests, signs in before the first one, and again when the token has expired. Threads may share it."""

    def __init__(self, url: str | None = None, **options: Unpack[SessionOptions]) -> None:
        """Send nothing yet. Without ``url``, CANDLEGRAPH_URL counts; without an account, CANDLEGRAPH_TOKEN."""
        self.url = (url or os.environ.get("CANDLEGRAPH_URL") or LOCAL_URL).rstrip("/").removesuffix("/graphql")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise BadUserInput(f"{self.url!r} is no address of a server: it begins with http:// or https://.")
        account = {name: options.get(name) for name in ("username", "password")}
        if (account["username"] is None) != (account["password"] is None):
            raise BadUserInput("Give `username` and `password` together.")
        self._account = None if account["username"] is None else account
        self._token = options.get("token") or (None if self._account else os.environ.get("CANDLEGRAPH_TOKEN"))
        self._refresh_token: str | None = None
        self._http = options.get("http") or httpx.Client(timeout=TIMEOUT)
        self._signing_in = threading.Lock()

    @property
    def token(self) -> str | None:
        """The access token, if there is one at present."""
        return self._token

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def execute(self, document: str, variables: Mapping[str, Any]) -> Any:
        """The data of the answer, whole: an error of any field is raised."""
        return self._retried(lambda token: self._post(document, variables, token))

    def export(self, query: Mapping[str, str]) -> httpx.Response:
        """An export as Arrow, zstd or plain: its body is still to be read, and the response to be closed."""

        def attempt(token: str | None) -> httpx.Response:
            headers = self._headers(token) | {"accept-encoding": "zstd"}
            request = self._http.build_request("GET", f"{self.url}/export/candles.arrow", params=query, headers=headers)
            try:
                response = self._http.send(request, stream=True)
                if response.status_code == 200:
                    return response
                response.read()
            except httpx.TransportError as error:
                raise self.unreachable(error) from error
            raise _refusal_of(response)

        return self._retried(attempt)

    def _retried(self, attempt: Callable[[str | None], T]) -> T:
        """Repeat what may pass, honouring Retry-After; renew an expired token once."""
        renewed, retries = False, 0
        while True:
            token = None
            try:
                token = self.bearer()
                return attempt(token)
            except Unauthenticated:
                if renewed or token is None or not self.renew(token):
                    raise
                renewed = True
            except CandlegraphError as error:
                pause = pause_of(error, retries)
                if retries >= MAX_RETRIES or pause is None:
                    raise
                retries += 1
                time.sleep(pause)

    def bearer(self) -> str | None:
        """The access token; None where there is no account."""
        if self._token is None and self._account is not None:
            self.renew(None)
        return self._token

    def renew(self, used: str | None) -> bool:
        """Replace the token ``used``, unless another thread has; False where there is no way to."""
        with self._signing_in:
            if self._token != used:
                return True
            tokens = self._refreshed() or self._logged_in()
            if tokens is None:
                return False
            self._token, self._refresh_token = tokens["token"], tokens["refreshToken"]
            return True

    def _refreshed(self) -> Tokens | None:
        if self._refresh_token is None:
            return None
        try:
            answer = self._post(RENEW, {"token": self._refresh_token}, None)
        except Unauthenticated:
            return None
        tokens: Tokens = answer["refresh"]
        return tokens

    def _logged_in(self) -> Tokens | None:
        if self._account is None:
            return None
        tokens: Tokens = self._post(LOGIN, self._account, None)["login"]
        return tokens

    def _post(self, document: str, variables: Mapping[str, Any], token: str | None) -> Any:
        body = {"query": document, "variables": variables}
        try:
            response = self._http.post(f"{self.url}/graphql", json=body, headers=self._headers(token))
        except httpx.TransportError as error:
            raise self.unreachable(error) from error
        if response.status_code != 200:
            raise _refusal_of(response)
        answer = response.json()
        if errors := answer.get("errors"):
            raise error_of(errors[0])
        return answer["data"]

    def _headers(self, token: str | None) -> dict[str, str]:
        return {"accept": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def unreachable(self, error: Exception) -> Unreachable:
        """The sentence for a server that does not answer."""
        return Unreachable(
            f"The server at {self.url} does not answer ({type(error).__name__}: {error}): "
            "start it, or name another one in CANDLEGRAPH_URL."
        )


def pause_of(error: CandlegraphError, retries: int) -> float | None:
    """How long to wait before the next attempt (s); None where the error is to be raised."""
    if not error.may_pass or (error.retry_after or 0) > MAX_RETRY_AFTER_S:
        return None
    return (error.retry_after or 0) + backoff(retries)


def backoff(retries: int) -> float:
    """A pause (s) that grows up to a limit, with jitter."""
    return float(min(0.2 * 2.0 ** min(retries, 16), MAX_PAUSE_S) * random.uniform(0.5, 1))  # noqa: S311 - a jitter


def busy(status: int, retry_after: str | None) -> CandlegraphError | None:
    """The error of a status that may pass; None for another status."""
    if kind := _BUSY.get(status):
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        return kind(f"The server answered with status {status}: try again later.", retry_after=seconds)
    return None


def _refusal_of(response: httpx.Response) -> CandlegraphError:
    passing = busy(response.status_code, response.headers.get("retry-after"))
    try:
        error = error_of(response.json()["errors"][0])
    except (ValueError, LookupError, TypeError):
        return passing or CandlegraphError(
            f"{response.url} answered with status {response.status_code}: is it a Candlegraph server?"
        )
    if passing and error.retry_after is None:
        error.retry_after = passing.retry_after or 0.0
    return error
