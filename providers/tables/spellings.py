"""Spellings of a time in words: the format of a cell, and a column of them as microseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from candlegraph.candle import Bools
from candlegraph.errors import BadUserInput, InvalidCandles
from candlegraph.zone import Int64s, Zone, zone

if TYPE_CHECKING:
    import polars as pl

KNOWN = (
    "2024-01-31, 2024/01/31, 2024.01.31, 20240131, 31.01.2024, 31/01/2024, 01/31/2024, 31-Jan-2024, Jan 31, 2024; with 09:30, "
    "09:30:00, 09:30:00.000, 093000 or 09:30 PM; with Z, +01:00, UTC, EST or US/Eastern; or seconds to nanoseconds since 1970"
)
_YEAR_FIRST = r"(?P<y>\d{4})(?P<s1>[-/.])\d{1,2}(?P=s1)\d{1,2}"
_YEAR_LAST = r"(?P<a>\d{1,2})(?P<s2>[-/.])(?P<b>\d{1,2})(?P=s2)(?P<y2>\d{4}|\d\d)(?!\d)"
_COMPACT = r"(?P<ymd>\d{8})(?!\d)"
_DAY_NAME = r"(?P<d1>\d{1,2})(?P<s3>[- ]?)[A-Za-z]{3,9}(?P<s4>[- ,]*)(?P<y3>\d{4}|\d\d)(?!\d)"
_NAME_DAY = r"[A-Za-z]{3,9}(?P<s5>[ -])\d{1,2}(?P<s6>,? ?)(?P<y4>\d{4})"
_CLOCK = r"(?P<t>T|,? +)(?:(?P<h>\d{1,2}):\d\d(?P<sec>:\d\d)?(?P<f>\.\d+)?(?P<p1> ?)(?P<pm>[AaPp][Mm])?|(?P<hms>\d{6}|\d{4})(?!\d))"
_ZONE = r"(?P<z>\s*(?:Z|UTC|GMT)?\s*(?:[-+]\d\d:?\d\d|[-+]\d\d)?)"
_SPELLING = re.compile(
    rf"(?:{_YEAR_FIRST}|{_YEAR_LAST}|{_COMPACT}|{_DAY_NAME}|{_NAME_DAY})(?:{_CLOCK})?{_ZONE}", re.ASCII
)
_NAMED_ZONE = r"\s+([A-Za-z]+/[A-Za-z_/+\-0-9]+|[A-Z]{3,4})$"
_WEEKDAY = r"^(?i)(mon|tue|wed|thu|fri|sat|sun)[a-z]*,? "
_HOUR_ONLY = r"(\d{1,2})-([AP]M)$"
_OFFSETS = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "CET": 1}
_OFFSETS |= {"CEST": 2, "EET": 2, "EEST": 3, "BST": 1, "JST": 9, "HKT": 8, "MSK": 3, "SGT": 8, "WET": 0, "WEST": 1}
_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Spelling:
    """A format of chrono; ``length`` is required where a missing digit would give another time; ``has_offset``."""

    format: str
    length: int = 0
    has_offset: bool = False


class TimeReader:
    """Reads the times of one file in words, block by block: what one block has shown holds for the next."""

    def __init__(self, date_format: str | None = None) -> None:
        """Begin; ``date_format`` is the user's, for all cells or for their dates."""
        self._date_format, self._day_first = date_format, None if date_format is None else False
        self.zone: Zone | None = None  # that of times without an offset, if the cells name one
        self.reads_numbers = date_format is None  # as seconds since 1970 and the like
        self._usual: Spelling | None = None  # that of all cells of a block

    def read_again(self, text: pl.Series) -> tuple[Int64s, bool] | None:
        """Microseconds (n,), and whether they have an offset, if all cells have the spelling of the blocks before."""
        if self._usual is None:
            return None
        found = _read_as(text, self._usual)
        return None if found.has_nulls() else (found.to_numpy(), self._usual.has_offset)

    def read(self, text: pl.Series) -> tuple[Int64s, Bools, Bools]:
        """Microseconds (n,), a mask of the cells that were read, and one of those with an offset.

        InvalidCandles if it is not clear which is the day and which the month. BadUserInput if the user's format is none.
        """
        whole, (text, offsets) = text, self._without_words(text)
        micros, seen, instant = (
            np.zeros(len(text), np.int64),
            np.zeros(len(text), np.bool_),
            np.zeros(len(text), np.bool_),
        )
        while len(waiting := np.flatnonzero(~seen)):
            rest = text.gather(waiting)
            found_any = False
            for spelling in self._spellings(rest):
                found, read = _filled(_read_as(rest, spelling))
                micros[waiting[read]] = found[read]
                seen[waiting[read]], instant[waiting[read]] = True, spelling.has_offset
                found_any = bool(read.any())
                if found_any:
                    self._usual = spelling if read.all() and len(rest) == len(whole) and text is whole else self._usual
                    break
            if not found_any:
                break  # a hundred rows are not times: the file is refused anyway
        if offsets is not None:
            micros, instant = micros - offsets, instant | seen
        return micros, seen, instant

    def _spellings(self, text: pl.Series) -> list[Spelling]:
        head = text.drop_nulls().head(_SAMPLE).to_list()
        if self._date_format is not None:
            return list(dict.fromkeys(self._given(cell, self._date_format) for cell in head))
        day_first = self._is_day_first(text, head)
        return list(dict.fromkeys(found for cell in head if (found := spelling_of(cell, day_first=day_first))))

    def _given(self, cell: str, date_format: str) -> Spelling:
        """The user's format; the time of day behind a date is found as usual."""
        if not re.search(r"%[HIMSTRcsX]", date_format) and (match := re.search(_CLOCK + _ZONE + "$", cell.strip())):
            return Spelling(date_format + _clock_format(match), 0, bool(match["z"].strip()))
        return Spelling(date_format, 0, "%z" in date_format or "%:z" in date_format)

    def _is_day_first(self, text: pl.Series, head: list[str]) -> bool | None:
        """Whether the day comes before the month, as any row of the first block with a day after the 12th shows."""
        if self._day_first is not None:
            return self._day_first
        shape = next((match for cell in head if (match := re.match(_YEAR_LAST, cell)) and match["s2"] != "."), None)
        if shape is None:
            return None
        parts = text.str.extract_groups(r"^(\d{1,2})[-/](\d{1,2})[-/]").struct.unnest().cast({"1": int, "2": int})
        first, second = (int(parts.get_column(name).fill_null(0).to_numpy().max(initial=0)) for name in ("1", "2"))
        if first <= 12 and second <= 12:
            between, year = shape["s2"], _year(shape["y2"])
            raise InvalidCandles(
                f"the dates, such as {head[0]!r}, may be day/month or month/day: name it with --date-format "
                f"%d{between}%m{between}{year} or --date-format %m{between}%d{between}{year}"
            )
        self._day_first = first > 12
        return self._day_first

    def _without_words(self, text: pl.Series) -> tuple[pl.Series, Int64s | None]:
        """The cells without weekdays and named zones; the offsets in microseconds if zones are abbreviations."""
        head = text.drop_nulls().head(_SAMPLE)
        if head.str.contains(_WEEKDAY).any():
            text = text.str.replace(_WEEKDAY, "")
        if head.str.contains(_HOUR_ONLY).any():
            text = text.str.replace(_HOUR_ONLY, "$1:00 $2")
        if not (named := _names(head)):
            return text, None
        names = text.str.extract(_NAMED_ZONE)
        text = text.str.replace(_NAMED_ZONE, "")
        if all(name in _OFFSETS for name in named):
            hours = np.array([_OFFSETS.get(name, 0) for name in names.to_list()], np.int64)
            return text, hours * 3_600_000_000
        if len(named) > 1:
            raise InvalidCandles(f"its times name several zones, {', '.join(sorted(named))}: split the file by zone")
        try:
            self.zone = zone(next(iter(named)))
        except BadUserInput as error:
            raise InvalidCandles(f"its times name a zone: {error.message}") from None
        return text, None


def _names(head: pl.Series) -> set[str]:
    found = set(head.str.extract(_NAMED_ZONE).drop_nulls().to_list())
    return found - {"UTC", "GMT", "AM", "PM"}


def spelling_of(cell: str, *, day_first: bool | None = None) -> Spelling | None:
    """The format of a cell; None if it is no time. ``day_first`` decides where day and month are both numbers."""
    match = _SPELLING.fullmatch(cell.strip())
    if not match:
        return None
    if match["y"]:
        date = "%Y-%m-%d".replace("-", match["s1"])
    elif match["ymd"]:
        date = "%Y%m%d"
    elif match["a"]:
        order = "%d-%m-" if day_first or match["s2"] == "." else "%m-%d-"
        date = (order + _year(match["y2"])).replace("-", match["s2"])
    elif match["d1"]:
        date = f"%d{match['s3']}%B{match['s4']}{_year(match['y3'])}"
    else:
        date = f"%B{match['s5']}%d{match['s6']}%Y"
    compact = bool(match["ymd"] or match["hms"])
    # Without separators, a missing digit would give another time, so the length must match.
    fixed = compact and not match["f"] and not match["z"].strip()
    return Spelling(date + _clock_format(match), len(cell.strip()) if fixed else 0, bool(match["z"].strip()))


def _year(text: str) -> str:
    return "%Y" if len(text) == 4 else "%y"


def _clock_format(match: re.Match[str]) -> str:
    """The format of a time of day and its zone. A literal zone is four times as fast as ``%#z``, and no fraction as ``%.f``."""
    clock = ""
    if match["hms"]:
        clock = match["t"] + ("%H%M%S" if len(match["hms"]) == 6 else "%H%M")
    elif match["h"]:
        seconds = ("%S%.f" if match["f"] else "%S") if match["sec"] else ""
        clock = match["t"] + ("%I" if match["pm"] else "%H") + ":%M" + (":" + seconds if seconds else "")
        clock += f"{match['p1']}%p" if match["pm"] else match["p1"]
    found = match["z"]
    sign = re.search(r"[-+]", found)
    if not sign:
        return clock + found
    if found.strip() in {"+00:00", "+0000", "+00"}:
        return clock + found
    return clock + found[: sign.start()] + "%#z"


def _read_as(text: pl.Series, spelling: Spelling) -> pl.Series:
    """Microseconds; null if the text does not have this format."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    if spelling.length:
        text = text.zip_with(text.str.len_bytes() == spelling.length, pl.Series([None], dtype=pl.String))
    tz = "UTC" if "%#z" in spelling.format or "%z" in spelling.format or "%:z" in spelling.format else None
    try:
        found = text.str.to_datetime(spelling.format, strict=False, time_unit="us", time_zone=tz, cache=False)
    except pl.exceptions.PolarsError as error:
        raise BadUserInput(
            f"--date-format {spelling.format!r} is no format of a time, such as %d/%m/%Y or %Y-%m-%d %H:%M: "
            f"{str(error).splitlines()[0][:120]}"
        ) from None
    return found.cast(pl.Int64)


def _filled(column: pl.Series) -> tuple[Int64s, Bools]:
    return np.array(column.fill_null(0).to_numpy(), np.int64), np.array(column.is_not_null().to_numpy(), np.bool_)
