"""The page at /graphql: its modules by their own tests, its examples against the schema."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"


@pytest.mark.parametrize("command", [("--test", "test/"), ("check.mjs",)])
def test_the_pages_own_tests_pass(command: tuple[str, ...]) -> None:
    done = subprocess.run(["node", *command], cwd=WEB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
