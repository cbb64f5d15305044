"""One of everything that a client asks: queries, mutations, subscriptions and backfills; each answer is checked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from tests.fakes.remote import Remote
from tests.waiting import HANG_S

MINUTE_MS = 60_000
DAYS_MS = 1440 * MINUTE_MS
_DEMO = 'market: "demo", provider: "synthetic", symbol: "BTC/USD"'
_REMOTE = 'market: "remote", provider: "tape"'
_NODES = "nodes { timestamp open high low close volume closed }"


@dataclass
class Questions:
    """The questions of one client of a server, over ``remote`` and the demo market."""

    http: aiohttp.ClientSession
    remote: Remote

    async def all(self, number: int) -> list[str]:
        """Ask ten questions of round ``number`` at once; why each was not answered, or an empty string."""
        symbol = sorted(self.remote.truth)[number % len(self.remote.truth)]
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: self.stored(number),
            self.forming,
            lambda: self.fetched(symbol),
            self.symbols,
            self.statuses,
            lambda: self.backfilled(symbol),
            lambda: self.tracked(symbol),
            self.live,
            self.live,
            lambda: self.job_followed(symbol),
        ]
        return [await _why(question) for question in asked[:1]] + list(
            await asyncio.gather(*(_why(question) for question in asked[1:]))
        )

    async def ask(self, text: str) -> dict[str, Any]:
        """The data of an answer without errors."""
        async with self.http.post("/graphql", json={"query": text}) as response:
            answer = await response.json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]  # type: ignore[no-any-return]

    async def listen(self, text: str, enough: Callable[[dict[str, Any]], bool]) -> None:
        """Subscribe until an event is ``enough``, or the stream ends."""
        async with self.http.ws_connect("/graphql", protocols=["graphql-transport-ws"]) as socket:
            await socket.send_json({"type": "connection_init"})
            await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": text}})
            async for message in socket:
                said = orjson.loads(message.data)
                assert said["type"] in {"connection_ack", "next", "ping", "complete"}, said
                if said["type"] == "next":
                    assert "errors" not in said["payload"], said["payload"]
                    if enough(said["payload"]["data"]):
                        return
                if said["type"] == "complete":
                    return
        raise AssertionError("the socket was closed")

    async def stored(self, number: int) -> None:
        """A day of the demo market in hours."""
        since = 1_704_067_200_000 + number * DAYS_MS
        answer = await self.ask(
            f'{{ candles({_DEMO}, timeframe: "1h", since: {since}, until: {since + DAYS_MS}) {{ complete {_NODES} }} }}'
        )
        assert answer["candles"]["complete"], answer
        assert len(answer["candles"]["nodes"]) == 24, answer

    async def forming(self) -> None:
        """The newest candles, the forming one among them."""
        nodes = (await self.ask(f"{{ candles({_DEMO}, limit: 3) {{ {_NODES} }} }}"))["candles"]["nodes"]
        assert [node["closed"] for node in nodes] in ([True, True, False], [True, True, True]), nodes

    async def fetched(self, symbol: str) -> None:
        """Minutes of the upstream, each as it is there."""
        truth = self.remote.truth[symbol]
        since, until = int(truth.timestamp[0]), int(truth.timestamp[0]) + 500 * MINUTE_MS
        answer = await self.ask(
            f'{{ candles({_REMOTE}, symbol: "{symbol}", since: {since}, until: {until}, limit: 500) {{ complete {_NODES} }} }}'
        )
        assert answer["candles"]["complete"], answer
        closes = [node["close"] for node in answer["candles"]["nodes"]]
        assert closes == truth.close[truth.timestamp < until].tolist()

    async def symbols(self) -> None:
        """The list of an upstream."""
        answer = await self.ask(f"{{ symbols({_REMOTE}, first: 50) {{ nodes {{ symbol }} }} }}")
        assert [node["symbol"] for node in answer["symbols"]["nodes"]] == sorted(self.remote.truth)

    async def statuses(self) -> None:
        """How the providers are, and what jobs there are."""
        assert (await self.ask('{ providers(market: "demo") { id state } backfills { nodes { id state } } }'))[
            "providers"
        ]

    async def backfilled(self, symbol: str) -> None:
        """A job, to its end."""
        job = await self._job(symbol)
        async with asyncio.timeout(HANG_S):
            while True:
                found = (await self.ask(f'{{ backfill(id: "{job}") {{ state lastError }} }}'))["backfill"]
                if found["state"] not in {"QUEUED", "RUNNING"}:
                    break
                await asyncio.sleep(0.1)
        assert found == {"state": "DONE", "lastError": None}

    async def tracked(self, symbol: str) -> None:
        """A symbol, tracked and then no longer."""
        which = f'input: {{ {_REMOTE}, symbols: ["{symbol}"] }}'
        await self.ask(f"mutation {{ track({which}) {{ symbol {{ symbol }} }} }}")
        assert await self.ask(f"mutation {{ untrack({which}) }}")

    async def live(self) -> None:
        """A history that goes on: caught up, and one more event."""
        caught_up = False

        def enough(data: dict[str, Any]) -> bool:
            nonlocal caught_up
            was, caught_up = caught_up, caught_up or data["candles"]["caughtUp"]
            return was

        async with asyncio.timeout(HANG_S):
            await self.listen(f"subscription {{ candles({_DEMO}) {{ kind seq caughtUp {_NODES} }} }}", enough)

    async def job_followed(self, symbol: str) -> None:
        """A job by its subscription, to its end."""
        job = await self._job(symbol)
        last: dict[str, Any] = {}
        async with asyncio.timeout(HANG_S):
            await self.listen(
                f'subscription {{ backfill(id: "{job}") {{ state }} }}', lambda data: last.update(data) or False
            )
        assert last["backfill"]["state"] == "DONE"

    async def _job(self, symbol: str) -> str:
        truth = self.remote.truth[symbol]
        since, until = int(truth.timestamp[0]), int(truth.timestamp[-1]) + MINUTE_MS
        order = f'input: {{ {_REMOTE}, symbols: ["{symbol}"], since: {since}, until: {until} }}'
        return str((await self.ask(f"mutation {{ startBackfill({order}) {{ id }} }}"))["startBackfill"]["id"])


async def _why(question: Callable[[], Awaitable[object]]) -> str:
    try:
        await question()
    except (AssertionError, aiohttp.ClientError, TimeoutError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"[:500]
    return ""
