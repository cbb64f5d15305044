"""The cache of final candles: a bounded part of this process's memory, in front of the shared cache.

An entry is stored under the revision of its answer. Every change of a final candle raises the revision, so nothing needs
invalidation: old entries are no longer used, and the least recently used are evicted first.
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

MAX_LONG_ROWS = 16_384  # a longer chunk is not kept: no query needs so many candles
ENTRY_BYTES = 580  # the overhead of an entry besides its columns


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The cached part of a chunk: all candles of ``spans``, whole buckets."""

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
        """Return the shared entries of each set of chunks, by one command; they are in memory from then on."""
        loaded = []
        for shared in await self.shared.load(asked) if self.shared else [{} for _ in asked]:
            entries = {chunk: CacheEntry(Spans([chunk.span]), rows) for chunk, rows in shared.items()}
            for chunk, entry in entries.items():
                self._replace(chunk, entry)
            loaded.append(entries)
        return loaded

    def put(self, key: CacheKey, span: Span, candles: Candles) -> None:
        """Keep the final candles of ``span``, whole buckets that are completely known."""
        chunks = key.chunks(span)
        if chunks[0].is_long and len(candles) > MAX_LONG_ROWS:
            return
        cuts = np.searchsorted(candles.timestamp, [chunk.span.until for chunk in chunks]).tolist()
        for chunk, low, high in zip(chunks, [0, *cuts], cuts, strict=False):
            self._put(chunk, chunk.span & span, to_block(candles[low:high]))

    def _put(self, chunk: Chunk, span: Span, rows: RowBlock) -> None:
        entry = CacheEntry(Spans([span]), rows)
        if span != chunk.span and (old := self._entries.get(chunk.name)):
            # The rows around it may be cached, and those within are the same: a revision has one truth.
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
