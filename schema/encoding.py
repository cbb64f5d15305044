"""Answers as JSON. Long lists of candles stay numpy columns until they are encoded, which is done in pieces.

100 series of 5,000 candles are 30 MB as columns, 83 MB as JSON, and more than 250 MB as Python objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, overload

import numpy as np
import orjson

MAX_EAGER_VALUES = 20_000  # values of candles in an answer that are encoded at once, on the event loop: about 2 ms
PIECE_ROWS = 2_000
MAX_MAKER_NAME_CHARS = 2_000  # in total; the makers of longer names are not kept

Columns = dict[str, Callable[[slice], list[Any]]]

_encoders = ThreadPoolExecutor(2, "answers")


class LazyRows(Sequence[Any]):
    """A long list of the answer: ``length`` objects with a value of each column, or without names the values of one."""

    __slots__ = ("_columns", "_length", "_named")

    def __init__(self, columns: Columns, length: int, *, named: bool = True) -> None:
        """Take functions from a slice to the values of a column; they are called in another thread."""
        self._columns = columns
        self._length = length
        self._named = named

    @property
    def values(self) -> int:
        """The number of values."""
        return self._length * len(self._columns)

    def __len__(self) -> int:
        """The number of items."""
        return self._length

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> list[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        """Make some of its items."""
        if isinstance(at, int):
            return self.rows(slice(None))[at]
        return self.rows(at)

    def __iter__(self) -> Iterator[Any]:
        """Make all of its items."""
        return iter(self.rows(slice(None)))

    def __eq__(self, other: object) -> bool:
        """Compare as a list."""
        return self.rows(slice(None)) == (list(other) if isinstance(other, LazyRows) else other)

    __hash__ = None  # type: ignore[assignment]

    def rows(self, part: slice) -> list[Any]:
        """The items of a part."""
        values = [column(part) for column in self._columns.values()]
        return make_rows(tuple(self._columns), values) if self._named else values[0]

    def pieces(self) -> Iterator[bytes]:
        """It as JSON, in pieces."""
        yield b"["
        for start in range(0, self._length, PIECE_ROWS):
            inner = orjson.dumps(self.rows(slice(start, start + PIECE_ROWS)))[1:-1]
            yield b"," + inner if start else inner
        yield b"]"


class JsonAnswer:
    """An answer whose pieces are encoded on demand."""

    def __init__(self, payload: object) -> None:
        """Encode all but the long lists."""
        self._lists: list[LazyRows] = []
        # JSON escapes NUL, so a raw one can stand for a list.
        self._parts = orjson.dumps(payload, default=self._postpone).split(b"\0")

    @property
    def is_long(self) -> bool:
        """Whether encoding the rest would take the event loop too long."""
        return sum(one.values for one in self._lists) > MAX_EAGER_VALUES

    def pieces(self) -> Iterator[bytes]:
        """The answer in pieces; releases each list after its last piece."""
        self._parts.reverse()
        self._lists.reverse()
        yield self._parts.pop()
        while self._lists:
            yield from self._lists.pop().pieces()
            yield self._parts.pop()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The answer in pieces of some hundred kilobytes, made in another thread."""
        loop, pieces = asyncio.get_running_loop(), _joined(self.pieces())
        while (piece := await loop.run_in_executor(_encoders, next, pieces, None)) is not None:
            yield piece

    async def whole(self) -> str:
        """The answer in one text, made in another thread where it is long."""
        if not self.is_long:
            return b"".join(self.pieces()).decode()
        return await asyncio.get_running_loop().run_in_executor(_encoders, lambda: b"".join(self.pieces()).decode())

    def _postpone(self, value: object) -> orjson.Fragment:
        if not isinstance(value, LazyRows):
            raise TypeError(f"{type(value).__name__} is no JSON")
        self._lists.append(value)
        return orjson.Fragment(b"\0")


def _joined(pieces: Iterator[bytes], size: int = 131_072) -> Iterator[bytes]:
    """The same bytes in pieces of at least ``size`` but for the last: from there on they are compressed in a thread."""
    batch, length = [], 0
    for piece in pieces:
        batch.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(batch)
            batch, length = [], 0
    if batch:
        yield b"".join(batch)


def make_rows(names: tuple[str, ...], columns: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """A dict for each position of the columns."""
    short = sum(map(len, names)) <= MAX_MAKER_NAME_CHARS
    return (_kept_maker if short else _row_maker)(names)(columns)


def _row_maker(names: tuple[str, ...]) -> Callable[[Iterable[Sequence[Any]]], list[dict[str, Any]]]:
    """Compile a comprehension with its keys written out: it makes dicts three times as fast as ``dict(zip(...))``.

    The names are response names, which the parser holds to letters, digits and underscores; ``repr`` quotes them anyway.
    """
    values = [f"v{position}" for position in range(len(names))]
    row = ", ".join(f"{name!r}: {value}" for name, value in zip(names, values, strict=True))
    source = f"lambda columns: [{{{row}}} for {', '.join(values)}, in zip(*columns, strict=True)]"
    maker: Callable[[Iterable[Sequence[Any]]], list[dict[str, Any]]] = eval(source, {"zip": zip})  # noqa: S307
    return maker


_kept_maker = lru_cache(maxsize=512)(_row_maker)


def are_finite(column: np.ndarray) -> bool:
    """Whether numbers need no completing: NaN and infinity are errors of single fields."""
    return column.dtype.kind != "f" or bool(np.isfinite(column).all())


def reader(column: np.ndarray) -> Callable[[slice], list[Any]]:
    """Return a function that reads a part of a column as Python numbers."""
    return lambda part: column[part].tolist()
