"""The cache of final candles: a bounded part of this process's memory, in front of the shared cache.

The key of an entry has the revision of the series. Every change of a final candle raises the revision, so no entry has to be
invalidated: old entries are not used any more, and the least recently used ones are evicted first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

from candlegraph.candle import Candles
from candlegraph.span import Span, Spans
from storage.cache.chunks import CacheKey, Chunk, RowBlock, from_blocks, rows_within, to_block
from storage.cache.shared import SharedCache

MAX_LONG_ROWS = 16_384  # a chunk with more is not cached: no query needs as many candles
ENTRY_BYTES = 580  # the size of an entry without its columns


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The cached part of a chunk: all candles of ``spans``, which are whole buckets."""

    spans: Spans
    rows: RowBlock

    @property
    def size(self) -> int:
        return ENTRY_BYTES + self.rows.nbytes


@dataclass(frozen=True, slots=True)
class CacheHits:
    """The cached candles of some chunks, and the spans they cover."""

    spans: Spans
    candles: Candles


def hits_within(entries: Mapping[Chunk, CacheEntry], span: Span) -> CacheHits:
    """The part of ``entries``, ascending, that lies within ``span``."""
    spans: list[Span] = []
    blocks: list[RowBlock] = []
    for chunk, entry in entries.items():
        known, rows, within = entry.spans, entry.rows, span & chunk.span
        if within != chunk.span:
            known &= Spans([within])
            rows = rows_within(rows, within)
        spans += known
        blocks.append(rows)
    return CacheHits(Spans(spans), from_blocks(blocks))


class CandleCache:
    """Final candles by key and chunk; the least recently used are evicted once they exceed ``capacity`` bytes."""

    def __init__(self, capacity: int, shared: SharedCache | None = None) -> None:
        """Start empty; a ``capacity`` of 0 keeps nothing in memory and only reads the shared cache."""
        self.shared = shared
        self._entries: LRUCache[str, CacheEntry] = LRUCache(capacity, getsizeof=lambda entry: entry.size)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return int(self._entries.currsize)

    @property
    def is_shared(self) -> bool:
        """Whether a read of the shared cache is worthwhile."""
        return self.shared is not None and self.shared.is_usable

    def get(self, chunks: Sequence[Chunk]) -> dict[Chunk, CacheEntry]:
        """Return the entries of ``chunks`` in memory, in their order."""
        found = {}
        for chunk in chunks:
            if entry := self._entries.get(chunk.name):
                found[chunk] = entry
        return found

    async def load(self, asked: Sequence[tuple[Chunk, ...]]) -> list[dict[Chunk, CacheEntry]]:
        """Read the shared entries of each set of chunks, by one command; keep them in memory and return them."""
        loaded = []
        for shared in await self.shared.load(asked) if self.shared else [{} for _ in asked]:
            entries = {chunk: CacheEntry(Spans([chunk.span]), rows) for chunk, rows in shared.items()}
            for chunk, entry in entries.items():
                self._replace(chunk, entry)
            loaded.append(entries)
        return loaded

    def put(self, key: CacheKey, span: Span, candles: Candles) -> None:
        """Keep the final candles of ``span``: whole buckets, and all candles of them."""
        chunks = key.chunks(span)
        if chunks[0].is_long and len(candles) > MAX_LONG_ROWS:
            return
        cuts = np.searchsorted(candles.timestamp, [chunk.span.until for chunk in chunks]).tolist()
        for chunk, low, high in zip(chunks, [0, *cuts], cuts, strict=False):
            self._put(chunk, chunk.span & span, to_block(candles[low:high]))

    def _put(self, chunk: Chunk, span: Span, rows: RowBlock) -> None:
        entry = CacheEntry(Spans([span]), rows)
        if span != chunk.span and (old := self._entries.get(chunk.name)):
            # Keep cached rows around ``span``. Those within it are equal: they have the same revision.
            before, after = (
                rows_within(old.rows, Span(chunk.span.since, span.since)),
                rows_within(old.rows, Span(span.until, chunk.span.until)),
            )
            entry = CacheEntry(old.spans | entry.spans, np.concatenate([before, rows, after], axis=1))
            entry.rows.flags.writeable = False
        self._replace(chunk, entry)
        if self.shared and not chunk.is_long and entry.spans.covers(chunk.span):
            self.shared.put_later(chunk, entry.rows)

    def _replace(self, chunk: Chunk, entry: CacheEntry) -> None:
        if entry.size <= self._entries.maxsize:
            self._entries[chunk.name] = entry
