"""An import stores all of a file or nothing, also if the process is killed in between, and may be repeated."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import numpy as np
import polars as pl
import psutil
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from candlegraph.errors import BadUserInput
from server.cli.importing import import_candles
from server.cli.main import main
from server.settings import Settings
from storage.embedded.postgres import EmbeddedPostgres
from tests.server.cli.test_cli import Command, cli, is_one_line  # noqa: F401 - a fixture
from tests.server.running import COMMAND, environment, run, serving
from tests.waiting import HANG_S

T0 = 1_714_521_600_000
NAME = ("--market", "lab", "--provider", "bench", "--symbol")
BIG = 300_000


@pytest.fixture(scope="module")
async def here(new_database: Callable[..., object], migrated_template: str) -> Command:
    """Run a command in this process over a database of its own: a process takes a second to start."""
    dsn = str(await new_database(migrated_template))

    def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        found = CliRunner().invoke(main, arguments, env={"DB_CONNECTION_STRING": dsn, "COLUMNS": "200", **variables})
        return subprocess.CompletedProcess(arguments, found.exit_code, found.stdout, found.stderr)

    return command


def minutes(path: Path, rows: int, *, step: int = 60_000) -> Path:
    """Write a file of flat candles."""
    stamps = T0 + step * np.arange(rows, dtype=np.int64)
    price = 100.0 + np.arange(rows) % 50
    columns = {"timestamp": stamps, "open": price, "high": price + 1, "low": price - 1, "close": price}
    pl.DataFrame({**columns, "volume": np.ones(rows)}).write_csv(path)
    return path


def refused(result: subprocess.CompletedProcess[str], *words: str) -> list[str]:
    """A refusal is on stderr, its reason first; the lines below it say what is known of the file."""
    assert (result.returncode, result.stdout) == (1, ""), result.stdout + result.stderr
    first, *known = result.stderr.strip().splitlines()
    assert first.startswith("candlegraph: ")
    assert all(word in first for word in words), first
    return known


def stored(cli: Command, symbol: str, *options: str) -> list[dict[str, object]]:  # noqa: F811
    """What `candles` prints of it, oldest first."""
    result = cli("candles", "lab", "bench", symbol, "--since", str(T0), "--format", "json", *options)
    assert result.returncode == 0, result.stderr
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def test_a_file_is_imported_once_and_once_more(cli: Command, tmp_path: Path) -> None:  # noqa: F811
    file = minutes(tmp_path / "m.csv", 200)
    for _ in range(2):
        result = cli("import", str(file), *NAME, "GOOD")
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "Imported 200 candles of 1m into GOOD (lab/bench)."
    rows = stored(cli, "GOOD", "--limit", "1000", "--until", str(T0 + 200 * 60_000))
    assert [row["timestamp"] for row in rows] == [T0 + i * 60_000 for i in range(200)]
    hours = stored(cli, "GOOD", "--timeframe", "1h", "--until", str(T0 + 3 * 3_600_000))
    assert [row["volume"] for row in hours] == [60.0, 60.0, 60.0]


@pytest.mark.parametrize(
    ("market", "provider", "what"),
    [("my market", "bench", "market"), ("lab", "a/b", "provider"), ("lab", "é", "provider")],
)
def test_an_import_into_a_name_that_an_id_would_have_to_encode_is_refused(
    here: Command,
    tmp_path: Path,
    market: str,
    provider: str,
    what: str,
) -> None:
    file = minutes(tmp_path / "m.csv", 3)
    result = here("import", str(file), "--market", market, "--provider", provider, "--symbol", "X")
    assert result.returncode == 1
    assert what in result.stderr


def test_days_before_1970_are_imported_and_asked_for(here: Command, tmp_path: Path) -> None:
    file = tmp_path / "old.csv"
    rows = [
        "1969-12-30,91.2,92.2,90.5,91.6,1",
        "1969-12-31,91.6,92.94,91.15,92.06,1",
        "1970-01-02,92.06,93.54,91.79,93.0,1",
    ]
    file.write_text("\n".join(["Date,Open,High,Low,Close,Volume", *rows, ""]))
    result = here("import", str(file), *NAME, "OLD")
    assert result.stdout.splitlines()[-1] == "Imported 3 candles of 1d into OLD (lab/bench).", result.stderr
    ask = ("candles", "lab", "bench", "OLD", "--timeframe", "1d", "--format", "json", "--since")
    answers = [here(*ask, since, "--until", "1970-01-03T00:00:00Z") for since in ("-172800000", "1969-12-30T00:00:00Z")]
    found = [json.loads(answer.stdout) for answer in answers]
    assert found[0] == found[1]
    assert [row["timestamp"] for row in found[0]] == [-172_800_000, -86_400_000, 86_400_000]
    assert found[0][0]["time"] == "1969-12-30T00:00:00Z"


def test_a_file_may_take_the_place_of_what_was_stored_between_its_candles(here: Command, tmp_path: Path) -> None:
    whole, thin = minutes(tmp_path / "whole.csv", 120), minutes(tmp_path / "thin.csv", 60, step=120_000)
    assert here("import", str(whole), *NAME, "THIN").returncode == 0
    assert here("import", str(thin), *NAME, "THIN", "--timeframe", "1m", "--covers").returncode == 0
    until = ("--until", str(T0 + 2 * 3_600_000))
    assert len(stored(here, "THIN", *until)) == 120
    result = here("import", str(thin), *NAME, "THIN", "--timeframe", "1m", "--covers", "--replace")
    assert result.returncode == 0, result.stderr
    # The last minute lies behind the file's last candle: nothing is said of it there.
    assert len(stored(here, "THIN", *until)) == 61
    assert [row["volume"] for row in stored(here, "THIN", "--timeframe", "1h", *until)] == [30.0, 31.0]
    assert here("corrections", "lab", "bench", "THIN").stdout.count("2024-05-01") >= 20


def test_the_last_candle_may_be_left_out(here: Command, tmp_path: Path) -> None:
    result = here("import", str(minutes(tmp_path / "m.csv", 10)), *NAME, "CUT", "--drop-last")
    assert "Left out: 1 by --drop-last." in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Imported 9 candles")
    assert len(stored(here, "CUT", "--until", str(T0 + 600_000))) == 9


async def test_minutes_that_are_not_kept_any_more_are_left_out_and_that_is_said(
    database_dsn: str, tmp_path: Path
) -> None:
    settings, name = Settings.read(db_connection_string=SecretStr(database_dsn)), ("lab", "bench", "OLD")
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("update storage_layout set horizon = '2024-05-02'")
    file = minutes(tmp_path / "m.csv", 1440 + 10)
    said = (await import_candles(settings, file, name)).splitlines()
    assert said[-1] == "Imported 10 candles of 1m into OLD (lab/bench)."
    assert "Left out: 1,440 older than 2024-05-02, before which 1m candles are not kept." in said
    assert await connection.fetchval("select count(*) from ohlcv_data") == 10
    file = minutes(tmp_path / "older.csv", 60)
    with pytest.raises(BadUserInput, match="None of these candles was imported"):
        await import_candles(settings, file, name)
    await connection.close()


def test_a_bad_row_is_named_and_nothing_is_stored(here: Command, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    head = "timestamp,open,high,low,close,volume\n1714521600000,5,6,4,5,1\n1714521660000,5,6,4,5,1\n"
    for row in ("1714521720000,5,4,6,5,1", "1714521720000,5,6,4"):
        file.write_text(f"{head}{row}\n1714521780000,5,6,4,5,1\n")
        refused(here("import", str(file), *NAME, "BAD"), "bad.csv:4")
    is_one_line(here("candles", "lab", "bench", "BAD"), 1, "no symbol 'BAD'")


def test_daily_files_of_new_york_open_at_its_midnight(here: Command, tmp_path: Path) -> None:
    """Over the change to summer time: a day of 23 hours."""
    file = tmp_path / "days.csv"
    days = ["2024-03-07", "2024-03-08", "2024-03-11", "2024-03-12"]
    file.write_text("date,open,high,low,close,volume\n" + "".join(f"{day},5,6,4,5,1\n" for day in days))
    options = ("--timezone", "America/New_York", "--timeframe", "1d")
    result = here("import", str(file), *NAME, "NYC", *options)
    assert result.returncode == 0, result.stderr
    printed = here("candles", "lab", "bench", "NYC", "--timeframe", "1d", "--format", "json", "--limit", "4")
    assert [row["time"] for row in json.loads(printed.stdout)] == [
        "2024-03-07T05:00:00Z",
        "2024-03-08T05:00:00Z",
        "2024-03-11T04:00:00Z",
        "2024-03-12T04:00:00Z",
    ]
    is_one_line(
        here("import", str(file), *NAME, "NYC", "--timezone", "UTC", "--timeframe", "1d"), 1, "America/New_York"
    )
    is_one_line(here("import", str(file), *NAME, "NYC2", "--timezone", "Mars"), 1, "Unknown time zone")


async def test_a_running_server_answers_what_is_imported_beside_it(tmp_path: Path) -> None:
    file = minutes(tmp_path / "m.csv", 50)
    text = f'{{ candles(market: "lab", provider: "bench", symbol: "LIVE", since: {T0}, until: {T0 + 3_000_000}) '
    text += "{ complete nodes { timestamp } } }"
    with serving(tmp_path / "log", DATA_DIR=str(tmp_path / "data")) as running:
        async with aiohttp.ClientSession(running.url) as http:
            async with http.post("/graphql", json={"query": text}) as response:
                assert (await response.json())["errors"][0]["extensions"]["code"] == "NOT_FOUND"
            result = await asyncio.to_thread(run, "import", str(file), *NAME, "LIVE", DATA_DIR=str(tmp_path / "data"))
            assert result.returncode == 0, result.stderr
            async with http.post("/graphql", json={"query": text}) as response:
                found = (await response.json())["data"]["candles"]
            assert found["complete"] is True
            assert len(found["nodes"]) == 50


@asynccontextmanager
async def importing(file: Path, data: Path, server: EmbeddedPostgres) -> AsyncIterator[subprocess.Popen[str]]:
    """An import that is in the middle of its rows."""
    dsn = (await asyncio.to_thread(server.start)).dsn
    watcher = await asyncpg.connect(dsn)
    process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        [*COMMAND, "import", str(file), *NAME, "BIG"],
        env=environment(DATA_DIR=str(data)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(HANG_S):
            while not await watcher.fetchval("select count(*) from pg_stat_progress_copy where tuples_processed > 0"):
                assert process.poll() is None, process.communicate()
                await asyncio.sleep(0.005)
        yield process
    finally:
        watcher.terminate()
        if process.poll() is None:
            process.kill()
        await asyncio.to_thread(process.communicate)


async def _counts(server: EmbeddedPostgres) -> tuple[int, list[object]]:
    connection = await asyncpg.connect((await asyncio.to_thread(server.start)).dsn)
    try:
        rows = await connection.fetchval("select count(*) from ohlcv_data")
        return rows, [tuple(row) for row in await connection.fetch("select covered from coverage")]
    finally:
        await connection.close()


@pytest.mark.parametrize("victim", ["the importer", "PostgreSQL"])
async def test_after_a_kill_in_the_middle_nothing_is_half_written(tmp_path: Path, victim: str) -> None:
    data, server = tmp_path / "data", EmbeddedPostgres(tmp_path / "data")
    file = minutes(tmp_path / "big.csv", BIG)
    made = run("import", str(minutes(tmp_path / "few.csv", 10)), *NAME, "BIG", "--dry-run", DATA_DIR=str(data))
    assert made.returncode == 0, made.stderr
    try:
        async with importing(file, data, server) as process:
            if victim == "PostgreSQL":
                postmaster = psutil.Process(int((data / "postgres/postmaster.pid").read_text().splitlines()[0]))
                postmaster.send_signal(signal.SIGKILL)
                out, err = await asyncio.to_thread(process.communicate, None, 60)
                assert process.returncode == 1, err
                assert out == ""
                assert "Traceback" not in err
                assert err.strip().splitlines()[-1].startswith("candlegraph: ")
            else:
                process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(server.stop)
        assert await _counts(server) == (0, [])
        again = await asyncio.to_thread(run, "import", str(file), *NAME, "BIG", DATA_DIR=str(data))
        assert again.returncode == 0, again.stderr
        rows, covered = await _counts(server)
        assert rows == BIG
        assert len(covered) == 1
    finally:
        await asyncio.to_thread(server.stop)
