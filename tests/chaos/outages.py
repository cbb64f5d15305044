"""What a listener and /readyz see while the live side misses something: run by `make chaos`.

No free connection at the start, PostgreSQL away, Redis killed in the middle of a stream, and every endless loop made to fail once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg

from storage.embedded.postgres import EmbeddedPostgres
from tests.fakes.valkey import Valkey
from tests.server import test_supervision as loops
from tests.server.running import Running, run, serving

FOLLOW = """subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD") {
  kind caughtUp nodes { timestamp close } } }"""


class Watch:
    """A listener of a server, which subscribes again when it is refused, and a reader of its /readyz."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.began = time.monotonic()
        self.seen: list[str] = []
        self.events = 0
        self.status = ""
        self.ready: str | None = None  # the last answer of /readyz

    def note(self, what: str) -> None:
        self.seen.append(f"{time.monotonic() - self.began:5.1f} s  {what}")

    async def listen(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError):
                async with (
                    aiohttp.ClientSession() as http,
                    http.ws_connect(f"{self.running.url}/graphql", protocols=["graphql-transport-ws"]) as socket,
                ):
                    await socket.send_json({"type": "connection_init"})
                    await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": FOLLOW}})
                    async for message in socket:
                        if not self._take(message.json()):
                            break
            await asyncio.sleep(0.5)

    def _take(self, answer: dict[str, Any]) -> bool:
        if answer["type"] == "error" or answer.get("payload", {}).get("errors"):
            self.note(f"listener: {answer['payload']}"[:160])
            return False
        if answer["type"] == "next":
            event = answer["payload"]["data"]["candles"]
            if event["caughtUp"]:
                self.note("listener: caught up")
            self.events += event["kind"] in {"UPDATE", "CLOSE"}
        return answer["type"] != "complete"

    async def ask(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as http:
            while True:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with http.get(f"{self.running.url}/readyz") as response:
                        body = await response.json()
                        said = f"{response.status} {body['status']}"
                        if f"{said} {body.get('detail')}" != self.ready:
                            self.note(f"/readyz: {said} {body.get('detail', '')}")
                        self.ready, self.status = f"{said} {body.get('detail')}", said
                await asyncio.sleep(0.1)

    async def moves(self) -> None:
        """Wait until the listener has received two more updates."""
        before = self.events
        await self._until(lambda: self.events >= before + 2, "the listener goes on")

    async def says(self, status: str) -> None:
        await self._until(lambda: self.status == status, f"/readyz says {status}")

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < deadline, f"not within 90 s: {what}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def watched(folder: Path, title: str, **variables: str) -> AsyncIterator[Watch]:
    """A server, its listener and its /readyz; what was seen is printed in the end."""
    log = folder / f"{title.replace(' ', '-')}.log"
    made = serving(log, DATA_DIR=str(folder / "data"), **variables)
    watch = Watch(await asyncio.to_thread(made.__enter__))
    tasks = [asyncio.create_task(watch.listen()), asyncio.create_task(watch.ask())]
    try:
        yield watch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(made.__exit__, None, None, None)
        text = log.read_text(encoding="utf-8")
        lines = text.splitlines()
        print(f"\n{title}", *watch.seen, sep="\n  ")
        print(f"  log: {len(lines)} lines, {text.count('Traceback')} tracebacks; {watch.events} updates received")
        print(*(line[:150] for line in lines), sep="\n    | ")


async def no_connection(folder: Path, dsn: str) -> None:
    """The server's user may have one connection, which the pool takes; later it may have more."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("create role limited login connection limit 1; grant pg_read_all_data to limited")
    await admin.execute("grant pg_write_all_data to limited; grant all on schema public to limited")
    limited = urlunsplit(urlsplit(dsn)._replace(netloc="limited@"))
    async with watched(folder, "No free connection at the start", DB_CONNECTION_STRING=limited) as watch:
        await watch.says("200 degraded")
        await asyncio.sleep(15)
        watch.note("test: there are connections now")
        await admin.execute("alter role limited connection limit 20")
        await watch.moves()
        await watch.says("200 ready")
        await watch.moves()
    await admin.close()


async def postgres_away(folder: Path, dsn: str, postgres: EmbeddedPostgres) -> None:
    """It is stopped for long enough that the log would show what is logged too often."""
    async with watched(folder, "PostgreSQL away for 130 s", DB_CONNECTION_STRING=dsn) as watch:
        await watch.moves()
        watch.note("test: PostgreSQL stops")
        await asyncio.to_thread(postgres.stop)
        await watch.says("503 unavailable")
        await asyncio.sleep(130)
        watch.note("test: PostgreSQL starts")
        await asyncio.to_thread(postgres.start)
        await watch.says("200 ready")
        await watch.moves()


async def redis_killed(folder: Path, dsn: str) -> None:
    """In the middle of a stream."""
    valkey = Valkey()
    async with watched(folder, "Redis killed", DB_CONNECTION_STRING=dsn, REDIS_URL=valkey.url) as watch:
        await watch.moves()
        watch.note("test: Redis is killed")
        valkey.signal(signal.SIGKILL)
        await watch.says("200 degraded")
        await watch.moves()
        await asyncio.sleep(5)
        valkey.server.stop()
        valkey = await asyncio.to_thread(Valkey, valkey.port)
        watch.note("test: Redis is back")
        await watch.says("200 ready")
        await watch.moves()
    valkey.server.stop()


async def every_loop(folder: Path) -> None:
    """Each fails once, all other ones at work."""
    print("\nA loop that fails once")
    logging.getLogger("candlegraph").setLevel(logging.CRITICAL)  # a traceback each
    async with loops.serving(folder / "loops") as server:
        await server.lose_redis()
        await server.restore_redis()
        await server.says("ready")
        for name in loops.LOOPS:
            before, began = len(server.events), time.monotonic()
            server.supervisor.disturb(name)
            detail = (await server.says("degraded"))["detail"]
            await server.says("ready")
            took = time.monotonic() - began
            await server.moved()
            print(
                f"  {name}: /readyz 200 degraded {detail!r}, ready after {took:.1f} s; {len(server.events) - before} events"
            )


async def main() -> None:
    """Run one after the other."""
    chosen = sys.argv[1:] or ["no_connection", "postgres_away", "redis_killed", "every_loop"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = EmbeddedPostgres(folder / "postgres")
        dsn = (await asyncio.to_thread(postgres.start)).dsn
        try:
            await asyncio.to_thread(run, "migrate", DB_CONNECTION_STRING=dsn)
            scenarios: dict[str, Callable[[], Awaitable[None]]] = {
                "no_connection": lambda: no_connection(folder, dsn),
                "postgres_away": lambda: postgres_away(folder, dsn, postgres),
                "redis_killed": lambda: redis_killed(folder, dsn),
                "every_loop": lambda: every_loop(folder),
            }
            for scenario in chosen:
                await scenarios[scenario]()
        finally:
            await asyncio.to_thread(postgres.stop)


if __name__ == "__main__":
    asyncio.run(main())
