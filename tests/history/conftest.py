"""What the tests of this floor share."""

from __future__ import annotations

import pytest

from history import listings


@pytest.fixture(autouse=True)
def _every_symbol_is_a_new_one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds share a database, and each lists a symbol of its own: it is found at once, not a minute later."""
    if hasattr(request.module, "World"):
        monkeypatch.setattr(listings, "UNKNOWN_AGAIN_S", 0.0)
