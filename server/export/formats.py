"""The formats of an export: each writes pages of candles into a buffer that is emptied after every page.

Every row has `timestamp`, the opening of its bucket, and the five numbers; an export of several series has the `symbol` first.
Arrow and Parquet keep the timestamp as `timestamp[ms, UTC]`, CSV and JSON lines as milliseconds since the epoch, UTC.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from candlegraph.candle import Candles
from history.export import SeriesExport

NUMBERS = ("open", "high", "low", "close", "volume")
METADATA_KEY = b"candlegraph"
_MAX_GAPS = 10_000  # in the metadata of one series
_FORMULA = re.compile(r"[=+\-@\t\r]")


def describe(export: SeriesExport, server_id: str) -> dict[str, Any]:
    """What an export says of a series: its name, span (ms, UTC), completeness, gaps, sources and revision."""
    name, gaps = export.record.instrument, export.gaps
    return {
        "serverId": server_id,
        "market": name.market,
        "provider": name.provider,
        "symbol": name.symbol,
        "timeframe": str(export.plan.timeframe),
        "timezone": export.plan.zone.name,
        "session": export.session,
        "since": export.span.since,
        "until": export.span.until,
        "complete": export.complete,
        "revision": str(export.revision),
        "gapCount": len(gaps),
        "gaps": [
            {"since": gap.since, "until": gap.until, "reason": str(gap.reason), "detail": gap.detail}
            for gap in gaps[:_MAX_GAPS]
        ],
        "sources": [{"since": s.since, "until": s.until, "source": str(s.source)} for s in export.sources[:_MAX_GAPS]],
    }


class CandleWriter(Protocol):
    """Writes one export. Each method may take some milliseconds of CPU: call it in a thread."""

    def write(self, symbol: str, candles: Candles) -> None:
        """Write a page."""
        ...

    def close(self) -> None:
        """Write the end."""
        ...


WriterFactory = Callable[[Any, Sequence[dict[str, Any]]], CandleWriter]  # a binary file, and what `describe` returned


class _ArrowTables:
    """Makes record batches; ``series`` are described in the schema's metadata."""

    def __init__(self, series: Sequence[dict[str, Any]]) -> None:
        self._symbols = {one["symbol"]: i for i, one in enumerate(series)}
        self._many = len(series) > 1
        self._dictionary = pa.array(list(self._symbols), pa.string())
        fields = [pa.field("symbol", pa.dictionary(pa.int32(), pa.string()), nullable=False)] if self._many else []
        fields.append(pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False))
        fields += [pa.field(name, pa.float64(), nullable=False) for name in NUMBERS]
        metadata = {METADATA_KEY: orjson.dumps(list(series) if self._many else series[0])}
        self.schema = pa.schema(fields, metadata=metadata)

    def batch(self, symbol: str, candles: Candles) -> pa.RecordBatch:
        columns = [pa.array(candles.timestamp, pa.timestamp("ms", "UTC"))]
        columns += [pa.array(np.ascontiguousarray(getattr(candles, name))) for name in NUMBERS]
        if self._many:
            index = pa.array(np.full(len(candles), self._symbols[symbol], np.int32))
            columns.insert(0, pa.DictionaryArray.from_arrays(index, self._dictionary))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


class ArrowWriter:
    """An Arrow IPC stream."""

    def __init__(self, file: Any, series: Sequence[dict[str, Any]]) -> None:
        """Write the schema, which comes with a batch: one without rows, so that the client has it before the first page."""
        self._tables = _ArrowTables(series)
        self._writer = pa.ipc.new_stream(file, self._tables.schema)
        self.write(series[0]["symbol"], Candles.empty())

    def write(self, symbol: str, candles: Candles) -> None:
        """Write a record batch."""
        self._writer.write_batch(self._tables.batch(symbol, candles))

    def close(self) -> None:
        """Write the end of the stream."""
        self._writer.close()


class ParquetWriter:
    """A Parquet file with a row group a page, compressed with zstd."""

    def __init__(self, file: Any, series: Sequence[dict[str, Any]]) -> None:
        """Write the magic number; the schema comes with the footer."""
        self._tables = _ArrowTables(series)
        self._writer = pq.ParquetWriter(file, self._tables.schema, compression="zstd", compression_level=1)

    def write(self, symbol: str, candles: Candles) -> None:
        """Write a row group."""
        self._writer.write_batch(self._tables.batch(symbol, candles))

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


class _TextWriter:
    """Rows of text, a page at a time."""

    def __init__(self, file: Any, series: Sequence[dict[str, Any]]) -> None:
        self._file = file
        self._many = len(series) > 1

    def _frame(self, symbol: str, candles: Candles) -> pl.DataFrame:
        columns = {"timestamp": candles.timestamp} | {name: getattr(candles, name) for name in NUMBERS}
        frame = pl.DataFrame({name: np.ascontiguousarray(column) for name, column in columns.items()})
        return frame.select(pl.lit(symbol).alias("symbol"), pl.all()) if self._many else frame

    def close(self) -> None:
        """Text has no end of its own."""


class CsvWriter(_TextWriter):
    """CSV with a header. A symbol that a spreadsheet would take for a formula begins with an apostrophe."""

    def __init__(self, file: Any, series: Sequence[dict[str, Any]]) -> None:
        """Write the header."""
        super().__init__(file, series)
        names = ("symbol", "timestamp", *NUMBERS) if self._many else ("timestamp", *NUMBERS)
        file.write((",".join(names) + "\n").encode())

    def write(self, symbol: str, candles: Candles) -> None:
        """Write rows."""
        shown = f"'{symbol}" if _FORMULA.match(symbol) else symbol
        self._file.write(self._frame(shown, candles).write_csv(include_header=False).encode())


class JsonLinesWriter(_TextWriter):
    """An object a line."""

    def write(self, symbol: str, candles: Candles) -> None:
        """Write lines."""
        self._file.write(self._frame(symbol, candles).write_ndjson().encode())


class Format(NamedTuple):
    """A format: its media type, its writer, and the content codings that are worth their time, the best first."""

    media_type: str
    writer: WriterFactory
    codings: tuple[str, ...]


FORMATS = {
    "arrow": Format("application/vnd.apache.arrow.stream", ArrowWriter, ("zstd",)),
    "parquet": Format("application/vnd.apache.parquet", ParquetWriter, ()),
    "csv": Format("text/csv; charset=utf-8", CsvWriter, ("zstd", "gzip")),
    "jsonl": Format("application/jsonl; charset=utf-8", JsonLinesWriter, ("zstd", "gzip")),
}


class Buffer(io.RawIOBase):
    """A file that keeps what is written until it is taken."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """How many bytes were written: Parquet's footer names the positions of its columns."""
        return self._position

    def write(self, data: Any) -> int:
        """Keep some bytes."""
        piece = bytes(data)
        self._position += len(piece)
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


class Compression:
    """A content coding of HTTP: ``gzip``, ``zstd`` or None for none."""

    def __init__(self, coding: str | None) -> None:
        """Begin."""
        self._gzip = zlib.compressobj(1, wbits=31) if coding == "gzip" else None
        self._written = Buffer()
        self._zstd = pa.CompressedOutputStream(pa.PythonFile(self._written, "w"), "zstd") if coding == "zstd" else None

    def add(self, data: bytes) -> bytes:
        """The compressed bytes of a page, whole: the client can read it at once."""
        if self._gzip:
            return self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if self._zstd:
            self._zstd.write(data)
            self._zstd.flush()
            return self._written.take()
        return data

    def end(self) -> bytes:
        """The end of the compressed bytes."""
        if self._gzip:
            return self._gzip.flush()
        if self._zstd:
            self._zstd.close()
            return self._written.take()
        return b""
