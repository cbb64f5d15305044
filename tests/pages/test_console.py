"""The console in a real browser, against servers that run: one whose owner is an operator, and one with accounts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.pages.test_pages import GUARD_S, HERE, SERVE, _build
from tests.server.running import COMMAND, environment, serving

PASSWORD = "correct horse battery staple"


async def test_the_scenarios_of_the_console(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    pages = await asyncio.to_thread(_build, tmp_path / "pages")
    described = {}
    with ExitStack() as stack:
        for name, accounts in {"open": {}, "closed": {"ada": "operator", "vera": "viewer"}}.items():
            where = {
                "DB_CONNECTION_STRING": str(await new_database(migrated_template)),
                "DATA_DIR": str(tmp_path / name),
                "CCXT_EXCHANGES": " ",
            }
            for user, role in accounts.items():
                await asyncio.to_thread(_add, user, role, environment(**where))
            server = stack.enter_context(serving(tmp_path / f"{name}.log", command=SERVE, PAGES=str(pages), **where))
            described[name] = {"url": f"{server.url}/", "python": sys.executable, "environment": environment(**where)}
        done = await asyncio.to_thread(_run, described)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "skipped 0" in done.stdout


def _add(user: str, role: str, variables: dict[str, str]) -> None:
    command = [*COMMAND, "user", "add", user, "--role", role]
    subprocess.run(
        command, env=variables, input=f"{PASSWORD}\n", text=True, check=True, timeout=GUARD_S, capture_output=True
    )


def _run(described: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = ["node", "--test", "--test-timeout", "240000", "--test-force-exit", "--test-reporter", "spec"]
    return subprocess.run(
        [*command, "console.test.mjs"],
        cwd=HERE,
        env=environment(CANDLEGRAPH_TEST=json.dumps(described), AWS_EXECUTION_ENV="AWS_Lambda_nodejs20.x"),
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
