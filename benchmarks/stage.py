"""The test bed for live subscriptions under load: servers, their database, clients, and measurements.

Two server processes on one PostgreSQL, two client processes, all on this machine: one clock, so that how long a tick takes
from the instant it was due to a client's socket can be measured. It uses loopback only.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg
import psutil

from benchmarks.startup import MEGABYTE
from benchmarks.ticking import SYMBOLS
from storage.embedded.postgres import EmbeddedPostgres
from tests.server.running import ROOT, Running, serving

SERVERS, CLIENTS = 2, 2
QUESTION = '{ candles(market: "bench", provider: "ticking", symbol: "S%d", limit: 200) { nodes { timestamp close } } }'
ASK_EVERY_S = 0.05


@dataclass
class Client:
    """A client process: `benchmarks.clients`."""

    process: asyncio.subprocess.Process

    async def do(self, command: str = "") -> dict[str, dict[str, int]]:
        """Send a command; return the answer."""
        assert self.process.stdin
        assert self.process.stdout
        if command:
            self.process.stdin.write(command.encode() + b"\n")
        line = await self.process.stdout.readline()
        assert line, "the clients are gone"
        return json.loads(line)  # type: ignore[no-any-return]


@dataclass
class Stage:
    """The servers, their database, and the clients."""

    folder: Path
    dsn: str
    database: psutil.Process
    servers: list[Running]
    stack: AsyncExitStack
    clients: list[Client] = field(default_factory=list)
    peak_mb: Counter[str] = field(default_factory=Counter)

    async def enter(self, sockets: int) -> float:
        """Connect ``sockets``, and wait until all have caught up; return the seconds."""
        ports = [server.url.rpartition(":")[2] for server in self.servers]
        for _ in range(CLIENTS):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.clients", str(sockets // CLIENTS), *ports),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 24,
            )
            self.stack.push_async_callback(_ended, process)
            self.clients.append(Client(process))
        began = time.monotonic()
        await asyncio.gather(*(client.do() for client in self.clients))
        return time.monotonic() - began

    async def do(self, command: str) -> dict[str, Counter[object]]:
        """Send a command to all clients; return the sum of their answers."""
        found: dict[str, Counter[object]] = {"updates": Counter(), "closes": Counter(), "counts": Counter()}
        for answer in await asyncio.gather(*(client.do(command) for client in self.clients)):
            for name, counts in answer.items():
                found[name].update({k if name == "counts" else int(k): v for k, v in counts.items()})
        return found

    def memory(self) -> dict[str, float]:
        """Megabytes of the servers, and of PostgreSQL including its shared memory."""
        servers = [psutil.Process(server.process.pid).memory_full_info() for server in self.servers]
        database = [one.memory_full_info() for one in (self.database, *self.database.children())]
        found = {
            "servers' RSS": sum(one.rss for one in servers) / MEGABYTE,
            "servers' PSS": sum(one.pss for one in servers) / MEGABYTE,
            "PostgreSQL's PSS": sum(one.pss for one in database) / MEGABYTE,
        }
        for name, megabytes in found.items():
            self.peak_mb[name] = max(self.peak_mb[name], round(megabytes))
        return found

    async def ask(self, seconds: float) -> list[float]:
        """Send queries at a fixed rate, without waiting for answers; return the sorted latencies in milliseconds."""
        took: list[float] = []

        async def ask(http: aiohttp.ClientSession, number: int) -> None:
            began = time.perf_counter()
            url = self.servers[number % len(self.servers)].url
            async with http.post(f"{url}/graphql", json={"query": QUESTION % (number % SYMBOLS)}) as response:
                answer = await response.json()
            assert "errors" not in answer, answer["errors"]
            took.append((time.perf_counter() - began) * 1000)

        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number in range(round(seconds / ASK_EVERY_S)):
                await asyncio.sleep(began + number * ASK_EVERY_S - time.monotonic())
                group.create_task(ask(http, number))
                if number % 100 == 0:
                    self.memory()
        return sorted(took)

    async def held(self) -> dict[str, float]:
        """The present resources of the servers: memory, tasks, listeners, objects, sockets, database connections."""
        found: Counter[str] = Counter()
        for server in self.servers:
            process, file = psutil.Process(server.process.pid), self.folder / f"{server.process.pid}.json"
            file.unlink(missing_ok=True)
            process.send_signal(signal.SIGUSR1)
            while not file.exists():
                await asyncio.sleep(0.1)
            found.update(json.loads(file.read_text(encoding="utf-8")))
            connections = process.net_connections("tcp")
            found["sockets"] += sum(one.status != psutil.CONN_LISTEN for one in connections)
            found["file descriptors"] += process.num_fds()
        found["threads"] = sum(psutil.Process(server.process.pid).num_threads() for server in self.servers)
        connection = await asyncpg.connect(self.dsn)
        sessions = "select count(*) from pg_stat_activity where backend_type = 'client backend'"
        found["database connections"] = await connection.fetchval(sessions) - 1
        await connection.close()
        return {**self.memory(), **found}


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Run two servers over a new database."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # servers and clients inherit it
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plugin = folder / "plugin" / "candlegraph_bench-1.dist-info"
        plugin.mkdir(parents=True)
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: candlegraph-bench\nVersion: 1\n")
        (plugin / "entry_points.txt").write_text("[candlegraph.providers]\nbench.ticking = benchmarks.ticking:create\n")
        postgres = EmbeddedPostgres(folder / "data")
        database = await asyncio.to_thread(postgres.start)
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        servers = []
        for number in range(SERVERS):
            run = serving(
                folder / f"log{number}",
                DB_CONNECTION_STRING=database.dsn,
                DATA_DIR=str(folder),
                PYTHONPATH=f"{ROOT}{os.pathsep}{plugin.parent}",
                MAX_CONNECTIONS_PER_ADDRESS="100000",
                MAX_COST_IN_FLIGHT="1000000000",
                MAX_COST_IN_FLIGHT_PER_ADDRESS="1000000000",
                MAX_TOPICS_PER_ADDRESS="100000",
            )
            servers.append(await asyncio.to_thread(run.__enter__))
            stack.push_async_callback(asyncio.to_thread, run.__exit__, None, None, None)
        yield Stage(folder, database.dsn, psutil.Process(database.pid), servers, stack)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
