"""Ledgers stay in memory up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from storage import coverage_cache as ledgers_module
from storage.candles import CandleStore
from storage.coverage import Coverage
from storage.coverage_cache import CoverageCache


class Changes:
    """Always fresh; nothing ever changes."""

    is_fresh = True

    def subscribe(self, listener: Callable[..., None]) -> None:
        """Never call it."""


class Store:
    """Notes what is read."""

    def __init__(self) -> None:
        self.change_feed = Changes()
        self.reads: list[list[int]] = []

    async def read_coverage(self, ids: Sequence[int]) -> list[Coverage]:
        self.reads.append(sorted(ids))
        return [Coverage(revision=i) for i in ids]


async def test_at_the_limit_the_least_recently_used_ledger_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers_module, "MAX_ENTRIES", 3)
    store = Store()
    ledgers = CoverageCache(cast("CandleStore", cast("Any", store)))
    await ledgers.load([1, 2, 3])
    await ledgers.load([1])
    await ledgers.load([4])
    await ledgers.load([5])
    store.reads.clear()
    assert [ledger.revision for ledger in await ledgers.load([5, 4, 3, 2, 1])] == [5, 4, 3, 2, 1]
    assert store.reads == [[2, 3]]
