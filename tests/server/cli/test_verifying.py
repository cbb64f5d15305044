"""`verify` and `corrections` on the command line, beside a server that runs or without one."""

from __future__ import annotations

import asyncio
import os
import pty
from pathlib import Path

import asyncpg
import pytest

from tests.server.cli.test_cli import Command, cli, is_one_line  # noqa: F401 - a fixture
from tests.server.cli.test_importing import NAME, T0, minutes
from tests.server.running import COMMAND, environment, run, serving


@pytest.fixture
async def dsn(database_dsn: str, tmp_path: Path) -> str:
    """The address of a database with 500 candles of lab/bench."""
    file = minutes(tmp_path / "m.csv", 500)
    result = await asyncio.to_thread(run, "import", str(file), *NAME, "GOOD", DB_CONNECTION_STRING=database_dsn)
    assert result.returncode == 0, result.stderr
    return database_dsn


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def table(stdout: str) -> dict[str, list[int]]:
    header, *lines = stdout.splitlines()
    assert header.split() == ["relation", "checked", "missing", "extra", "different"]
    return {line.split()[0]: [int(word) for word in line.split()[1:]] for line in lines}


async def test_verify_counts_finds_and_repairs(dsn: str, tmp_path: Path) -> None:
    def verify(*arguments: str) -> tuple[int, dict[str, list[int]], str]:
        result = run("verify", *arguments, DB_CONNECTION_STRING=dsn)
        return result.returncode, table(result.stdout), result.stderr

    with serving(tmp_path / "log", DB_CONNECTION_STRING=dsn, DATA_DIR=str(tmp_path / "data")):
        code, found, said = await asyncio.to_thread(verify)
        assert code == 0
        assert found["ohlcv_data"] == [500, 0, 0, 0]
        assert found["ohlcv_1h"] == [9, 0, 0, 0]
        assert len(found) == 10
        assert said.startswith("GOOD (lab/bench): ")
        await execute(dsn, f"update ohlcv_1h set close = 0 where bucketed_time < to_timestamp({T0 // 1000 + 7200})")
        await execute(dsn, "delete from ohlcv_1d")
        code, found, _ = await asyncio.to_thread(verify, "lab", "bench", "G*")
        assert code == 1
        assert (found["ohlcv_1h"], found["ohlcv_1d"]) == ([9, 0, 0, 2], [1, 1, 0, 0])
        code, found, _ = await asyncio.to_thread(
            verify, "lab", "--since", str(T0 + 3_600_000), "--until", str(T0 + 3_700_000)
        )
        assert (code, found["ohlcv_1h"], found["ohlcv_5min"][0]) == (1, [1, 0, 0, 1], 1)
        code, found, _ = await asyncio.to_thread(verify, "--repair")
        assert (code, found["ohlcv_1h"], found["ohlcv_1d"]) == (0, [9, 0, 0, 0], [1, 0, 0, 0])
        assert (await asyncio.to_thread(verify))[0] == 0


async def test_verify_of_nothing(dsn: str) -> None:
    for name in (["mars"], ["lab", "bench", "X*"]):
        result = await asyncio.to_thread(run, "verify", *name, DB_CONNECTION_STRING=dsn)
        is_one_line(result, 1, "Nothing")
    result = await asyncio.to_thread(run, "verify", "--since", str(T0), "--until", str(T0), DB_CONNECTION_STRING=dsn)
    is_one_line(result, 1, "--since")


async def test_verify_on_a_terminal_prints_no_lines_of_its_progress(dsn: str) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "verify",
        env=environment(DB_CONNECTION_STRING=dsn, TERM="xterm"),
        stderr=slave,
        stdout=asyncio.subprocess.PIPE,
    )
    os.close(slave)
    stdout, _ = await process.communicate()
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert process.returncode == 0
    assert table(stdout.decode())["ohlcv_data"] == [500, 0, 0, 0]
    assert "checked" not in shown


async def test_corrections_are_listed_newest_first(dsn: str, tmp_path: Path) -> None:
    def corrections(*arguments: str) -> list[str]:
        result = run("corrections", *arguments, DB_CONNECTION_STRING=dsn)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.splitlines()[1:]

    assert await asyncio.to_thread(corrections) == []
    file = tmp_path / "fixed.csv"
    file.write_text(f"timestamp,open,high,low,close,volume\n{T0},100,101,99,100.5,3\n{T0 + 60_000},101,102,100,101,1\n")
    result = await asyncio.to_thread(run, "import", str(file), *NAME, "GOOD", DB_CONNECTION_STRING=dsn)
    assert result.returncode == 0, result.stderr
    (line,) = await asyncio.to_thread(corrections)
    assert "GOOD (lab/bench) 1m" in line
    assert "2024-05-01T00:00:00Z" in line
    assert "100.0 101.0 99.0 100.0 1.0 (import)" in line
    assert "100.0 101.0 99.0 100.5 3.0 (import)" in line
    assert await asyncio.to_thread(corrections, "lab", "bench", "GOOD", "--limit", "1") == [line]
    assert await asyncio.to_thread(corrections, "lab", "bench", "OTHER") == []
