"""The trading sessions of American exchanges, including the hours before the opening and after the close, as Alpaca lists them.

A minute outside the sessions has no candle, and needs no fetch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from candlegraph import clock
from candlegraph.errors import ProviderError
from candlegraph.span import Span, Spans
from providers.alpaca.rest import RestClient, json_of, unreadable

_NEW_YORK = ZoneInfo("America/New_York")
_MARGIN = timedelta(days=7)  # read this many days before and after today: only live series use the calendar
_DEADLINE_S = 3.0


class TradingCalendar:
    """The sessions of the days around today, read once a day; everything also works without them."""

    def __init__(self, rest: RestClient, retry_s: float) -> None:
        """Start without sessions; a failed read is tried again after ``retry_s``."""
        self._rest = rest
        self._retry_s = retry_s
        self._read_on: date | None = None
        self._open = Spans()
        self._retry_at = 0.0
        self._lock = asyncio.Lock()

    async def closed_during(self, span: Span) -> bool:
        """Whether the exchanges were closed during all of ``span``; False if that is not known."""
        today = datetime.fromtimestamp(clock.now_ms() / 1000, UTC).astimezone(_NEW_YORK).date()
        first, last = today - _MARGIN, today + _MARGIN
        known = Span(_instant(first, "0000"), _instant(last, "0000"))
        if not span or span & known != span:
            return False
        async with self._lock:
            if self._read_on != today and not await self._read(first, last, today):
                return False
        return not self._open & Spans([span])

    async def _read(self, first: date, last: date, today: date) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        url = f"{self._rest.account.trading_url}/v2/calendar"
        try:
            body = await self._rest.get(url, {"start": str(first), "end": str(last)}, _DEADLINE_S)
            self._open = _sessions(json_of(body))
        except ProviderError as error:
            self._retry_at = time.monotonic() + self._retry_s
            logging.getLogger(__name__).warning("no calendar, so closed hours are fetched as well: %s", error)
            return False
        self._read_on = today
        return True


def _sessions(days: object) -> Spans:
    try:
        if not isinstance(days, list) or not days:  # two weeks without a session have never happened
            raise unreadable()
        return Spans(
            Span(*(_instant(date.fromisoformat(day["date"]), day[edge]) for edge in ("session_open", "session_close")))
            for day in days
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise unreadable() from None


def _instant(day: date, local: str) -> int:
    """The instant (ms, UTC) of a New York time such as ``0930`` or ``09:30``."""
    at = datetime.strptime(local.replace(":", ""), "%H%M").replace(
        year=day.year, month=day.month, day=day.day, tzinfo=_NEW_YORK
    )
    return round(at.timestamp() * 1000)
