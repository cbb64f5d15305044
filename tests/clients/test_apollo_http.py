"""What Apollo Client has beside GraphQL over HTTP: persisted queries, and subscriptions through its HttpLink."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server.running import Running
from tests.waiting import HANG_S

SCRIPT = Path(__file__).with_name("apollo_http.mjs")
CHECKS = re.findall(r"^  async '(.+)'\(", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def report(server: Running) -> dict[str, dict[str, Any]]:
    """What each check came to."""
    node = subprocess.run(["node", SCRIPT, server.url], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert not node.stderr, node.stderr
    return {line["check"]: line for line in map(json.loads, node.stdout.splitlines())}


@pytest.mark.parametrize("check", CHECKS)
def test_apollo_gets_what_its_protocols_promise(report: dict[str, dict[str, Any]], check: str) -> None:
    assert report[check]["ok"], report[check].get("problem")
