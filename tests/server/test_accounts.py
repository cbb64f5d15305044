"""Accounts against a real server process, over HTTP and over a socket, and from the command line."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import ClientWebSocketResponse as Socket
from aiohttp import WSMsgType

from candlegraph.viewer import Role
from resolvers.accounts.administration import UserAdministration
from storage.database import Database
from storage.embedded.postgres import EmbeddedPostgres
from storage.migration.migrate import migrate
from storage.users import UserStore
from tests.server.running import COMMAND, Running, environment, serving
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

SECRET_KEY = "canary-0-signing-8f2b64d09c7e41a5b3"
PASSWORD, WRONG = "canary-1-password", "canary-2-guess"
LOGIN = """mutation ($name: String!, $password: String!) { login(username: $name, password: $password) {
  token refreshToken expiresAt user { username roles config configUpdatedAt } } }"""
REFRESH = "mutation ($token: String!) { refresh(token: $token) { token refreshToken user { username } } }"
SAVE = "mutation ($config: JSON!, $at: DateTime) { saveConfig(config: $config, ifUpdatedAt: $at) { config updatedAt } }"
ME = "{ me { username roles config configUpdatedAt } }"
LIVE = 'subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD") { kind } }'
MARKETS = "{ markets { id } }"


@dataclass
class Client:
    """Asks over HTTP, or over a socket of its own, and remembers all that was said."""

    server: Running
    http: aiohttp.ClientSession
    users: UserStore
    heard: list[str]

    async def ask(self, query: str, bearer: str | None = None, /, **variables: Any) -> dict[str, Any]:
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        async with self.http.post(
            "/graphql", json={"query": query, "variables": variables}, headers=headers
        ) as response:
            assert response.status == 200
            self.heard.append(await response.text())
            return json.loads(self.heard[-1])  # type: ignore[no-any-return]

    async def login(self, name: str = "ada") -> dict[str, Any]:
        return (await self.ask(LOGIN, name=name, password=PASSWORD))["data"]["login"]  # type: ignore[no-any-return]

    @asynccontextmanager
    async def socket(self, payload: object = None, **headers: str) -> AsyncIterator[Socket]:
        async with self.http.ws_connect("/graphql", protocols=["graphql-transport-ws"], headers=headers) as socket:
            await socket.send_json({"type": "connection_init", **({} if payload is None else {"payload": payload})})
            yield socket

    async def ask_socket(self, query: str, bearer: str | None = None, /, **variables: Any) -> dict[str, Any]:
        async with self.socket(bearer and {"Authorization": f"Bearer {bearer}"}) as socket:
            assert (await socket.receive_json())["type"] == "connection_ack"
            payload = {"query": query, "variables": variables}
            await socket.send_json({"id": "1", "type": "subscribe", "payload": payload})
            message = await socket.receive_json()
            self.heard.append(json.dumps(message))
            return message["payload"]  # type: ignore[no-any-return]


def forged(age_s: int = 0, lifetime_s: int = 900, **claims: Any) -> str:
    """A token as the server itself would have signed it a while ago."""
    now = int(time.time()) - age_s
    standard = {"iss": "candlegraph", "aud": "candlegraph", "sub": "1", "iat": now, "nbf": now, "exp": now + lifetime_s}
    more = {"jti": "x", "typ": "access", "roles": [], "ver": 1}
    return jwt.encode({**standard, **more, **claims}, SECRET_KEY, algorithm="HS256")


def codes(answer: dict[str, Any] | list[Any]) -> list[tuple[str, str | None]]:
    errors = answer if isinstance(answer, list) else answer.get("errors", [])
    return [(error["extensions"]["code"], error["extensions"].get("reason")) for error in errors]


@asynccontextmanager
async def client_of(dsn: str, log: Path, *names: str, **variables: str) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        database = Database(dsn, timings=PATIENT)
        await database.open()
        stack.push_async_callback(database.close)
        await migrate(database)
        users = UserStore(database)
        for name in names:
            await UserAdministration(users).add(name, PASSWORD, Role.OPERATOR)
        settings = {"SECRET_KEY": SECRET_KEY, "LOG_LEVEL": "debug", "DATA_DIR": "/nonexistent", **variables}
        server = stack.enter_context(serving(log, DB_CONNECTION_STRING=dsn, **settings))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                server.url, timeout=aiohttp.ClientTimeout(HANG_S), cookie_jar=aiohttp.DummyCookieJar()
            )
        )
        yield Client(server, http, users, [])


@pytest.fixture(scope="module")
async def client(
    new_database: Callable[..., Any], migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Client]:
    """A server with the accounts of ada (whose id is 1) and a few others."""
    dsn = await new_database(migrated_template)
    log = tmp_path_factory.mktemp("accounts") / "log"
    async with client_of(dsn, log, "ada", "bob", "cyd", "dee", "eve", "fay") as opened:
        yield opened
        assert "Traceback" not in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("way", ["ask", "ask_socket"])
async def test_a_user_signs_in_keeps_a_configuration_and_stays_signed_in(client: Client, way: str) -> None:
    ask, name = getattr(client, way), {"ask": "bob", "ask_socket": "cyd"}[way]
    signed_in = (await ask(LOGIN, name=name, password=PASSWORD))["data"]["login"]
    token = signed_in["token"]
    assert signed_in["user"] == {
        "username": name,
        "roles": ["VIEWER", "OPERATOR"],
        "config": {},
        "configUpdatedAt": None,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", signed_in["expiresAt"])
    assert (await ask(ME))["data"] == {"me": None}
    config = {"layout": ["a", {"b": 1.5}], "theme": "dark", "💹": None}
    saved = (await ask(SAVE, token, config=config))["data"]["saveConfig"]
    assert saved["config"] == config
    me = (await ask(ME, token))["data"]["me"]
    assert (me["config"], me["configUpdatedAt"]) == (config, saved["updatedAt"])
    assert codes(await ask(SAVE, token, config={}, at="2024-05-01T00:00:00Z")) == [("CONFLICT", None)]
    again = (await ask(SAVE, token, config={}, at=saved["updatedAt"]))["data"]["saveConfig"]
    assert datetime.fromisoformat(again["updatedAt"]) > datetime.fromisoformat(saved["updatedAt"])
    refreshed = (await ask(REFRESH, token=signed_in["refreshToken"]))["data"]["refresh"]
    assert (await ask(ME, refreshed["token"]))["data"]["me"]["username"] == name
    assert codes(await ask(REFRESH, token=signed_in["refreshToken"])) == [("UNAUTHENTICATED", "TOKEN_USED")]
    logout = "mutation ($token: String!) { logout(token: $token) }"
    assert [(await ask(logout, token=refreshed["refreshToken"]))["data"]["logout"] for _ in range(2)] == [True, False]
    assert codes(await ask(REFRESH, token=refreshed["refreshToken"])) == [("UNAUTHENTICATED", None)]


BAD = [
    (f'mutation {{ login(username: "ada", password: "{WRONG}") {{ token }} }}', {}, ("UNAUTHENTICATED", None)),
    (LOGIN, {"name": "absent", "password": WRONG}, ("UNAUTHENTICATED", None)),
    (LOGIN, {"name": "", "password": WRONG}, ("BAD_USER_INPUT", None)),
    (LOGIN, {"name": "ada", "password": ""}, ("BAD_USER_INPUT", None)),
    (LOGIN, {"name": "x" * 257, "password": WRONG}, ("BAD_USER_INPUT", None)),
    (LOGIN, {"name": "ada", "password": WRONG + "\0"}, ("BAD_USER_INPUT", None)),
    (LOGIN, {"name": "ada", "password": None}, ("BAD_USER_INPUT", None)),
    (REFRESH, {"token": "x"}, ("UNAUTHENTICATED", None)),
    (SAVE, {"config": {}}, ("UNAUTHENTICATED", None)),
]
BAD_CONFIGS: list[Any] = [
    [],
    "x",
    7,
    None,
    {"a": 2**53 + 1},
    {"a": 2**70},
    {"a": "\0"},
    {"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]},
]
BAD_LITERALS = [
    "{a: 1e400}",
    "{a: 9007199254740993}",
    "{a: %s}" % ("9" * 5000),
    '{a: "\\u0000"}',
    "{a: 1, a: 2}",
    "[{}]",
    "null",
]


async def test_errors_are_the_same_over_http_and_over_a_socket(client: Client) -> None:
    for query, variables, expected in BAD:
        over_http = await client.ask(query, **variables)
        over_socket = await client.ask_socket(query, **variables)
        assert codes(over_http) == codes(over_socket) == [expected], variables
        assert (over_socket if isinstance(over_socket, list) else over_socket["errors"]) == over_http["errors"]
    token = (await client.login("fay"))["token"]
    for config in BAD_CONFIGS:
        answers = [await ask(SAVE, token, config=config) for ask in (client.ask, client.ask_socket)]
        assert [codes(answer) for answer in answers] == [[("BAD_USER_INPUT", None)]] * 2, config
    for literal in BAD_LITERALS:
        answer = await client.ask(f"mutation {{ saveConfig(config: {literal}) {{ updatedAt }} }}", token)
        assert {code for code, _ in codes(answer)} <= {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}, literal
    assert (await client.ask(ME, token))["data"]["me"]["config"] == {}
    inline = 'mutation ($x: Int) { saveConfig(config: {a: [1, 2.5, true, null, $x], b: {c: "d"}}) { config } }'
    kept = (await client.ask(inline, token, x=7))["data"]["saveConfig"]["config"]
    assert kept == {"a": [1, 2.5, True, None, 7], "b": {"c": "d"}}


async def test_an_expired_token_says_so_wherever_it_is_shown_but_to_who_brings_a_new_one(client: Client) -> None:
    expired, bad = forged(age_s=1000), forged()[:-5]
    for token, reason in ((expired, "TOKEN_EXPIRED"), (bad, None), (forged(sub="999"), None), (forged(ver=7), None)):
        for query in (ME, MARKETS):
            assert codes(await client.ask(query, token)) == [("UNAUTHENTICATED", reason)]
        assert codes(await client.ask(SAVE, token, config={})) == [("UNAUTHENTICATED", reason)]
        assert not codes(await client.ask("{ __typename __schema { description } }", token))
    login = await client.ask(LOGIN, expired, name="dee", password=PASSWORD)
    refreshed = await client.ask(REFRESH, expired, token=login["data"]["login"]["refreshToken"])
    assert refreshed["data"]["refresh"]["user"] == {"username": "dee"}


async def test_a_token_in_an_address_or_a_cookie_is_ignored(client: Client) -> None:
    token = forged()
    assert (await client.ask(ME, token))["data"]["me"]["username"] == "ada"
    query = {"query": ME, "token": token, "access_token": token, "authorization": f"Bearer {token}"}
    cookie = {"cookie": f"token={token}; authorization=Bearer {token}"}
    async with client.http.get("/graphql", params=query, headers=cookie) as response:
        assert (await response.json())["data"] == {"me": None}
    body = {"query": ME, "extensions": {"authorization": f"Bearer {token}"}}
    async with client.http.post("/graphql", json=body, headers=cookie) as response:
        assert (await response.json())["data"] == {"me": None}
    async with client.http.get(
        "/graphql", params={"query": ME}, headers={"authorization": f"Bearer {token}"}
    ) as response:
        assert (await response.json())["data"]["me"]["username"] == "ada"
        assert "Authorization" in response.headers["vary"]


async def _closed_with(socket: Socket) -> tuple[int | None, str]:
    async with asyncio.timeout(HANG_S):
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            pass
    return socket.close_code, str(message.extra)


@pytest.mark.parametrize("key", ["Authorization", "authorization", "AUTHORIZATION"])
async def test_a_socket_belongs_to_whom_its_connection_init_says(client: Client, key: str) -> None:
    async with client.socket({key: f"Bearer {forged()}"}, authorization="Basic YTpi") as socket:
        assert (await socket.receive_json())["type"] == "connection_ack"
        for id_ in "ab":  # each operation of it
            await socket.send_json({"id": id_, "type": "subscribe", "payload": {"query": ME}})
            assert (await socket.receive_json())["payload"]["data"]["me"]["username"] == "ada"
            assert (await socket.receive_json())["type"] == "complete"
    async with client.socket(None, authorization=f"Bearer {forged()}") as socket:
        assert (await socket.receive_json())["type"] == "connection_ack"
        await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": ME}})
        assert (await socket.receive_json())["payload"]["data"]["me"]["username"] == "ada"


BAD_HEADERS: dict[str, Callable[[], object]] = {
    "expired": lambda: f"Bearer {forged(age_s=1000)}",
    "gone": lambda: f"Bearer {forged(sub='999')}",
    "garbage": lambda: "Bearer x",
    "no token": lambda: "Bearer",
    "no scheme": forged,
    "a number": lambda: 7,
    "a list": lambda: ["Bearer x"],
    "an object": lambda: {"a": 1},
}


@pytest.mark.parametrize("header", BAD_HEADERS)
async def test_a_socket_with_a_token_that_is_not_good_is_closed_with_4403(client: Client, header: str) -> None:
    """graphql-ws tries again after 4403, and never after 4401."""
    async with client.socket({"Authorization": BAD_HEADERS[header]()}) as socket:
        code, reason = await _closed_with(socket)
    assert code == 4403
    assert ("expired" in reason) is (header == "expired")


async def test_a_disabled_account_is_signed_out_on_a_live_socket_too(client: Client) -> None:
    signed_in = await client.login("eve")
    other = await client.login("dee")
    async with (
        client.socket({"Authorization": f"Bearer {signed_in['token']}"}) as socket,
        client.socket({"Authorization": f"Bearer {other['token']}"}) as spared,
    ):
        for one in (socket, spared):
            assert (await one.receive_json())["type"] == "connection_ack"
            await one.send_json({"id": "1", "type": "subscribe", "payload": {"query": LIVE}})
            assert (await one.receive_json())["type"] == "next"
        await client.users.disable("eve", disabled=True)
        assert (await _closed_with(socket))[0] == 4403
        assert not spared.closed
    assert codes(await client.ask(ME, signed_in["token"])) == [("UNAUTHENTICATED", None)]
    assert codes(await client.ask(REFRESH, token=signed_in["refreshToken"])) == [("UNAUTHENTICATED", None)]
    assert codes(await client.ask(LOGIN, name="eve", password=PASSWORD)) == [("UNAUTHENTICATED", None)]


async def test_twenty_refreshes_at_once_have_one_successor(client: Client) -> None:
    token = (await client.login("dee"))["refreshToken"]
    answers = await asyncio.gather(*(client.ask(REFRESH, token=token) for _ in range(20)))
    found = Counter(codes(answer)[0] if codes(answer) else "successor" for answer in answers)
    print(dict(found))
    assert found == {"successor": 1, ("UNAUTHENTICATED", "TOKEN_USED"): 19}


async def test_every_alias_is_a_try(client: Client) -> None:
    """A document with twenty guesses is no cheaper than twenty documents with one."""
    aliases = " ".join(f'a{i}: login(username: "guessed", password: "{WRONG}{i}") {{ token }}' for i in range(20))
    found: Counter[str] = Counter()
    for _ in range(15):
        answer = await client.ask("mutation { " + aliases + " }")
        found.update(code for code, _ in codes(answer))
        for error in answer["errors"]:
            if error["extensions"]["code"] == "RATE_LIMITED":
                assert 0 < error["extensions"]["retryAfter"] <= 30
    assert found["UNAUTHENTICATED"] == 10
    assert set(found) == {"UNAUTHENTICATED", "RATE_LIMITED"}
    assert await client.login("bob"), "another user from the same address"


async def test_no_secret_is_in_the_log_or_in_an_error(client: Client) -> None:
    """Runs last: of all that was said above, and at the level of debugging."""
    token = (await client.login("cyd"))["token"]
    log = client.server.log.read_text(encoding="utf-8")
    tokens = {secret for text in client.heard for secret in re.findall(r'oken":\s*"([^"]{20,})"', text)}
    assert len(tokens) > 10
    secrets = {SECRET_KEY, PASSWORD, WRONG, token, *tokens}
    assert sum(secret in log for secret in secrets) == 0
    errors = [json.dumps(answer.get("errors")) for text in client.heard if isinstance(answer := json.loads(text), dict)]
    assert sum(secret in text for secret in secrets for text in errors) == 0
    assert "$argon2" not in log


async def test_market_data_is_closed_to_strangers_where_that_is_asked(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    dsn = await new_database(migrated_template)
    arguments = 'market: "demo", provider: "synthetic", symbol: "BTC/USD"'
    queries = [
        MARKETS,
        '{ providers(market: "demo") { id } }',
        '{ symbols(market: "demo", provider: "synthetic") { totalCount } }',
        f"{{ symbol({arguments}) {{ id }} }}",
        f"{{ candles({arguments}, limit: 1) {{ complete }} }}",
        f"{{ candlesBatch(series: [{{{arguments}}}], limit: 1) {{ complete }} }}",
    ]
    async with client_of(dsn, tmp_path / "log", "ada", REQUIRE_AUTH="true", ENV="production") as client:
        token = (await client.login())["token"]
        for query in queries:
            assert codes(await client.ask(query)) == [("UNAUTHENTICATED", None)], query
            assert codes(await client.ask_socket(query)) == [("UNAUTHENTICATED", None)], query
            assert not codes(await client.ask(query, token)), query
        assert codes(await client.ask_socket(LIVE)) == [("UNAUTHENTICATED", None)]
        assert (await client.ask_socket(LIVE, token))["data"]["candles"]["kind"]
        assert (await client.ask(ME))["data"] == {"me": None}


async def test_while_the_database_is_away_no_password_is_called_wrong(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    dsn = (await asyncio.to_thread(postgres.start)).dsn
    try:
        async with client_of(dsn, tmp_path / "log", "ada") as client:
            signed_in = await client.login()
            await asyncio.to_thread(postgres.stop)

            async def away() -> bool:
                return codes(await client.ask(ME, signed_in["token"])) == [("UNAVAILABLE", None)]

            await eventually(away)
            for ask in (client.ask, client.ask_socket):
                assert codes(await ask(LOGIN, name="ada", password=PASSWORD)) == [("UNAVAILABLE", None)]
                assert codes(await ask(REFRESH, token=signed_in["refreshToken"])) == [("UNAVAILABLE", None)]
            assert codes(await client.ask(ME, signed_in["token"])) == [("UNAVAILABLE", None)]
            assert (await client.ask(ME))["data"] == {"me": None}
            async with client.socket({"Authorization": f"Bearer {signed_in['token']}"}) as socket:
                assert (await _closed_with(socket))[0] == 1013
    finally:
        await asyncio.to_thread(postgres.stop)


def command(dsn: str, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "user", *arguments],
        env=environment(DB_CONNECTION_STRING=dsn),
        cwd="/",
        input=said,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


async def test_accounts_are_made_and_closed_from_the_command_line(
    new_database: Callable[..., Any], migrated_template: str
) -> None:
    dsn = await new_database(migrated_template)
    database = Database(dsn, timings=PATIENT)
    await database.open()
    users = UserStore(database)
    assert (
        command(dsn, "add", "Ada", "--role", "operator", said=PASSWORD + "\n").stdout
        == "Ada may sign in, as operator.\n"
    )
    first, hash_ = await users.credentials("ada")
    assert (first.name, first.role, first.disabled) == ("Ada", Role.OPERATOR, False)
    assert command(dsn, "disable", "ada").returncode == 0
    assert command(dsn, "list").stdout.split() == ["name", "role", "state", "Ada", "operator", "closed"]
    assert command(dsn, "enable", "ADA").returncode == 0
    assert command(dsn, "password", "ada", said="another password\n").returncode == 0
    second, other_hash = await users.credentials("ada")
    assert not second.disabled
    assert second.version == first.version + 2
    assert hash_ != other_hash
    for arguments, said, code in (
        (("add", "ada"), PASSWORD, 1),
        (("add", "bob"), "short", 1),
        (("add", "bob", "--role", "root"), PASSWORD, 2),
        (("disable", "absent"), "", 1),
    ):
        result = command(dsn, *arguments, said=said)
        assert result.returncode == code, arguments
        assert result.stderr.strip()
        assert "Traceback" not in result.stderr
        assert not (said and said in result.stderr + result.stdout)
    await database.close()
