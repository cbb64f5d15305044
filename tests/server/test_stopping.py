"""SIGTERM and Ctrl-C stop the server and its database: exit code 0 once it serves, 143 and 130 while it starts."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import aiohttp
import psutil
import pytest

from storage.embedded.postgres import EmbeddedPostgres
from tests.server.running import COMMAND, environment, run, serving
from tests.waiting import HANG_S, eventually, eventually_blocking

QUERY = '{ candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", limit: 3) { nodes { close } } }'


def postmaster(data_dir: Path) -> psutil.Process | None:
    """The PostgreSQL of a data directory, where one runs."""
    try:
        return psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess, IndexError, ValueError):
        return None


async def _readyz(http: aiohttp.ClientSession) -> tuple[int, str]:
    async with http.get("/readyz") as response:
        return response.status, await response.text()


async def _ask(http: aiohttp.ClientSession, text: str = QUERY) -> dict[str, object]:
    async with http.post("/graphql", json={"query": text}) as response:
        answer: dict[str, object] = await response.json()
        return answer


async def test_a_killed_embedded_database_is_started_again_and_stopped_with_the_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(tmp_path / "log", DATA_DIR=str(data)) as running:
        database = postmaster(data)
        assert database is not None
        async with aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(HANG_S)) as http:
            assert "errors" not in await _ask(http)
            database.kill()

            async def answers() -> bool:
                answer = await _ask(http)
                codes = {error["extensions"]["code"] for error in answer.get("errors", ())}  # type: ignore[attr-defined]
                assert codes <= {"UNAVAILABLE"}
                revived = postmaster(data)
                return not codes and revived is not None and revived.pid != database.pid

            await eventually(answers)
            revived = postmaster(data)
        assert running.stop() == 0
    assert revived is not None
    await asyncio.to_thread(revived.wait, HANG_S)


async def test_a_server_lives_through_the_loss_of_its_database_and_stops(tmp_path: Path) -> None:
    data = tmp_path / "data"
    postgres = EmbeddedPostgres(data)  # not the server's own, which it would start again
    dsn = (await asyncio.to_thread(postgres.start)).dsn
    with serving(tmp_path / "log", DATA_DIR=str(tmp_path / "other"), DB_CONNECTION_STRING=dsn) as running:
        async with aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(HANG_S)) as http:
            first = await _ask(http)
            assert "errors" not in first
            await asyncio.to_thread(postgres.stop)
            answer = await _ask(http)
            assert answer["data"] == {"candles": None}
            (error,) = answer["errors"]  # type: ignore[misc]
            assert error["extensions"] == {"code": "UNAVAILABLE", "retryAfter": 1}
            assert str(data) not in str(answer)
            async with asyncio.timeout(HANG_S):
                while (ready := await _readyz(http))[0] != 503:  # the check runs once a second
                    await asyncio.sleep(0.05)
            assert str(data) not in ready[1]
            async with http.get("/healthz") as response:
                assert response.status == 200
            assert await _ask(http, "{ __typename }") == {"data": {"__typename": "Query"}}
        assert running.stop() == 0
    assert "Traceback" not in running.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server_and_the_embedded_database(tmp_path: Path, number: int) -> None:
    data = tmp_path / "data"
    with serving(tmp_path / "log", DATA_DIR=str(data)) as running:
        database = postmaster(data)
        assert database is not None
        async with aiohttp.ClientSession(running.url) as http:
            await _ask(http)
            socket = await http.ws_connect("/graphql", protocols=["graphql-transport-ws"])
            await socket.send_json({"type": "connection_init"})
            assert (await socket.receive_json())["type"] == "connection_ack"
            code = await asyncio.to_thread(running.stop, number)
            farewell = await socket.receive()
            assert (farewell.type, farewell.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    assert code == 0
    assert not database.is_running()
    assert "Traceback" not in running.log.read_text(encoding="utf-8")
    # What was fetched is kept: the next process finds it.
    kept = run("candles", "demo", "synthetic", "BTC/USD", "--limit", "1", "--format", "csv", DATA_DIR=str(data))
    assert kept.returncode == 0, kept.stderr
    assert postmaster(data) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_leaves_nothing_running(tmp_path: Path, number: signal.Signals, code: int) -> None:
    data = tmp_path / "data"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0"],
            env=environment(DATA_DIR=str(data)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    eventually_blocking((data / "postgres.new").exists)  # the cluster is being made now, in a thread
    process.send_signal(number)
    assert process.wait(HANG_S) == code
    assert (tmp_path / "log").read_text() == ""
    assert postmaster(data) is None
