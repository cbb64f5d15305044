"""The envelope around an operation, against a real server: whatever is sent, the answer is JSON that says what is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.transport.graphql_http import MAX_BODY
from tests.server.running import Running

JSON = {"content-type": "application/json"}
MODERN = "application/graphql-response+json"
ROOT = Path(__file__).parents[3]
WEB = ROOT / "server" / "web"
LEAKS = re.compile(
    rf"{re.escape(str(ROOT))}|"
    r"Traceback|File \\?\"|site-packages|asyncpg|postgresql://|\bselect\b .*\bfrom\b|\.py\b|uvicorn|orjson"
)


async def post(http: aiohttp.ClientSession, body: Any, **headers: str) -> tuple[int, dict[str, Any], Any]:
    data = (
        body
        if hasattr(body, "__aiter__")
        else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    )
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with http.post("/graphql", data=data, headers=sent) as response:
        text = await response.text()
        assert not LEAKS.search(text), text[:300]
        assert "server" not in response.headers
        assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "json" in response.headers["content-type"]
        return response.status, json.loads(text), response.headers


NINES = b"9" * 10_000
BODIES: dict[str, tuple[bytes, int, str]] = {
    "a number": (b"7", 400, "JSON object"),
    "null": (b"null", 400, "JSON object"),
    "true": (b"true", 400, "JSON object"),
    "a text": (b'"x"', 400, "JSON object"),
    "an empty list": (b"[]", 400, "Batches"),
    "a batch": (b'[{"query": "{ __typename }"}]', 400, "Batches"),
    "nothing": (b"", 400, "JSON"),
    "no JSON": (b"{", 400, "JSON"),
    "two objects": (b"{}{}", 400, "JSON"),
    "NaN": (b'{"query": "{ __typename }", "variables": {"a": NaN}}', 400, "JSON"),
    "no UTF-8": (b'{"query": "\xff"}', 400, "JSON"),
    "half a surrogate pair": (b'{"query": "\\ud800"}', 400, "JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"query": "{ __typename }"}', 400, "JSON"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), 400, "JSON"),
    "100,000 lists": (b"[" * 100_000, 400, "JSON"),
    "100,000 lists as a variable": (
        b'{"query": "{ __typename }", "variables": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        400,
        "JSON",
    ),
    "an empty object": (b"{}", 400, "`query`"),
    "an empty query": (b'{"query": ""}', 400, "`query`"),
    "query null": (b'{"query": null}', 400, "`query`"),
    "query 7": (b'{"query": 7}', 400, "`query` must be a text"),
    "query an object": (b'{"query": {}}', 400, "`query` must be a text"),
    "variables a list": (b'{"query": "{ __typename }", "variables": []}', 400, "`variables` must be an object"),
    "variables a text": (b'{"query": "{ __typename }", "variables": ""}', 400, "`variables` must be an object"),
    "variables 0": (b'{"query": "{ __typename }", "variables": 0}', 400, "`variables` must be an object"),
    "operationName 7": (b'{"query": "{ __typename }", "operationName": 7}', 400, "`operationName` must be a text"),
    "operationName a list": (b'{"query": "{ __typename }", "operationName": []}', 400, "`operationName` must be"),
    "extensions a text": (b'{"query": "{ __typename }", "extensions": "x"}', 400, "`extensions` must be an object"),
    "300 kB": (b'{"query": "{ __typename }", "a": "' + b"x" * 300_000 + b'"}', 413, "at most"),
    "a comment of 10 MB": (b'{"query": "{ __typename } #' + b"x" * 10_000_000 + b'"}', 413, "at most"),
}


@pytest.mark.parametrize("body", BODIES)
async def test_a_wrong_envelope_is_refused_with_a_status_and_a_reason(http: aiohttp.ClientSession, body: str) -> None:
    data, status, reason = BODIES[body]
    found, answer, _ = await post(http, data)
    assert found == status
    assert "data" not in answer
    (error,) = answer["errors"]
    assert reason in error["message"]
    assert error["extensions"]["code"] == {400: "BAD_REQUEST", 413: "PAYLOAD_TOO_LARGE"}[status]


async def test_a_body_of_unknown_length_is_cut_off_at_the_same_size(http: aiohttp.ClientSession) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"query": "{ __typename }", "a": "'
        for _ in range(6):
            yield b"x" * 50_000

    status, answer, _ = await post(http, chunks())
    assert status == 413
    assert answer["errors"][0]["extensions"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_the_largest_body_is_answered(http: aiohttp.ClientSession) -> None:
    start, end = b'{"query": "{ __typename }", "a": "', b'"}'
    status, answer, _ = await post(http, start + b"x" * (MAX_BODY - len(start) - len(end)) + end)
    assert (status, answer) == (200, {"data": {"__typename": "Query"}})


@pytest.mark.parametrize("name", ["limit", "since"])
async def test_numbers_of_ten_thousand_digits_are_bad_input_and_not_logged(
    http: aiohttp.ClientSession, server: Running, name: str
) -> None:
    before = server.log.stat().st_size
    kind = {"limit": "Int", "since": "Timestamp"}[name]
    variable = b'{"query": "query ($x: %s) { candles(market: \\"a\\", provider: \\"b\\", symbol: \\"c\\", %s: $x) { complete } }", '
    status, answer, _ = await post(
        http, variable % (kind.encode(), name.encode()) + b'"variables": {"x": ' + NINES + b"}}"
    )
    assert status in {200, 400}
    assert answer["errors"][0]["extensions"]["code"] in {"BAD_USER_INPUT", "BAD_REQUEST"}
    text = f'{{ candles(market: "a", provider: "b", symbol: "c", {name}: {NINES.decode()}) {{ complete }} }}'
    status, answer, _ = await post(http, {"query": text})
    assert status == 200
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    assert server.log.stat().st_size == before


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonx",
        "application/graphql",
        "",
    ],
)
async def test_a_form_of_another_site_cannot_ask(http: aiohttp.ClientSession, kind: str) -> None:
    """A browser sends these without asking first."""
    status, answer, _ = await post(http, {"query": "{ __typename }"}, content_type=kind)
    assert status == 415
    assert answer["errors"][0]["extensions"]["code"] == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_json_however_it_is_written(http: aiohttp.ClientSession, kind: str) -> None:
    assert (await post(http, {"query": "{ __typename }"}, content_type=kind))[0] == 200


async def _get(http: aiohttp.ClientSession, method: str = "GET", **query: str) -> tuple[int, Any, Any]:
    async with http.request(method, "/graphql", params=query) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else None, response.headers


async def test_a_query_may_be_a_get(http: aiohttp.ClientSession) -> None:
    text = "query Q($m: ID!) { providers(market: $m) { id } } query R { __typename }"
    status, answer, headers = await _get(http, query=text, variables='{"m": "demo"}', operationName="Q")
    assert status == 200
    assert answer == {"data": {"providers": [{"id": "demo/synthetic"}]}}
    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"]
    empty = await _get(http, query="{ __typename }", variables="", operationName="", extensions="null")
    assert empty[:2] == (200, {"data": {"__typename": "Query"}})


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({}, "`query`"),
        ({"query": "{ __typename }", "variables": "[]"}, "`variables` must be an object"),
        ({"query": "{ __typename }", "variables": "7"}, "`variables` must be an object"),
        ({"query": "{ __typename }", "variables": "x"}, "JSON"),
        ({"query": "{ __typename }", "extensions": "["}, "JSON"),
    ],
)
async def test_a_wrong_get_is_refused(http: aiohttp.ClientSession, query: dict[str, str], reason: str) -> None:
    status, answer, _ = await _get(http, **query)
    assert status == 400
    assert reason in answer["errors"][0]["message"]


async def test_a_mutation_by_get_and_any_other_method_are_refused_with_what_is_allowed(
    http: aiohttp.ClientSession,
) -> None:
    for method, query in (
        ("GET", {"query": "mutation { x }"}),
        *((method, {"query": "{ __typename }"}) for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD")),
    ):
        status, answer, headers = await _get(http, method, **query)
        assert status == 405, method
        assert headers["allow"] == "GET, POST"
        assert answer is None or answer["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


async def test_several_operations_need_a_name_that_is_there(http: aiohttp.ClientSession) -> None:
    text = "query A { a: __typename } query B { b: __typename }"
    for name in (None, "", "C"):
        status, answer, _ = await post(http, {"query": text, "operationName": name})
        assert status == 200
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        assert "data" not in answer
    assert (await post(http, {"query": text, "operationName": "B"}))[1] == {"data": {"b": "Query"}}


async def test_the_error_of_a_subscription_by_post_names_the_transports(http: aiohttp.ClientSession) -> None:
    text = 'subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD") { kind } }'
    for method in ("POST", "GET"):
        status, answer, _ = await post(http, {"query": text}) if method == "POST" else await _get(http, query=text)
        assert status == 200
        (error,) = answer["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        assert "graphql-transport-ws" in error["message"]


REFUSED = {
    "no GraphQL": {"query": "{"},
    "not of the schema": {"query": "{ nope }"},
    "a wrong variable": {"query": "query ($m: ID!) { providers(market: $m) { id } }", "variables": {"m": None}},
    "no such operation": {"query": "{ __typename }", "operationName": "X"},
    "a subscription": {"query": 'subscription { candles(market: "a", provider: "b", symbol: "c") { kind } }'},
}


@pytest.mark.parametrize("request_", REFUSED)
async def test_only_the_newer_media_type_gives_a_refused_request_its_status(
    http: aiohttp.ClientSession, request_: str
) -> None:
    for accept, status in (
        (MODERN, 400),
        ("application/json", 200),
        ("*/*", 200),
        (f"{MODERN}, application/json", 400),
    ):
        found, answer, headers = await post(http, REFUSED[request_], accept=accept)
        assert found == status
        assert headers["content-type"].startswith(MODERN if status == 400 else "application/json")
        assert "data" not in answer
        assert answer["errors"][0]["extensions"]["code"]
        assert "Accept" in headers["vary"]


async def test_an_answer_with_data_is_200_in_both_media_types(http: aiohttp.ClientSession) -> None:
    for accept in (MODERN, "application/json"):
        status, answer, headers = await post(
            http, {"query": '{ good: __typename providers(market: "nowhere") { id } }'}, accept=accept
        )
        assert status == 200
        assert headers["content-type"] == f"{accept}; charset=utf-8"
        assert answer["data"] == {"good": "Query", "providers": None}


async def test_a_406_names_the_supported_types(http: aiohttp.ClientSession) -> None:
    for accept in ("application/xml", "text/html", "multipart/mixed", "application/json;q=0"):
        status, answer, _ = await post(http, {"query": "{ __typename }"}, accept=accept)
        assert status == 406
        (error,) = answer["errors"]
        assert error["extensions"]["code"] == "NOT_ACCEPTABLE"
        assert all(name in error["message"] for name in ("application/json", "text/event-stream", "multipart/mixed"))


async def test_no_other_site_is_let_in_by_default(http: aiohttp.ClientSession) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:3000"):
        async with http.post("/graphql", json={"query": "{ __typename }"}, headers={"origin": origin}) as response:
            assert response.status == 403
            assert not [name for name in response.headers if name.lower().startswith("access-control")]
        asked = {"origin": origin, "access-control-request-method": "POST"}
        async with http.options("/graphql", headers=asked) as response:
            assert response.status == 403
            assert "access-control-allow-origin" not in response.headers


async def test_health_and_readiness(http: aiohttp.ClientSession) -> None:
    async with http.get("/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with http.get("/readyz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ready"})
    async with http.get("/nowhere") as response:
        assert response.status == 404


async def test_every_page_has_its_policy_and_no_redirect_takes_the_host(http: aiohttp.ClientSession) -> None:
    evil = {"host": "evil.example", "x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}
    for path in (
        "/",
        "/console",
        "/graphql/",
        "/graphql/?query=x",
        "/static",
        "/static/",
        "/static/graphiql.html",
        "/nowhere",
    ):
        async with http.get(path, headers=evil, allow_redirects=False) as response:
            assert "evil" not in str(response.headers)
            assert "evil" not in await response.text()
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    async with http.post("/graphql/", json={"query": "{ __typename }"}) as response:
        assert await response.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(("path", "file"), [("/", "index"), ("/console", "console"), ("/graphql", "graphiql")])
async def test_a_browser_gets_the_page_and_all_of_it_from_us(http: aiohttp.ClientSession, path: str, file: str) -> None:
    assert (WEB / f"{file}.html").is_file(), "The page is not built: run `make install` (it needs Node 20)."
    async with http.get(path, headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        page = await response.text()
    assert ("default-src 'self'" if file == "graphiql" else "default-src 'none'") in policy
    assert "script-src 'self';" in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "an inline script"
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        if link in ("graphql", "console", "./"):
            continue
        assert link.startswith("static/"), f"{link}: under a prefix, an absolute address is another site's"
        async with http.get(f"/{link}") as response:
            assert response.status == 200


async def test_a_client_that_takes_anything_gets_json(http: aiohttp.ClientSession) -> None:
    for accept in ("*/*", "application/json"):
        async with http.get("/graphql", params={"query": "{ __typename }"}, headers={"accept": accept}) as response:
            assert await response.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "%2e%2e%2f%2e%2e%2fpyproject.toml", ""])
async def test_nothing_but_the_pages_files_is_served(server: Running, path: str) -> None:
    """aiohttp would tidy the path up, so this is sent by hand."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /static/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 404")


async def test_long_answers_are_compressed_for_who_takes_it(http: aiohttp.ClientSession) -> None:
    text = "{ __schema { types { name description fields { name description } } } }"
    _, answer, headers = await post(http, {"query": text}, accept_encoding="gzip")
    assert headers["content-encoding"] == "gzip"
    assert len(answer["data"]["__schema"]["types"]) > 20


async def test_while_the_server_refuses_attacks_others_are_answered(http: aiohttp.ClientSession) -> None:
    def doubling(levels: int) -> str:
        chain = " ".join(f"fragment F{i} on Query {{ ...F{i + 1} ...F{i + 1} }}" for i in range(levels))
        return f"{{ ...F0 }} {chain} fragment F{levels} on Query {{ markets {{ id }} }}"

    attacks = [
        {"query": doubling(18)},
        {"query": doubling(26)},
        {"query": "{ " + "markets { id } " * 3000 + "}"},
        {"query": "{ " + "a " * 100_000 + "}"},
        {"query": "{ markets { " + "providers { id } " * 480 + "} }"},
        {"query": "{ markets " * 20_000},
    ]
    answered = 0
    done = asyncio.Event()

    async def bystander() -> None:
        nonlocal answered
        while not done.is_set():
            assert (await post(http, {"query": "{ __typename }"}))[0] == 200
            answered += 1

    task = asyncio.create_task(bystander())
    between = []
    for _ in range(3):
        before = answered
        for _, answer, _ in await asyncio.gather(*(post(http, attack) for attack in attacks)):
            assert answer["errors"]
        between.append(answered - before)
    done.set()
    await task
    assert min(between) > 0, "answered while attacks are"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_who_leaves_in_the_middle_of_a_body_is_no_error_of_ours(server: Running, accept: str) -> None:
    before = server.log.stat().st_size
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /graphql HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: 1000\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with aiohttp.ClientSession(server.url) as http:  # by then the server has noticed
        for _ in range(20):
            assert (await post(http, {"query": "{ __typename }"}))[0] == 200
    assert server.log.stat().st_size == before


async def test_the_log_holds_no_traceback_after_all_this(server: Running) -> None:
    log = server.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "ERROR" not in log
