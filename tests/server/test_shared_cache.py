"""Two servers over one database and one Valkey share candles; a correction reaches both, and a dead Valkey neither."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes.valkey import Valkey
from tests.server.running import run, serving
from tests.waiting import HANG_S

T0 = 1_714_521_600_000
QUERY = f"""{{ candles(market: "shared", provider: "import", symbol: "A", since: {T0}, limit: 1000) {{
  nodes {{ close }} sources {{ source }} }} }}"""


async def _ready(http: aiohttp.ClientSession) -> dict[str, str]:
    async with http.get("/readyz") as response:
        assert response.status == 200
        found: dict[str, str] = await response.json()
    return found


async def _candles(http: aiohttp.ClientSession) -> tuple[list[float], set[str]]:
    async with http.post("/graphql", json={"query": QUERY}) as response:
        candles = (await response.json())["data"]["candles"]
    return [node["close"] for node in candles["nodes"]], {source["source"] for source in candles["sources"]}


async def _until(right: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_S):
        while not await right():
            await asyncio.sleep(0.02)


def _import(dsn: str, path: Path, closes: list[float], first: int) -> None:
    lines = [f"{T0 + (first + n) * 60_000},{c},{c},{c},{c},1" for n, c in enumerate(closes)]
    path.write_text("\n".join(["timestamp,open,high,low,close,volume", *lines]), encoding="utf-8")
    name = ("--market", "shared", "--provider", "import", "--symbol", "A")
    result = run("import", str(path), *name, DB_CONNECTION_STRING=dsn)
    assert result.returncode == 0, result.stderr


async def test_a_correction_reaches_two_servers_and_the_death_of_their_valkey_neither(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    dsn = await new_database(migrated_template)
    closes = [float(n % 97 + 1) for n in range(1000)]
    _import(dsn, tmp_path / "all.csv", closes, 0)
    running = [Valkey()]
    try:
        async with AsyncExitStack() as stack:
            servers = [
                stack.enter_context(serving(log, DB_CONNECTION_STRING=dsn, REDIS_URL=running[0].url))
                for log in (tmp_path / "one.log", tmp_path / "other.log")
            ]
            clients = [await stack.enter_async_context(aiohttp.ClientSession(server.url)) for server in servers]
            for http in clients:
                assert (await _candles(http))[0] == closes
                assert await _candles(http) == (closes, {"CACHE"})
                assert await _ready(http) == {"status": "ready"}

            closes[500:503] = [1000.0, 1001.0, 1002.0]
            _import(dsn, tmp_path / "correction.csv", closes[500:503], 500)
            for http in clients:
                await _until(lambda http=http: _is(_candles(http), closes))  # type: ignore[misc]

            running[0].signal(signal.SIGKILL)
            for http in clients:
                await _until(lambda http=http: _is_degraded(http))  # type: ignore[misc]
                assert (await _candles(http))[0] == closes
            running.append(Valkey(running[0].port))
            for http in clients:
                await _until(lambda http=http: _ready_again(http))  # type: ignore[misc]
            for server in servers:
                assert "Traceback" not in server.log.read_text(encoding="utf-8")
    finally:
        for valkey in running:
            valkey.server.stop()


async def _is(asked: Awaitable[tuple[list[float], set[str]]], closes: list[float]) -> bool:
    return (await asked)[0] == closes


async def _is_degraded(http: aiohttp.ClientSession) -> bool:
    found = await _ready(http)
    return found["status"] == "degraded" and "Redis does not answer" in found["detail"]


async def _ready_again(http: aiohttp.ClientSession) -> bool:
    return await _ready(http) == {"status": "ready"}
