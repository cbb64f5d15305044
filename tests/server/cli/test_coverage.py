"""`coverage forget`, `coverage log` and `verify --upstream`, beside a server that runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from candlegraph.candle import concat
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.migration import migrate as migrate_module
from tests.fakes.remote import Remote, variables
from tests.fakes.upstream import minutes
from tests.server.cli.test_backfill import ask
from tests.server.cli.test_cli import Command, cli, is_one_line  # noqa: F401 - a fixture
from tests.server.running import Running, run, serving
from tests.waiting import eventually

MINUTE_MS, DAY_MS = 60_000, 86_400_000
T0 = 1_714_521_600_000
COUNT = 600
HOLE = range(200, 260)
NAME = ("remote", "tape", "A")
ORIGIN = '(market: "remote", provider: "tape", symbol: "A"'
CANDLES = f"""{{ candles{ORIGIN}, timeframe: "1m", since: {T0}, until: {T0 + COUNT * MINUTE_MS}, limit: 1000)
  {{ complete nodes {{ timestamp high }} }} }}"""


async def candles(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(running, CANDLES))["candles"]
    return found


async def test_forgotten_coverage_is_asked_for_again_by_a_server_that_runs(database_dsn: str, tmp_path: Path) -> None:
    whole = minutes(T0, COUNT)
    async with Remote({"A": minutes(T0, COUNT, holes=HOLE)}) as remote:
        setting = {
            "DB_CONNECTION_STRING": database_dsn,
            "DATA_DIR": str(tmp_path / "data"),
            **variables(remote, tmp_path / "site"),
        }
        with serving(tmp_path / "log", **setting) as running:
            answer = await candles(running)
            assert (answer["complete"], len(answer["nodes"])) == (True, COUNT - len(HOLE))
            remote.truth["A"] = whole  # an outage had looked like a time without trades
            assert len((await candles(running))["nodes"]) == COUNT - len(HOLE)
            result = await asyncio.to_thread(run, "coverage", "forget", *NAME, **setting)
            assert result.returncode == 0, result.stderr
            assert "01:00" in result.stdout

            async def is_whole() -> bool:
                return len((await candles(running))["nodes"]) == COUNT

            await eventually(is_whole)
            shown = await asyncio.to_thread(run, "coverage", "log", *NAME[:2], "A*", **setting)
            assert "A (remote/tape) 1m" in shown.stdout
            assert "candlegraph coverage forget" in shown.stdout
            checked = await asyncio.to_thread(run, "verify", **setting)
            assert checked.returncode == 0, checked.stdout
            assert "candlegraph coverage forget: 1 withdrawals, 60 minutes uncovered" in checked.stderr


async def test_verify_upstream_corrects_and_a_server_that_runs_notices(database_dsn: str, tmp_path: Path) -> None:
    truth = minutes(T0, COUNT)
    async with Remote({"A": truth}) as remote:
        setting = {
            "DB_CONNECTION_STRING": database_dsn,
            "DATA_DIR": str(tmp_path / "data"),
            **variables(remote, tmp_path / "site"),
        }
        with serving(tmp_path / "log", **setting) as running:
            await candles(running)
            raised = truth.high.copy()
            raised[5] += 1
            remote.truth["A"] = type(truth).of(*truth.columns[:2], raised, *truth.columns[3:6])
            result = await asyncio.to_thread(run, "verify", *NAME, "--upstream", "--days", "2", **setting)
            assert result.returncode == 1, result.stderr
            assert "2024-05-01      600        0      0          1" in result.stdout

            async def is_corrected() -> bool:
                nodes = (await candles(running))["nodes"]
                return bool(nodes[5]["high"] == raised[5])

            await eventually(is_corrected)
            result = await asyncio.to_thread(run, "verify", *NAME, "--upstream", **setting)
            assert result.returncode == 0, result.stdout
            listed = await asyncio.to_thread(run, "corrections", *NAME, **setting)
            assert len(listed.stdout.splitlines()) == 2


async def test_names_and_spans_that_are_none(cli: Command) -> None:  # noqa: F811
    is_one_line(cli("coverage", "forget", "mars", "x", "*"), 1, "Nothing")
    is_one_line(cli("coverage", "forget", "a", "b", "*", "--since", str(T0), "--until", str(T0)), 1, "--since")
    is_one_line(cli("verify", "mars", "x", "*", "--upstream"), 1, "Nothing")
    assert cli("verify", "--upstream").returncode == 2
    assert cli("verify", "--days", "3").returncode == 2


async def old_database(new_database: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database as the version before made it."""
    dsn: str = await new_database()
    before = [one for one in migrate_module.migrations() if one.number < 12]
    database = Database(dsn)
    await database.open()
    with monkeypatch.context() as patch:
        patch.setattr(migrate_module, "migrations", lambda: before)
        await migrate_module.migrate(database)
    await database.close()
    return dsn


async def old_instrument(database: Database, market: str, provider: str, symbol: str) -> int:
    """The id of a new instrument, as the version before made it."""
    async with database.connection() as connection:
        found: int = await connection.fetchval(
            "insert into instruments (market, provider, symbol, folded) values ($1, $2, $3, $3) returning id",
            *(market, provider, symbol),
        )
    return found


@pytest.fixture
async def old_dsn(new_database: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database of the version before, with an import over a hole of two months."""
    dsn = await old_database(new_database, monkeypatch)
    database = Database(dsn)
    await database.open()
    instrument_id = await old_instrument(database, "x", "y", "A")
    rows = concat([minutes(T0, 100), minutes(T0 + 60 * DAY_MS, 100)])
    whole = Spans([Span(T0, T0 + 60 * DAY_MS + 100 * MINUTE_MS)])
    await CandleStore(database, ChangeFeed(database)).write([CandleWrite(instrument_id, MINUTE, rows, whole, "i")])
    await database.close()
    return dsn


async def test_the_first_server_after_an_upgrade_withdraws_the_hole_and_verify_shows_it(
    old_dsn: str, tmp_path: Path
) -> None:
    setting = {"DB_CONNECTION_STRING": old_dsn, "DATA_DIR": str(tmp_path / "data")}
    with serving(tmp_path / "log", **setting) as running:
        await eventually(lambda: "checked what an older version has stored (holes: 1)" in running.log.read_text())
        hour = T0 + 30 * DAY_MS
        text = f"""{{ candles(market: "x", provider: "y", symbol: "A", timeframe: "1m", since: {hour},
          until: {hour + 3_600_000}) {{ complete gaps {{ since until }} }} }}"""
        answer = (await ask(running, text))["candles"]
        assert answer == {"complete": False, "gaps": [{"since": hour, "until": hour + 3_600_000}]}
    result = await asyncio.to_thread(run, "verify", **setting)
    assert result.returncode == 0, result.stdout
    assert "upgrade, holes: 1 of 1 series checked" in result.stderr
    assert "a hole between imported candles longer than an import covers: 1 withdrawals" in result.stderr


async def test_a_server_killed_in_the_middle_leaves_the_rest_to_the_next_one(
    new_database: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    truth = {name: minutes(T0, COUNT, seed=i) for i, name in enumerate("ABC")}
    dsn = await old_database(new_database, monkeypatch)
    database = Database(dsn)
    await database.open()
    store, whole = CandleStore(database, ChangeFeed(database)), Spans([Span(T0, T0 + COUNT * MINUTE_MS)])
    for name, rows in truth.items():
        instrument_id = await old_instrument(database, "remote", "tape", name)
        cut = replace(rows[-1:], close=rows.open[-1:], high=rows.open[-1:], low=rows.open[-1:])
        await store.write([CandleWrite(instrument_id, MINUTE, concat([rows[:-1], cut]), whole, "i")])
    await database.fetch("update instruments set listed = true")
    held = asyncio.Event()

    async def hangs(symbol: str, _: int) -> None:
        if symbol == "B":
            held.set()
            await asyncio.Event().wait()

    async with Remote(truth, refuse=hangs) as remote:
        setting = {
            "DB_CONNECTION_STRING": dsn,
            "DATA_DIR": str(tmp_path / "data"),
            **variables(remote, tmp_path / "site"),
        }
        with serving(tmp_path / "log1", **setting) as running:
            await held.wait()
            running.process.kill()
            running.process.wait()
        remote.refuse = None
        with serving(tmp_path / "log2", **setting) as running:
            await eventually(lambda: "checked what an older version has stored" in running.log.read_text())
        assert sorted(symbol for symbol, _ in remote.answered) == ["A", "B", "C"]
    corrected = await database.fetch("select instrument_id from corrections")
    noted = await database.fetch(
        "select instrument_id, candles from coverage_withdrawals where reason like 'the last%'"
    )
    assert len(corrected) == len(noted) == 3
    assert all(row["candles"] == 1 for row in noted)
    await database.close()
