"""How a delimited text is written: its separator, its header lines, and where its rows begin."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from candlegraph.errors import InvalidCandles
from providers.tables.columns import Head, knows, plain_name
from providers.tables.numbers import is_number

_SEPARATORS = "\t;|,"  # the comma last: it may be a decimal sign
_MIN_CELLS = 5  # a time and four prices
_MAX_REMARKS = 60  # lines before the header
_HEAD_BYTES = 262_144
_TICKERS = {"ticker", "tickers", "symbols"}
_MORE_HEADERS = _TICKERS | {"date", "datetime", "timestamp", "price", "attributes"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect: the number of its first data line, its separator and number of columns, and what it begins with.

    ``headers`` are its header lines as they stand, because they may be repeated further down.
    """

    first_line: int
    separator: str
    width: int
    head: Head
    headers: frozenset[str] = frozenset()


def dialect_of(block: bytes, chosen: Collection[str], file: str, *, is_json: bool = False) -> Dialect:
    """The dialect of a text by its first block of whole lines; ``chosen`` are columns that the user named.

    InvalidCandles if it is no table.
    """
    lines = block[:_HEAD_BYTES].decode(errors="replace").split("\n")
    if len(block) > _HEAD_BYTES:
        lines.pop()  # it may be cut
    numbered = all(part.isdigit() for part in chosen) if chosen else False
    widest: tuple[int, str, list[str]] | None = None
    for at, line in enumerate(lines[:_MAX_REMARKS]):
        separator, cells = _split(line)
        if len(cells) < _MIN_CELLS:
            continue
        if _is_row(cells) or (numbered and knows(cells) < 3):
            return _headless(lines, at, separator, file, is_json=is_json)
        if knows(cells) >= 3 or (chosen and not numbered and _has(cells, chosen)):
            return _with_header(lines, at, separator, file)
        widest = widest or (at, separator, cells)
    if widest is not None:
        return _with_header(lines, widest[0], widest[1], file)
    shown = next((line.strip() for line in lines if line.strip()), "")
    if not shown:
        raise InvalidCandles("it is empty")
    raise InvalidCandles(
        f"it is no table of candles: it begins with {shown[:80]!r}. A table has rows of a time and four prices, separated by "
        "a comma, semicolon, tab or |"
    )


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of a line; none if its quotation marks are wrong."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _split(line: str) -> tuple[str, list[str]]:
    for separator in _SEPARATORS:
        if line.count(separator) >= _MIN_CELLS - 1 and len(cells := cells_of(line, separator)) >= _MIN_CELLS:
            return separator, cells
    return ",", []


def _is_row(cells: Sequence[str]) -> bool:
    """Whether the cells are those of a candle: a time that begins with a digit, and four numbers."""
    numbers = sum(is_number(cell) and any(map(str.isdigit, cell)) for cell in cells[1:])
    return cells[0].strip().removeprefix("-")[:1].isdigit() and numbers >= 4


def _has(cells: Sequence[str], chosen: Collection[str]) -> bool:
    plain = {plain_name(cell, at) for at, cell in enumerate(cells)}
    return all(part in cells or part.lower() in plain or part.isdigit() for part in chosen)


def _headless(lines: Sequence[str], at: int, separator: str, file: str, *, is_json: bool) -> Dialect:
    rows = [cells for line in lines[at:] if line.strip() and len(cells := cells_of(line, separator)) >= _MIN_CELLS]
    return Dialect(at + 1, separator, len(rows[0]), Head((), rows, file, {}, is_json))


def _with_header(lines: Sequence[str], at: int, separator: str, file: str) -> Dialect:
    names, tickers, headers = cells_of(lines[at], separator), dict[int, str](), {lines[at].strip()}
    below = at + 1
    while below < len(lines) and _is_more_header(cells := cells_of(lines[below], separator)):
        if plain_name(cells[0], 1) in _TICKERS:
            tickers = {number: cell.strip() for number, cell in enumerate(cells) if number and cell.strip()}
        else:
            names[0] = cells[0]
        headers.add(lines[below].strip())
        below += 1
    first = next((line for line in lines[below:] if line.strip()), "")
    row = cells_of(first, separator)
    if len(row) == len(names) + 1 and not row[-1].strip():  # a separator at the end of each row, but not of the header
        names.append("")
    return Dialect(
        below + 1, separator, len(names), Head(tuple(names), [row] if row else [], file, tickers), frozenset(headers)
    )


def _is_more_header(cells: Sequence[str]) -> bool:
    """Whether a line below the header belongs to it, as the tickers of yfinance do."""
    if len(cells) < _MIN_CELLS or plain_name(cells[0], 1) not in _MORE_HEADERS:
        return False
    return plain_name(cells[0], 1) in _TICKERS or not any(cell.strip() for cell in cells[1:])
