"""Automatic persisted queries: a hash stands for a document that was sent with it, however it is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from resolvers.context import Introspection
from resolvers.cost_budget import CostBudget, CostLimits
from schema.admission import HISTORY_COST
from schema.broadcast import OperationRefused
from schema.build import build_schema
from schema.documents import MAX_CACHED_LENGTH
from server.transport.persisted_queries import PersistedQueries
from tests.server.stage import Stage, context, services, staged
from tests.waiting import HANG_S

NOT_FOUND = ("PersistedQueryNotFound", "PERSISTED_QUERY_NOT_FOUND")
LIVE = 'subscription { candles(market: "m", provider: "p", symbol: "s") { kind caughtUp } }'
TRANSPORTS = ["POST", "GET", "events", "multipart", "socket"]
_ACCEPT = {"events": "text/event-stream", "multipart": "multipart/mixed;subscriptionSpec=1.0"}


def hash_of(document: str) -> dict[str, Any]:
    return {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(document.encode()).hexdigest()}}


async def ask(http: aiohttp.ClientSession, transport: str, **request: Any) -> Any:
    """The first payload of the answer."""
    if transport == "socket":
        return await _ask_socket(http, request)
    if transport == "GET":
        params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in request.items()}
        asked = http.get("/graphql", params=params)
    else:
        asked = http.post("/graphql", json=request, headers={"accept": _ACCEPT.get(transport, "application/json")})
    async with asked as response:
        assert response.status in {200, 405}
        if transport not in _ACCEPT:
            return await response.json()
        while not (line := (await response.content.readline()).decode()).startswith(('{"payload', "data:")):
            assert line, "the stream ended"
        found = json.loads(line.removeprefix("data:"))
        return found["payload"] if transport == "multipart" else found


async def _ask_socket(http: aiohttp.ClientSession, request: dict[str, Any]) -> Any:
    async with http.ws_connect("/graphql", protocols=["graphql-transport-ws"]) as socket:
        await socket.send_json({"type": "connection_init"})
        await socket.receive_json(timeout=HANG_S)
        await socket.send_json({"id": "1", "type": "subscribe", "payload": request})
        said = await socket.receive_json(timeout=HANG_S)
        return said["payload"] if said["type"] == "next" else {"errors": said["payload"]}


def error_of(answer: Any) -> tuple[str, str]:
    (error,) = answer["errors"]
    return error["message"], error["extensions"]["code"]


@asynccontextmanager
async def client(**changed: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        staged(replace(services(Stage()), **changed)) as serving,
        aiohttp.ClientSession(serving.url, timeout=aiohttp.ClientTimeout(HANG_S)) as http,
    ):
        yield http


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_document_that_came_with_its_hash_is_executed_by_its_hash_alone(transport: str) -> None:
    document = "query Q { name: __typename }"
    async with client() as http:
        assert error_of(await ask(http, transport, extensions=hash_of(document))) == NOT_FOUND
        for request in ({"query": document}, {}):
            answer = await ask(http, transport, **request, operationName="Q", extensions=hash_of(document))
            assert answer == {"data": {"name": "Query"}}
        for other in TRANSPORTS:
            assert (await ask(http, other, extensions=hash_of(document)))["data"] == {"name": "Query"}


async def test_an_unknown_hash_is_200_in_both_media_types_and_is_not_cached() -> None:
    async with client() as http:
        for accept in ("application/json", "application/graphql-response+json"):
            body = {"extensions": hash_of("{ a }")}
            async with http.post("/graphql", json=body, headers={"accept": accept}) as response:
                assert response.status == 200
                assert response.headers["cache-control"] == "no-store"
                assert error_of(await response.json(content_type=None)) == NOT_FOUND


async def test_what_is_not_valid_or_not_the_documents_hash_is_not_kept() -> None:
    long = "{ __typename } #" + "\u00fc" * (MAX_CACHED_LENGTH // 2)  # characters of two bytes
    async with client() as http:
        for document, code in (("{", "GRAPHQL_PARSE_FAILED"), ("{ nope }", "GRAPHQL_VALIDATION_FAILED")):
            assert error_of(await ask(http, "POST", query=document, extensions=hash_of(document)))[1] == code
            assert error_of(await ask(http, "POST", extensions=hash_of(document))) == NOT_FOUND
        wrong = await ask(http, "POST", query="{ __typename }", extensions=hash_of("{ other: __typename }"))
        assert error_of(wrong)[1] == "BAD_USER_INPUT"
        for document in ("{ __typename }", "{ other: __typename }"):
            assert error_of(await ask(http, "POST", extensions=hash_of(document))) == NOT_FOUND
        assert "data" in await ask(http, "POST", query=long, extensions=hash_of(long))
        assert error_of(await ask(http, "POST", extensions=hash_of(long))) == NOT_FOUND


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (7, "PERSISTED_QUERY_NOT_SUPPORTED"),
        ({"version": 2, "sha256Hash": "0" * 64}, "PERSISTED_QUERY_NOT_SUPPORTED"),
        ({"version": 1}, "BAD_USER_INPUT"),
        ({"version": 1, "sha256Hash": "A" * 64}, "BAD_USER_INPUT"),
        ({"version": 1, "sha256Hash": ["0" * 64]}, "BAD_USER_INPUT"),
    ],
)
async def test_another_protocol_is_refused_so_that_clients_fall_back(asked: Any, code: str) -> None:
    async with client() as http:
        for transport in TRANSPORTS:
            assert error_of(await ask(http, transport, extensions={"persistedQuery": asked}))[1] == code


async def test_a_hash_alone_by_get_is_no_mutation() -> None:
    document = "mutation { __typename }"
    async with client() as http:
        assert "data" in await ask(http, "POST", query=document, extensions=hash_of(document))
        assert (await ask(http, "POST", extensions=hash_of(document)))["data"] == {"__typename": "Mutation"}
        assert error_of(await ask(http, "GET", extensions=hash_of(document)))[1] == "METHOD_NOT_ALLOWED"
        params = {"extensions": json.dumps(hash_of(document))}
        async with http.get("/graphql", params=params, headers={"accept": _ACCEPT["events"]}) as response:
            assert b"This needs POST" in await response.content.read()


async def test_permission_and_cost_are_asked_at_every_use() -> None:
    schema, budget = "{ __schema { description } }", CostBudget(CostLimits(per_address=HISTORY_COST))
    asked = LIVE.replace('"s"', '"s", since: 0')
    async with client(introspection=Introspection.OFF, budget=budget) as http:
        budget.reserve("127.0.0.1", HISTORY_COST)
        for transport in TRANSPORTS:
            for request in ({"query": schema}, {}):
                answer = await ask(http, transport, **request, extensions=hash_of(schema))
                assert error_of(answer)[1] == "FORBIDDEN"
        for transport in ("events", "multipart", "socket"):
            for request in ({"query": asked}, {}):
                answer = await ask(http, transport, **request, extensions=hash_of(asked))
                assert error_of(answer)[1] == "OVERLOADED"
        budget.release("127.0.0.1", HISTORY_COST)
        assert (await ask(http, "socket", extensions=hash_of(asked)))["data"]["candles"]["caughtUp"]


async def test_the_least_recently_used_document_goes_first() -> None:
    kept, schema = PersistedQueries(limit=2), build_schema()

    async def use(document: str, query: str | None = None) -> str:
        with kept.document(query, hash_of(document)) as found:
            await schema.execute(found, context_value=context(Stage()))
            return found

    first, second, third = (f"{{ n{at}: __typename }}" for at in range(3))
    for document in (first, second):
        await use(document, document)
    assert await use(first) == first
    await use(third, third)
    assert [await use(document) for document in (first, third)] == [first, third]
    with pytest.raises(OperationRefused):
        await use(second)
