"""The audits of the GraphQL over HTTP specification, as graphql-http brings them, against a real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.server.running import Running
from tests.waiting import HANG_S

SCRIPT = Path(__file__).with_name("audits.mjs")


def test_the_server_passes_every_audit_of_graphql_over_http(server: Running) -> None:
    """Also the recommended and the optional ones."""
    node = subprocess.run(["node", SCRIPT, server.url], capture_output=True, text=True, timeout=HANG_S, check=True)
    audits = [json.loads(line) for line in node.stdout.splitlines()]
    assert len(audits) > 50
    assert [audit for audit in audits if audit["status"] != "ok"] == []
