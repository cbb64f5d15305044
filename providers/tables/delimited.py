"""Delimited text: reads its rows block by block, as numbers where all cells are plain ones, else as text.

Blocks are whole lines, so that a problem is named by its line, and a file of any size needs little memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from candlegraph.errors import InvalidCandles
from candlegraph.zone import Int64s
from providers.tables.columns import ColumnLayout, layout_of
from providers.tables.dialect import Dialect, dialect_of
from providers.tables.hints import Hints
from providers.tables.texts import Text

if TYPE_CHECKING:
    import polars as pl

_REMARKS = ("#", "//")
_MAX_THREADS = 4  # each has a block in memory


@dataclass(frozen=True, slots=True)
class DelimitedRows:
    """Some rows: their cells in columns named by position, and why other lines are not rows.

    ``line`` is (n,) int64 and counts from 1; an empty line, a remark and a repeated header are neither a row nor a problem.
    ``prose`` are the lines among the problems that hold words: a footer, if no row follows. ``cut`` is the last line if
    the file seems to end within its last number.
    """

    cells: pl.DataFrame
    line: Int64s
    problems: dict[int, str] = field(default_factory=dict)
    prose: frozenset[int] = frozenset()
    headers: int = 0
    cut: int | None = None


def read_delimited(text: Text, file: str, hints: Hints) -> tuple[ColumnLayout, Iterator[DelimitedRows]]:
    """The layout of the columns, and the rows block by block. InvalidCandles, and the errors of the stream."""
    head = next(text.blocks, b"")
    chosen = [part for name in hints.columns.values() for part in name.split("+") if part]
    dialect = dialect_of(head, chosen, file, is_json=text.json is not None)
    layout = layout_of(dialect.head, hints)
    above = dialect.first_line - 1
    body = b"".join(head.split(b"\n", above)[above:])
    return layout, _all_rows(_parsed(chain([body], text.blocks), dialect, layout), dialect, layout)


def _parsed(
    blocks: Iterator[bytes], dialect: Dialect, layout: ColumnLayout
) -> Iterator[tuple[bytes, pl.DataFrame | None]]:
    """Each block with its cells; threads parse the next ones meanwhile, because polars leaves the lock to others.

    A file of other spellings would fail as numbers in each block, one bad row fails in one: the first block decides.
    """
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    first = next(blocks)
    cells, typed = _cells(first, dialect, layout, typed=True)
    yield first, cells
    count = min(pl.thread_pool_size(), _MAX_THREADS)
    with ThreadPoolExecutor(count, "tables") as threads:
        coming: deque[tuple[bytes, Future[tuple[pl.DataFrame | None, bool]]]] = deque()
        for block in blocks:
            coming.append((block, threads.submit(_cells, block, dialect, layout, typed=typed)))
            if len(coming) > count:
                above, parsed = coming.popleft()
                yield above, parsed.result()[0]
        for above, parsed in coming:
            yield above, parsed.result()[0]


def _cells(block: bytes, dialect: Dialect, layout: ColumnLayout, *, typed: bool) -> tuple[pl.DataFrame | None, bool]:
    """The cells of a block, as numbers where that is possible, and whether it was."""
    if typed and block.endswith(b"\n") and (frame := _frame(block, dialect, layout, as_text=False)) is not None:
        return frame, True
    return _frame(block, dialect, layout, as_text=True), False


def _all_rows(
    parsed: Iterable[tuple[bytes, pl.DataFrame | None]], dialect: Dialect, layout: ColumnLayout
) -> Iterator[DelimitedRows]:
    line = dialect.first_line
    for block, cells in parsed:
        frame = _checked(cells, block, line)
        yield _rows(block, line, dialect, layout, frame)
        line += frame.height


def _frame(block: bytes, dialect: Dialect, layout: ColumnLayout, *, as_text: bool) -> pl.DataFrame | None:
    """The cells of a block: the columns of the layout, the last one, and one for surplus cells; None if it is no CSV."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    width = dialect.width
    header = dialect.separator.join(map(str, range(width + 1))).encode() + b"\n"
    columns = [str(at) for at in sorted({*layout.columns, width - 1, width})]
    types: dict[str, type[pl.DataType]] = {}
    if not as_text:
        types = {str(at): pl.Float64 for at in (*layout.numbers, layout.ticks) if at is not None}
        if len(layout.time) == 1 and dialect.head.first[layout.time[0]].strip().isdigit():
            types[str(layout.time[0])] = pl.Int64
    try:
        return pl.read_csv(
            header + block,
            columns=columns,
            separator=dialect.separator,
            infer_schema=False,
            schema_overrides=types,
            truncate_ragged_lines=True,
        )
    except pl.exceptions.PolarsError:
        return None


def _checked(frame: pl.DataFrame | None, block: bytes, line: int) -> pl.DataFrame:
    """InvalidCandles if a block was read as another number of rows than it has lines, which quotation marks may cause."""
    if frame is not None and b'"' not in block:
        return frame
    rows = block.count(b"\n") + (block[-1:] not in {b"", b"\n"})
    if frame is None or frame.height != rows:
        if not rows:
            import polars as pl  # noqa: PLC0415 - lazily, see reader.py

            return pl.DataFrame() if frame is None else frame
        quoted = [row.count(b'"') for row in block.split(b"\n")]
        at = next((at for at, marks in enumerate(quoted) if marks % 2), None)
        at = next((at for at, marks in enumerate(quoted) if marks), 0) if at is None else at
        shown = block.split(b"\n")[at].decode(errors="replace")[:60]
        raise InvalidCandles(f"line {line + at}: its quotation marks are not in pairs around whole cells: {shown!r}")
    return frame


def _rows(block: bytes, line: int, dialect: Dialect, layout: ColumnLayout, frame: pl.DataFrame) -> DelimitedRows:
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    lines = np.arange(line, line + frame.height)
    if not frame.height:
        return DelimitedRows(frame, lines)
    first, last, over = (frame.get_column(str(at)) for at in (layout.time[0], dialect.width - 1, dialect.width))
    is_text = any(frame.get_column(str(at)).dtype == pl.String for at in layout.numbers if at is not None)
    cut = None
    if not block.endswith(b"\n") and dialect.width - 1 in layout.numbers and _ends_cut(last):
        cut = int(lines[-1])
    # An empty line, a short row and a long row all show in one of these cells.
    if not is_text and not first.null_count() and not last.null_count() and over.null_count() == len(over):
        return DelimitedRows(frame, lines, cut=cut)
    odd = (first.is_null() | last.is_null() | over.is_not_null()).to_numpy()
    if is_text:  # a remark or a repeated header is not read as numbers
        odd = odd | ~first.str.contains(r"^[ \t\"]*-?\d").fill_null(value=False).to_numpy()
    if not odd.any():
        return DelimitedRows(frame, lines, cut=cut)
    return _without(np.flatnonzero(odd), block, line, dialect, frame, cut)


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


def _without(
    odd: Int64s, block: bytes, line: int, dialect: Dialect, frame: pl.DataFrame, cut: int | None
) -> DelimitedRows:
    """The rows without empty lines, remarks and repeated headers, and without those that have too few or too many cells."""
    texts = block.split(b"\n")
    surplus = frame.get_column(str(dialect.width))
    problems, prose, dropped, headers = dict[int, str](), set[int](), [], 0
    for at in odd.tolist():
        raw = texts[at].decode(errors="replace")
        reason = _reason(raw, dialect, is_long=surplus[at] is not None)
        if reason is None:
            continue
        dropped.append(at)
        headers += raw.strip() in dialect.headers
        if reason:
            problems[line + at] = reason
            if not raw.strip(' "\t')[:1].isdigit():
                prose.add(line + at)
    kept = np.ones(frame.height, np.bool_)
    kept[dropped] = False
    return DelimitedRows(
        frame.filter(kept), np.arange(line, line + frame.height)[kept], problems, frozenset(prose), headers, cut
    )


def _reason(raw: str, dialect: Dialect, *, is_long: bool) -> str | None:
    """Why a line is no row; None if it may be one, empty if it holds nothing."""
    text = raw.strip()
    if not text.strip(dialect.separator + ' \t"') or text.startswith(_REMARKS) or text in dialect.headers:
        return ""
    if is_long:
        return f"it has more than {dialect.width} fields: {text[:60]!r}"
    # Counted, because a quoted separator hides no missing cell from the reader.
    if raw.count(dialect.separator) < dialect.width - 1:
        return f"it has fewer than {dialect.width} fields: {text[:60]!r}"
    return None
