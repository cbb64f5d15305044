"""Size limits of tables: a small file may unpack to more than fits into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from candlegraph.errors import InvalidCandles
from providers.tables.arrow_size import unpacked_bytes

if TYPE_CHECKING:
    import polars as pl

MAX_ROWS = 12_000_000  # 23 years of minutes: 0.7 GB of memory, and twice that while they are joined
MAX_UNPACKED_BYTES = 4 << 30
MAX_RATIO = 50  # of unpacked to packed bytes; candles compress to a third, very regular ones to a twentieth
_FREE_BYTES = 64 << 20  # allowed for the smallest file
_CELL_BYTES = 8


class UnpackedSize:
    """Counts the bytes that a file of ``packed`` bytes unpacks to."""

    def __init__(self, packed: int) -> None:
        """Begin at zero."""
        self._packed, self._unpacked = packed, 0

    def add(self, count: int) -> None:
        """InvalidCandles if these bytes make it too many."""
        self._unpacked += count
        _check_bytes(self._unpacked, self._packed)


def check_rows(rows: int) -> None:
    """InvalidCandles if these are too many rows for a table."""
    if rows > MAX_ROWS:
        raise InvalidCandles(
            f"it has more than {MAX_ROWS:,} rows: split it into several files, or take one of its symbols with --only"
        )


def check_arrow(path: Path) -> None:
    """InvalidCandles if an Arrow file unpacks to too much, or is damaged. OSError."""
    try:
        _check_bytes(unpacked_bytes(path), path.stat().st_size)
    except ValueError as error:
        raise InvalidCandles(f"it is no Arrow file that can be read: {error}") from None


def check_frame(lazy: pl.LazyFrame, packed: int, *, keeps_all: bool) -> None:
    """InvalidCandles if a Parquet or Arrow file of ``packed`` bytes is too large, by its metadata and the lengths of its texts.

    Too many rows are none if they are not all kept, because the others are read in slices.

    PolarsError if it cannot be read.
    """
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    schema = lazy.collect_schema()
    rows = int(lazy.select(pl.len()).collect().item())
    if keeps_all:
        check_rows(rows)
    _check_bytes(rows * min(len(schema), 6) * _CELL_BYTES, packed)
    for name, kind in schema.items():
        if kind == pl.String:
            length = lazy.select(pl.col(name).str.len_bytes().cast(pl.Int64).sum()).collect(engine="streaming")
            _check_bytes(int(length.item() or 0), packed)


def _check_bytes(unpacked: int, packed: int) -> None:
    if unpacked > max(_FREE_BYTES, packed * MAX_RATIO):
        raise InvalidCandles(
            f"it unpacks to more than {MAX_RATIO} times its size, as no table of candles does: if it is one, unpack it first"
        )
    if unpacked > MAX_UNPACKED_BYTES:
        raise InvalidCandles(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20:,} MB: split it into several files")
