"""The chart in a real browser, against servers that run: one as usual, and one whose minute takes a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.clients.recipes import BEGIN
from tests.pages.scenarios import run_scenarios


async def test_the_scenarios_of_the_chart(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path, pages: Path
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    clock = {"FAST_BEGAN_AT": str(time.time()), "FAST_INSTANT": str(BEGIN)}
    servers = {
        "usual": {"PAGES": str(pages), "FILES_DIR": str(files)},
        "fast": {"PAGES": str(pages), "ROOT_PATH": "/candles", **clock},
    }
    await run_scenarios("chart.test.mjs", servers, partial(new_database, migrated_template), tmp_path)
