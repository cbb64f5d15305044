"""Size limits of tables, checked before reading: a small file may unpack to more than fits into memory."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from candlegraph.errors import InvalidCandles

MAX_ROWS = 12_000_000  # 23 years of minutes: 0.7 GB of memory, and twice that while they are joined
MAX_UNPACKED_BYTES = 4 << 30
MAX_RATIO = 50  # of unpacked to packed bytes; candles compress to a third, very regular ones to a twentieth
_FREE_BYTES = 64 << 20  # allowed for the smallest file
_CHUNK_BYTES = 1 << 20
_CELL_BYTES = 8


def check_size(path: Path, *, parquet: bool) -> None:
    """InvalidCandles if a table has too many rows or unpacks to too many bytes; EOFError, zlib.error, OSError.

    The check unpacks a text piece by piece and counts its bytes; in a Parquet file it reads the metadata and the text lengths.
    """
    if parquet:
        _check_parquet(path)
        return
    packed, unpacked, rows = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        source = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzip else file
        while chunk := source.read(_CHUNK_BYTES):
            unpacked += len(chunk)
            rows += chunk.count(b"\n")
            _check(rows, unpacked, packed)


def _check_parquet(path: Path) -> None:
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    # Ignore an unreadable file here: the reader refuses it with the reason.
    with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema, packed = lazy.collect_schema(), path.stat().st_size
        rows = int(lazy.select(pl.len()).collect().item())
        _check(rows, rows * min(len(schema), 6) * _CELL_BYTES, packed)
        for name, kind in schema.items():
            if kind == pl.String:
                length = lazy.select(pl.col(name).str.len_bytes().cast(pl.Int64).sum()).collect(engine="streaming")
                _check(rows, int(length.item()), packed)


def _check(rows: int, unpacked: int, packed: int) -> None:
    if rows > MAX_ROWS:
        raise InvalidCandles(f"it has more than {MAX_ROWS:,} rows: split it into several files")
    if unpacked > max(_FREE_BYTES, packed * MAX_RATIO):
        raise InvalidCandles(
            f"it unpacks to more than {MAX_RATIO} times its size, as no table of candles does: if it is one, unpack it first"
        )
    if unpacked > MAX_UNPACKED_BYTES:
        raise InvalidCandles(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20:,} MB: split it into several files")
