"""Numbers as people write them: with a decimal comma, thousands separators, a currency sign, or in millions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from candlegraph.errors import InvalidCandles

if TYPE_CHECKING:
    import polars as pl

UNKNOWN = frozenset(["", "-", "--", "null", "none", "n/a", "na", "nan", "#n/a", "nil", "?"])
_NUMBER = re.compile(r"[-+]?[$€£]?\s?\d[\d.,'\u2019\u00a0\u202f ]*([eE][-+]?\d+)?[KMBkmb]?")
_COMMA_GROUPS = re.compile(r"[^\d]*\d{1,3}(,\d{3})+")
_DOT_GROUPS = re.compile(r"[^\d]*\d{1,3}(\.\d{3})+")
_IGNORED = r"[\s'\x{2019}\x{a0}\x{202f}$€£]"


@dataclass(frozen=True, slots=True)
class NumberStyle:
    """The decimal sign of a file, and its thousands separator, empty if it has none."""

    decimal: str = "."
    thousands: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether a cell is a number as it stands."""
        return self.decimal == "." and not self.thousands


def is_number(cell: str) -> bool:
    """Whether a cell looks like a number in any style, or like one that is missing."""
    return bool(_NUMBER.fullmatch(cell.strip())) or cell.strip().lower() in UNKNOWN


def plain_number(cell: str) -> float:
    """A cell in the plain style; NaN if it is none."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def style_of(cells: list[str], decimal: str | None) -> NumberStyle:
    """The style of a sample of cells; ``decimal`` is the user's. InvalidCandles if they allow two readings."""
    if decimal is not None:
        return NumberStyle(decimal, "," if decimal == "." else ".")
    commas = [cell for cell in cells if "," in cell]
    if not commas:
        return NumberStyle()
    both = next((cell for cell in commas if "." in cell), None)
    if both is not None:
        return NumberStyle(".", ",") if both.rfind(".") > both.rfind(",") else NumberStyle(",", ".")
    grouped = all(map(_COMMA_GROUPS.fullmatch, commas))
    if dots := [cell for cell in cells if "." in cell]:
        is_comma = not grouped and all(map(_DOT_GROUPS.fullmatch, dots))
        return NumberStyle(",", ".") if is_comma else NumberStyle(".", "," * grouped)
    if grouped and not any(cell.count(",") > 1 for cell in commas):
        raise InvalidCandles(
            f"{commas[0]!r} may be a number with a decimal comma or with a thousands separator: name the decimal sign, "
            "--decimal , or --decimal ."
        )
    return NumberStyle(".", ",") if grouped else NumberStyle(",", ".")


def floats(column: pl.Series, style: NumberStyle) -> pl.Series:
    """A column as float64, null where a cell is no number. InvalidCandles for another type."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    if column.dtype == pl.Binary:
        return _fixed_point(column)
    if column.dtype != pl.String and not column.dtype.is_numeric():
        raise InvalidCandles(f"is of type {column.dtype}, which is no number")
    if column.dtype != pl.String:
        return column.cast(pl.Float64, strict=False)
    found = (column if style.is_plain else _rewritten(column, style)).cast(pl.Float64, strict=False)
    if found.has_nulls():
        waiting = found.is_null()
        again = _rewritten(column.filter(waiting), style)
        if style.is_plain:  # a comma in it is neither a decimal sign nor a separator of thousands
            again = again.set(again.str.contains(",", literal=True), None)
        read = again.cast(pl.Float64, strict=False)
        if read.has_nulls():
            read = read.fill_null(_with_exponent(again).cast(pl.Float64, strict=False))
        if read.count():
            found = found.scatter(waiting.arg_true(), read)
    return found


def _fixed_point(column: pl.Series) -> pl.Series:
    """Integers of 8 or 16 bytes, in units of 1e-9 or 1e-16, which is how Nautilus stores prices."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    cells = column.to_list()
    widths = {len(cell) for cell in cells if cell is not None}
    if not widths <= {8} and not widths <= {16}:
        raise InvalidCandles("is of bytes, which are no number")
    unit = 10**9 if widths <= {8} else 10**16
    read = [None if cell is None else int.from_bytes(cell, "little", signed=True) / unit for cell in cells]
    return pl.Series(read, dtype=pl.Float64)


def _rewritten(column: pl.Series, style: NumberStyle) -> pl.Series:
    plain = column.str.replace_all(_IGNORED, "")
    if style.thousands:
        plain = plain.str.replace_all(style.thousands, "", literal=True)
    return plain.str.replace(style.decimal, ".", literal=True) if style.decimal != "." else plain


def _with_exponent(column: pl.Series) -> pl.Series:
    """Numbers such as 4.79M as 4.79e6."""
    for suffix, exponent in (("(?i)k$", "e3"), ("(?i)m$", "e6"), ("(?i)b$", "e9")):
        column = column.str.replace(suffix, exponent)
    return column
