"""Prints a trading calendar of exchange-calendars as JSON: ``python -m storage.calendar_process NAME SINCE UNTIL``.

A process of its own, because the library needs pandas: seconds and 100 MB that a server should not spend.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import exchange_calendars
import numpy as np
from exchange_calendars.calendar_utils import global_calendar_dispatcher
from exchange_calendars.errors import CalendarError

from candlegraph.clock import DAY_MS, HOUR_MS
from candlegraph.zone import Int64s, zone

UNKNOWN = 3  # the exit status where there is no such calendar
# Trading before and after the regular session, which the library does not know: the first hour of the local day, and the
# hours after the close. New York: from 04:00 to 20:00, to 17:00 where the session ends at 13:00.
_EXTENDED = {"XNYS": (4 * HOUR_MS, 4 * HOUR_MS), "XNAS": (4 * HOUR_MS, 4 * HOUR_MS)}


def columns_of(name: str, since: str, until: str) -> dict[str, Any]:
    """The columns of a `TradingCalendar`, from ``since`` or the first date that the library knows. CalendarError."""
    known = global_calendar_dispatcher._calendar_factories  # noqa: SLF001 - the library offers no other way to its bounds
    names = exchange_calendars.get_calendar_names(include_aliases=True)
    bound = known[global_calendar_dispatcher.resolve_alias(name)].bound_min() if name in names else None
    first = since if bound is None else max(since, str(bound.date()))
    calendar = exchange_calendars.get_calendar(name, start=first, end=until)
    schedule = calendar.schedule
    dates = schedule.index.to_numpy().astype("datetime64[D]").astype(np.int64)
    opens, closes = _ms(schedule["open"]), _ms(schedule["close"])
    starts, ends = (_ms(schedule[column]) for column in ("break_start", "break_end"))
    broken = starts < ends
    before, after = _extended(name, str(calendar.tz), dates, opens, closes)
    early = np.isin(dates, calendar.early_closes.to_numpy().astype("datetime64[D]").astype(np.int64))
    columns = {
        "dates": dates, "opens": opens, "closes": closes,
        "break_starts": np.where(broken, starts, closes), "break_ends": np.where(broken, ends, closes),
        "extended_opens": before, "extended_closes": after, "early": early,
    }  # fmt: skip
    return {"name": name, "timezone": str(calendar.tz), **{key: column.tolist() for key, column in columns.items()}}


def _ms(column: Any) -> Int64s:
    """Instants in ms, UTC; what is missing is far in the past."""
    return np.asarray(
        column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    )


def _extended(name: str, timezone: str, dates: Int64s, opens: Int64s, closes: Int64s) -> tuple[Int64s, Int64s]:
    """The extended hours: the whole local day where they are not known."""
    days = zone(timezone)
    if name in _EXTENDED:
        morning, evening = _EXTENDED[name]
        return np.minimum(opens, days.instants(dates * DAY_MS + morning)[0]), closes + evening
    return np.minimum(opens, days.open_of_day(dates)), np.maximum(closes, days.open_of_day(dates + 1))


def main() -> int:
    """Print one calendar."""
    try:
        found = columns_of(*sys.argv[1:4])
    except CalendarError as error:
        sys.stderr.write(f"{error}\n")
        return UNKNOWN
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
