"""The servers of these tests run outside; CANDLEGRAPH_TEST says where, as `tests/clients/test_python_client.py` sets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cable import Cable
from candlegraph_client import Client

HANG_S = 120.0  # only a guard against a test that hangs
MINUTE_MS = 60_000
T0 = 1_714_521_600_000  # 2024-05-01
NUMBERS = ("open", "high", "low", "close", "volume")
Row = tuple[int, float, float, float, float, float]


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds. TimeoutError if it never does."""
    until = time.monotonic() + HANG_S
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.01)


@dataclass(frozen=True)
class Process:
    """A server of one test."""

    url: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Server:
    """A server that runs, the Python of its programs, and the command that starts one like it."""

    url: str
    python: str
    command: list[str]
    environment: dict[str, str]

    def run(self, program: str, *arguments: str, given: str = "") -> None:
        """Run a program of the server to its end."""
        done = subprocess.run(
            [self.python, "-m", program, *arguments],
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def another(self) -> Iterator[Process]:
        """One more server over the same database, with the same clock."""
        folder = tempfile.TemporaryDirectory()
        with folder, Path(folder.name, "log").open("w+b") as log:
            environment = self.environment | {"DATA_DIR": folder.name}
            process = subprocess.Popen([*self.command, "serve", "--port", "0"], env=environment, stdout=log, stderr=log)
            try:
                served = re.compile(r"serves (http://\S+:\d+)/graphql")
                eventually(lambda: process.poll() is not None or served.search(Path(log.name).read_text()))
                match = served.search(Path(log.name).read_text())
                assert match, Path(log.name).read_text()
                yield Process(match[1], process)
            finally:
                process.kill()
                process.wait()

    def store(self, folder: Path, stored: Mapping[str, Sequence[Row]]) -> None:
        """Import 1m candles of several series."""
        imports = []
        for i, (series, rows) in enumerate(stored.items()):
            market, provider, symbol = series.split("/", 2)
            file = folder / f"{i}.csv"
            lines = ["timestamp,open,high,low,close,volume", *(",".join(map(repr, row)) for row in rows)]
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            names = ["--market", market, "--provider", provider, "--symbol", symbol, "--timeframe", "1m"]
            imports.append([str(file), *names, "--sparse"])
        self.run("tests.clients.imports", given=json.dumps(imports))

    def query(self, series: str, timeframe: str = "1m", **arguments: Any) -> dict[str, Any]:
        """All candles of a series since an instant by plain GraphQL, page after page."""
        market, provider, symbol = series.split("/", 2)
        given = {"market": market, "provider": provider, "symbol": symbol, "limit": 5000} | arguments
        nodes: list[dict[str, Any]] = []
        while True:
            text = ", ".join(f"{name}: {json.dumps(value)}" for name, value in given.items())
            fields = (
                "nodes { timestamp open high low close volume closed } gaps { since until reason } hasMore nextSince"
            )
            query = f"{{ candles(timeframe: {json.dumps(timeframe)}, {text}) {{ {fields} }} }}"
            answer = httpx.post(f"{self.url}/graphql", json={"query": query}).raise_for_status().json()
            page = answer["data"]["candles"]
            nodes += [node for node in page["nodes"] if node["closed"]]
            if not page["hasMore"]:
                return {**page, "nodes": nodes}
            given["since"] = page["nextSince"]


def _server(name: str) -> Server:
    return Server(**json.loads(os.environ["CANDLEGRAPH_TEST"])[name])


@pytest.fixture(scope="session")
def server() -> Server:
    """A server of a usual clock."""
    return _server("server")


@pytest.fixture(scope="session")
def fast() -> Server:
    """A server with another database; a minute of its clock takes a second."""
    return _server("fast")


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the server."""
    with Client(server.url) as client:
        yield client


@pytest.fixture
def fast_cable(fast: Server) -> Iterator[Cable]:
    """A cable to the fast server."""
    with Cable(fast.url) as cable:
        yield cable


@pytest.fixture
def cable(server: Server) -> Iterator[Cable]:
    """A cable to the server."""
    with Cable(server.url) as cable:
        yield cable
