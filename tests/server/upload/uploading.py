"""A server that takes uploads, in this process, and a client that sends them byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route

from candlegraph.timings import Timings
from candlegraph.viewer import Role
from resolvers.accounts.administration import UserAdministration
from server.serve import _bind
from server.settings import Settings
from server.transport.app import create_app
from server.transport.uvicorn_protocols import protocols
from server.upload import upload_endpoint
from server.wiring import Runtime, open_runtime
from storage.users import UserStore
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

T0 = 1_714_521_600_000  # 2024-05-01T00:00:00Z
PASSWORD = "correct horse battery staple"


def csv(rows: int, *, bad: int | None = None) -> bytes:
    """A file of minutes; the high of the row ``bad`` lies below its low."""
    lines = ["timestamp,open,high,low,close,volume"]
    for at in range(rows):
        high = 1 if at == bad else 103
        lines.append(f"{T0 + at * 60_000},100.5,{high},99,101,{1 + at % 7}")
    return ("\n".join(lines) + "\n").encode()


@dataclass
class Answer:
    """Status, headers and body."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """The code of the refusal."""
        return str(self.body["errors"][0]["extensions"]["code"])

    @property
    def message(self) -> str:
        """Its message."""
        return str(self.body["errors"][0]["message"])


@dataclass
class Connection:
    """One request: a head, then a body in pieces."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send a piece, unless the server hung up."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> Answer:
        """The answer."""
        async with asyncio.timeout(HANG_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        found = json.loads(body) if "json" in headers.get("content-type", "") else {"text": body.decode()}
        return Answer(int(head[0].split()[1]), headers, found)

    def abort(self) -> None:
        """Hang up."""
        self.writer.transport.abort()


@dataclass
class Uploads:
    """The server and what it stores."""

    url: str
    spool: Path
    runtime: Runtime
    tokens: dict[str, str]

    async def open(
        self, path: str, size: int | None, *, account: str | None = "ada", method: str = "PUT", **headers: str
    ) -> Connection:
        """Send the head of an upload; ``size`` None: chunked."""
        parts = urlsplit(self.url)
        connection = Connection(*await asyncio.open_connection(parts.hostname, parts.port))
        fields = {"host": parts.netloc, "content-type": "application/octet-stream"}
        fields |= {"transfer-encoding": "chunked"} if size is None else {"content-length": str(size)}
        if account is not None:
            fields["authorization"] = f"Bearer {self.tokens.get(account, account)}"
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        await connection.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        return connection

    async def put(self, body: bytes, symbol: str = "A/B", *, account: str | None = "ada", **query: str) -> Answer:
        """Upload a file."""
        path = f"/import/lab/mine/{quote(symbol)}?{urlencode(query)}"
        connection = await self.open(path, len(body), account=account)
        await connection.send(body)
        try:
            return await connection.answer()
        finally:
            connection.abort()

    async def stored(self) -> int:
        """How many candles are stored."""
        rows = await self.runtime.database.fetch("select count(*) as n from ohlcv_data")
        return int(rows[0]["n"])

    @property
    def files(self) -> list[Path]:
        """The files of the spool."""
        return list(self.spool.iterdir()) if self.spool.is_dir() else []


@asynccontextmanager
async def uploads(
    dsn: str,
    folder: Path,
    *,
    memory_bytes: int | None = None,
    timings: Timings = PATIENT,
    accounts: bool = True,
    **settings: object,
) -> AsyncIterator[Uploads]:
    """Serve them; ada and bob are operators, vera is a viewer."""
    read = Settings.read(
        db_connection_string=SecretStr(dsn), data_dir=folder, cache_mb=0, min_free_disk_mb=0, **settings
    )
    async with open_runtime(read, timings=timings) as runtime:
        app: Starlette = create_app(runtime)
        if memory_bytes is not None:

            async def identify(request: Any) -> Any:
                return await endpoint.identify(request)

            endpoint = next(route.app for route in app.routes if getattr(route, "path", "") == "/graphql")
            limited = upload_endpoint(identify, runtime, memory_bytes)
            app = Starlette(routes=[Route("/import/{market}/{provider}/{symbol:path}", limited, methods=["PUT"])])
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", **protocols(timings))
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve(_bind("127.0.0.1", 0, timings)))
        await eventually(lambda: server.started)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            tokens = await _accounts(runtime) if accounts else {}
            yield Uploads(f"http://127.0.0.1:{port}", folder / "uploads", runtime, tokens)
        finally:
            server.should_exit = True
            await serving


async def _accounts(runtime: Runtime) -> dict[str, str]:
    administration = UserAdministration(UserStore(runtime.database))
    tokens = {}
    for name, role in (("ada", Role.OPERATOR), ("bob", Role.OPERATOR), ("cyd", Role.ADMIN), ("vera", Role.VIEWER)):
        await administration.add(name, PASSWORD, role)
        tokens[name] = (await runtime.services.accounts.login(name, PASSWORD, "127.0.0.1")).token
    return tokens


def noise(count: int) -> bytes:
    """Bytes that compress to nothing smaller."""
    return np.random.default_rng(1).bytes(count)
