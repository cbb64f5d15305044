"""A page of another site learns which setting would let it in; the server's own pages and those that it names are let in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from tests.server.running import Running, serving

ALLOWED = "https://charts.example.com"
OTHERS = [
    "https://evil.example",
    "http://localhost:5173",
    "null",
    f"{ALLOWED}.evil",
    "http://charts.example.com",
    "x" * 300,
]
ASKED = {"query": "{ __typename }"}


@pytest.fixture(scope="module")
async def strict(
    new_database: Callable[..., object], migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """A server that lets one other site in."""
    dsn = await new_database(migrated_template)
    log = tmp_path_factory.mktemp("origins") / "log"
    allowed = "https://Charts.example.com:443, https://other.example"
    with serving(log, DB_CONNECTION_STRING=str(dsn), DATA_DIR="/nonexistent", ALLOWED_ORIGINS=allowed) as running:
        yield running


@pytest.fixture
async def http(strict: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(strict.url) as session:
        yield session


@pytest.mark.parametrize("origin", OTHERS)
async def test_every_transport_names_the_setting_to_another_site(http: aiohttp.ClientSession, origin: str) -> None:
    headers = {"origin": origin}
    preflight = {**headers, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "sec-websocket-protocol": "graphql-transport-ws",
    }
    for asked in (
        http.post("/graphql", json=ASKED, headers=headers),
        http.get("/graphql", params=ASKED, headers=headers),
        http.options("/graphql", headers=preflight),
        http.get("/graphql", headers={**headers, **upgrade}),
    ):
        async with asked as response:
            assert response.status == 403
            assert not [name for name in response.headers if name.lower().startswith("access-control")]
            assert response.headers["content-type"].startswith("application/json")
            (error,) = (await response.json())["errors"]
            assert error["extensions"] == {"code": "ORIGIN_NOT_ALLOWED"}
            assert "ALLOWED_ORIGINS" in error["message"]
            assert origin[:200] in error["message"]
            assert len(error["message"]) < 400


async def test_the_log_names_the_origin_and_the_setting_once_a_minute(
    strict: Running, http: aiohttp.ClientSession
) -> None:
    for _ in range(20):
        async with http.post("/graphql", json=ASKED, headers={"origin": "https://evil.example"}):
            pass
    lines = [line for line in strict.log.read_text(encoding="utf-8").splitlines() if "ALLOWED_ORIGINS" in line]
    assert len(lines) <= 3  # a minute may begin meanwhile
    assert any(repr(origin) in lines[0] for origin in OTHERS)


async def test_own_pages_and_allowed_ones_are_answered(strict: Running, http: aiohttp.ClientSession) -> None:
    https = {"origin": "https://shown.example", "host": "shown.example"}  # a proxy ends TLS, and passes Host on
    rewritten = {"origin": "https://shown.example", "sec-fetch-site": "same-origin"}  # and one that does not
    for headers in ({"origin": strict.url}, https, rewritten, {"origin": ALLOWED}, {}):
        async with http.post("/graphql", json=ASKED, headers=headers) as response:
            assert (await response.json())["data"], headers
            allowed = ALLOWED if headers.get("origin") == ALLOWED else None
            assert response.headers.get("access-control-allow-origin") == allowed
        async with http.ws_connect("/graphql", protocols=["graphql-transport-ws"], headers=headers):
            pass
    preflight = {"origin": ALLOWED, "access-control-request-method": "POST"}
    async with http.options("/graphql", headers=preflight) as response:
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, ALLOWED)
