"""Requests: where they go, who signs in, what is repeated and what is raised."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from candlegraph_client import Client, errors, session
from candlegraph_client.loading import load_pages
from candlegraph_client.series import Series
from candlegraph_client.session import Session
from conftest import Server

ASK = "{ serverTime }"
ME = "{ me { username } }"


class Upstream:
    """Answers requests as a list says, and notes them."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        operation = json.loads(request.content)["query"].split("(")[0] if request.content else "export"
        self.seen.append((operation, request.headers.get("authorization")))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def session(self, **options: Any) -> Session:
        return Session("http://x", http=httpx.Client(transport=httpx.MockTransport(self)), **options)


def data(**fields: Any) -> httpx.Response:
    return httpx.Response(200, json={"data": fields})


def error(code: str, status: int = 200, headers: dict[str, str] | None = None, **extensions: Any) -> httpx.Response:
    body = {"data": None, "errors": [{"message": "A sentence.", "extensions": {"code": code, **extensions}}]}
    return httpx.Response(status, json=body, headers=headers)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were taken; none of them is waited for."""
    found: list[float] = []
    monkeypatch.setattr(session.time, "sleep", found.append)
    return found


def test_the_address_is_given_or_set_or_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANDLEGRAPH_URL", raising=False)
    assert Session().url == "http://127.0.0.1:8000"
    monkeypatch.setenv("CANDLEGRAPH_URL", "https://candles.example/base/")
    assert Session().url == "https://candles.example/base"
    assert Session("http://other:1/graphql").url == "http://other:1"
    with pytest.raises(errors.BadUserInput, match="begins with http"):
        Session("candles.example")
    with pytest.raises(errors.BadUserInput, match="together"):
        Session(username="ann")


@pytest.mark.parametrize(
    "passing",
    [
        httpx.Response(429, headers={"retry-after": "3"}),
        httpx.Response(503, headers={"retry-after": "3"}),
        error("OVERLOADED", retryAfter=3),
        error("OVERLOADED", 429, {"retry-after": "3"}),
        error("PROVIDER_UNAVAILABLE", retryAfter=3),
    ],
)
def test_what_passes_is_repeated_after_the_time_that_the_server_names(
    passing: httpx.Response, pauses: list[float]
) -> None:
    upstream = Upstream(passing, passing, data(serverTime=1))
    assert upstream.session().execute(ASK, {}) == {"serverTime": 1}
    assert [3 < pause < 4 for pause in pauses] == [True, True]


def test_a_lost_connection_is_repeated_with_growing_pauses(pauses: list[float]) -> None:
    lost = httpx.ConnectError("refused")
    upstream = Upstream(*[lost] * 6, data(serverTime=1))
    assert upstream.session().execute(ASK, {}) == {"serverTime": 1}
    assert pauses[5] > pauses[0]
    upstream = Upstream(*[lost] * 7)
    with pytest.raises(errors.Unreachable, match="does not answer") as caught:
        upstream.session().execute(ASK, {})
    assert caught.value.code == "UNREACHABLE"


def test_a_long_wait_is_the_callers_to_decide_about(pauses: list[float]) -> None:
    with pytest.raises(errors.RateLimited) as caught:
        Upstream(error("RATE_LIMITED", retryAfter=1_800)).session().execute(ASK, {})
    assert (caught.value.retry_after, pauses) == (1_800, [])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("BAD_USER_INPUT", errors.BadUserInput),
        ("GRAPHQL_VALIDATION_FAILED", errors.BadUserInput),
        ("NOT_FOUND", errors.NotFound),
        ("FORBIDDEN", errors.Forbidden),
        ("PROVIDER_REFUSED", errors.ProviderRefused),
        ("PROVIDER_UNAVAILABLE", errors.ProviderUnavailable),
        ("INTERNAL", errors.CandlegraphError),
    ],
)
def test_an_error_is_a_class_with_a_code_and_is_not_repeated(code: str, kind: type[errors.CandlegraphError]) -> None:
    upstream = Upstream(error(code))
    with pytest.raises(errors.CandlegraphError) as caught:
        upstream.session().execute(ASK, {})
    assert type(caught.value) is kind
    assert str(caught.value) == caught.value.message == "A sentence."
    assert len(upstream.seen) == 1


def test_another_server_is_named() -> None:
    with pytest.raises(errors.CandlegraphError, match="is it a Candlegraph server"):
        Upstream(httpx.Response(404, text="<html>")).session().execute(ASK, {})


def test_an_expired_token_is_refreshed_and_then_signed_in_for() -> None:
    def tokens(n: int) -> dict[str, str]:
        return {"token": f"t{n}", "refreshToken": f"r{n}"}

    expired = error("UNAUTHENTICATED", reason="TOKEN_EXPIRED")
    upstream = Upstream(
        data(login=tokens(1)),
        data(serverTime=1),
        expired,
        data(refresh=tokens(2)),
        data(serverTime=2),
        expired,
        error("UNAUTHENTICATED"),
        data(login=tokens(3)),
        data(serverTime=3),
    )
    signed_in = upstream.session(username="ann", password="secret")
    assert [signed_in.execute(ASK, {})["serverTime"] for _ in range(3)] == [1, 2, 3]
    assert [token for operation, token in upstream.seen if operation == ASK] == [
        "Bearer t1",
        "Bearer t1",
        "Bearer t2",
        "Bearer t2",
        "Bearer t3",
    ]


def test_a_token_that_cannot_be_renewed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLEGRAPH_TOKEN", "given")
    upstream = Upstream(error("UNAUTHENTICATED", reason="TOKEN_EXPIRED"))
    with pytest.raises(errors.Unauthenticated) as caught:
        upstream.session().execute(ASK, {})
    assert caught.value.reason == "TOKEN_EXPIRED"
    assert upstream.seen == [(ASK, "Bearer given")]


def page(since: int, revision: str, *, more: bool = False) -> httpx.Response:
    """A page with the candle of one minute."""
    columns = {name: [1.0] for name in ("open", "high", "low", "close", "volume")}
    candles = {
        "timezone": "UTC",
        "revision": revision,
        "hasMore": more,
        "nextSince": since + 60_000,
        "nextBefore": None,
        "columns": {"timestamp": [since], "closed": [True], **columns},
        "gaps": [],
        "sources": [],
    }
    return data(serverId="id", serverTime=10**12, candles=candles)


def test_pages_with_a_correction_between_them_are_read_again() -> None:
    mixed = [page(0, "0", more=True), page(60_000, "1m.1.0")]
    whole = [page(0, "1m.1.0", more=True), page(60_000, "1m.1.0")]
    upstream = Upstream(*mixed, *whole)
    loaded = load_pages(upstream.session(), Series("m", "p", "s", "1m"), (0, 120_000))
    assert (len(loaded.candles), loaded.candles.revision, loaded.known) == (2, "1m.1.0", [(0, 120_000)])
    assert upstream.answers == []
    upstream = Upstream(*mixed * 5)
    with pytest.raises(errors.Conflict, match="try again later"):
        load_pages(upstream.session(), Series("m", "p", "s", "1m"), (0, 120_000))


@pytest.fixture(scope="module")
def account(server: Server) -> dict[str, str]:
    """An account of the server."""
    account = {"username": f"ann{secrets.token_hex(4)}", "password": secrets.token_hex(8)}
    server.run(
        "server.cli.main", "user", "add", account["username"], "--role", "viewer", given=account["password"] + "\n"
    )
    return account


@pytest.fixture
def signed_in(server: Server, account: dict[str, str]) -> Iterator[Client]:
    with Client(server.url, **account) as client:
        yield client


def test_an_account_signs_in_and_refreshes(signed_in: Client, account: dict[str, str]) -> None:
    ask: Callable[[], str] = lambda: signed_in.session.execute(ME, {})["me"]["username"]  # noqa: E731
    assert ask() == account["username"]
    first = signed_in.session.token
    signed_in.session._token = "broken"
    assert ask() == account["username"]
    assert signed_in.session.token not in ("broken", None)
    assert first is not None
    assert next(iter(signed_in.live("demo/synthetic/BTC/USD", "1m", since=int(time.time() * 1000) - 600_000))).closed


def test_a_broken_token_is_renewed_for_live_candles(signed_in: Client) -> None:
    signed_in.session.execute(ME, {})
    live = signed_in.live("demo/synthetic/BTC/USD", "1m", since=int(time.time() * 1000) - 600_000)
    signed_in.session._token = "broken"
    assert next(iter(live)).closed


def test_a_wrong_password_is_refused_after_one_attempt(server: Server, account: dict[str, str]) -> None:
    with Client(server.url, username=account["username"], password="wrong password") as client:
        requests: list[httpx.Request] = []
        client.session._http.event_hooks["request"] = [requests.append]
        with pytest.raises(errors.Unauthenticated):
            client.history("demo/synthetic/BTC/USD", "1h", limit=1)
        assert len(requests) == 1
