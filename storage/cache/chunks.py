"""The unit of the cache, chunks of 256 buckets: their keys and their binary format."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Candles
from candlegraph.clock import DAY_MS
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone

BUCKETS_PER_CHUNK = 256
MAX_CHUNKS_PER_SPAN = 256  # 65,536 buckets
FORMAT_VERSION = 1
ROW_BYTES = 48  # six columns of eight bytes
_HEADER = struct.Struct("<B3xI")  # the version, and the checksum of the name and the columns

RowBlock = NDArray[np.int64]  # (6, n): the timestamps, and the bits of the five numbers


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a cache key: ``span`` has 256 whole buckets; a long chunk has more, and is not shared."""

    name: str
    span: Span
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class CacheKey:
    """A series at one revision of its instrument: its final candles there never change."""

    name: str
    timeframe: Timeframe
    zone: Zone

    @classmethod
    def create(
        cls, record: InstrumentRecord, revision: int, timeframe: Timeframe, zone: Zone, relation: str = ""
    ) -> CacheKey:
        """Build the key from everything that the answer depends on; with ``relation``, of the candles stored in it."""
        # Buckets of whole days may be folded from stored days, which depend on a zone; shorter ones do not.
        zone = UTC if timeframe.width_ms % DAY_MS and not zone.hours else zone
        # The time before the listing and after the end counts as known, so both instants are part of the key.
        known = f"{record.timezone}:{record.first_available}:{record.ended_at}"
        hours = f":{zone.hours.name}:{zone.hours.version}" if zone.hours else ""
        return cls(f"{record.id}:{revision}:{known}:{relation}:{timeframe}:{zone.name}{hours}", timeframe, zone)

    def chunks(self, span: Span) -> list[Chunk]:
        """The chunks that overlap ``span`` (not empty), ascending; one long chunk if there would be too many."""
        first, last = self._numbers(span)
        if last - first >= MAX_CHUNKS_PER_SPAN:
            return [Chunk(f"{self.name}:{span.since}-{span.until}", span, is_long=True)]
        edges = self.timeframe.open_at(
            np.arange(first, last + 2, dtype=np.int64) * BUCKETS_PER_CHUNK, self.zone
        ).tolist()
        return [Chunk(f"{self.name}:{first + i}", Span(edges[i], edges[i + 1])) for i in range(last - first + 1)]

    def whole_chunks(self, span: Span) -> Span:
        """The span of whole chunks around ``span``, which is not empty."""
        first, last = self._numbers(span)
        edges = np.array([first, last + 1], np.int64) * BUCKETS_PER_CHUNK
        return Span(*self.timeframe.open_at(edges, self.zone).tolist())

    def _numbers(self, span: Span) -> tuple[int, int]:
        """The first and the last chunk that overlap ``span``."""
        first, last = self.timeframe.index(np.array([span.since, span.until - 1], np.int64), self.zone).tolist()
        return first // BUCKETS_PER_CHUNK, last // BUCKETS_PER_CHUNK


def to_block(candles: Candles) -> RowBlock:
    """Copy final candles into a block of their own: a view would keep the whole batch in memory."""
    rows = np.empty((6, len(candles)), np.int64)
    rows[0] = candles.timestamp
    for row, column in zip(rows[1:], candles.columns[1:6], strict=True):
        row[:] = column.view(np.int64)
    rows.flags.writeable = False
    return rows


def from_blocks(blocks: Sequence[RowBlock]) -> Candles:
    """Join the candles of consecutive blocks."""
    if not blocks:
        return Candles.empty()
    rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
    return Candles.of(rows[0], *rows[1:].view(np.float64))


def rows_within(rows: RowBlock, span: Span) -> RowBlock:
    """The rows that open within ``span``."""
    low, high = rows[0].searchsorted([span.since, span.until]).tolist()
    return rows[:, low:high]


def pack_chunk(chunk: Chunk, rows: RowBlock) -> bytes:
    """Encode a chunk for the shared cache."""
    columns = rows.astype("<i8", copy=False).tobytes()
    return _HEADER.pack(FORMAT_VERSION, _checksum(chunk, columns)) + columns


def unpack_chunk(chunk: Chunk, packed: bytes) -> RowBlock | None:
    """Decode bytes from `pack_chunk`; None if it did not write them for this very chunk."""
    columns = packed[_HEADER.size :]
    if len(packed) < _HEADER.size or len(columns) % ROW_BYTES:
        return None
    version, checksum = _HEADER.unpack_from(packed)
    if version != FORMAT_VERSION or checksum != _checksum(chunk, columns):
        return None
    return np.frombuffer(columns, "<i8").reshape(6, -1)


def _checksum(chunk: Chunk, columns: bytes) -> int:
    return zlib.crc32(columns, zlib.crc32(chunk.name.encode()))
