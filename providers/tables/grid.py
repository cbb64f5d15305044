"""The grid of the rows: their timeframe, and the opening of the candle that each stamp names.

Stamps that name the same span otherwise (a week by its Friday, a month by its end, a day by the bell, a candle by its end)
are renamed where the rows prove it. Candles of another span, such as hours from half past, are never moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from candlegraph.candle import slices
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.errors import BadUserInput, InvalidCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone
from providers.tables.sessions import name_ends, name_sessions

_FRIDAY = 4
_CLOSE = "--stamps close if a time names the end of its candle, --stamps open if it names the opening"
_FINER = "they are another span than those of {grid} and cannot be moved: import a finer file, which is folded"


@dataclass(frozen=True, slots=True)
class Grid:
    """The openings of the rows, (n,) int64 ms UTC, their timeframe, and what was renamed, in words; empty if nothing was."""

    stamps: Int64s
    timeframe: Timeframe
    words: str = ""


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps of the rows, (n,) int64 ms UTC ascending, in the ``zone`` of the symbol's days.

    ``names`` is ``open`` or ``close``: the end of a candle that a stamp names; empty if only the rows can show it.
    ``is_given``: the user said so. ``are_days``: the stamps are dates. ``are_local``: they are times without an offset.
    """

    ms: Int64s
    zone: Zone
    names: str = "open"
    is_given: bool = False
    are_days: bool = False
    are_local: bool = False


def grid_of(stamps: Stamps, timeframe: Timeframe | None) -> Grid:
    """The grid of the rows, of the given timeframe or of the one that their steps show; InvalidCandles, with the option."""
    steps = [timeframe] if timeframe else _timeframes(stamps.ms, stamps.zone)
    if stamps.names == "close":
        return _from_ends(stamps, steps[0], "stamps at the end of a candle")
    if last := _before_the_end(stamps.ms):
        moved = Stamps(stamps.ms + last, stamps.zone, "close", stamps.is_given)
        return _from_ends(
            moved, _timeframes(moved.ms, stamps.zone)[0] if timeframe is None else timeframe, "last instants"
        )
    fits = [_fit(stamps.ms, step, stamps.zone) for step in steps]
    best = steps[fits.index(1) if 1 in fits else 0]
    if max(fits) >= 0.5:
        return _on_grid(stamps, best)
    if not stamps.is_given and (found := _renamed(stamps, steps[0])) and timeframe in {None, found.timeframe}:
        return found
    if timeframe is not None and len(stamps.ms) < 3:
        return Grid(stamps.ms, timeframe)  # each row that is no opening is a problem of its own
    raise InvalidCandles(_refusal(stamps, steps[0]))


def _fit(ms: Int64s, timeframe: Timeframe, zone: Zone) -> float:
    opened = sum(int(np.count_nonzero(timeframe.floor_all(ms[part], zone) == ms[part])) for part in slices(len(ms)))
    return opened / len(ms) if len(ms) else 1.0


def _on_grid(stamps: Stamps, timeframe: Timeframe) -> Grid:
    """Stamps that can be openings: of a file that may name ends, the sessions decide."""
    if stamps.is_given:
        return Grid(stamps.ms, timeframe)
    ends = bool(timeframe.width_ms) and name_ends(stamps.ms, timeframe)
    if ends:
        return _from_ends(stamps, timeframe, "sessions begin one step after the bell")
    if stamps.names == "" and timeframe.width_ms:
        raise InvalidCandles(f"files of its kind may name the end of a candle, and its rows do not show it: {_CLOSE}")
    return Grid(stamps.ms, timeframe)


def _from_ends(stamps: Stamps, timeframe: Timeframe, why: str) -> Grid:
    """Name each candle by its opening instead of its end; a date names the day, and the week or month, that it is in."""
    inside = stamps.ms if stamps.are_days else stamps.ms - 1
    opened = timeframe.floor_all(inside, stamps.zone)
    if timeframe.width_ms:
        opened = stamps.ms - timeframe.width_ms
    return Grid(opened, timeframe, f"Renamed to the opening of the {timeframe} candle: {why}.")


def _before_the_end(ms: Int64s) -> int:
    """1 or 1,000 if all stamps are so many milliseconds before a minute, as 23:59:59 is; else 0."""
    if len(ms):
        for rest in (1, 1_000):
            if (int(ms[0]) + rest) % MINUTE_MS == 0 and ((ms + rest) % MINUTE_MS == 0).all():
                return rest
    return 0


def _renamed(stamps: Stamps, timeframe: Timeframe) -> Grid | None:
    """Weeks, months and days that a stamp within them names; None if the rows do not prove that."""
    zone, days = stamps.zone, stamps.zone.day_of(stamps.ms)
    if not timeframe.width_ms and timeframe.days == 1:
        if name_sessions(stamps.ms, zone):
            return Grid(
                timeframe.floor_all(stamps.ms, zone),
                timeframe,
                "Renamed to the opening of the day: stamps at the bell.",
            )
        return None
    if (found := _months(stamps.ms, zone)) is not None:
        if not _one_each(found.index(stamps.ms, zone), stamps.ms):
            return None
        return Grid(
            found.floor_all(stamps.ms, zone), found, f"Renamed to the opening of the {found} candle: stamps at its end."
        )
    weekday = (days + 3) % 7  # 1970-01-01 was a Thursday
    week = Timeframe(1, "w")
    one_each = _one_each(week.index(stamps.ms, zone), stamps.ms)
    usual = int(np.bincount(weekday).argmax()) if len(days) else 0
    if timeframe == week and one_each and usual == _FRIDAY and (weekday <= usual).all():
        return Grid(
            week.floor_all(stamps.ms, zone), week, "Renamed to the Monday of the week: stamps on its last trading day."
        )
    return None


def _one_each(index: Int64s, ms: Int64s) -> bool:
    """Whether different stamps, ascending, are in different buckets."""
    return bool(((np.diff(index) > 0) == (np.diff(ms) > 0)).all())


def _months(ms: Int64s, zone: Zone) -> Timeframe | None:
    """The months, quarters or years whose last day, or last weekday, each stamp is; None if they are not."""
    days = zone.day_of(ms).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    after = (months + 1).astype("datetime64[D]")
    is_end = np.busday_count(days + 1, after) == 0
    steps = np.diff(months.astype(np.int64))
    steps = steps[steps > 0]
    # A month whose last weekday is a holiday ends a day earlier.
    near = np.busday_count(days + 1, after) <= 1
    if not len(steps) or is_end.mean() < 0.7 or not near.all():
        return None
    return Timeframe(int(np.bincount(steps).argmax()), "mon")


def _refusal(stamps: Stamps, timeframe: Timeframe) -> str:
    """Why the rows are on no grid, and what helps."""
    opening = _opening(stamps.ms, timeframe)
    said = f"its rows are mostly {timeframe} apart, but do not open {timeframe} buckets{opening}: "
    if timeframe.width_ms:
        clock = "" if not stamps.are_local else "if they are in a broker's time, name it with --clock; else "
        return said + clock + _FINER.format(grid="UTC")
    if timeframe == Timeframe(1, "w"):
        return said + f"{_CLOSE}; weeks are those from Monday on, others {_FINER.format(grid='the calendar')[5:]}"
    return said + (
        f"name the time zone of the symbol's days (--timezone, now {stamps.zone.name}), its true timeframe (--timeframe), or "
        "--stamps close if a time names the end; else " + _FINER.format(grid=f"{stamps.zone.name}")
    )


def _opening(ms: Int64s, timeframe: Timeframe) -> str:
    """Where the rows open instead, as ``(they open at :30)``."""
    if timeframe.width_ms and timeframe.width_ms % HOUR_MS == 0:
        minutes = int(np.bincount(ms // MINUTE_MS % 60).argmax())
        return f" (they open at :{minutes:02})" if minutes else f" (the first opens at {_clock(int(ms[0]))})"
    if not timeframe.width_ms and len(ms):
        return f" (the first is at {_clock(int(ms[0]))} UTC)"
    return ""


def _clock(ms: int) -> str:
    return f"{ms % DAY_MS // HOUR_MS:02}:{ms % HOUR_MS // MINUTE_MS:02}"


def _timeframes(ms: Int64s, zone: Zone) -> list[Timeframe]:
    """The timeframes that the steps between ascending stamps show, the most usual first; InvalidCandles if they show none."""
    steps = np.diff(ms)
    steps = steps[steps > 0] if len(steps) and int(steps.min()) == 0 else steps
    if not len(steps):
        only = "one row does not show its timeframe: name it with --timeframe (1m, 1h, 1d ...)"
        raise InvalidCandles(only if len(ms) else "it has no rows")
    whole = steps if (steps[0] == steps).all() else steps[steps % MINUTE_MS == 0]
    # A wrong stamp makes two wrong steps: it should be refused by its line, not by the timeframe that these steps show.
    steps = _usual(whole if len(whole) * 3 >= len(steps) else steps)
    if steps[0] % MINUTE_MS:
        raise InvalidCandles(f"its rows are {steps[0] / 1000:g} seconds apart, and the shortest timeframe is 1m")
    try:
        return list(_of_steps(steps, ms, zone))
    except BadUserInput as error:
        raise InvalidCandles(f"the steps between its rows show no timeframe: {error.message}") from None


def _of_steps(steps: Int64s, ms: Int64s, zone: Zone) -> Iterator[Timeframe]:
    for step in steps.tolist():
        # With daylight saving time a day lasts 23 to 25 hours (22 to 26 in Troll).
        if step < 22 * HOUR_MS:
            yield Timeframe(step // MINUTE_MS, "m")
        else:
            yield from _of_days(zone.day_of(ms))


def _of_days(days: Int64s) -> Iterator[Timeframe]:
    steps = _usual(np.diff(days))
    month = days.astype("datetime64[D]").astype("datetime64[M]")
    firsts = month.astype("datetime64[D]").astype(np.int64) == days
    in_months = steps[0] >= 28 and np.count_nonzero(firsts) * 2 >= len(days)
    index: Int64s = month.astype(np.int64)
    for step in (_usual(np.diff(index)) if in_months else steps).tolist():
        yield Timeframe(step, "mon" if in_months else "d")


def _usual(steps: Int64s) -> Int64s:
    """The most frequent step, and the smallest one that is not an accident; in a file with gaps these may differ."""
    if len(steps) and int(steps.min()) == int(steps.max()) > 0:
        return steps[:1]
    sizes, counts = _counted(np.sort(steps[steps > 0]))
    # One wrong stamp can split a step into two halves.
    often = sizes[(counts > 2) & (counts * 20 >= len(steps))][:1]
    return np.append(sizes[[np.argmax(counts)]] if len(sizes) else sizes, often)


def _counted(ascending: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct values of a sorted column, and how often each occurs; np.unique hashes, which takes much longer."""
    if not len(ascending):
        return ascending, ascending
    starts = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    return ascending[starts], np.diff(np.append(starts, len(ascending)))
