"""What the user says about a file, beside its timeframe and its zone: the options of an import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from candlegraph.zone import Zone


@dataclass(frozen=True, slots=True)
class Hints:
    """The user's hints about a file; each replaces what the file shows.

    Times without an offset are local to ``clock``; where neither the user nor the file names one, to ``usual_clock``. Dates are
    days of ``dates``. All default to the zone of the symbol's days. ``thin``: the symbol seldom trades, so the steps between
    the rows prove nothing. ``symbol``: read only the rows of this symbol.
    ``every_symbol``: several are welcome, see `RawTable.by_symbol`. ``member`` is a file in a zip archive.

    ``columns`` gives a field the name or number of its column. ``scale`` multiplies prices. ``stamps`` is ``open`` or
    ``close``: which end of a candle a time names. ``bad_rows`` may be left out. Rows before ``since`` (ms, UTC) are not read.
    """

    clock: Zone | None = None
    dates: Zone | None = None
    thin: bool = False
    symbol: str | None = None
    every_symbol: bool = False
    usual_clock: Zone | None = None
    member: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    decimal: str | None = None
    scale: float | None = None
    stamps: str | None = None
    bad_rows: int = 0
    since: int | None = None
