"""What the suites of providers share."""

from __future__ import annotations

import asyncio

import pytest

from providers.ccxt.markets import Markets, list_markets


@pytest.fixture
def listed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """List symbols without a child, which takes a second to import ccxt: for tests that are not about the child."""

    def ask(self: Markets, name: str) -> list[bytes]:
        return asyncio.run(list_markets(self._id, self._options))

    monkeypatch.setattr(Markets, "_ask_child", ask)
