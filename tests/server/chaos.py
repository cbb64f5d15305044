"""The long form of `test_two_servers`, run by hand: deaths of the leader, cut clients, a proxy that resets, frozen leaders.

`make chaos` runs it; CHAOS_KILLS, CHAOS_CUTS and CHAOS_LISTENERS say how much of it. After every fourth death the proxy
resets and the leader is frozen over its lease.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from candlegraph.clock import MINUTE_MS
from candlegraph.timeframe import MINUTE
from storage.embedded.postgres import EmbeddedPostgres
from tests.server.cluster import Cluster, Follower, all_received, following
from tests.server.running import Running

KILLS, CUTS, LISTENERS = (
    int(os.environ.get(f"CHAOS_{name}", default))
    for name, default in (("KILLS", 20), ("CUTS", 100), ("LISTENERS", 200))
)


class Proxy:
    """Listeners reach one of the servers through it; ``reset`` breaks every connection."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = urlsplit(random.choice([server.url for server in self._cluster.servers]))
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(behind.hostname, behind.port)
            ends = {writer, far_writer}
            self._writers |= ends
            await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))
            self._writers -= ends
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(65_536):
            writer.write(part)
            await writer.drain()
    writer.close()


async def _cut(followers: list[Follower], cuts: int, seconds: float) -> None:
    for _ in range(cuts):
        random.choice(followers).cut()
        await asyncio.sleep(seconds / cuts)


class _Timed(Cluster):
    takeovers: list[float]

    async def _lose(self, leader: Running, number: int) -> None:
        began = time.monotonic()
        await super()._lose(leader, number)
        self.takeovers.append(time.monotonic() - began)


async def _run(dsn: str, folder: Path) -> bool:
    began = time.monotonic()
    # All listeners come from one address, and now and then to one server.
    async with _Timed(dsn, folder, MAX_CONNECTIONS_PER_ADDRESS=str(10 * LISTENERS)) as cluster:
        cluster.takeovers = []
        await cluster.start()
        await cluster.start()
        proxy = Proxy(cluster)
        async with proxy.listening() as url:
            cluster.urls += [url] * 2  # half of the listeners come through it
            async with following(cluster, LISTENERS) as followers:
                cutting = asyncio.create_task(_cut(followers, CUTS, 8.0 * KILLS))
                for number in range(KILLS):
                    await cluster.kill(cluster.leader())
                    if number % 4 == 3:
                        proxy.reset()
                        await asyncio.sleep(random.uniform(0, 1))
                        async with cluster.frozen(cluster.leader()):
                            await asyncio.sleep(random.uniform(0, 4))
                await cutting
                until = MINUTE.floor(cluster.exchange.now) + 2 * MINUTE_MS
                await all_received(followers, until)
    refused = sum(log.read_text(encoding="utf-8").count("LeaseLost") for log in cluster.logs)
    missing, repeats = sum(f.missing(until) for f in followers), sum(f.repeats for f in followers)
    took, errors = sorted(cluster.takeovers), [f.errors for f in followers]
    sys.stdout.write(
        f"{KILLS} deaths of the leader, {CUTS} cuts, {KILLS // 4} resets, {KILLS // 4} frozen leaders, {LISTENERS} listeners, "
        f"{time.monotonic() - began:.0f} s, {sum(f.connects for f in followers)} connections\n"
        f"closed candles received: {sum(len(f.closed) for f in followers)}, missing {missing}, repeated {repeats}\n"
        f"takeover: median {took[len(took) // 2]:.1f} s, longest {took[-1]:.1f} s\n"
        f"late writes refused: {refused}\n"
        f"errors sent to listeners: {sum(map(len, errors))} {set().union(*errors)}\n"
    )
    return not missing and not repeats


def main() -> None:
    """Run it over a PostgreSQL of its own."""
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            held = asyncio.run(_run(postgres.start().dsn, Path(folder)))
        finally:
            postgres.stop()
    sys.exit(not held)


if __name__ == "__main__":
    main()
