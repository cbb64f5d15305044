"""500 honest users behind nginx on the same host, each known by its `X-Forwarded-For`: are all served, and how soon?

`python -m tests.chaos.proxied` needs `nginx` on the path; it runs one of its own, on a free port and with a folder of its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.server.running import serving
from tests.waiting import eventually_blocking

USERS = 500
LIVE = 'subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD") { kind } }'
QUERY = '{ candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", limit: 50) { nodes { close } } }'
PATIENCE_S = 60.0
NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 8192; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {url};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off;
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, url: str) -> Iterator[str]:
    """Run nginx before a server, as docs/deploy.md says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, url=url))
    command = [shutil.which("nginx") or "nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually_blocking(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


class Users:
    """Users who come at once, one from each address, and stay until all are there."""

    def __init__(self, url: str) -> None:
        """Send them to ``url``."""
        self.url = url
        self.ends: Counter[str] = Counter()
        self.first_event_s: list[float] = []
        self.answer_s: list[float] = []
        self.all_there = asyncio.Event()

    async def visit(self, number: int) -> None:
        """Subscribe over a WebSocket, ask twice, and stay."""
        connector = aiohttp.TCPConnector(local_addr=(f"127.1.{number // 250}.{1 + number % 250}", 0))
        timeout = aiohttp.ClientTimeout(PATIENCE_S)
        try:
            async with aiohttp.ClientSession(self.url, connector=connector, timeout=timeout) as http:
                began = time.monotonic()
                async with http.ws_connect("/graphql", protocols=["graphql-transport-ws"]) as live:
                    await live.send_json({"type": "connection_init"})
                    await live.receive_json(timeout=PATIENCE_S)
                    await live.send_json({"id": "1", "type": "subscribe", "payload": {"query": LIVE}})
                    message = await live.receive_json(timeout=PATIENCE_S)
                    self.first_event_s.append(time.monotonic() - began)
                    self.ends["subscribed" if message["payload"].get("data") else f"refused {message}"] += 1
                    for _ in range(2):
                        await self._ask(http)
                    if self.ends["subscribed"] == USERS:
                        self.all_there.set()
                    async with asyncio.timeout(PATIENCE_S):
                        await self.all_there.wait()
                    await live.receive_json(timeout=PATIENCE_S)  # an event reaches everybody
                    self.ends["live"] += 1
        except (aiohttp.ClientError, OSError, TimeoutError, TypeError) as error:
            self.ends[type(error).__name__] += 1

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        async with http.post("/graphql", json={"query": QUERY}) as answer:
            self.ends["refused" if "errors" in await answer.json() else "answered"] += 1
        self.answer_s.append(time.monotonic() - began)


def _waits(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"median {statistics.median(ordered):.2f} s, 95 % {ordered[len(ordered) * 95 // 100]:.2f} s, longest {ordered[-1]:.2f} s"


async def main() -> None:
    """Send the users."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        await asyncio.to_thread(root.chmod, 0o755)  # PostgreSQL does not run as root
        settings = {"DATA_DIR": str(root / "data"), "FORWARDED_ALLOW_IPS": "127.0.0.1"}
        with serving(root / "server.log", **settings) as running, nginx(root, running.url) as url:
            users = Users(url)
            await asyncio.gather(*(users.visit(number) for number in range(USERS)))
            print(f"load {os.getloadavg()[0]:.1f}; {dict(users.ends)}")
            print(f"first event: {_waits(users.first_event_s)}; answer: {_waits(users.answer_s)}")


if __name__ == "__main__":
    asyncio.run(main())
