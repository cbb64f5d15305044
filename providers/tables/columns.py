"""The columns of a table of candles: what each of them means, and their cells as times and numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from candlegraph.candle import Floats
from candlegraph.errors import InvalidCandles

if TYPE_CHECKING:
    import polars as pl

VALUE_COLUMNS = ("open", "high", "low", "close", "volume")
_TIME_NAMES = (
    *("timestamp_ms", "open_time", "opentime", "open_timestamp", "timestamp", "unix_timestamp", "unix_time"),
    *("unixtime", "unix", "epoch", "ts", "datetime", "date_time", "time", "date", "t", "index", "index_level_0"),
)
# Only the plain "close": do not guess whether "adj close" or "last" is meant.
_NAMES = {
    "open": ("open", "o", "open_price", "price_open"),
    "high": ("high", "h", "high_price", "price_high"),
    "low": ("low", "l", "low_price", "price_low"),
    "close": ("close", "c", "close_price", "price_close"),
    "volume": ("volume", "vol", "v", "base_volume", "volume_base", "volumefrom", "tickvol", "tick_volume"),
}
_MONEY = {"usd", "usdt", "usdc", "busd", "eur", "gbp", "jpy", "krw", "currency", "quote", "quote_currency"}
_SYMBOLS = ("symbol", "ticker", "tic", "sym", "instrument", "pair", "name")
_SHOWN = 10  # the most symbols in a message
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?|\d{4}|\d{6}")


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """The positions of the columns: one of times, or a date and a time of day; ``volume`` is None if there is none.

    ``symbol`` is the column with the symbol of each row; ``names`` are the names of all columns, empty without a header.
    """

    time: tuple[int, ...]
    numbers: tuple[int | None, ...]
    symbol: int | None = None
    names: tuple[str, ...] = ()

    @property
    def has_volume(self) -> bool:
        """Whether there is a column with the volume."""
        return self.numbers[4] is not None

    @property
    def columns(self) -> list[int]:
        """The positions of all these columns, ascending."""
        return sorted({i for i in (*self.time, *self.numbers, self.symbol) if i is not None})

    @property
    def taken(self) -> dict[str, str]:
        """The column of each field: its name, or its position if it has no name."""
        named = {"time": " and ".join(map(self._name, self.time))}
        return named | {
            name: self._name(at) for name, at in zip(VALUE_COLUMNS, self.numbers, strict=True) if at is not None
        }

    def _name(self, at: int) -> str:
        return repr(self.names[at].strip()[:40]) if at < len(self.names) else f"column {at + 1}"


def column_layout_of(names: Sequence[str], first: Sequence[str]) -> ColumnLayout:
    """The layout of named columns; ``first`` are the cells of the first row.

    InvalidCandles if a column is missing, or if two have the same name.
    """
    plain = [_plain(name, position) for position, name in enumerate(names)]
    time = _position(plain, _TIME_NAMES)
    numbers = [_position(plain, _NAMES[name]) for name in VALUE_COLUMNS]
    if numbers[4] is None:
        numbers[4] = _position_of_volume(plain)
    missing = [name for name, at in zip(("time", *VALUE_COLUMNS[:4]), (time, *numbers), strict=False) if at is None]
    if missing or time is None:
        raise InvalidCandles(f"no column for {', '.join(missing)} among: {', '.join(map(repr, names))}"[:1000])
    apart = plain[time] == "time" and "date" in plain and _CLOCK.fullmatch(first[time].strip())
    times = (plain.index("date"), time) if apart else (time,)
    symbol = next((plain.index(name) for name in _SYMBOLS if plain.count(name) == 1), None)
    return ColumnLayout(times, tuple(numbers), symbol, tuple(names))


def layout_without_names(cells: Sequence[str]) -> ColumnLayout | None:
    """The layout of a table whose first row has numbers: time, open, high, low, close, volume, ... (Binance's dumps)."""
    if not cells[0].strip().removeprefix("-")[:1].isdigit():
        return None
    if len(cells) >= 7 and ":" in cells[1] and _CLOCK.fullmatch(cells[1].strip()) and all(map(_is_number, cells[2:7])):
        return ColumnLayout((0, 1), (2, 3, 4, 5, 6))
    return ColumnLayout((0,), (1, 2, 3, 4, 5)) if len(cells) >= 6 and all(map(_is_number, cells[1:6])) else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _plain(name: str, position: int) -> str:
    """A plain name: ``open`` for ``<OPEN>``, ``1. open`` and ``Open``; a first column without a name is an index."""
    plain = re.sub(r"^\d+_", "", re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"))
    return plain or ("index" if position == 0 else "")


def _position(plain: Sequence[str], aliases: Sequence[str]) -> int | None:
    for alias in aliases:
        if plain.count(alias) > 1:
            raise InvalidCandles(f"{plain.count(alias)} columns are called {alias}")
        if alias in plain:
            return plain.index(alias)
    return None


def _position_of_volume(plain: Sequence[str]) -> int | None:
    """The position of the volume; of volumes in several currencies such as ``volume_btc``, the one that is not money."""
    found = [at for at, name in enumerate(plain) if name.startswith(("volume_", "vol_"))]
    return min(found, key=lambda at: plain[at].split("_", 1)[1] in _MONEY, default=None)


def check_symbols(layout: ColumnLayout, found: AbstractSet[str], wanted: str | None) -> None:
    """InvalidCandles if rows name several symbols and none is ``wanted``, or if no row names the wanted one."""
    names = ", ".join(map(repr, sorted(found)[:_SHOWN])) + " ..." * (len(found) > _SHOWN)
    if layout.symbol is None:
        if wanted is not None:
            raise InvalidCandles("it has no column that names symbols, which --only would choose by")
    elif wanted is not None and wanted not in found:
        raise InvalidCandles(f"it has no row of {wanted!r}, only of {names}")
    elif wanted is None and len(found) > 1:
        raise InvalidCandles(f"its rows are of {len(found)} symbols, {names}: take one of them with --only")


def times(frame: pl.DataFrame, layout: ColumnLayout) -> pl.Series:
    """The times of a frame whose columns are named by their positions; joins a date and a time of day."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

    columns = [frame.get_column(str(at)) for at in layout.time]
    if len(columns) == 1:
        return columns[0].str.strip_chars() if columns[0].dtype == pl.String else columns[0]
    date, clock = (column.cast(pl.String, strict=False).str.strip_chars() for column in columns)
    return date + " " + clock


def floats(column: pl.Series, name: str) -> tuple[Floats, dict[int, str]]:
    """The numbers of a column, and by position why a cell is not one. InvalidCandles if the column has no numbers."""
    import polars as pl  # noqa: PLC0415 - lazily, see tables.py

    if column.dtype != pl.String and not column.dtype.is_numeric():
        raise InvalidCandles(f"the column {name!r} is of type {column.dtype}, which is no number")
    found = column.cast(pl.Float64, strict=False)
    if column.dtype == pl.String and found.has_nulls():
        found = column.str.strip_chars().cast(pl.Float64, strict=False)
    reasons: dict[int, str] = {}
    if found.has_nulls():
        bad = found.is_null()
        for at, cell in zip(bad.arg_true().to_list(), column.filter(bad).to_list(), strict=True):
            given = str(cell or "").strip()[:40]
            reasons[at] = f"{name} is not a number: {given!r}" if given else f"{name} is missing"
    return cast(Floats, found.fill_null(0).to_numpy()), reasons
