"""Runs the scenarios of a page in a real browser, against servers that run."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.server.running import ROOT, environment, serving
from tests.waiting import HANG_S

HERE = Path(__file__).parent
SERVE = [sys.executable, "-m", "tests.pages.serve"]
BROWSER = {"AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x"}  # npm's Chromium brings its libraries along
_GUARD_S = 5 * HANG_S  # it hangs


def build(folder: Path) -> Path:
    """The chart and the console with development builds of their libraries, beside the GraphiQL that is shipped."""
    command = ["node", "build.mjs", "--development", str(folder)]
    subprocess.run(command, cwd=ROOT / "web", check=True, timeout=_GUARD_S)
    for file in (ROOT / "server" / "web").iterdir():
        if not (folder / file.name).exists() and not file.name.startswith(("index", "console")):
            shutil.copy(file, folder)
    return folder


async def run_scenarios(
    script: str,
    servers: Mapping[str, Mapping[str, str]],
    new_database: Callable[[], Awaitable[str]],
    folder: Path,
) -> None:
    """Run a file of scenarios; it finds the servers, each with the variables of its name, in CANDLEGRAPH_TEST."""
    with ExitStack() as stack:

        async def start(name: str, database: str) -> dict[str, Any]:
            variables = servers[name]
            where = {"DATA_DIR": str(folder / name), "CCXT_EXCHANGES": "", "DB_CONNECTION_STRING": database}
            server = serving(folder / f"{name}.log", command=SERVE, **where, **variables)
            found = await asyncio.to_thread(stack.enter_context, server)
            url = f"{found.url}{variables.get('ROOT_PATH', '')}/"
            return {**variables, "url": url, "python": sys.executable, "environment": environment(**where)}

        databases = {name: await new_database() for name in servers}
        running = await asyncio.gather(*(start(*item) for item in databases.items()))
        done = await asyncio.to_thread(_run, script, dict(zip(servers, running, strict=True)))
    print(done.stdout)  # `pytest -rP` shows how long each took
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "skipped 0" in done.stdout


def _run(script: str, described: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    command = ["node", "--test", "--test-timeout", "800000", "--test-force-exit", "--test-reporter", "spec", script]
    variables = environment(CANDLEGRAPH_TEST=json.dumps(described), **BROWSER)
    return subprocess.run(
        command, cwd=HERE, env=variables, capture_output=True, text=True, timeout=_GUARD_S, check=False
    )
