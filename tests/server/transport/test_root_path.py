"""Under a path of a reverse proxy, whether that strips the path or not, everything is where a browser looks for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from urllib.parse import urljoin

import aiohttp
import pytest
from aiohttp import web

from tests.server.running import Running, serving
from tests.waiting import HANG_S

ROOT = "/api"
LIVE = 'subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD") { kind } }'
PAGE = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
async def prefixed(
    new_database: Callable[..., object], migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """A server that knows its path."""
    dsn = await new_database(migrated_template)
    log = tmp_path_factory.mktemp("prefixed") / "log"
    with serving(log, DB_CONNECTION_STRING=str(dsn), DATA_DIR="/nonexistent", ROOT_PATH=ROOT) as running:
        yield running


def proxy(server: str, *, strips: bool) -> web.Application:
    """A reverse proxy that serves `ROOT` alone, and passes everything on with the Host it got."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path_qs
        url = server + (path.removeprefix(ROOT) or "/" if strips else path)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        async with aiohttp.ClientSession(auto_decompress=False) as http:
            if request.headers.get("upgrade"):
                return await _pass_socket_on(request, http, url)
            asked = http.request(request.method, url, headers=headers, data=await request.read(), allow_redirects=False)
            async with asked as found:
                answer = web.StreamResponse(status=found.status, headers=found.headers)
                await answer.prepare(request)
                async for part in found.content.iter_any():
                    await answer.write(part)
                return answer

    app = web.Application()
    app.router.add_route("*", ROOT + "{path:(/.*)?}", pass_on)
    return app


async def _pass_socket_on(request: web.Request, http: aiohttp.ClientSession, url: str) -> web.WebSocketResponse:
    protocols = request.headers["sec-websocket-protocol"].split(",")
    headers = {name: request.headers[name] for name in ("host", "origin") if name in request.headers}
    async with http.ws_connect(url, protocols=protocols, headers=headers) as there:
        here = web.WebSocketResponse(protocols=protocols)
        await here.prepare(request)

        async def copy(source: AsyncIterator[aiohttp.WSMessage], target: Callable[[str], object]) -> None:
            async for message in source:
                await target(message.data)

        copies = [asyncio.create_task(copy(here, there.send_str)), asyncio.create_task(copy(there, here.send_str))]
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        for one in copies:
            one.cancel()
        return here


@pytest.fixture(params=["strips", "does not strip", "no proxy"])
async def site(prefixed: Running, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Where a browser finds the server: a proxy's address, or the server's own, with the path."""
    if request.param == "no proxy":
        yield prefixed.url
        return
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(proxy(prefixed.url, strips=request.param == "strips"), shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://127.0.0.1:{1}".format(*runner.addresses[0])


async def test_redirects_lead_back_behind_the_proxy_by_their_path_alone(site: str) -> None:
    headers = {"x-forwarded-prefix": "/evil", "x-forwarded-host": "evil.example", "x-script-name": "/evil"}
    async with (
        aiohttp.ClientSession(site) as http,
        http.get(f"{ROOT}/graphql/", headers=headers, allow_redirects=False) as response,
    ):
        assert (response.status, response.headers["location"]) == (307, f"{ROOT}/graphql")


async def test_the_prefix_alone_leads_to_the_page(prefixed: Running) -> None:
    async with (
        aiohttp.ClientSession(prefixed.url) as http,
        http.get(f"{ROOT}?symbol=x", allow_redirects=False) as response,
    ):
        assert (response.status, response.headers["location"]) == (307, f"{ROOT}/?symbol=x")


@pytest.mark.parametrize("path", ["/", "/console", "/graphql"])
async def test_a_page_and_all_it_names_are_there(site: str, path: str) -> None:
    async with aiohttp.ClientSession(site) as http:
        async with http.get(f"{ROOT}{path}", headers=PAGE) as response:
            assert response.status == 200
            page = await response.text()
            assert "script-src 'self';" in response.headers["content-security-policy"]
            address = str(response.url)
        links = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(links) >= 3
        for link in links:
            async with http.get(urljoin(address, link), headers=PAGE) as response:
                assert response.status == 200, link
        async with http.get(f"{ROOT}/static/no-such-file.js") as response:
            assert response.status == 404


async def test_queries_events_and_sockets_are_answered(site: str) -> None:
    async with aiohttp.ClientSession(site, timeout=aiohttp.ClientTimeout(HANG_S)) as http:
        async with http.post(f"{ROOT}/graphql", json={"query": "{ __typename }"}, headers={"origin": site}) as response:
            assert await response.json() == {"data": {"__typename": "Query"}}
        accept = {"accept": "text/event-stream"}
        async with http.post(f"{ROOT}/graphql", json={"query": LIVE}, headers=accept) as response:
            assert (await response.content.readline()) == b"event: next\n"
        async with http.ws_connect(f"{ROOT}/graphql", protocols=["graphql-transport-ws"], origin=site) as socket:
            await socket.send_json({"type": "connection_init"})
            assert (await socket.receive_json())["type"] == "connection_ack"
            await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": LIVE}})
            assert (await socket.receive_json())["payload"]["data"]["candles"]["kind"] == "SNAPSHOT"
        async with http.get(f"{ROOT}/readyz") as response:
            assert response.status == 200
        async with http.get(f"{ROOT}/schema.graphql") as response:
            assert response.status == 200


async def test_what_only_begins_alike_is_another_path(prefixed: Running) -> None:
    async with aiohttp.ClientSession(prefixed.url) as http:
        for path in ("/apix/graphql", "/api/api/graphql", "/API/graphql", "/x/api/graphql"):
            async with http.get(path, params={"query": "{ __typename }"}) as response:
                assert response.status == 404, path
