"""The examples of the README and of docs/python-client.md run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import candlegraph_client
import pytest
from conftest import Server

HERE = Path(__file__).parents[1]
PAGES = [HERE / "README.md", HERE.parents[1] / "docs" / "python-client.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_run(page: Path, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CANDLEGRAPH_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    candlegraph_client.default_client.cache_clear()
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - our own page
    candlegraph_client.default_client().close()
    candlegraph_client.default_client.cache_clear()
