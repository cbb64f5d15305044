"""While answering: what is under way is bounded, and a long answer is made as fast as its client takes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest
import uvicorn
from aiohttp import ClientWebSocketResponse as Socket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from candlegraph import MINUTE, Candles, Instrument, Series
from candlegraph.errors import Overloaded
from candlegraph.event import Event, EventKind
from candlegraph.timings import Timings
from resolvers import turns
from resolvers.cost_budget import CostBudget, CostLimits, Reservation
from schema.admission import HISTORY_COST
from schema.encoding import PIECE_ROWS, JsonAnswer, LazyRows
from server.serve import _bind
from server.transport.streamed_answer import StreamedAnswer
from server.transport.uvicorn_protocols import protocols
from tests.server.stage import Serving, Stage, services, staged
from tests.waiting import HANG_S, eventually

LIVE = 'subscription { candles(market: "m", provider: "p", symbol: "s", since: 0) { kind caughtUp } }'
ROWS = 2_000_000


def test_the_budget_bounds_an_address_and_the_process_and_lets_one_operation_through() -> None:
    budget = CostBudget(CostLimits(total=100, per_address=60))
    first, second, other = (Reservation(budget, name) for name in ("1.1.1.1", "1.1.1.1", "2.2.2.2"))
    first.take(50)
    with pytest.raises(Overloaded) as refused:
        second.take(11)
    assert refused.value.retry_after
    second.take(10)
    with pytest.raises(Overloaded):
        other.take(50)
    other.take(40)
    for one in (first, second, other, other):
        one.release()
    assert budget.reserved == 0
    first.take(1_000)  # more than the budget, and alone


@asynccontextmanager
async def socket_of(serving: Serving) -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession(serving.url) as http,
        http.ws_connect("/graphql", protocols=["graphql-transport-ws"]) as socket,
    ):
        await socket.send_json({"type": "connection_init"})
        assert (await socket.receive_json(timeout=HANG_S))["type"] == "connection_ack"
        yield socket


async def subscribe(socket: Socket, id_: str) -> None:
    await socket.send_json({"id": id_, "type": "subscribe", "payload": {"query": LIVE}})


async def test_subscriptions_that_do_not_fit_are_an_error_and_may_be_tried_again() -> None:
    """`error`, not `complete`, which graphql-ws takes for the end. The history of the others is still on its way."""
    stage, budget = Stage(), CostBudget(CostLimits(per_address=2 * HISTORY_COST))
    stage.gate.clear()
    async with staged(replace(services(stage), budget=budget)) as serving, socket_of(serving) as socket:
        for id_ in ("1", "2"):
            await subscribe(socket, id_)
        await eventually(lambda: budget.reserved == 2 * HISTORY_COST)
        await subscribe(socket, "3")
        said = await socket.receive_json(timeout=HANG_S)
        assert (said["id"], said["type"]) == ("3", "error")
        assert said["payload"][0]["extensions"]["code"] == "OVERLOADED"
        assert said["payload"][0]["extensions"]["retryAfter"] > 0
        async with (
            aiohttp.ClientSession(serving.url) as http,
            http.post("/graphql", json={"query": LIVE}, headers={"accept": "text/event-stream"}) as events,
        ):
            assert b"OVERLOADED" in await events.read()
        stage.gate.set()
        await eventually(lambda: budget.reserved == 0)  # they have begun: what follows costs nothing more
        await subscribe(socket, "3")
        while (said := await socket.receive_json(timeout=HANG_S))["id"] != "3":
            pass
        assert said["type"] == "next"


async def test_each_series_of_one_subscription_is_counted_until_its_history_has_been_sent() -> None:
    class Many(Stage):
        async def subscribe_many(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            for symbol in ("A", "B", "C"):
                series = Series(Instrument("demo", "synthetic", symbol), MINUTE)
                yield Event(EventKind.SNAPSHOT, 0, Candles.empty(), caught_up=True, series=series)
                await self.gate.wait()
                self.gate.clear()
            await asyncio.Event().wait()

    stage, budget = Many(), CostBudget()
    stage.gate.clear()
    query = (
        "subscription Many($two: LiveSeriesInput!) { ...Root } fragment Root on Subscription { candlesMany(series: ["
        '{market: "demo", provider: "synthetic", symbol: "A", since: 0}, $two,'
        ' {market: "demo", provider: "synthetic", symbol: "C"}]) { symbol event { caughtUp } } }'
    )
    two = {"market": "demo", "provider": "synthetic", "symbol": "B", "since": 0}
    async with staged(replace(services(stage), budget=budget)) as serving, socket_of(serving) as socket:
        await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": query, "variables": {"two": two}}})
        for _ in range(2):
            assert (await socket.receive_json(timeout=HANG_S))["payload"]["data"]["candlesMany"]["event"]
            assert budget.reserved == 2 * HISTORY_COST
            stage.gate.set()
        await eventually(lambda: budget.reserved == 0)


async def test_what_is_under_way_is_free_again_when_its_client_is_gone() -> None:
    stage, budget = Stage(), CostBudget()
    stage.gate.clear()
    async with staged(replace(services(stage), budget=budget)) as serving:
        async with socket_of(serving) as socket:
            await subscribe(socket, "1")
            await eventually(lambda: budget.reserved == HISTORY_COST)
        await eventually(lambda: budget.reserved == 0)


async def test_an_overload_while_the_history_is_read_is_an_error_too() -> None:
    class Crowded(Stage):
        async def subscribe(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            raise Overloaded(retry_after=1)
            yield

    async with staged(services(Crowded())) as serving, socket_of(serving) as socket:
        await subscribe(socket, "1")
        said = await socket.receive_json(timeout=HANG_S)
        assert (said["type"], said["payload"][0]["extensions"]["code"]) == ("error", "OVERLOADED")


async def test_too_many_new_documents_of_an_address_are_refused_and_known_ones_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A literal in each makes every text a new one; those within the bound begin when their turns come."""
    monkeypatch.setattr(turns, "MAX_WAITING_CHARS", 2 * turns.MIN_TEXT_CHARS)
    made, known = services(Stage()), {"query": "{ known: __typename }"}
    async with (
        staged(made) as serving,
        socket_of(serving) as socket,
        aiohttp.ClientSession(serving.url) as http,
    ):
        async with http.post("/graphql", json=known) as answer:
            assert await answer.json() == {"data": {"known": "Query"}}
        turn = await made.turns.begin("127.0.0.1", None)
        for number in (1, 2, 3):
            query = LIVE.replace("since: 0", f"since: {number}")
            await socket.send_json({"id": str(number), "type": "subscribe", "payload": {"query": query}})
        said = await socket.receive_json(timeout=HANG_S)
        assert (said["id"], said["type"]) == ("3", "error")
        refused = [said["payload"]]
        for accept in ("application/json", "text/event-stream"):
            async with http.post(
                "/graphql", json={"query": "{ new: __typename }"}, headers={"accept": accept}
            ) as answer:
                payload = (await answer.text()).splitlines()[-1 if accept.endswith("json") else 1]
                refused.append(json.loads(payload.removeprefix("data: "))["errors"])
        for errors in refused:
            assert errors[0]["extensions"]["code"] == "OVERLOADED"
            assert errors[0]["extensions"]["retryAfter"] > 0
        async with http.post("/graphql", json=known) as answer:
            assert await answer.json() == {"data": {"known": "Query"}}
        turn.end()
        begun = {(await socket.receive_json(timeout=HANG_S))["id"] for _ in range(2)}
        assert begun == {"1", "2"}


def lazy(made: list[int] | None = None, rows: int = ROWS) -> LazyRows:
    """Rows that note how far they were made."""

    def read(part: slice) -> list[int]:
        found = range(rows)[part]
        if made is not None and len(found):
            made.append(found[-1])
        return list(found)

    return LazyRows({"a": read, "b": read}, rows)


def test_an_answer_in_pieces_is_the_answer() -> None:
    long = lazy(rows=4 * PIECE_ROWS + 1)
    payload = {"data": {"x": {"nodes": long, "more": True}, "y": [long, None], "z": "\0"}}
    plain = {"data": {"x": {"nodes": list(long), "more": True}, "y": [list(long), None], "z": "\0"}}
    answer = JsonAnswer(payload)
    assert answer.is_long
    pieces = list(answer.pieces())
    assert b"".join(pieces) == orjson.dumps(plain)
    assert max(map(len, pieces)) < 100 * PIECE_ROWS


@asynccontextmanager
async def answering(made: list[int], rows: int = ROWS) -> AsyncIterator[tuple[str, int]]:
    """A server that answers with a long list, some 50 MB."""

    async def home(_: Request) -> Response:
        return StreamedAnswer(JsonAnswer({"data": lazy(made, rows)}), 200, {}, "application/json")

    app = Starlette(routes=[Route("/", home)], middleware=[Middleware(GZipMiddleware, compresslevel=1)])
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", **protocols(Timings())))
    serving = asyncio.create_task(server._serve(_bind("127.0.0.1", 0, Timings())))
    await eventually(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        await serving


async def test_a_long_answer_is_made_as_its_client_reads_it_and_no_more_when_it_is_gone() -> None:
    made: list[int] = []
    async with answering(made) as address:
        reader, writer = await asyncio.open_connection(*address, limit=65_536)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readexactly(100_000)
        far = -1
        while made[-1] != far:  # until the buffers on the way are full
            far = made[-1]
            async with aiohttp.ClientSession() as http, http.get("http://%s:%d/nothing" % address) as other:
                assert other.status == 404
        assert far < ROWS / 2
        await reader.readexactly(20_000_000)
        assert made[-1] > far
        writer.transport.abort()
        far = -1
        while made[-1] != far:
            far = made[-1]
            async with aiohttp.ClientSession() as http, http.get("http://%s:%d/nothing" % address):
                pass
        assert far < ROWS - 1


async def test_a_long_answer_is_compressed_on_the_way() -> None:
    async with (
        answering([], ROWS // 20) as address,
        aiohttp.ClientSession() as http,
        http.get("http://%s:%d/" % address, headers={"accept-encoding": "gzip"}) as answer,
    ):
        assert answer.headers["content-encoding"] == "gzip"
        found = json.loads(await answer.read())["data"]
    assert len(found) == ROWS // 20
    assert found[-1] == {"a": ROWS // 20 - 1, "b": ROWS // 20 - 1}
