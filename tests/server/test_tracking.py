"""A thin market that is tracked through the API becomes complete, whatever the kind of paging."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.timeframe import MINUTE
from tests.fakes.exchange_lab.server import LabExchange
from tests.server.running import serving
from tests.waiting import HANG_S, eventually

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

EXCHANGES = ("upbit", "tokocrypto")  # the newest rows before an end; the oldest from a start on
HOURS, QUIET = 24, range(400, 900)  # the quiet minutes are more than an answer of Upbit's spans


def thin(now: int) -> list[int]:
    """A candle in seven minutes, and a quiet stretch; the last one is an hour old."""
    first = MINUTE.floor(now) - (HOURS + 10) * HOUR_MS
    there = range(0, (HOURS + 9) * 60, 7)
    return [first + minute * MINUTE_MS for minute in there if minute - 600 not in QUIET]


class Client:
    """A client of the server."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http

    async def post(self, text: str) -> dict[str, Any]:
        async with self.http.post("/graphql", json={"query": text}) as response:
            return await response.json()  # type: ignore[no-any-return]

    async def ask(self, text: str) -> dict[str, Any]:
        answer = await self.post(text)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]  # type: ignore[no-any-return]


async def tracked_whole(server: Client, exchange: LabExchange, since: int, until: int) -> None:
    """Track the exchange's symbol until no minute of the span is unknown, and read it."""
    where = f'market: "crypto", provider: "{exchange.id}", symbol: "{exchange.wire.symbol}"'
    inputs = where.replace("symbol: ", "symbols: ")
    track = f"mutation {{ track(input: {{ {inputs}, since: {since} }}) {{ symbol {{ id }} }} }}"

    async with asyncio.timeout(4 * HANG_S):  # the symbols are listed first, by a process that imports ccxt
        while "errors" in await server.post(track):
            await asyncio.sleep(0.1)

    async def covered() -> bool:
        found = (await server.ask(f"{{ coverage({where}) {{ covered {{ since until }} }} }}"))["coverage"]
        return any(span["since"] <= since and span["until"] >= until for span in found["covered"])

    await eventually(covered)
    question = f"candles({where}, since: {since}, until: {until}, limit: 5000)"
    answer = (await server.ask(f"{{ {question} {{ complete nodes {{ timestamp }} }} }}"))["candles"]
    assert answer["complete"]
    assert [node["timestamp"] for node in answer["nodes"]] == [at for at in exchange.there if since <= at < until]


async def test_a_thin_market_that_is_tracked_becomes_complete(database_dsn: str, tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    async with AsyncExitStack() as stack:
        exchanges = [await stack.enter_async_context(LabExchange(name)) for name in EXCHANGES]
        for exchange in exchanges:
            exchange.there, exchange.now = thin(now), now
        options: dict[str, Any] = {exchange.id: exchange.ccxt_options for exchange in exchanges}
        settings = {
            "DB_CONNECTION_STRING": database_dsn,
            "CCXT_EXCHANGES": ",".join(EXCHANGES),
            "CCXT_OPTIONS": json.dumps(options),
        }
        server = stack.enter_context(serving(tmp_path / "log", **settings))
        http = await stack.enter_async_context(aiohttp.ClientSession(server.url))
        until = MINUTE.floor(now) - 2 * HOUR_MS
        await asyncio.gather(*(tracked_whole(Client(http), each, until - HOURS * HOUR_MS, until) for each in exchanges))
