"""The cache of final candles: a bounded part of this process's memory, and behind it the shelf that all of them share.

It holds what was answered, under the revision it was answered at. Whatever changes a final candle makes the revision go
up, so nothing in here ever has to be taken back: what nobody asks for any more is what goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

from candlegraph.candle import Candles
from candlegraph.span import Span, Spans
from storage.cache.chunks import Chunk, Edition, Rows, between, candles_of, rows_of
from storage.cache.shared import Shelf

MAX_LONG_ROWS = 16_384  # a long chunk with more is not kept: nobody asks for so many candles
ENTRY_BYTES = 580  # what an entry takes besides its columns


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of a chunk: all candles of ``spans``, whole buckets."""

    spans: Spans
    rows: Rows

    @property
    def size(self) -> int:
        return ENTRY_BYTES + self.rows.nbytes


@dataclass(frozen=True, slots=True)
class Found:
    """What the cache has of some chunks."""

    spans: Spans
    candles: Candles


def found_in(entries: Mapping[Chunk, Entry], span: Span) -> Found:
    """What ``entries``, ascending, hold of ``span``."""
    spans: list[Span] = []
    blocks: list[Rows] = []
    for chunk, entry in entries.items():
        known, rows, within = entry.spans, entry.rows, span & chunk.span
        if within != chunk.span:
            known &= Spans([within])
            rows = between(rows, within)
        spans += known
        blocks.append(rows)
    return Found(Spans(spans), candles_of(blocks))


class Cache:
    """Final candles by edition and chunk, the least recently used going first once they exceed ``capacity`` bytes."""

    def __init__(self, capacity: int, shelf: Shelf | None = None) -> None:
        """Nothing is kept yet; a ``capacity`` of 0 keeps nothing but what the shelf has."""
        self.shelf = shelf
        self._entries: LRUCache[str, Entry] = LRUCache(capacity, getsizeof=lambda entry: entry.size)

    @property
    def size(self) -> int:
        """How much it holds, in bytes."""
        return int(self._entries.currsize)

    @property
    def is_shared(self) -> bool:
        """Whether there is any use in asking what the processes share."""
        return self.shelf is not None and self.shelf.open

    def get(self, chunks: Sequence[Chunk]) -> dict[Chunk, Entry]:
        """Return what is in memory of ``chunks``, in their order."""
        found = {}
        for chunk in chunks:
            if entry := self._entries.get(chunk.name):
                found[chunk] = entry
        return found

    async def load(self, asked: Sequence[tuple[Chunk, ...]]) -> list[dict[Chunk, Entry]]:
        """Return what the processes share of each set of chunks, in one command; it is in memory from now on."""
        loaded = []
        for shared in await self.shelf.load(asked) if self.shelf else [{} for _ in asked]:
            entries = {chunk: Entry(Spans([chunk.span]), rows) for chunk, rows in shared.items()}
            for chunk, entry in entries.items():
                self._replace(chunk, entry)
            loaded.append(entries)
        return loaded

    def put(self, edition: Edition, span: Span, candles: Candles) -> None:
        """Keep the final candles of ``span``, whole buckets of which all are known."""
        chunks = edition.chunks(span)
        if chunks[0].long and len(candles) > MAX_LONG_ROWS:
            return
        cuts = np.searchsorted(candles.timestamp, [chunk.span.until for chunk in chunks]).tolist()
        for chunk, low, high in zip(chunks, [0, *cuts], cuts, strict=False):
            self._put(chunk, chunk.span & span, rows_of(candles[low:high]))

    def _put(self, chunk: Chunk, span: Span, rows: Rows) -> None:
        entry = Entry(Spans([span]), rows)
        if span != chunk.span and (old := self._entries.get(chunk.name)):
            # The rows around may be known, and those within are the same: a revision has one truth.
            before, after = (
                between(old.rows, Span(chunk.span.since, span.since)),
                between(old.rows, Span(span.until, chunk.span.until)),
            )
            entry = Entry(old.spans | entry.spans, np.concatenate([before, rows, after], axis=1))
            entry.rows.flags.writeable = False
        self._replace(chunk, entry)
        if self.shelf and not chunk.long and entry.spans.covers(chunk.span):
            self.shelf.offer(chunk, entry.rows)

    def _replace(self, chunk: Chunk, entry: Entry) -> None:
        if entry.size <= self._entries.maxsize:
            self._entries[chunk.name] = entry
