"""The pages, built once for all scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages.scenarios import build


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages, with development builds of their libraries."""
    return build(tmp_path_factory.mktemp("pages"))
