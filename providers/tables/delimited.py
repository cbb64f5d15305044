"""Delimited text (CSV, plain or gzipped): detects its dialect, and reads its rows as cells of text with their line numbers.

It reads blocks of whole lines, so that a file of any size needs little memory.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from candlegraph.errors import InvalidCandles
from candlegraph.zone import Int64s
from providers.tables.columns import ColumnLayout, column_layout_of, layout_without_names

if TYPE_CHECKING:
    import polars as pl

_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class DelimitedRows:
    """Some rows: their cells as text, in columns named by position, and why other lines are not rows.

    ``line`` is (n,) int64 and counts from 1; an empty line is neither a row nor a problem. ``cut`` is the last line if the
    file seems to end within its last number.
    """

    cells: pl.DataFrame
    line: Int64s
    problems: dict[int, str]
    cut: int | None = None


@dataclass(frozen=True, slots=True)
class _Text:
    """The dialect of a text: its first data line, its separator, its number of columns, and their layout."""

    first_line: int
    separator: str
    width: int
    layout: ColumnLayout


def read_delimited(file: IO[bytes]) -> tuple[ColumnLayout, Iterator[DelimitedRows]]:
    """The layout of the columns, and the rows block by block; InvalidCandles, EOFError, zlib.error, OSError."""
    blocks = _numbered(_blocks(file))
    _, head = next(blocks, (1, b""))
    text = _how_written(head)
    above = text.first_line - 1
    body = b"".join(head.split(b"\n", above)[above:])
    return text.layout, (_rows(block, line, text) for line, block in chain([(text.first_line, body)], blocks))


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The text of a plain or gzipped file in blocks of whole lines, without a byte order mark."""
    magic = file.read(4)
    file.seek(0)
    for start, what in ((b"PK", "a zip archive"), (b"\x28\xb5\x2f\xfd", "a zstd file"), (b"PAR1", "a Parquet file")):
        if magic.startswith(start):
            raise InvalidCandles(f"it is {what}, not a CSV: unpack or rename it first")
    source = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if magic.startswith(b"\x1f\x8b") else file
    held, rest = b"", source.read(3).removeprefix(b"\xef\xbb\xbf")
    while chunk := source.read(_BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if cut and held:
            yield held
        held, rest = (rest + chunk[:cut], chunk[cut:]) if cut else (held, rest + chunk)
        if len(rest) > _BLOCK_BYTES:
            raise InvalidCandles("it is no table: one of its lines is longer than any row")
    # Keep a last line without an end together with the lines above it, to compare it with them.
    if held or rest:
        yield held + rest


def _numbered(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each block with the number of its first line."""
    line = 1
    for block in blocks:
        try:
            _ = block.isascii() or block.decode()
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            raise InvalidCandles(f"line {line} is not UTF-8 text") from None
        yield line, block
        line += block.count(b"\n")


def _how_written(block: bytes) -> _Text:
    """Detect the dialect of a text from its first lines."""
    lines = [line.rstrip("\r") for line in block[:65_536].decode(errors="replace").split("\n")]
    # A link or a comment may come before the header, as in CryptoDataDownload's files.
    for at, line in enumerate(lines[:10]):
        separator = max(",;\t", key=line.count)
        cells = _cells(line, separator)
        if len(cells) < 5:
            continue
        if layout := layout_without_names(cells):
            return _Text(at + 1, separator, len(cells), layout)
        below = next((later for later in lines[at + 1 :] if later.strip()), "")
        first = _cells(below, separator)
        layout = column_layout_of(cells, first + [""] * (len(cells) - len(first)))
        return _Text(at + 2, separator, len(cells), layout)
    shown = next((line.strip() for line in lines if line.strip()), "")
    raise InvalidCandles(f"it is no table of candles: it begins with {shown[:80]!r}" if shown else "it is empty")


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _rows(block: bytes, line: int, text: _Text) -> DelimitedRows:
    frame = _frame(block, line, text)
    lines = np.arange(line, line + frame.height)
    first, last, over = (frame.get_column(str(at)) for at in (text.layout.time[0], text.width - 1, text.width))
    # An empty line, a short row and a long row all show in one of these cells.
    odd = np.flatnonzero((first.is_null() | last.is_null() | over.is_not_null()).to_numpy())
    cut = (
        int(lines[-1])
        if not block.endswith(b"\n") and _ends_cut(last) and text.width - 1 in text.layout.numbers
        else None
    )
    if not len(odd):
        return DelimitedRows(frame, lines, {}, cut)
    reasons = _odd_rows(block, odd, text, frame)
    kept = np.ones(frame.height, np.bool_)
    kept[list(reasons)] = False
    return DelimitedRows(
        frame.filter(kept), lines[kept], {line + at: reason for at, reason in reasons.items() if reason}, cut
    )


def _ends_cut(last: pl.Series) -> bool:
    """Whether the last cell of a column of numbers is shorter than all others, or has fewer decimals."""
    cells = last.drop_nulls().str.strip_chars(' \t\r"')
    if len(cells) < 3 or last[-1] is None:
        return False
    for lengths in (
        cells.str.len_bytes(),
        (cells.str.len_bytes() - cells.str.find(".", literal=True) - 1).fill_null(0),
    ):
        if lengths[-1] < (lengths[:-1].min() or 0):
            return True
    return False


def _odd_rows(block: bytes, odd: Int64s, text: _Text, frame: pl.DataFrame) -> dict[int, str]:
    """By position why some of the ``odd`` rows are invalid; an empty reason for an empty line."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

    raw = pl.Series(block.decode().split("\n"), dtype=pl.String).gather(odd)
    empty = (raw.str.strip_chars(text.separator + ' \t\r"') == "").to_numpy()
    short = (raw.str.count_matches(text.separator, literal=True) < text.width - 1).to_numpy()
    long = frame.get_column(str(text.width)).gather(odd).is_not_null().to_numpy()
    found = dict.fromkeys(odd[short].tolist(), f"it has fewer than {text.width} fields")
    found |= dict.fromkeys(odd[long].tolist(), f"it has more than {text.width} fields")
    return found | dict.fromkeys(odd[empty].tolist(), "")


def _frame(block: bytes, line: int, text: _Text) -> pl.DataFrame:
    """The cells of a block as text: the columns of the layout, the last one, and one for surplus cells."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

    header = text.separator.join(map(str, range(text.width + 1))).encode() + b"\n"
    columns = [str(at) for at in sorted({*text.layout.columns, text.width - 1, text.width})]
    rows = block.count(b"\n") + (block[-1:] not in {b"", b"\n"})
    try:
        frame = pl.read_csv(
            header + block, columns=columns, separator=text.separator, infer_schema=False, truncate_ragged_lines=True
        )
    except pl.exceptions.PolarsError:
        frame = pl.DataFrame()
    if frame.height != rows:
        quoted = [row.count(b'"') for row in block.split(b"\n")]
        at = next((at for at, marks in enumerate(quoted) if marks % 2), None)
        at = next((at for at, marks in enumerate(quoted) if marks), 0) if at is None else at
        raise InvalidCandles(f"line {line + at}: its quotation marks are not in pairs around whole cells")
    return frame
