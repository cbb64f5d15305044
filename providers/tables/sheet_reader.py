"""Collects the rows of a file block by block: each column grows, so that no row is in memory twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Bools, Floats
from candlegraph.errors import InvalidCandles
from providers.tables.columns import VALUE_COLUMNS, ColumnLayout
from providers.tables.delimited import DelimitedRows
from providers.tables.hints import Hints
from providers.tables.numbers import UNKNOWN, NumberStyle, floats, style_of
from providers.tables.sheet import MAX_PROBLEMS, Sheet
from providers.tables.size import check_rows
from providers.tables.spellings import TimeReader
from providers.tables.timestamps import UNREADABLE, timestamps_of

if TYPE_CHECKING:
    import polars as pl

_MAX_FOOTERS = 10

Lines = NDArray[np.integer[Any]]


class GrowingColumn:
    """A column that grows in place, ``values`` (n,): the memory of a long one is moved, and not copied."""

    def __init__(self, kind: type[np.generic]) -> None:
        """Begin empty."""
        self.values: NDArray[Any] = np.empty(0, kind)

    def add(self, parts: Sequence[NDArray[Any]]) -> None:
        """Append the parts of a block; no view of ``values`` may be in use."""
        at = len(self.values)
        self.values.resize(at + sum(map(len, parts)), refcheck=False)
        for part in parts:
            self.values[at : at + len(part)] = part
            at += len(part)


@dataclass(slots=True)
class SheetReader:
    """Collects the rows of a file, block by block."""

    layout: ColumnLayout
    hints: Hints
    _line: GrowingColumn = field(default_factory=lambda: GrowingColumn(np.int32))
    _stamp: GrowingColumn = field(default_factory=lambda: GrowingColumn(np.int64))
    _kind: GrowingColumn = field(default_factory=lambda: GrowingColumn(np.int8))
    _owner: GrowingColumn = field(default_factory=lambda: GrowingColumn(np.int32))
    _numbers: list[GrowingColumn] = field(init=False)
    _problems: dict[int, str] = field(default_factory=dict)
    _prose: set[int] = field(default_factory=set)
    _volumes: dict[int, str] = field(default_factory=dict)
    _symbols: dict[str, int] = field(default_factory=dict)
    _headers: int = 0
    _blank: int = 0
    _cut: int | None = None
    _style: NumberStyle | None = None
    _times: TimeReader = field(init=False)

    def __post_init__(self) -> None:
        """Begin to read times, in the user's format if there is one."""
        self._times = TimeReader(self.hints.date_format)
        self._numbers = [GrowingColumn(np.float64) for _ in self._places]

    @property
    def times(self) -> TimeReader:
        """What the times of the file have shown."""
        return self._times

    @property
    def _places(self) -> list[int | None]:
        """The positions of open to volume, and that of the volume of ticks behind them if there is one."""
        return [*self.layout.numbers, *([] if self.layout.ticks is None else [self.layout.ticks])]

    def add_frames(self, frames: Iterable[pl.DataFrame]) -> None:
        """Add the frames of a typed file, whose rows count from 1, or those up to too many problems."""
        first = 1
        for frame in frames:
            self.add(frame, np.arange(first, first + frame.height, dtype=np.int32))
            first += frame.height
            if len(self._problems) >= MAX_PROBLEMS:
                break

    def add_all(self, blocks: Iterable[DelimitedRows]) -> None:
        """Add all blocks, or those up to too many problems."""
        for rows in blocks:
            self._problems |= rows.problems
            self._prose |= rows.prose
            self._headers += rows.headers
            self._cut = rows.cut
            if len(rows.line):
                self.add(rows.cells, rows.line)
            if len(self._problems) >= MAX_PROBLEMS:
                break

    def add(self, frame: pl.DataFrame, line: Lines) -> None:
        """Add the rows of a frame whose columns are named by their positions; only those of the wanted symbol."""
        owner = self._owners(frame)
        if owner is not None and self.hints.symbol is not None:
            chosen = owner == self._symbols.get(self.hints.symbol, -1)
            frame, line, owner = frame.filter(chosen), line[chosen], None
        stamp, kind = timestamps_of(_times(frame, self.layout), self._times)
        numbers, wrong = self._read_numbers(frame)
        priceless: Bools = np.logical_and.reduce(wrong[:4])
        blank = priceless & (kind != UNREADABLE)
        if blank.any():
            blank &= _is_empty(frame, self.layout)
        self._blank += int(np.count_nonzero(blank))
        bad: Bools = np.logical_or.reduce(wrong[:4]) | (kind == UNREADABLE)
        for at in np.flatnonzero(bad & ~blank).tolist():
            reason, number = self._reason(frame, at, wrong[:, at], kind[at]), int(line[at])
            self._problems[number] = reason
            if priceless[at] and kind[at] == UNREADABLE:
                self._prose.add(number)
        for at in np.flatnonzero(wrong[4] & ~bad)[: MAX_PROBLEMS - len(self._volumes)].tolist():
            self._volumes[int(line[at])] = self._wrong_number(frame, 4, at)
        self._keep((line, stamp, kind, owner), numbers, ~bad if bad.any() else None)
        check_rows(len(self._line.values))

    def _keep(
        self,
        fixed: Sequence[NDArray[Any] | None],
        numbers: Sequence[pl.Series],
        kept: Bools | None,
    ) -> None:
        """Append the rows of a mask, or all: ``fixed`` are the line, the stamp, its kind and the symbol of each."""
        import polars as pl  # noqa: PLC0415 - lazily, see reader.py

        for column, part in zip((self._line, self._stamp, self._kind, self._owner), fixed, strict=True):
            if part is not None:
                column.add([part if kept is None else part[kept]])
        for column, series in zip(self._numbers, numbers, strict=True):
            chosen = series if kept is None else series.filter(pl.Series(kept))
            column.add([chunk.to_numpy() for chunk in chosen.get_chunks()])

    def _owners(self, frame: pl.DataFrame) -> NDArray[np.int32] | None:
        """The number of the symbol that each row names, -1 for none; None if no column names symbols."""
        import polars as pl  # noqa: PLC0415 - lazily, see reader.py

        if self.layout.symbol is None:
            return None
        cells = frame.get_column(str(self.layout.symbol)).cast(pl.String, strict=False).str.strip_chars().fill_null("")
        for name in cells.unique(maintain_order=True).to_list():
            if name:
                self._symbols.setdefault(name, len(self._symbols))
        numbers = cells.replace_strict(self._symbols, default=-1, return_dtype=pl.Int32)
        return np.asarray(numbers.to_numpy(), np.int32)

    def _read_numbers(self, frame: pl.DataFrame) -> tuple[list[pl.Series], NDArray[np.bool_]]:
        """The columns of numbers, NaN for a cell that is none, and masks of these cells."""
        import polars as pl  # noqa: PLC0415 - lazily, see reader.py

        found, wrong = [], np.zeros((6, frame.height), np.bool_)
        if self._style is None:
            self._style = self._style_of(frame, [str(at) for at in self._places if at is not None])
        for row, at in enumerate(self._places):
            if at is None:
                found.append(pl.zeros(frame.height, eager=True))
                continue
            try:
                column = floats(frame.get_column(str(at)), self._style)
            except InvalidCandles as error:
                raise InvalidCandles(f"the column {self.layout.name(at)} {error.message}") from None
            if column.has_nulls():
                wrong[row] = column.is_null().to_numpy()
                column = column.fill_null(float("nan"))
            found.append(column)
        return found, wrong

    def _style_of(self, frame: pl.DataFrame, names: list[str]) -> NumberStyle:
        texts = [frame.get_column(name) for name in names if frame.schema[name] == _string()]
        cells = [cell for text in texts for cell in text.head(5_000).drop_nulls().str.strip_chars().to_list()]
        return style_of(cells, self.hints.decimal)

    def _reason(self, frame: pl.DataFrame, at: int, wrong: NDArray[np.bool_], kind: int) -> str:
        if kind != UNREADABLE:
            return self._wrong_number(frame, int(wrong.argmax()), at)
        given = str(_times(frame, self.layout)[at] or "").strip()[:40]
        names = " and ".join(map(self.layout.name, self.layout.time))
        if self.hints.date_format is not None:
            return f"{names} has {given!r}, which is no time of --date-format {self.hints.date_format!r}"
        return f"{names} has {given!r}, a time that is not understood: --date-format may name its format"

    def _wrong_number(self, frame: pl.DataFrame, row: int, at: int) -> str:
        place = self.layout.numbers[row] if row < 5 else self.layout.ticks
        given = str(frame.get_column(str(place))[at] or "").strip()[:40]
        name = self.layout.name(place)
        return (
            f"{name} has {given!r}, which is no number ({_word(row)})" if given else f"{name} is empty ({_word(row)})"
        )

    def sheet(self) -> Sheet:
        """All rows: with footers left out, and the volume that is known."""
        line, numbers = self._line.values, [column.values for column in self._numbers]
        notes = [*self._footers(line), *self._left_out()]
        volume, has_volume, words = self._volume(numbers)
        notes += [words] * bool(words)
        problems = self._problems
        if has_volume:
            problems = problems | self._volumes
        kept = np.isin(line, list(self._volumes), invert=True) if has_volume and self._volumes else slice(None)
        owner = self._owner.values if len(self._symbols) > 1 and self.hints.symbol is None else None
        found = Sheet(
            line,
            self._stamp.values,
            self._kind.values,
            (*numbers[:4], volume),
            problems,
            frozenset(self._symbols),
            self._cut,
            has_volume,
            tuple(notes),
            owner,
            tuple(self._symbols),
        )
        return found.rows(kept) if self._volumes else found

    def _footers(self, line: NDArray[np.int32]) -> list[str]:
        """Leave the lines behind the last row out that hold words."""
        last = int(line.max(initial=0))
        behind = sorted(number for number in self._problems if number > last)
        if not last or not behind or len(behind) > _MAX_FOOTERS or not set(behind) <= self._prose:
            return []
        for number in behind:
            del self._problems[number]
        if self._cut is not None and self._cut > last:
            self._cut = None
        return [f"Left out: {len(behind)} lines of words behind the last row (from line {behind[0]})."]

    def _left_out(self) -> list[str]:
        blank = [f"Left out: {self._blank:,} rows without a price (holidays)."] if self._blank else []
        return blank + [f"Left out: {self._headers:,} repeated header lines."] * bool(self._headers)

    def _volume(self, numbers: list[Floats]) -> tuple[Floats, bool, str]:
        """The volume, whether it is known, and a line for the user where it is not what the column says."""
        volume, at = numbers[4], self.layout.numbers[4]
        if at is None or not len(volume):
            return volume, at is not None, ""
        unknown = f"Volume: unknown, because {self.layout.name(at)}"
        if volume[0] == -1 and (volume == -1).all():
            return np.zeros(len(volume)), False, f"{unknown} is -1 in every row."
        if np.isnan(volume[0]) and np.isnan(volume).all():
            return np.zeros(len(volume)), False, f"{unknown} is empty in every row."
        if volume.any() or (numbers[1] == numbers[2]).all():
            return volume, True, ""
        if len(numbers) > 5 and numbers[5].any():
            return (
                np.nan_to_num(numbers[5]),
                True,
                f"Volume: that of {self.layout.name(self.layout.ticks)}, because {self.layout.name(at)} is 0 in every row.",
            )
        return volume, False, f"{unknown} is 0 in every row, though prices moved."


def _string() -> type[pl.DataType]:
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    return pl.String


def _word(row: int) -> str:
    return VALUE_COLUMNS[row] if row < 5 else "volume"


def _times(frame: pl.DataFrame, layout: ColumnLayout) -> pl.Series:
    """The times of a frame whose columns are named by their positions; joins a date and a time of day."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    columns = [frame.get_column(str(at)) for at in layout.time]
    if len(columns) == 1:
        return columns[0]
    date, clock = (column.cast(pl.String, strict=False).str.strip_chars() for column in columns)
    return date + " " + clock


def _is_empty(frame: pl.DataFrame, layout: ColumnLayout) -> Bools:
    """Whether the four prices of each row are missing: empty, or a word for none."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    found = np.ones(frame.height, np.bool_)
    for at in layout.numbers[:4]:
        column = frame.get_column(str(at))
        if column.dtype == pl.String:
            column = column.fill_null("").str.strip_chars().str.to_lowercase().is_in(list(UNKNOWN))
        else:
            column = column.is_null()
        found &= column.to_numpy()
    return found
