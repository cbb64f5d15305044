"""Reads files that may change: completely, only the part that was appended, or only the first rows."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Zone
from providers.tables.containers import container_of, unpacked
from providers.tables.names import name_of
from providers.tables.reader import Table, is_typed, read_table
from providers.tables.steps import check_steps

_HEAD_BYTES = 8_192  # the head of a text, which shows its dialect
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """The table of a file; for plain text, ``digest`` is the hash of the first ``size`` bytes, which are whole lines."""

    table: Table
    size: int = 0
    digest: bytes = b""


def read_whole(path: Path, zone: Zone) -> Reading:
    """Read a file completely. InvalidCandles, OSError."""
    size, digest = _lines_of(path)
    return Reading(_table_of(path, zone), size, digest)


def _table_of(path: Path, zone: Zone) -> Table:
    """The table of a file. Its timeframe is the one in its name if the rows confirm it, else the one that the rows show.

    InvalidCandles if they show none.
    """
    if named := name_of(path.name).timeframe:
        with suppress(InvalidCandles):
            if shows(table := read_table(path, named, zone), zone):
                return table
    table = read_table(path, None, zone)
    if named and not shows(table, zone, share=0.5):
        raise InvalidCandles(f"{path.name}: its name says {named}, and its rows are not of one timeframe")
    return table


def shows(table: Table, zone: Zone, share: float = 0.0) -> bool:
    """Whether more than a ``share`` of the steps between the rows are one bucket of its timeframe; True for a single row."""
    stamps = table.candles.timestamp
    steps = table.timeframe.floor_all(stamps[1:] - 1, zone) == stamps[:-1]
    return not len(steps) or float(steps.mean()) > share


def read_head(path: Path, timeframe: Timeframe, zone: Zone) -> Table | None:
    """The first rows of a text, plain or packed; None if these alone cannot be read."""
    if is_typed(path):
        return None
    try:
        with unpacked(path) as source:
            head = source.read(_HEAD_BYTES)
        return _read_text(head[: head.rfind(b"\n") + 1], timeframe, zone)
    except (InvalidCandles, OSError):
        return None


def _read_text(text: bytes, timeframe: Timeframe, zone: Zone) -> Table:
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(text)
        file.flush()
        return read_table(Path(file.name), timeframe, zone)


def _lines_of(path: Path) -> tuple[int, bytes]:
    """The number of bytes of a plain text up to its last whole line, and their hash; zero and empty for another file."""
    if is_typed(path) or container_of(path):
        return 0, b""
    with path.open("rb") as file:
        size = _size_of_lines(file)
        return size, _hash_of(file, size).digest()


def _size_of_lines(file: IO[bytes]) -> int:
    """The number of bytes of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        if cut := file.read(end - start).rfind(b"\n") + 1:
            return start + cut
        end = start
    return 0


def _hash_of(file: IO[bytes], size: int) -> hashlib.blake2b:
    """The hash of the first ``size`` bytes of a file; leaves the file positioned after them."""
    file.seek(0)
    found = hashlib.blake2b(digest_size=16)
    while size and (block := file.read(min(size, _BLOCK_BYTES))):
        found.update(block)
        size -= len(block)
    return found


def read_growth(path: Path, known: Reading, zone: Zone, *, still: bool) -> Reading | None:
    """The reading of a plain text to which lines were only appended since ``known``; None if it changed otherwise.

    It leaves out a last line without an end, unless the file is ``still``: then everything has to be read.
    """
    with path.open("rb") as file:
        if not known.size or file.seek(0, os.SEEK_END) < known.size:
            return None
        digest = _hash_of(file, known.size)
        if digest.digest() != known.digest:
            return None
        added = file.read()
        lines = added[: added.rfind(b"\n") + 1]
        if len(lines) < len(added) and still:
            return None
        file.seek(0)
        head = file.read(min(_HEAD_BYTES, known.size))
    digest.update(lines)
    table = _extended(known.table, head[: head.rfind(b"\n") + 1] + lines, zone) if lines else known.table
    return None if table is None else Reading(table, known.size + len(lines), digest.digest())


def _extended(known: Table, text: bytes, zone: Zone) -> Table | None:
    """A table with the rows of ``text`` after its own; None if one of them is not new, or has another form."""
    try:
        rows = _read_text(text, known.timeframe, zone).candles
    except (InvalidCandles, OSError):
        return None  # then the whole file is read, and its error names the line
    old, new = rows[rows.timestamp <= known.candles.timestamp[-1]], rows[rows.timestamp > known.candles.timestamp[-1]]
    if not equal(known.candles[np.searchsorted(known.candles.timestamp, old.timestamp)], old):
        return None
    joined = concat([known.candles, new])
    try:
        check_steps(joined.timestamp, known.timeframe, zone)  # neither part alone may show a wrong step
    except InvalidCandles:
        return None
    return replace(known, candles=joined)


def equal(one: Candles, other: Candles) -> bool:
    """Whether two batches are the same candles."""
    return all(np.array_equal(a, b) for a, b in zip(one.columns[:6], other.columns[:6], strict=True))
