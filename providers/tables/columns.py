"""The columns of a table of candles: which of them is which, by the user's word, by the origin, by their names or by proof."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from candlegraph.errors import InvalidCandles
from providers.tables.hints import Hints
from providers.tables.numbers import is_number, plain_number
from providers.tables.order import Order, order_of
from providers.tables.origins import TICKER_LINE, FileOrigin
from providers.tables.recognition import ORDERS, recognise
from providers.tables.volumes import TICKS, volume_of

VALUE_COLUMNS = ("open", "high", "low", "close", "volume")
FIELDS = ("time", *VALUE_COLUMNS)
_OPENING_NAMES = (
    *("timestamp_ms", "open_time", "opentime", "open_timestamp", "time_period_start", "timeopen", "time_open"),
    *("start_time", "starttime", "start", "begin", "window_start", "candle_begin_time", "bar_time", "ts_event"),
    *("timestamp", "timestamp_utc", "time_utc", "unix_timestamp", "unix_time", "unixtime", "unix", "epoch", "ts"),
    *("datetime", "date_time", "gmt_time", "local_time", "time", "date", "trading_date", "traddt", "datum", "data"),
    *("t", "dt", "day", "index", "index_level_0", "unnamed_0"),
)
_ENDING_NAMES = ("close_time", "closetime", "timeclose", "time_close", "end_time", "endtime", "time_period_end", "end")
_NAMES = {
    "open": ("open", "o", "open_price", "openprice", "price_open", "opnpric", "otwarcie", "erster"),
    "high": ("high", "h", "high_price", "highprice", "price_high", "hghpric", "najwyzszy", "hoch", "max"),
    "low": ("low", "l", "low_price", "lowprice", "price_low", "lwpric", "najnizszy", "tief", "min"),
    # "adj close" is no close: it is another price.
    "close": (
        *("close", "c", "close_price", "closeprice", "price_close", "clspric", "zamkniecie", "schlusskurs"),
        *("close_last", "last", "latest", "last_price"),
    ),
}
_SYMBOLS = ("symbol", "ticker", "tic", "sym", "instrument", "instrument_name", "pair", "name", "tckrsymb")
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?|\d{4}|\d{6}")
_TUPLE = re.compile(r"\('([^']*)', '([^']*)'\)")
_SHOWN = 10  # the most symbols in a message
_PROVING_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a table: the names of its columns, empty without a header, and its first ``rows`` as cells.

    ``tickers`` are those of a second header line, by column; ``file`` is the path, which may name the origin.
    """

    names: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    file: str = ""
    tickers: Mapping[int, str] = field(default_factory=dict)
    is_json: bool = False

    @property
    def first(self) -> Sequence[str]:
        """The first row, padded to the number of names."""
        row = list(self.rows[0]) if self.rows else []
        return row + [""] * (len(self.names) - len(row))


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """The positions of the columns: one of times, or a date and a time of day; ``volume`` is None if there is none.

    ``symbol`` is the column with the symbol of each row; ``ticks`` has tick volumes, for a file whose volumes are all 0.
    ``stamps`` is ``open`` or ``close``, or empty if it has to be asked for; ``notes`` are lines for the user.
    """

    time: tuple[int, ...]
    numbers: tuple[int | None, ...]
    symbol: int | None = None
    names: tuple[str, ...] = ()
    ticks: int | None = None
    stamps: str = "open"
    origin: FileOrigin | None = None
    tickers: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[int]:
        """The positions of all these columns, ascending."""
        return sorted({i for i in (*self.time, *self.numbers, self.symbol, self.ticks) if i is not None})

    @property
    def taken(self) -> dict[str, str]:
        """The column of each field: its name, or its position if it has no name."""
        named = {"time": " and ".join(map(self.name, self.time))}
        return named | {
            name: self.name(at) for name, at in zip(VALUE_COLUMNS, self.numbers, strict=True) if at is not None
        }

    def name(self, at: int | None) -> str:
        """A column for the user: its name, or its number counted from 1."""
        if at is None:
            return "none"
        return repr(self.names[at].strip()[:40]) if at < len(self.names) else f"column {at + 1}"


def layout_of(head: Head, hints: Hints) -> ColumnLayout:
    """The layout of a table: by the user's columns, and of the user's symbol where there are several tickers.

    InvalidCandles if a column is missing, if two have the same name, or if the rows do not prove an order without names.
    """
    names, tickers = _of_one_ticker(head, hints)
    plain = [plain_name(name, position) for position, name in enumerate(names)]
    pseudo = {TICKER_LINE} if tickers else set[str]()
    origin = recognise({*plain, *pseudo} - {""}, head.first, head.file)
    given = {field: _chosen(head.names, plain, field, text) for field, text in hints.columns.items()}
    if not head.names:
        return _unnamed(head, given, origin)
    times, stamps = _times(head, plain, given, origin)
    numbers = {name: _number_column(plain, name, given, origin) for name in VALUE_COLUMNS[:4]}
    missing = [name for name, at in {"time": times, **numbers}.items() if at in {None, ()}]
    if missing:
        raise InvalidCandles(_no_column(missing, head.names))
    position = next((plain.index(name) for name in _SYMBOLS if plain.count(name) == 1), None)
    ticks = next((plain.index(name) for name in TICKS if name in plain), None)
    if "volume" in given or (origin and "volume" in origin.columns):
        volume, note = _number_column(plain, "volume", given, origin), ""
    else:
        base = head.first[position] if position is not None else ""
        volume, note = volume_of(plain, head.names, base)
    notes = [note] if note else []
    return ColumnLayout(
        times,
        (*numbers.values(), volume),
        position,
        tuple(names),
        ticks if volume is not None and ticks != volume else None,
        stamps,
        origin,
        tickers,
        tuple(notes),
    )


def _no_column(missing: Sequence[str], names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20])) + " ..." * (len(names) > 20)
    option = ",".join(f"{name}=NAME" for name in missing)
    return f"no column for {', '.join(missing)} among: {shown}. Name it with --columns {option}"[:1000]


def plain_name(name: str, position: int) -> str:
    """A plain name: ``open`` for ``<OPEN>``, ``1. open`` and ``Open``; a first column without a name is an index."""
    plain = re.sub(r"^\d+_", "", re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"))
    return plain or ("index" if position == 0 else "")


def knows(cells: Sequence[str]) -> int:
    """How many of time, open, high, low and close the cells of a line name."""
    plain = {plain_name(cell, position) for position, cell in enumerate(cells)} - {"index"}
    plain |= {plain_name(match[1], 1) for cell in cells if (match := _TUPLE.fullmatch(cell))}
    every = [(*_OPENING_NAMES, *_ENDING_NAMES), *(_NAMES[name] for name in VALUE_COLUMNS[:4])]
    return sum(bool(plain & set(names)) for names in every)


def _of_one_ticker(head: Head, hints: Hints) -> tuple[list[str], frozenset[str]]:
    """The names of the columns, with those of other tickers empty; and all tickers."""
    names, tickers = list(head.names), dict(head.tickers)
    for at, name in enumerate(names):
        if match := _TUPLE.fullmatch(name):  # how pandas writes two levels of names to Parquet
            names[at] = match[1]
            if match[2]:
                tickers[at] = match[2]
    every = frozenset(filter(None, tickers.values()))
    if len(every) > 1:
        symbol = min(every) if hints.symbol is None and hints.every_symbol else hints.symbol
        check_found(every, symbol)
        names = ["" if tickers.get(at, symbol) != symbol else name for at, name in enumerate(names)]
    return names, every


def _chosen(names: Sequence[str], plain: Sequence[str], name: str, text: str) -> list[int]:
    """The positions that the user gave: names, or numbers counted from 1; two joined by ``+`` for a date and a time."""
    found = []
    for part in text.split("+") if text else []:
        at = names.index(part) if part in names else plain.index(part.lower()) if part.lower() in plain else None
        if at is None and part.isdigit() and 0 < int(part) <= max(len(names), 1_000 if not names else 0):
            at = int(part) - 1
        if at is None:
            shown = ", ".join(map(repr, names[:20])) if names else "numbered from 1, because it has no header"
            raise InvalidCandles(f"--columns {name}={part}: there is no such column. Its columns are {shown}"[:1000])
        found.append(at)
    return found


def _times(
    head: Head, plain: Sequence[str], given: Mapping[str, Sequence[int]], origin: FileOrigin | None
) -> tuple[tuple[int, ...], str]:
    """The columns of the time, and which end of a candle it names."""
    stamps = origin.stamps if origin else "open"
    if "time" in given:
        return tuple(given["time"]), stamps
    if origin and "time" in origin.columns:
        return tuple(plain.index(name) for name in origin.columns["time"].split()), stamps
    time = _position(plain, _OPENING_NAMES)
    if time is None:
        end = _position(plain, _ENDING_NAMES)
        return ((), stamps) if end is None else ((end,), "close")
    apart = plain[time] == "time" and "date" in plain and _CLOCK.fullmatch(head.first[time].strip())
    return ((plain.index("date"), time) if apart else (time,)), stamps


def _number_column(
    plain: Sequence[str], name: str, given: Mapping[str, Sequence[int]], origin: FileOrigin | None
) -> int | None:
    if name in given:
        return next(iter(given[name]), None)
    if origin and name in origin.columns:
        return plain.index(origin.columns[name]) if origin.columns[name] in plain else None
    return _position(plain, _NAMES[name])


def _position(plain: Sequence[str], aliases: Sequence[str]) -> int | None:
    for alias in aliases:
        if plain.count(alias) > 1:
            raise InvalidCandles(
                f"{plain.count(alias)} columns are called {alias}: name one by its number, as in --columns {alias}=2"
            )
        if alias in plain:
            return plain.index(alias)
    return None


def _unnamed(head: Head, given: Mapping[str, Sequence[int]], origin: FileOrigin | None) -> ColumnLayout:
    """The layout of a table without a header."""
    if {"time", "open", "high", "low", "close"} <= set(given):
        numbers = [next(iter(given.get(name, [])), None) for name in VALUE_COLUMNS]
        return ColumnLayout(tuple(given["time"]), tuple(numbers), notes=("The columns are yours (--columns).",))
    if origin and origin.names_columns:
        at = {name: [int(part) - 1 for part in text.split()] for name, text in origin.columns.items()} | dict(given)
        numbers = [next(iter(at[name]), None) for name in VALUE_COLUMNS]
        return ColumnLayout(tuple(at["time"]), tuple(numbers), None, (), None, origin.stamps, origin)
    width = min(map(len, head.rows), default=0)
    times = (0, 1) if width > 1 and ":" in head.first[1] and _CLOCK.fullmatch(head.first[1].strip()) else (0,)
    order = _proved(head, len(times), width)
    shift = len(times)
    prices = tuple(at + shift for at in order.prices)
    volume = None if order.volume is None else order.volume + shift
    stamps = origin.stamps if origin else "open"
    words = f"No header: {order.words}." if order.is_proved else "No header: in the usual order of an array."
    spelled = " ".join(["time", *(name for _, name in sorted(zip(prices, VALUE_COLUMNS, strict=False)))])
    source = [f"This is the order of {ORDERS[spelled]}."] if spelled in ORDERS else []
    return ColumnLayout(times, (*prices, volume), None, (), None, stamps, origin, frozenset(), (words, *source))


def _proved(head: Head, first: int, width: int) -> Order:
    """The order of the columns from ``first`` on. InvalidCandles if the rows do not prove one, with the option."""
    rows = [row[first:width] for row in head.rows[:_PROVING_ROWS]]
    rows = [row for row in rows if all(map(is_number, row[:4]))]
    if len(rows) > 1 and _falls(head.rows[0][0], head.rows[-1][0]):
        rows.reverse()
    known = [at for at in range(width - first) if rows and all(is_number(row[at]) for row in rows)]
    values = np.array([[plain_number(row[at]) for row in rows] for at in known if at == known.index(at)])
    order = order_of(values) if len(values) >= 4 else None
    times = "+".join(map(str, range(1, first + 1)))
    fields = zip(VALUE_COLUMNS, range(first + 1, width + 1), strict=False)
    usual = ",".join([f"time={times}", *(f"{name}={number}" for name, number in fields)])
    if order is None:
        raise InvalidCandles(
            f"line 1: it has no header, and no four of its columns can be open, high, low and close: {_cells(head)}. "
            f"Name them with --columns {usual}"
        )
    if not order.is_proved and not (head.is_json and order.prices == (0, 1, 2, 3)):
        one, other = (first + order.prices[at] + 1 for at in (0, 3))
        raise InvalidCandles(
            f"line 1: it has no header, and its rows do not show which of the columns {one} and {other} is the open and which "
            f"the close: {_cells(head)}. Name them, for example --columns {usual}"
        )
    return order


def _cells(head: Head) -> str:
    return ", ".join(head.rows[0])[:80] if head.rows else "no row"


def _falls(first: str, last: str) -> bool:
    """Whether times are in falling order; texts of one spelling sort as their times only if the year comes first."""
    if is_number(first) and is_number(last):
        return plain_number(first) > plain_number(last)
    return first > last


def check_found(found: AbstractSet[str], wanted: str | None) -> None:
    """InvalidCandles if rows name several symbols and none is ``wanted``, or if no row names the wanted one."""
    names = ", ".join(map(repr, sorted(found)[:_SHOWN])) + " ..." * (len(found) > _SHOWN)
    if wanted is not None and wanted not in found:
        raise InvalidCandles(f"it has no row of {wanted!r}, only of {names}")
    if wanted is None and len(found) > 1:
        raise InvalidCandles(
            f"its rows are of {len(found)} symbols, {names}: take one of them with --only, or all with --symbol-from column"
        )


def check_symbols(layout: ColumnLayout, found: AbstractSet[str], wanted: str | None) -> None:
    """As `check_found`, where a column or a header line names symbols; InvalidCandles if there is none and one is wanted."""
    if layout.symbol is None and not layout.tickers:
        if wanted is not None:
            raise InvalidCandles("it has no column that names symbols, which --only would choose by")
        return
    if layout.symbol is not None:
        check_found(found, wanted)
