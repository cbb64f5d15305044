"""The console in a real browser, against servers that run: one whose owner is an operator, and one with accounts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.pages.scenarios import run_scenarios


async def test_the_scenarios_of_the_console(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path, pages: Path
) -> None:
    servers = {name: {"PAGES": str(pages)} for name in ("open", "closed")}
    await run_scenarios("console.test.mjs", servers, partial(new_database, migrated_template), tmp_path)
