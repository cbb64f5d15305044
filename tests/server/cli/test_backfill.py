"""Backfills of real processes: over the API and the command line, alone and beside a server, and through kill -9."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from candlegraph import clock
from candlegraph.timeframe import MINUTE, Timeframe
from tests.fakes.remote import ROWS, Remote, variables
from tests.fakes.upstream import minutes
from tests.history.world import folded
from tests.server.running import COMMAND, Running, environment, run, serving
from tests.waiting import HANG_S, eventually

T0 = 1_714_521_600_000
MINUTE_MS = 60_000
COUNT = 12_000
_HOUR = Timeframe(1, "h")
UNTIL = T0 + COUNT * MINUTE_MS
START = f"""mutation {{ startBackfill(input: {{market: "remote", provider: "tape", pattern: "*", since: {T0}, until: {UNTIL}}})
  {{ id state piecesTotal }} }}"""
JOB = '{ backfill(id: "backfill:1") { state piecesDone piecesTotal candlesWritten calls holes { reason } lastError } }'


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    """An upstream with two symbols of twelve thousand minutes."""
    async with Remote({name: minutes(T0, COUNT, seed=i) for i, name in enumerate(("A", "B"))}) as upstream:
        yield upstream


@pytest.fixture
def setting(remote: Remote, database_dsn: str, tmp_path: Path) -> dict[str, str]:
    """The environment of processes that share the database and the upstream."""
    return {"DB_CONNECTION_STRING": database_dsn, "DATA_DIR": str(tmp_path), **variables(remote, tmp_path / "site")}


async def ask(running: Running, text: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(HANG_S)) as http,
        http.post("/graphql", json={"query": text}) as response,
    ):
        answer = await response.json()
    assert "errors" not in answer, answer
    return answer["data"]  # type: ignore[no-any-return]


async def ended(running: Running, seconds: float = 60) -> dict[str, Any]:
    """The job, when it has."""
    async with asyncio.timeout(HANG_S):
        while (job := (await ask(running, JOB))["backfill"])["state"] in {"QUEUED", "RUNNING"}:
            await asyncio.sleep(0.1)
    return job  # type: ignore[no-any-return]


async def is_whole(dsn: str, remote: Remote) -> None:
    """What is stored is what the upstream has, and the hours are what the minutes make of them."""
    connection = await asyncpg.connect(dsn)
    try:
        for symbol, truth in remote.truth.items():
            rows = await connection.fetch(
                """select (extract(epoch from d."timestamp") * 1000)::int8, open, high, low, close, volume
                   from ohlcv_data d join instruments i on i.id = instrument_id where symbol = $1 order by 1""",
                symbol,
            )
            ours = list(zip(*(column.tolist() for column in truth.columns[:6]), strict=True))
            assert [tuple(row) for row in rows] == ours
            hours = await connection.fetch(
                """select (extract(epoch from bucketed_time) * 1000)::int8, open, high, low, close, volume
                   from ohlcv_1h a join instruments i on i.id = a.instrument_id where symbol = $1 order by 1""",
                symbol,
            )
            assert {row[0]: tuple(row[1:]) for row in hours} == folded(ours, _HOUR)
    finally:
        await connection.close()


async def reached(remote: Remote, calls: int) -> None:
    await eventually(lambda: len(remote.asked) >= calls)


async def test_a_server_killed_again_and_again_finishes_its_job_and_asks_again_for_a_page_a_worker_at_most(
    remote: Remote, setting: dict[str, str], database_dsn: str, tmp_path: Path
) -> None:
    remote.latency_s = 0.15
    workers = 2
    for kill in range(2):
        with serving(tmp_path / f"log{kill}", BACKFILL_WORKERS=str(workers), **setting) as running:
            if not kill:
                job = (await ask(running, START))["startBackfill"]
                assert job["piecesTotal"] == 2 * COUNT // ROWS
            await reached(remote, len(remote.asked) + 5)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait()
    remote.latency_s = 0
    with serving(tmp_path / "log", BACKFILL_WORKERS=str(workers), **setting) as running:
        job = await ended(running)
    assert (job["state"], job["holes"]) == ("DONE", [])
    await is_whole(database_dsn, remote)
    times = Counter(remote.asked)
    assert len(times) == 2 * COUNT // ROWS
    assert times.total() - len(times) <= 2 * workers


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "backfill", *arguments],
        env=environment(**env),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SPAN = ("--since", str(T0), "--until", str(UNTIL))


async def test_the_command_does_it_alone_and_ctrl_c_leaves_it_to_be_taken_up_again(
    remote: Remote, setting: dict[str, str], database_dsn: str
) -> None:
    remote.latency_s = 0.2
    process = start("remote", "tape", "*", *SPAN, **setting)
    await reached(remote, 4)
    process.send_signal(signal.SIGINT)
    said, errors = await asyncio.to_thread(process.communicate, timeout=HANG_S)
    assert process.returncode == 130, errors
    assert "candlegraph backfill --follow 1" in said
    assert "Traceback" not in errors
    remote.latency_s = 0
    listed = await asyncio.to_thread(run, "backfill", "--list", **setting)
    assert "RUNNING" in listed.stdout
    result = await asyncio.to_thread(run, "backfill", "--follow", "1", **setting)
    assert result.returncode == 0, result.stderr
    assert "DONE: 24,000 candles" in result.stdout
    await is_whole(database_dsn, remote)
    again = await asyncio.to_thread(run, "backfill", "remote", "tape", "*", *SPAN, **setting)
    assert "nothing is missing" in again.stdout
    asked = Counter(remote.asked)
    assert asked.total() - len(asked) <= 4


async def test_the_command_and_a_server_share_the_work_and_ask_for_no_page_twice(
    remote: Remote, setting: dict[str, str], database_dsn: str, tmp_path: Path
) -> None:
    remote.latency_s = 0.1
    with serving(tmp_path / "log", BACKFILL_WORKERS="1", **setting) as running:
        job = (await ask(running, START))["startBackfill"]["id"]
        result = await asyncio.to_thread(run, "backfill", "--follow", job, **setting)
        assert result.returncode == 0, result.stderr
        assert (await ended(running))["state"] == "DONE"
    await is_whole(database_dsn, remote)
    assert len(remote.asked) == len(set(remote.asked)) == 24


async def test_a_thousand_identical_cold_queries_to_two_servers_make_one_call(
    remote: Remote, setting: dict[str, str], tmp_path: Path
) -> None:
    remote.latency_s = 0.5
    query = (
        f'{{ candles(market: "remote", provider: "tape", symbol: "A", since: {T0}, limit: 500) '
        "{ complete columns { timestamp close } } }"
    )
    with serving(tmp_path / "log1", **setting) as first, serving(tmp_path / "log2", **setting) as second:
        timeout = aiohttp.ClientTimeout(HANG_S)
        async with (
            aiohttp.ClientSession(first.url, timeout=timeout) as one,
            aiohttp.ClientSession(second.url, timeout=timeout) as two,
        ):

            async def question(http: aiohttp.ClientSession) -> bytes:
                async with http.post("/graphql", json={"query": query}) as response:
                    return await response.read()

            for http in (one, two):  # both have started the provider and read its list
                async with http.post("/graphql", json={"query": '{ symbol(market: "remote", provider: "tape", symbol: "B") { id } }'}) as response:  # fmt: skip
                    assert "errors" not in await response.json()
            answers = await asyncio.gather(*(question(http) for http in (one, two) for _ in range(500)))
    assert len(set(answers)) == 1
    assert b'"complete":true' in answers[0]
    assert len(remote.asked) == 1


Command = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def cli(setting: dict[str, str]) -> Command:
    """Run a command; the upstream is in this process, which must not stand still meanwhile."""
    return lambda *arguments: asyncio.to_thread(run, *arguments, **setting)


async def test_a_wrong_order_is_one_line(cli: Command) -> None:
    for arguments, word, code in (
        (("backfill", "remote", "tape", "NO*", "--since", str(T0)), "No symbol of remote/tape matches", 1),
        (("backfill", "remote", "tape", "NO", "--since", str(T0)), "has no symbol 'NO'", 1),
        (("backfill", "--follow", "77"), "There is no backfill 77", 1),
        (("backfill", "--cancel", "77"), "There is no backfill 77", 1),
        (("backfill", "remote", "tape", "*"), "--since", 2),
        (("backfill",), "MARKET PROVIDER PATTERN", 2),
    ):
        result = await cli(*arguments)
        assert result.returncode == code, result.stderr
        assert word in result.stderr
        assert "Traceback" not in result.stderr


async def test_series_are_tracked_listed_and_let_go(cli: Command) -> None:
    result = await cli("track", "remote", "tape", "*", "--since", str(T0))
    assert result.returncode == 0, result.stderr
    assert "A (remote/tape) is kept complete from 2024-05-01T00:00:00Z on." in result.stdout
    listed = (await cli("holes")).stdout
    assert "NOT_FETCHED" in listed
    assert "2 tracked series, 2 holes." in listed
    assert "1 of them was tracked" in (await cli("untrack", "remote", "tape", "A")).stdout
    assert "1 tracked series, 1 holes." in (await cli("holes")).stdout


async def test_a_server_keeps_a_tracked_series_complete(
    remote: Remote, setting: dict[str, str], database_dsn: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "log", **setting) as running:
        since = MINUTE.floor(clock.now_ms()) - 90 * MINUTE_MS
        remote.truth["A"] = minutes(since, 200)
        chosen = f'{{market: "remote", provider: "tape", symbols: ["A"], since: {since}}}'
        data = await ask(running, f"mutation {{ track(input: {chosen}) {{ holes }} }}")
        assert data["track"] == [{"holes": 1}]
        async with asyncio.timeout(HANG_S):
            while (await ask(running, "{ tracked { nodes { holes } } }"))["tracked"]["nodes"] != [{"holes": 0}]:
                await asyncio.sleep(0.2)
    assert remote.asked[0][0] == "A"
