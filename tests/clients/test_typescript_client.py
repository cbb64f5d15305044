"""The TypeScript client against servers that run: its own tests, with the packages that its users have."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.clients.recipes import BEGIN
from tests.server.cluster import FAST
from tests.server.running import ROOT, Running, environment, serving
from tests.waiting import HANG_S

CLIENT = ROOT / "clients" / "typescript"
GUARD_S = 20 * HANG_S  # it hangs


def _described(server: Running, variables: dict[str, str]) -> dict[str, Any]:
    """A server, as the client's tests take it."""
    return {"url": server.url, "python": sys.executable, "environment": environment(**variables)}


def _clock() -> dict[str, str]:
    """The clock of a fast server that begins now.

    Where a minute settles late, the next candle is shown before it closes, so a close is of an older bar.
    """
    return {"FAST_BEGAN_AT": str(time.time()), "FAST_INSTANT": str(BEGIN), "FAST_SETTLE_MS": "30000"}


async def test_the_clients_own_tests_pass(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    usual, fast = [
        {"DB_CONNECTION_STRING": str(await new_database(migrated_template)), "DATA_DIR": str(tmp_path / name)}
        for name in ("usual", "fast")
    ]
    with ExitStack() as stack:
        servers = {
            "server": _described(stack.enter_context(serving(tmp_path / "log", **usual)), usual),
            "fast": _described(
                stack.enter_context(serving(tmp_path / "fast.log", command=FAST, **fast, **_clock())), fast
            ),
        }
        done = await asyncio.to_thread(_run_tests, servers)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "skipped 0" in done.stdout


def _run_tests(servers: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", "test/run.mjs"],
        cwd=CLIENT,
        env=environment(CANDLEGRAPH_TEST=json.dumps(servers)),
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
