"""The clients that people use against a real server: graphql-ws, graphql-sse, Apollo Client 4 and urql, run by node."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server.running import Running
from tests.waiting import HANG_S

SCRIPT = Path(__file__).with_name("clients.mjs")
CLIENTS = ["graphql-ws", "graphql-sse", "apollo", "urql"]
CHECKS = re.findall(r"^  async '(.+)'\(", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def report(server: Running) -> dict[str, dict[str, Any]]:
    """What each check came to, all of them run at once."""
    node = subprocess.run(["node", SCRIPT, server.url], capture_output=True, text=True, timeout=HANG_S, check=False)
    lines = [json.loads(line) for line in node.stdout.splitlines()]
    passed = all(line["ok"] for line in lines)
    # The bodies below report which check failed; other errors are reported here.
    assert not node.stderr, node.stderr
    assert (node.returncode == 0) == passed
    assert len(lines) == len(CLIENTS) * len(CHECKS)
    return {line["check"]: line for line in lines}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("check", CHECKS)
def test_clients_get_what_they_are_made_for(report: dict[str, dict[str, Any]], client: str, check: str) -> None:
    result = report[f"{client}: {check}"]
    assert result["ok"], result.get("problem")
