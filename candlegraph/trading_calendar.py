"""Trading calendars: the sessions of an exchange, and the zones in which the buckets of its instruments open.

A calendar is the same everywhere, as a time zone is: storage/calendars.py computes it, and `install` makes it known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache

import numpy as np

from candlegraph.clock import DAY_MS
from candlegraph.errors import BadUserInput
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.trading_hours import Bools, Int64s, TradingHours
from candlegraph.zone import Zone, zone

_FIRST_DAY, _LAST_DAY = -29_220, 119_430  # 1889-12-31 and 2296-12-28: as far as a `Zone` reaches
_MONDAY = 4  # 1970-01-05, the first Monday, in days since the epoch


class SessionFilter(StrEnum):
    """Which candles of an instrument with a calendar are wanted."""

    ALL = "ALL"
    REGULAR = "REGULAR"
    EXTENDED = "EXTENDED"


@dataclass(frozen=True, slots=True)
class TradingSession:
    """One regular session; instants in ms, UTC. ``date`` is its local date (ISO 8601); ``early``: it closes before its usual time."""

    date: str
    opens_at: int
    closes_at: int
    break_starts_at: int | None
    break_ends_at: int | None
    early: bool


@dataclass(frozen=True, slots=False, eq=False)
class TradingCalendar:
    """The sessions of an exchange as equally long columns, ascending: (n,) int64, instants in ms, UTC.

    ``dates`` are days since 1970-01-01. Without a break both of its columns are equal to the close. The extended hours
    contain the session: with the trading before and after it, or the whole local day where that trading is not known.
    """

    name: str
    timezone: str
    dates: Int64s
    opens: Int64s
    closes: Int64s
    break_starts: Int64s
    break_ends: Int64s
    extended_opens: Int64s
    extended_closes: Int64s
    early: Bools

    def sessions(self, span: Span) -> list[TradingSession]:
        """The known sessions that overlap ``span``."""
        first = int(np.searchsorted(self.closes, span.since, side="right"))
        last = int(np.searchsorted(self.opens, span.until, side="left"))
        dates = np.datetime_as_string(self.dates[first:last].astype("datetime64[D]"), unit="D").tolist()
        names = (self.opens, self.closes, self.break_starts, self.break_ends, self.early)
        found = []
        for day, *row in zip(dates, *(column[first:last].tolist() for column in names), strict=True):
            opens, closes, start, end, early = row
            pause = (start, end) if start < end else (None, None)
            found.append(TradingSession(day, opens, closes, pause[0], pause[1], early))
        return found

    @cached_property
    def days(self) -> Zone:
        """The zone of its days: of its local time, moved forward where a session opens on the evening before its date."""
        local = zone(self.timezone)
        before = max(0, int(np.max(local.open_of_day(self.dates) - self.opens)))
        return replace(local, offsets=local.offsets + before) if before else local

    @cached_property
    def regular(self) -> Zone:
        """Where its buckets open: days follow `days` and are made of regular sessions, shorter ones open with the session."""
        opens, closes = (self._everywhere(column) for column in (self.opens, self.closes))
        starts, ends = (self._everywhere(column) for column in (self.break_starts, self.break_ends))
        with_break = ends > starts
        parts = (
            np.concatenate([opens, ends[with_break]]),
            np.concatenate([np.minimum(starts, closes), closes[with_break]]),
        )
        return replace(self.days, hours=_hours(f"regular:{self.name}", *parts, anchored=True))

    @cached_property
    def extended(self) -> Zone:
        """The zone of candles with the trading before and after the regular sessions, on the grid of UTC."""
        opens, closes = self._everywhere(self.extended_opens), self._everywhere(self.extended_closes)
        return replace(self.days, hours=_hours(f"extended:{self.name}", opens, closes, anchored=False))

    @cached_property
    def _outside(self) -> tuple[Int64s, Int64s]:
        """The dates before and after the known ones on which it is assumed to trade: its weekdays, without holidays."""
        weekdays = np.unique((self.dates[-260:] - _MONDAY) % 7)
        before = np.arange(_FIRST_DAY, self.dates[0], dtype=np.int64)
        after = np.arange(self.dates[-1] + 1, _LAST_DAY, dtype=np.int64)
        before, after = (days[np.isin((days - _MONDAY) % 7, weekdays)] for days in (before, after))
        return before, after

    def _everywhere(self, column: Int64s) -> Int64s:
        """A column of instants, and on the dates outside the known ones the usual local times of the nearest sessions."""
        local, (before, after) = zone(self.timezone), self._outside
        times = local.local(column) - self.dates * DAY_MS
        usual = (int(np.median(times[:260])), int(np.median(times[-260:])))
        parts = [local.instants(days * DAY_MS + time)[0] for days, time in zip((before, after), usual, strict=True)]
        return np.concatenate([parts[0], column, parts[1]])


def _hours(name: str, opens: Int64s, closes: Int64s, *, anchored: bool) -> TradingHours:
    """The hours of parts in any order; those that touch or overlap become one, unless buckets are anchored at their openings."""
    order = np.argsort(opens, kind="stable")
    opens, closes = opens[order], closes[order]
    kept = closes > opens
    opens, closes = opens[kept], closes[kept]
    if not anchored:
        apart = np.append(True, opens[1:] > np.maximum.accumulate(closes)[:-1])
        last = np.append(np.flatnonzero(apart)[1:], len(opens)) - 1
        opens, closes = opens[apart], np.maximum.accumulate(closes)[last]
    return TradingHours(name, opens, np.append(np.minimum(closes[:-1], opens[1:]), closes[-1:]), anchored)


_installed: dict[str, TradingCalendar] = {}


def install(calendar: TradingCalendar) -> None:
    """Make a calendar known to this process, in place of an older one of its name."""
    _installed[calendar.name] = calendar


def installed() -> Mapping[str, TradingCalendar]:
    """The calendars that this process knows."""
    return _installed


def calendar_of(record: InstrumentRecord) -> TradingCalendar | None:
    """The calendar of an instrument; None if it has none: it always trades."""
    return None if record.calendar is None else _installed.get(record.calendar)


def series_zone(
    record: InstrumentRecord,
    timeframe: Timeframe,
    session: SessionFilter = SessionFilter.ALL,
    asked: Zone | None = None,
) -> Zone:
    """The zone in which the buckets of a series open, with the trading hours that they are made of.

    ``asked`` is the caller's zone; below a day it only names dates. BadUserInput where it, or ``session``, does not apply to
    days of an instrument with a calendar.
    """
    if asked is not None and asked.hours is not None:
        return asked
    calendar = calendar_of(record)
    found = calendar and calendar_zone(calendar, timeframe, session, asked)
    return found or asked or zone(record.timezone)


def calendar_zone(
    calendar: TradingCalendar, timeframe: Timeframe, session: SessionFilter, asked: Zone | None
) -> Zone | None:
    """As `series_zone`, for any instrument of a calendar; None where every candle counts on the grid of UTC. BadUserInput."""
    if timeframe.width_ms:
        if session is SessionFilter.ALL:
            return None
        found = calendar.regular if session is SessionFilter.REGULAR else calendar.extended
        return found if asked is None or asked.name == found.name else _with_hours(asked, found.hours)
    if session is SessionFilter.EXTENDED:
        raise BadUserInput(
            f"{timeframe} is made of the regular sessions of {calendar.name}: EXTENDED is for less than a day."
        )
    if asked is not None and asked.name != calendar.timezone:
        raise BadUserInput(
            f"Days are those of the trading calendar {calendar.name}, in {calendar.timezone}: leave `timezone` out."
        )
    return calendar.regular


def tradable(record: InstrumentRecord, spans: Spans, timeframe: Timeframe, days: Zone) -> Spans:
    """``spans`` from the first bucket with trading in each to the last; the time outside the extended hours is closed."""
    calendar = calendar_of(record)
    if calendar is None or calendar.extended.hours is None:
        return spans
    open_spans = (Span(*calendar.extended.hours.trim(span.since, span.until)) for span in spans)
    return spans & Spans(span.outer(timeframe, days) for span in open_spans if span)


@lru_cache(maxsize=256)
def _with_hours(asked: Zone, hours: TradingHours | None) -> Zone:
    """One object for the same zone and hours: requests are compared by it."""
    return replace(asked, hours=hours)


def topic_zone(name: str) -> Zone:
    """The zone by the `Zone.key` of a topic: an IANA name, or the hours of an installed calendar."""
    kind, _, calendar = name.partition(":")
    if not calendar:
        return zone(name)
    return _installed[calendar].regular if kind == "regular" else _installed[calendar].extended
