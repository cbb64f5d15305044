"""JSON records, ``[{"t": .., "o": ..}, ..]``: read object by object, so that no text unpacks to more than a part of it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlegraph.errors import InvalidCandles
from providers.tables.columns import ColumnLayout, Head, layout_of
from providers.tables.hints import Hints
from providers.tables.texts import Text

if TYPE_CHECKING:
    import polars as pl

Record = dict[str, Any]

_START = re.compile(r"\[\s*(?=\{)")
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()
_PART_BYTES = 1 << 20
_MAX_RECORD = 65_536  # characters; a candle has a hundred
_NONE = "it is JSON without an array of candles: [[time, open, high, low, close, volume], ...] is read"


def read_records(source: Text, path: Path, hints: Hints) -> tuple[ColumnLayout, Iterator[pl.DataFrame]]:
    """The layout and the rows, frame by frame, of the first array of objects in a text. InvalidCandles, also from the rows."""
    parts = _parts(source.blocks)
    first = next(parts)
    names = list(dict.fromkeys(name for record in first for name in record))
    if not names:
        raise InvalidCandles(_NONE)
    row = ["" if first[0].get(name) is None else str(first[0][name]) for name in names]
    layout = layout_of(Head(tuple(names), [row], str(path)), hints)
    return layout, _frames(chain([first], parts), {str(at): names[at] for at in layout.columns})


def _frames(parts: Iterable[list[Record]], names: dict[str, str]) -> Iterator[pl.DataFrame]:
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    for part in parts:
        try:
            yield pl.DataFrame(
                [pl.Series(at, [record.get(name) for record in part], strict=False) for at, name in names.items()]
            )
        except (OverflowError, TypeError, pl.exceptions.PolarsError) as error:
            raise InvalidCandles(f"its JSON records cannot be read: {str(error).splitlines()[0][:200]}") from None


def _parts(blocks: Iterable[bytes]) -> Iterator[list[Record]]:
    """The records of the first array of objects, some at a time and at least one."""
    decode, held, is_begun = codecs.getincrementaldecoder("utf-8")("replace").decode, "", False
    for part in (block[at : at + _PART_BYTES] for block in blocks for at in range(0, len(block), _PART_BYTES)):
        held += decode(part)
        if not is_begun:
            start = _START.search(held)
            held, is_begun = (held[start.end() :], True) if start else (held[-_MAX_RECORD:], False)
            if not is_begun:
                continue
        records, end = _whole(held)
        if records:
            yield records
        if held[end : end + 1] == "]":
            return
        held = held[end:]
        if len(held) > _MAX_RECORD:
            raise InvalidCandles(f"one of its JSON records is damaged, or longer than any candle: {held[:60]!r}")
    raise InvalidCandles("the JSON array is cut short: its closing bracket is missing" if is_begun else _NONE)


def _whole(text: str) -> tuple[list[Record], int]:
    """The whole records at the beginning of a text, and where the next one, or the end of the array, begins."""
    found: list[Record] = []
    at = 0
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if not text.startswith("{", at):
            if at < len(text) and text[at] != "]":
                raise InvalidCandles(f"its JSON array has other items than records: {text[at : at + 60]!r}")
            return found, at
        try:
            record, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError:
            return found, at
        except RecursionError:
            raise InvalidCandles("its JSON records are nested deeper than any candle") from None
        found.append(record)
