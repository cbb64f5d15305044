"""The rows of a table in the order of its file: their stamps and numbers, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Bools, Floats
from candlegraph.errors import InvalidCandles
from candlegraph.zone import Int64s
from providers.tables.columns import VALUE_COLUMNS, ColumnLayout
from providers.tables.delimited import DelimitedRows
from providers.tables.frames import TypedColumns
from providers.tables.hints import Hints
from providers.tables.numbers import UNKNOWN, NumberStyle, floats, style_of
from providers.tables.spellings import TimeReader
from providers.tables.timestamps import UNREADABLE, Kinds, timestamps_of

if TYPE_CHECKING:
    import polars as pl

MAX_PROBLEMS = 10_000  # stop reading a file after this many problems
_MAX_FOOTERS = 10
CUT = "the file ends within this line: its last number may be cut. Leave it out with --drop-last, or end the line"


Lines = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The readable rows of a file in its order, each with its ``line``; ``problems`` has the reasons for the others.

    ``stamp`` is (n,) int64, and ``kind`` gives its meaning; ``numbers`` are five (n,) float64. ``symbols`` are those that the
    rows name. ``cut`` is the last line if the file seems to end within its last number. ``notes`` are lines for the user.
    """

    line: NDArray[np.int32]
    stamp: Int64s
    kind: Kinds
    numbers: tuple[Floats, ...]
    problems: dict[int, str]
    symbols: frozenset[str] = frozenset()
    cut: int | None = None
    has_volume: bool = True
    notes: tuple[str, ...] = ()
    owner: NDArray[np.int32] | None = None  # the number of each row's symbol in `owners`, if it names one
    owners: tuple[str, ...] = ()

    def without(self, reasons: Mapping[int, str]) -> Sheet:
        """The sheet without the rows at the positions in ``reasons``, which become problems."""
        if not reasons:
            return self
        kept = np.ones(len(self.line), np.bool_)
        kept[list(reasons)] = False
        problems = {int(self.line[at]): reason for at, reason in reasons.items()}
        return replace(self.rows(kept), problems=self.problems | problems)

    def rows(self, kept: Bools | Int64s | slice) -> Sheet:
        """Some of the rows."""
        numbers = tuple(column[kept] for column in self.numbers)
        owner = None if self.owner is None else self.owner[kept]
        return replace(
            self, line=self.line[kept], stamp=self.stamp[kept], kind=self.kind[kept], numbers=numbers, owner=owner
        )

    def by_symbol(self) -> Iterator[tuple[str, Sheet]]:
        """Each symbol that the rows name, with its rows; the problems of the file are those of the first one."""
        if self.owner is None:
            return
        order = np.argsort(self.owner, kind="stable")
        edges = np.searchsorted(self.owner[order], np.arange(len(self.owners) + 1))
        problems = self.problems
        for number, symbol in enumerate(self.owners):
            found = self.rows(order[edges[number] : edges[number + 1]])
            yield symbol, replace(found, symbols=frozenset({symbol}), owner=None, problems=problems)
            problems = {}

    def since(self, instant: int | None) -> Sheet:
        """The rows from an instant on, once the stamps are milliseconds."""
        return self if instant is None else self.rows(self.stamp >= instant)

    def in_order(self) -> Sheet:
        """The rows in the order of their stamps."""
        ascending = bool((self.stamp[1:] >= self.stamp[:-1]).all())
        return self if ascending else self.rows(np.argsort(self.stamp, kind="stable"))


@dataclass(slots=True)
class SheetReader:
    """Collects the rows of a file, block by block."""

    layout: ColumnLayout
    hints: Hints
    _parts: list[tuple[NDArray[np.int32], Int64s, Kinds, NDArray[np.int32] | None, list[Floats]]] = field(
        default_factory=list
    )
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

    @property
    def times(self) -> TimeReader:
        """What the times of the file have shown."""
        return self._times

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

    def add(self, frame: pl.DataFrame | TypedColumns, line: Lines) -> None:
        """Add the rows of a frame whose columns are named by their positions; only those of the wanted symbol."""
        owner = self._owner(frame)
        if owner is not None and self.hints.symbol is not None:
            chosen = owner == self._symbols.get(self.hints.symbol, -1)
            frame, line, owner = frame.filter(chosen), line[chosen], None
        stamp, kind = timestamps_of(_times(frame, self.layout), self._times)
        numbers, wrong = self._numbers(frame)
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
        kept = slice(None) if not bad.any() else ~bad
        owner = None if owner is None else owner[kept]
        columns = [column[kept] for column in numbers]
        self._parts.append((line.astype(np.int32, copy=False)[kept], stamp[kept], kind[kept], owner, columns))

    def _owner(self, frame: pl.DataFrame | TypedColumns) -> NDArray[np.int32] | None:
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

    def _numbers(self, frame: pl.DataFrame | TypedColumns) -> tuple[list[Floats], NDArray[np.bool_]]:
        """The five columns of numbers, the volume of ticks behind them if there is one, and masks of the cells that are none."""
        found, wrong = [], np.zeros((6, frame.height), np.bool_)
        places = [*self.layout.numbers, *([] if self.layout.ticks is None else [self.layout.ticks])]
        if self._style is None:
            self._style = self._style_of(frame, [str(at) for at in places if at is not None])
        for row, at in enumerate(places):
            if at is None:
                found.append(np.zeros(frame.height))
                continue
            try:
                column, wrong[row] = floats(frame.get_column(str(at)), self._style)
            except InvalidCandles as error:
                raise InvalidCandles(f"the column {self.layout.name(at)} {error.message}") from None
            found.append(column)
        return found, wrong

    def _style_of(self, frame: pl.DataFrame | TypedColumns, names: list[str]) -> NumberStyle:
        texts = [frame.get_column(name) for name in names if frame.schema[name] == _string()]
        cells = [cell for text in texts for cell in text.head(5_000).drop_nulls().str.strip_chars().to_list()]
        return style_of(cells, self.hints.decimal)

    def _reason(self, frame: pl.DataFrame | TypedColumns, at: int, wrong: NDArray[np.bool_], kind: int) -> str:
        if kind != UNREADABLE:
            return self._wrong_number(frame, int(wrong.argmax()), at)
        given = str(_times(frame, self.layout)[at] or "")[:40]
        names = " and ".join(map(self.layout.name, self.layout.time))
        if self.hints.date_format is not None:
            return f"{names} has {given!r}, which is no time of --date-format {self.hints.date_format!r}"
        return f"{names} has {given!r}, a time that is not understood: --date-format may name its format"

    def _wrong_number(self, frame: pl.DataFrame | TypedColumns, row: int, at: int) -> str:
        place = self.layout.numbers[row] if row < 5 else self.layout.ticks
        given = str(frame.get_column(str(place))[at] or "").strip()[:40]
        name = self.layout.name(place)
        return (
            f"{name} has {given!r}, which is no number ({_word(row)})" if given else f"{name} is empty ({_word(row)})"
        )

    def sheet(self) -> Sheet:
        """All rows: with footers left out, and the volume that is known."""
        line, stamp, kind = (_joined([part[at] for part in self._parts]) for at in range(3))
        columns = len(VALUE_COLUMNS) + (self.layout.ticks is not None)
        numbers = []
        for at in range(columns):
            numbers.append(_joined([part[4][at] for part in self._parts]))
            for part in self._parts:
                part[4][at] = np.empty(0)  # one column at a time is in memory twice
        notes = [*self._footers(line), *self._left_out()]
        volume, has_volume, words = self._volume(numbers)
        notes += [words] * bool(words)
        problems = self._problems
        if has_volume:
            problems = problems | self._volumes
        kept = np.isin(line, list(self._volumes), invert=True) if has_volume and self._volumes else slice(None)
        owner = (
            _joined([part[3] for part in self._parts]) if len(self._symbols) > 1 and self.hints.symbol is None else None
        )
        found = Sheet(
            line,
            stamp,
            kind,
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


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0)


def _times(frame: pl.DataFrame | TypedColumns, layout: ColumnLayout) -> pl.Series:
    """The times of a frame whose columns are named by their positions; joins a date and a time of day."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    columns = [frame.get_column(str(at)) for at in layout.time]
    if len(columns) == 1:
        return columns[0].str.strip_chars() if columns[0].dtype == pl.String else columns[0]
    date, clock = (column.cast(pl.String, strict=False).str.strip_chars() for column in columns)
    return date + " " + clock


def _is_empty(frame: pl.DataFrame | TypedColumns, layout: ColumnLayout) -> Bools:
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
