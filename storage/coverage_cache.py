"""A cache of coverage, valid while this process receives every change."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache

from storage.candles import CandleStore
from storage.change_feed import Change
from storage.coverage import Coverage

MAX_ENTRIES = 20_000


class CoverageCache:
    """A cache in front of `CandleStore.read_coverage`."""

    def __init__(self, store: CandleStore) -> None:
        """Start empty."""
        self._store = store
        self._kept: LRUCache[int, Coverage] = LRUCache(MAX_ENTRIES)
        # For each running read, the instruments that have not changed since it began. Keyed by number, as two sets may be equal.
        self._reading: dict[int, set[int]] = {}
        self._reads = 0
        store.change_feed.subscribe(self._drop)

    async def load(self, instrument_ids: Sequence[int]) -> list[Coverage]:
        """Return the coverage of each instrument; at most one statement, and none for cached ones."""
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
        """Drop the coverage of one instrument, whose next read comes from the store."""
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
