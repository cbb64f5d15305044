"""A server whose database is behind a connection pooler answers everything that it answers without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.fakes.pooler import Pooler
from tests.fakes.remote import Remote, variables
from tests.fakes.upstream import minutes
from tests.server.questions import Questions
from tests.server.running import serving
from tests.waiting import HANG_S

T0 = 1_714_521_600_000


async def test_queries_mutations_subscriptions_and_backfills_are_answered_through_a_pooler(
    database_dsn: str, tmp_path: Path
) -> None:
    async with (
        Remote({f"S{number}": minutes(T0, 2_000, seed=number) for number in range(3)}) as remote,
        Pooler(database_dsn).listening() as dsn,
    ):
        environ = {"DB_CONNECTION_STRING": dsn, "DATA_DIR": str(tmp_path), **variables(remote, tmp_path / "site")}
        server = serving(tmp_path / "log", **environ)
        running = await asyncio.to_thread(server.__enter__)
        try:
            async with aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(HANG_S)) as http:
                questions = Questions(http, remote)
                for number in range(3):
                    assert await questions.all(number) == [""] * 10
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert log.count("DB_LISTEN_CONNECTION_STRING") == 1
