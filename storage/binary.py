"""PostgreSQL's binary formats: the rows of a COPY, and the packed columns of a read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Candles, concat
from candlegraph.span import Span, Spans
from candlegraph.zone import Int64s
from storage.batches import CandleWrite

POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01, which PostgreSQL's binary timestamps count from
VALUE_COLUMNS = ("open", "high", "low", "close", "volume")
_PACKED = np.dtype([("timestamp", ">i8"), *((name, ">f8") for name in VALUE_COLUMNS)])
PACKED_ROW_BYTES = _PACKED.itemsize
COPY_ROWS = 100_000
_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TRAILER = b"\xff\xff"


def unpack_spans(packed: bytes | None) -> Spans:
    edges = unpack_stamps(packed)
    return Spans.from_disjoint(map(Span, edges[::2].tolist(), edges[1::2].tolist()))


def unpack_stamps(packed: bytes | None) -> Int64s:
    """Instants in milliseconds, UTC."""
    return np.asarray(np.frombuffer(packed or b"", ">i8").astype(np.int64) // 1000 + POSTGRES_EPOCH_MS)


def unpack_candles(packed: bytes | None) -> Candles:
    """The candles of a packed row."""
    if packed is None:
        return Candles.empty()
    rows = np.frombuffer(packed, _PACKED)
    return Candles.of(rows["timestamp"].astype(np.int64) // 1000 + POSTGRES_EPOCH_MS, *(rows[n] for n in VALUE_COLUMNS))


async def copy_stream(writes: Sequence[CandleWrite], progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Writes of one timeframe and source in PostgreSQL's binary COPY format, in chunks."""
    yield _COPY_HEADER
    candles = concat([write.candles for write in writes])
    owners = np.repeat([write.instrument_id for write in writes], [len(write.candles) for write in writes])
    for start in range(0, len(candles), COPY_ROWS):
        rows = slice(start, start + COPY_ROWS)
        yield _packed_rows(writes[0], owners[rows], candles[rows])
        progress(len(owners[rows]))
    yield _COPY_TRAILER


def _packed_rows(like: CandleWrite, owners: NDArray[np.int64], candles: Candles) -> bytes:
    """Rows of the COPY format; they have one length, so that one structured numpy array writes them all."""
    timeframe = str(like.timeframe).encode()
    layout = np.dtype(
        [
            ("fields", ">i2"),
            *_copy_field("instrument_id", ">i4"),
            *_copy_field("timeframe", f"S{len(timeframe)}"),
            *_copy_field("source", "S1"),
            *_copy_field("timestamp", ">i8"),
            *(part for name in VALUE_COLUMNS for part in _copy_field(name, ">f8")),
        ]
    )
    rows: NDArray[np.void] = np.empty(len(candles), layout)
    for name in layout.names or ():
        if name.startswith("length of "):
            rows[name] = layout[name.removeprefix("length of ")].itemsize
    rows["fields"] = 4 + len(VALUE_COLUMNS)
    rows["instrument_id"], rows["timeframe"], rows["source"] = owners, timeframe, like.source.encode()
    rows["timestamp"] = (candles.timestamp - POSTGRES_EPOCH_MS) * 1000
    for name in VALUE_COLUMNS:
        rows[name] = getattr(candles, name)
    return rows.tobytes()


def _copy_field(name: str, kind: str) -> list[tuple[str, str]]:
    return [(f"length of {name}", ">i4"), (name, kind)]
