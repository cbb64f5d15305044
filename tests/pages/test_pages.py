"""The pages of the front door in a real browser, against servers that run."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.clients.recipes import BEGIN
from tests.server.running import ROOT, environment, serving
from tests.waiting import HANG_S

HERE = Path(__file__).parent
WEB = ROOT / "web"
SERVE = [sys.executable, "-m", "tests.pages.serve"]
GUARD_S = 40 * HANG_S  # it hangs


def _build(folder: Path) -> Path:
    """The chart and the console with development builds of their libraries, beside the GraphiQL that is shipped."""
    subprocess.run(["node", "build.mjs", "--development", str(folder)], cwd=WEB, check=True, timeout=GUARD_S)
    for file in (ROOT / "server" / "web").iterdir():
        if not (folder / file.name).exists() and not file.name.startswith(("index", "console")):
            shutil.copy(file, folder)
    return folder


def _clock() -> dict[str, str]:
    """The clock of a fast server that begins now."""
    return {"FAST_BEGAN_AT": str(time.time()), "FAST_INSTANT": str(BEGIN)}


async def test_the_scenarios_of_the_pages(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    pages = await asyncio.to_thread(_build, tmp_path / "pages")
    files = tmp_path / "files"
    files.mkdir()
    settings = {
        "usual": {"FILES_DIR": str(files)},
        "fast": {"ROOT_PATH": "/candles", **_clock()},
    }
    described = {}
    with ExitStack() as stack:
        for name, variables in settings.items():
            where = {
                "DB_CONNECTION_STRING": str(await new_database(migrated_template)),
                "DATA_DIR": str(tmp_path / name),
            }
            server = stack.enter_context(
                serving(tmp_path / f"{name}.log", command=SERVE, PAGES=str(pages), **where, **variables)
            )
            described[name] = {
                "url": f"{server.url}{variables.get('ROOT_PATH', '')}/",
                "files": str(files),
                "python": sys.executable,
                "environment": environment(**where),
            }
        done = await asyncio.to_thread(_run, described)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "skipped 0" in done.stdout


def _run(described: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = ["node", "--test", "--test-timeout", "600000", "--test-force-exit", "--test-reporter", "spec"]
    return subprocess.run(
        [*command, "chart.test.mjs"],
        cwd=HERE,
        env=environment(CANDLEGRAPH_TEST=json.dumps(described), AWS_EXECUTION_ENV="AWS_Lambda_nodejs20.x"),
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
