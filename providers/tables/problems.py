"""The rows that are no candles: why, in a line each, and what the user can do about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from candlegraph.candle import Candles, Floats, slices
from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone
from providers.tables.sheet import CUT, MAX_PROBLEMS, Sheet
from providers.tables.spellings import KNOWN
from providers.tables.timestamps import TIMES, TWICE

_SHOWN = 5  # the most problems in a message, which with what is known of the file has ten lines
_STEPS = 4  # float steps that a price may be beyond a bound: adjusted prices are rounded apart


def within_bounds(sheet: Sheet) -> tuple[Sheet, list[str]]:
    """Raise a high, and lower a low, that is a few float steps within the other prices; and lines for the user."""
    first, high, low, last, volume = sheet.numbers
    if all(_bounded(*(column[part] for column in sheet.numbers[:4])) for part in slices(len(first))):
        return sheet, []
    top, bottom = np.maximum(first, last), np.minimum(first, last)
    with np.errstate(invalid="ignore"):
        short, tall = high < top, low > bottom
        short &= top - high <= _STEPS * np.spacing(np.abs(top))
        tall &= low - bottom <= _STEPS * np.spacing(np.abs(bottom))
    numbers = (first, np.where(short, top, high), np.where(tall, bottom, low), last, volume)
    words = [
        f"{what} by a float step in {np.count_nonzero(rows):,} rows."
        for what, rows in (("High: raised", short), ("Low: lowered", tall))
        if rows.any()
    ]
    return replace(sheet, numbers=numbers), words


def _bounded(first: Floats, high: Floats, low: Floats, last: Floats) -> bool:
    return bool(((high >= first) & (high >= last) & (low <= first) & (low <= last)).all())


def row_problems(sheet: Sheet, timeframe: Timeframe, zone: Zone) -> dict[int, str]:
    """By position, why rows of a sheet in order are no candles of the timeframe; repeated rows with other values too."""
    candles = Candles.of(sheet.stamp, *sheet.numbers)
    wrong = {at: _described(reason, candles, at) for at, reason in candles.problems(timeframe, TIMES, zone).items()}
    cut = np.flatnonzero(sheet.line == sheet.cut).tolist() if sheet.cut is not None else []
    return _repeats(sheet) | dict.fromkeys(cut, CUT) | wrong


def _described(reason: str, candles: Candles, at: int) -> str:
    """The reason with the numbers of the row."""
    prices = (
        f"open {candles.open[at]:g}, high {candles.high[at]:g}, low {candles.low[at]:g}, close {candles.close[at]:g}"
    )
    if reason.startswith(("low", "high")):
        return f"{reason} ({prices})"
    if reason.startswith("volume"):
        return f"{reason} ({candles.volume[at]:g})"
    if reason.startswith("the timestamp is not the opening"):
        return f"{reason} ({np.datetime64(int(candles.timestamp[at]), 'ms')}Z)"
    return reason


def _repeats(sheet: Sheet) -> dict[int, str]:
    """By position, the rows of a sheet in order with the instant of the row before them but other values."""
    same = np.flatnonzero(sheet.stamp[1:] == sheet.stamp[:-1]) + 1
    if not len(same):
        return {}
    differing = same[np.any([column[same] != column[same - 1] for column in sheet.numbers], axis=0)]
    return {int(at): f"the same timestamp as {sheet.line[at - 1]}, with other values" for at in differing.tolist()}


def extent(stamps: Int64s, timeframe: Timeframe) -> str:
    """The number of rows, and the first and the last instant, in words."""
    if not len(stamps):
        return "Rows: none."
    first, last = np.datetime_as_string(stamps[[0, -1]].astype("datetime64[ms]"), "s")
    return f"Rows: {len(stamps):,} of {timeframe}, from {first}Z to {last}Z."


@dataclass(frozen=True, slots=True)
class Place:
    """A file in messages: its name, and what stands before the number of a row."""

    name: str
    row: str = ":"

    def at(self, line: int) -> str:
        """A row of the file."""
        return f"{self.name}{self.row}{line}"


def settle(problems: Mapping[int, str], place: Place, allowed: int, remedies: Iterable[str] = ()) -> list[str]:
    """Lines about the rows left out, if they are at most ``allowed``; InvalidCandles that lists the first ones if not."""
    if not problems:
        return []
    lines = [f"{place.at(line)}: {problems[line]}" for line in sorted(problems)]
    if len(problems) <= allowed:
        return [f"Left out by --skip-bad-rows: {line}" for line in lines]
    many, more = len(problems) >= MAX_PROBLEMS, len(problems) - _SHOWN
    option = (
        f"; --skip-bad-rows {len(problems)} leaves {'it' if len(problems) == 1 else 'them'} out" if not many else ""
    )
    shown = [line + option for line in lines[:_SHOWN]]
    if more > 0:
        shown.append(f"and {'at least ' if many else ''}{more:,} more")
    closing = [*remedies]
    if any("is not understood" in reason for reason in problems.values()):
        closing.append(f"Times are read as {KNOWN}.")
    raise InvalidCandles("\n".join([*shown, *filter(None, [" ".join(closing)])]))


def remedies_for(
    problems: Mapping[int, str], timeframe: Timeframe | None, clock: Zone, zone: Zone, *, given: bool
) -> Iterator[str]:
    """What may be wrong with the file as a whole."""
    if TWICE.format(clock.name) in problems.values():
        yield "If the clock of the file never changes, name it: --clock EST, or its offset, such as --clock -05:00."
    off_grid = any(reason.startswith("the timestamp is not the opening") for reason in problems.values())
    if timeframe is None or not off_grid:
        return
    if not given:
        yield f"The timeframe {timeframe} was detected from the steps between the rows: name it if it is another."
    if not timeframe.width_ms:
        yield f"The days are taken for those of {zone.name}: name the time zone if it is another."
