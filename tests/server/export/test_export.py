"""Exports: every format equals the API, nothing is mixed in silence, and what cannot be had is refused with a way on."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from pydantic import SecretStr

from candlegraph.candle import Candles, concat
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from candlegraph.timings import Timings
from history import export as export_module
from server.settings import Settings
from server.transport.app import create_app
from server.wiring import Runtime, open_runtime
from storage.batches import CandleWrite
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

T0 = 1_714_521_600_000  # 2024-05-01
MINUTE_MS = 60_000
NUMBERS = ("open", "high", "low", "close", "volume")
COUNT = 2_500


def candles(count: int = COUNT, since: int = T0, *, scale: float = 1.0, seed: int = 5) -> Candles:
    """A random walk; ``scale`` makes its prices tiny."""
    rng = np.random.default_rng(seed)
    opened = (100 + np.cumsum(rng.normal(0, 0.1, count))) * scale
    closed = opened + rng.normal(0, 0.1, count) * scale
    high, low = np.maximum(opened, closed) * 1.001, np.minimum(opened, closed) * 0.999
    return Candles.of(since + np.arange(count) * MINUTE_MS, opened, high, low, closed, rng.random(count) * 10)


@dataclass
class World:
    """A server in this process over an empty database."""

    running: Runtime
    http: aiohttp.ClientSession
    app: Any

    async def store(self, symbol: str, rows: Candles, *covered: Span, zone: str = "UTC") -> int:
        """Store rows as an import does."""
        record = await self.running.services.history.instruments.get_or_create(Instrument("x", "imp", symbol), zone)
        spans = covered or (Span(int(rows.timestamp[0]), int(rows.timestamp[-1]) + MINUTE_MS),)
        await self.running.store.write([CandleWrite(record.id, MINUTE, rows, Spans(spans), "i")])
        return record.id

    async def get(self, kind: str, *, headers: dict[str, str] | None = None, **query: Any) -> tuple[Any, bytes]:
        """The response to a request for an export, and its body as it came."""
        pairs = [("market", "x"), ("provider", "imp")]
        for name, value in query.items():
            pairs += [(name, str(one)) for one in (value if isinstance(value, list) else [value])]
        given = {"accept-encoding": "identity"} | (headers or {})
        async with self.http.get(f"/export/candles.{kind}", params=pairs, headers=given) as response:
            return response, await response.read()

    async def refused(
        self, kind: str = "csv", *, headers: dict[str, str] | None = None, **query: Any
    ) -> tuple[int, str, str]:
        """The status, the code and the message of a refusal."""
        response, body = await self.get(kind, headers=headers, **query)
        error = json.loads(body)["errors"][0]
        return response.status, error["extensions"]["code"], error["message"]

    async def query(self, symbol: str, **arguments: Any) -> dict[str, Any]:
        """The same candles by the API, page after page."""
        nodes: list[Any] = []
        given = {"market": "x", "provider": "imp", "symbol": symbol, "limit": 5000} | arguments
        while True:
            text = ", ".join(f"{name}: {json.dumps(value)}" for name, value in given.items())
            fields = "nodes { timestamp open high low close volume } gaps { since until } hasMore nextSince revision"
            body, plain = {"query": f"{{ candles({text}) {{ {fields} }} }}"}, {"accept-encoding": "identity"}
            async with self.http.post("/graphql", json=body, headers=plain) as response:
                found = (await response.json())["data"]["candles"]
            nodes += found["nodes"]
            if not found["hasMore"]:
                return {**found, "nodes": nodes}
            given["since"] = found["nextSince"]


@asynccontextmanager
async def served(dsn: str, timings: Timings = PATIENT, **settings: Any) -> AsyncIterator[World]:
    given = Settings.read(db_connection_string=SecretStr(dsn), **settings)
    async with open_runtime(given, timings=timings) as running:
        app = create_app(running)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        serving = asyncio.create_task(server.serve([listening]))
        await eventually(lambda: server.started)
        try:
            async with aiohttp.ClientSession(
                f"http://127.0.0.1:{listening.getsockname()[1]}", auto_decompress=False
            ) as http:
                yield World(running, http, app)
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
async def world(new_database: Callable[..., Any], migrated_template: str) -> AsyncIterator[World]:
    async with served(await new_database(migrated_template)) as world:
        yield world


def rows_of(kind: str, body: bytes) -> list[list[float]]:
    """The rows of a file: timestamps in ms, then the numbers."""
    if kind == "csv":
        return [[int(row[0]), *map(float, row[1:])] for row in list(csv.reader(io.StringIO(body.decode())))[1:]]
    if kind == "jsonl":
        lines = map(json.loads, body.decode().splitlines())
        return [[line["timestamp"], *(line[name] for name in NUMBERS)] for line in lines]
    table = pa.ipc.open_stream(body).read_all() if kind == "arrow" else pq.read_table(io.BytesIO(body))
    assert str(table.schema.field("timestamp").type) == "timestamp[ms, tz=UTC]"
    columns = [table["timestamp"].cast(pa.int64()).to_pylist(), *(table[name].to_pylist() for name in NUMBERS)]
    return [list(row) for row in zip(*columns, strict=True)]


def nodes_of(answer: dict[str, Any]) -> list[list[float]]:
    return [[node["timestamp"], *(node[name] for name in NUMBERS)] for node in answer["nodes"]]


@pytest.mark.parametrize("kind", ["arrow", "parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("since", "scale", "arguments"),
    [
        (T0, 1.0, {}),
        (T0, 1e-12, {"timeframe": "5m"}),
        (-2_000_000_040_000, 1e9, {}),
        (T0, 1.0, {"timeframe": "1d", "timezone": "America/New_York"}),
    ],
    ids=["minutes", "tiny prices, folded", "before 1970", "days of New York"],
)
async def test_a_file_equals_the_api_bit_for_bit(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str, since: int, scale: float, arguments: dict[str, str]
) -> None:
    monkeypatch.setattr(export_module, "PAGE_ROWS", 700)  # several pages
    count = 8_000 if "timezone" in arguments else 3_000
    rows = candles(count, since, scale=scale)
    hole = Span(since + 1_000 * MINUTE_MS, since + 1_100 * MINUTE_MS)
    kept = concat([rows[:1_000], rows[1_100:]])
    await world.store("A", kept, Span(since, hole.since), Span(hole.until, since + count * MINUTE_MS))
    response, body = await world.get(kind, symbol="A", **arguments)
    assert response.status == 200, body
    expected = await world.query(
        "A",
        since=int(response.headers["candlegraph-since"]),
        until=int(response.headers["candlegraph-until"]),
        **arguments,
    )
    assert rows_of(kind, body) == nodes_of(expected)
    assert len(expected["nodes"]) > (2 if "timezone" in arguments else 300)
    assert response.headers["candlegraph-complete"] == "false"
    assert response.headers["candlegraph-revision"] == expected["revision"]
    if kind in ("arrow", "parquet"):
        schema = pa.ipc.open_stream(body).schema if kind == "arrow" else pq.read_schema(io.BytesIO(body))
        about = json.loads(schema.metadata[b"candlegraph"])
        assert [(gap["since"], gap["until"]) for gap in about["gaps"]] == [
            (g["since"], g["until"]) for g in expected["gaps"]
        ]
        assert about["complete"] is False
        assert about["sources"]


async def test_a_million_candles_are_those_of_the_database(world: World) -> None:
    """Compared with PostgreSQL's own binary COPY of the table."""
    owner = await world.store("M", candles(1_000_000, T0 - 1_000_000 * MINUTE_MS))
    fields = [("count", ">i2")]
    fields += [pair for name in ("timestamp", *NUMBERS) for pair in ((f"size of {name}", ">i4"), (name, ">f8"))]
    fields[2] = ("timestamp", ">i8")  # microseconds since 2000
    query = f"select timestamp, {', '.join(NUMBERS)} from ohlcv_data where instrument_id = {owner} order by timestamp"
    copied = io.BytesIO()
    async with world.running.database.transaction() as connection:
        await connection.copy_from_query(query, output=copied, format="binary")
    stored = np.frombuffer(copied.getbuffer(), np.dtype(fields), offset=19, count=1_000_000)
    for kind in ("arrow", "parquet"):
        _, body = await world.get(kind, symbol="M")
        table = pa.ipc.open_stream(body).read_all() if kind == "arrow" else pq.read_table(io.BytesIO(body))
        stamps = table["timestamp"].cast(pa.int64()).to_numpy()
        assert np.array_equal(stamps, stored["timestamp"] // 1000 + 946_684_800_000)
        for name in NUMBERS:
            assert np.array_equal(table[name].to_numpy(), stored[name])


async def test_several_symbols_are_rows_of_one_file_and_none_is_a_formula(world: World) -> None:
    for number, symbol in enumerate(("=1+1", "A", "AB")):
        await world.store(symbol, candles(300, seed=number))
    response, body = await world.get("csv", pattern="*")
    assert response.headers["candlegraph-series"] == "3"
    lines = list(csv.reader(io.StringIO(body.decode())))
    assert lines[0][:2] == ["symbol", "timestamp"]
    assert [line[0] for line in lines[1::300]] == ["'=1+1", "A", "AB"]
    _, body = await world.get("arrow", symbol=["AB", "=1+1"])
    table = pa.ipc.open_stream(body).read_all()
    assert table["symbol"].to_pylist() == ["=1+1"] * 300 + ["AB"] * 300
    assert table["open"].to_pylist()[300:] == candles(300, seed=2).open.tolist()


@pytest.mark.parametrize(("accepted", "coding"), [("gzip", "gzip"), ("gzip, zstd", "zstd"), ("br", "identity")])
async def test_text_is_compressed_as_the_client_accepts(world: World, accepted: str, coding: str) -> None:
    await world.store("A", candles())
    _, plain = await world.get("csv", symbol="A", headers={"accept-encoding": "identity"})
    response, body = await world.get("csv", symbol="A", headers={"accept-encoding": accepted})
    assert response.headers["content-encoding"] == coding
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "zstd":
        body = pa.CompressedInputStream(io.BytesIO(body), "zstd").read()
    assert body == plain


async def test_what_is_refused_is_one_sentence_with_a_code(world: World) -> None:
    assert (await world.refused(symbol="A"))[:2] == (404, "NOT_FOUND")
    await world.store("A", candles())
    for query, status, code, words in (
        ({"symbol": "B"}, 404, "NOT_FOUND", "Nothing is stored of B"),
        ({"symbol": "A", "until": T0}, 404, "NOT_FOUND", "Nothing is stored"),
        ({"pattern": "Z*"}, 404, "NOT_FOUND", "Z*"),
        ({}, 400, "BAD_USER_INPUT", "`symbol`"),
        ({"symbol": "A", "pattern": "*"}, 400, "BAD_USER_INPUT", "`pattern`"),
        ({"symbol": "A", "limit": 5}, 400, "BAD_USER_INPUT", "no argument `limit`"),
        ({"symbol": "A", "since": "2024-05-01"}, 400, "BAD_USER_INPUT", "no offset"),
        ({"symbol": "A", "since": 1_714_521_600}, 400, "BAD_USER_INPUT", "seconds"),
        ({"symbol": "A", "since": T0 + 5, "until": T0}, 400, "BAD_USER_INPUT", "swap"),
        ({"symbol": "A", "timeframe": "7x"}, 400, "BAD_USER_INPUT", "7x"),
        ({"symbol": "A", "timezone": "Mars/Olympus"}, 400, "BAD_USER_INPUT", "Mars"),
        ({"symbol": "A", "revision": "nonsense"}, 400, "BAD_USER_INPUT", "revision"),
        ({"symbol": "A\0"}, 400, "BAD_USER_INPUT", "symbol"),
        ({"pattern": "*a" * 100}, 400, "BAD_USER_INPUT", "pattern"),
    ):
        found = await world.refused(**query)
        assert found[:2] == (status, code), (query, found)
        assert words in found[2], (query, found)
    assert (await world.refused("xlsx", symbol="A"))[:2] == (404, "NOT_FOUND")
    headers = {"sec-fetch-site": "cross-site"}
    assert (await world.refused(symbol="A", headers=headers))[:2] == (403, "FORBIDDEN")
    headers = {"authorization": "Bearer nonsense"}
    assert (await world.refused(symbol="A", headers=headers))[:2] == (401, "UNAUTHENTICATED")


async def test_an_export_resumes_behind_its_last_row_unless_the_rest_was_corrected(world: World) -> None:
    rows = candles()
    owner = await world.store("A", rows)
    response, body = await world.get("jsonl", symbol="A")
    whole, revision = rows_of("jsonl", body), response.headers["candlegraph-revision"]
    cut = whole[:1_000]
    raised = replace(rows[100:101], high=rows.high[100:101] + 1)
    one = Spans([Span(int(raised.timestamp[0]), int(raised.timestamp[0]) + MINUTE_MS)])
    await world.running.store.write([CandleWrite(owner, MINUTE, raised, one, "i")])
    response, body = await world.get("jsonl", symbol="A", since=int(cut[-1][0]) + 1, revision=revision)
    assert response.status == 200, body
    assert cut + rows_of("jsonl", body) == whole, "the correction lies before the rest"
    status, code, message = await world.refused(symbol="A", since=T0 + MINUTE_MS, revision=revision)
    assert (status, code) == (409, "CONFLICT")
    assert "from the beginning" in message


async def test_a_correction_in_the_middle_cuts_the_export_off(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows that came are those of the start; the end is missing, which a client sees as an error."""
    monkeypatch.setattr(export_module, "PAGE_ROWS", 500)
    rows = candles()
    owner = await world.store("A", rows)
    raised = replace(rows[2_400:2_401], high=rows.high[2_400:2_401] + 1)
    one = Spans([Span(int(raised.timestamp[0]), int(raised.timestamp[0]) + MINUTE_MS)])
    read, count = world.running.store.read, 0

    async def corrected_meanwhile(reads: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            await world.running.store.write([CandleWrite(owner, MINUTE, raised, one, "i")])
        return await read(reads)

    monkeypatch.setattr(world.running.store, "read", corrected_meanwhile)
    query = {"market": "x", "provider": "imp", "symbol": "A"}
    got, plain = [], {"accept-encoding": "identity"}

    async def read_all(content: aiohttp.StreamReader) -> None:
        while piece := await content.readany():
            got.append(piece)

    async with world.http.get("/export/candles.jsonl", params=query, headers=plain) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_all(response.content)
    body = b"".join(got)
    came = rows_of("jsonl", body[: body.rindex(b"\n") + 1])
    assert came == [list(row) for row in zip(*rows_lists(rows[: len(came)]), strict=True)]
    assert 0 < len(came) <= 1_000, "what was read before the correction, and nothing after it"
    assert "an export was cut off" in caplog.text


def rows_lists(rows: Candles) -> list[list[float]]:
    return [rows.timestamp.tolist(), *(getattr(rows, name).tolist() for name in NUMBERS)]


async def test_candles_that_are_added_meanwhile_do_not_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "PAGE_ROWS", 500)
    rows = candles()
    hole = Span(T0 + 2_000 * MINUTE_MS, T0 + 2_100 * MINUTE_MS)
    ends = T0 + COUNT * MINUTE_MS
    await world.store("A", concat([rows[:2_000], rows[2_100:]]), Span(T0, hole.since), Span(hole.until, ends))
    read, count = world.running.store.read, 0

    async def filled_meanwhile(reads: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            await world.store("A", rows[2_000:2_100], hole)
        return await read(reads)

    monkeypatch.setattr(world.running.store, "read", filled_meanwhile)
    response, body = await world.get("csv", symbol="A")
    assert response.headers["candlegraph-gaps"] == "1"
    assert len(rows_of("csv", body)) == COUNT - 100


async def test_exports_are_counted_and_a_cancelled_one_leaves_nothing_behind(
    new_database: Callable[..., Any], migrated_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(await new_database(migrated_template), exports_per_address=1) as world:
        await world.store("A", candles())
        held, read = asyncio.Event(), world.running.store.read

        async def waits(reads: Any) -> Any:
            await held.wait()
            return await read(reads)

        monkeypatch.setattr(world.running.store, "read", waits)
        query = {"market": "x", "provider": "imp", "symbol": "A"}
        async with world.http.get("/export/candles.csv", params=query) as first:
            assert first.status == 200
            response, body = await world.get("csv", symbol="A")
            assert response.status == 429
            assert json.loads(body)["errors"][0]["extensions"]["code"] == "OVERLOADED"
            assert int(response.headers["retry-after"]) >= 1
            first.close()
        held.set()

        async def is_free() -> bool:
            return (await world.get("csv", symbol="A"))[0].status == 200

        await eventually(is_free)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert "next page of an export" not in names
        assert world.running.services.budget.reserved == 0


@pytest.mark.parametrize("turn_s", [0.0, HANG_S], ids=["past its turn", "in its turn"])
async def test_a_slow_reader_gives_its_place_to_the_next_when_its_turn_is_over(
    new_database: Callable[..., Any], migrated_template: str, turn_s: float
) -> None:
    """It is cut off in the middle, which it sees, and resumes by the revision."""
    timings = replace(PATIENT, export_turn_s=turn_s)
    async with served(await new_database(migrated_template), timings, exports=1) as world:
        await world.store("A", candles(120_000))  # more than the sockets hold
        asked = {
            "params": {"market": "x", "provider": "imp", "symbol": "A"},
            "headers": {"accept-encoding": "identity"},
        }
        async with world.http.get("/export/candles.jsonl", read_bufsize=1024, **asked) as slow:
            assert slow.status == 200
            begun = await slow.content.readline()
            response, body = await world.get("csv", symbol="A", until=T0 + 5 * MINUTE_MS)
            if turn_s:
                assert (response.status, json.loads(body)["errors"][0]["extensions"]["code"]) == (429, "OVERLOADED")
                return
            assert len(rows_of("csv", body)) == 5
            with pytest.raises(aiohttp.ClientPayloadError):
                await slow.read()
        last, revision = json.loads(begun)["timestamp"], slow.headers["candlegraph-revision"]
        response, body = await world.get("jsonl", symbol="A", since=last + 1, revision=revision)
        assert len(rows_of("jsonl", body)) == 119_999
        assert world.running.services.budget.reserved == 0


async def test_an_anonymous_address_exports_so_many_candles_a_day(
    new_database: Callable[..., Any], migrated_template: str
) -> None:
    async with served(await new_database(migrated_template), export_rows_per_day=6_000) as world:
        await world.store("A", candles())
        response, _ = await world.get("csv", symbol="A")
        assert response.status == 200
        status, code, message = await world.refused(symbol="A")
        assert (status, code) == (429, "RATE_LIMITED")
        assert "sign in" in message
