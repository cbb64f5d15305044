"""What is known of each instrument, kept in this process for as long as it is sure to be told of every change."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache

from storage.candles import CandleStore
from storage.change_feed import Change
from storage.coverage import Coverage

MAX_ENTRIES = 20_000


class CoverageCache:
    """A cache in front of `CandleStore.ledgers`."""

    def __init__(self, store: CandleStore) -> None:
        """Nothing is kept yet."""
        self._store = store
        self._kept: LRUCache[int, Coverage] = LRUCache(MAX_ENTRIES)
        # Of each read under way, those that have not changed since it began. By number: two such sets may be equal.
        self._reading: dict[int, set[int]] = {}
        self._reads = 0
        store.change_feed.subscribe(self._drop)

    async def load(self, instrument_ids: Sequence[int]) -> list[Coverage]:
        """The ledger of each instrument; at most one statement, and none for what is kept."""
        if not self._store.change_feed.is_fresh:
            self._kept.clear()
        found = {i: self._kept[i] for i in instrument_ids if i in self._kept}
        if missing := list({i for i in instrument_ids if i not in found}):
            unchanged = set(missing)
            self._reads += 1
            read = self._reads
            self._reading[read] = unchanged
            try:
                found.update(zip(missing, await self._store.read_coverage(missing), strict=True))
            finally:
                del self._reading[read]
            if self._store.change_feed.is_fresh:
                self._kept.update((i, found[i]) for i in unchanged)
        return [found[i] for i in instrument_ids]

    def forget(self, instrument_id: int) -> None:
        """Read this one afresh: something beside its candles has changed."""
        self._drop([Change(instrument_id)])

    def _drop(self, changes: Sequence[Change] | None) -> None:
        if changes is None:
            self._kept.clear()
            for unchanged in self._reading.values():
                unchanged.clear()
            return
        for change in changes:
            self._kept.pop(change.instrument_id, None)
            for unchanged in self._reading.values():
                unchanged.discard(change.instrument_id)
