"""The Python client against servers that run: its own tests, in an environment that has nothing of the server."""

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
from tests.server.running import COMMAND, ROOT, Running, environment, serving
from tests.waiting import HANG_S

PYTHON = Path(sys.prefix) / "python-client" / "bin" / "python"
LIVE = ("tests/test_live.py", "tests/test_restart.py")
GUARD_S = 40 * HANG_S  # it hangs


def _described(server: Running, command: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """A server, as the client's tests take it."""
    return {
        "url": server.url,
        "python": sys.executable,
        "command": command,
        "environment": environment(**variables),
    }


def _clock() -> dict[str, str]:
    """The clock of a fast server that begins now."""
    return {"FAST_BEGAN_AT": str(time.time()), "FAST_INSTANT": str(BEGIN)}


async def test_the_clients_own_tests_pass(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    usual, fast = [
        {"DB_CONNECTION_STRING": str(await new_database(migrated_template)), "DATA_DIR": str(tmp_path / name)}
        for name in ("usual", "fast")
    ]
    fast |= _clock()
    with ExitStack() as stack:
        servers = {
            "server": _described(stack.enter_context(serving(tmp_path / "log", **usual)), COMMAND, usual),
            "fast": _described(stack.enter_context(serving(tmp_path / "fast.log", command=FAST, **fast)), FAST, fast),
        }
        # Those of live candles mostly wait: the others run meanwhile.
        parts = [[file] for file in LIVE] + [[f"--ignore={file}" for file in LIVE]]
        runs = await asyncio.gather(*(asyncio.to_thread(_run_tests, servers, tmp_path, part) for part in parts))
    for done in runs:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "skipped" not in done.stdout


def _run_tests(servers: dict[str, Any], folder: Path, chosen: list[str]) -> subprocess.CompletedProcess[str]:
    variables = environment(CANDLEGRAPH_TEST=json.dumps(servers), XDG_CACHE_HOME=str(folder))
    return subprocess.run(
        [str(PYTHON), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen],
        cwd=ROOT / "clients" / "python",
        env={name: value for name, value in variables.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
