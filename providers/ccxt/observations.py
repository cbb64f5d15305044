"""The paging behaviour of an exchange, learned from earlier answers; it is lost at a restart and learned again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.timeframe import Timeframe
from providers.ccxt.sent import SentWindow

_MAX_SERIES = 20_000
_MIN_WINDOW = (
    100  # buckets that an exchange is assumed to search from a start on, until a row shows that it searches more
)
_MIN_CAP = 50  # two shorter pages of the same length may be chance


class SeriesKey(NamedTuple):
    """A series of an exchange; ``kind`` is ``spot``, ``swap`` or ``inverse``, for each has an endpoint of its own."""

    kind: str
    symbol: str
    timeframe: Timeframe


@dataclass(frozen=True, slots=True)
class _KnownRows:
    """The oldest and the newest row of a series in any answer, and when the oldest was last returned (ms)."""

    oldest: int
    newest: int
    seen_at: int


@dataclass(slots=True)
class _Endpoint:
    """The observations of an endpoint at one timeframe."""

    longest_page: int  # rows
    window: int = _MIN_WINDOW  # buckets
    cap: int | None = None  # rows; known after two pages were cut at the same length


class Observations:
    """The evidence of earlier answers, by series and by endpoint."""

    def __init__(self, rows_per_call: int | None) -> None:
        """Start with the documented number of rows per answer, if any."""
        self._documented_rows = rows_per_call or 0
        self._endpoints: dict[tuple[str, Timeframe], _Endpoint] = {}
        self._oldest_first: set[str] = set()
        self._known: LRUCache[SeriesKey, _KnownRows] = LRUCache(_MAX_SERIES)

    def is_cut(self, key: SeriesKey, rows: int, count: int | None) -> bool:
        """Whether a page of ``rows`` may have been cut: it has as many as requested, or as many as any page before."""
        longest = self._documented_rows or self._endpoint(key).longest_page
        return rows >= longest or (count is not None and rows >= count)

    def cap(self, key: SeriesKey) -> int | None:
        """The most rows of an answer, if two answers were cut there."""
        return self._endpoint(key).cap

    def window(self, key: SeriesKey) -> int:
        """The number of buckets from a start on that the exchange searches, as observed."""
        return self._endpoint(key).window

    def is_oldest_first(self, key: SeriesKey, found: Candles, sent: SentWindow) -> bool:
        """Whether a cut page from a start on was cut at its new side: it lacks a newer row that an earlier answer had.

        That row must be in the requested span, even if the exchange searches only as many buckets as requested rows,
        and one more where it counts them inclusively.
        """
        if key.kind in self._oldest_first:
            return True
        known, last = self._known.get(key), int(found.timestamp[-1])
        if known is None or known.newest <= last or sent.start is None or sent.count is None:
            return False
        horizon = key.timeframe.shift(sent.start, sent.count)
        return known.newest < horizon or last > horizon

    def reaches(self, key: SeriesKey, instant: int) -> bool:
        """Whether an answer had a row from before ``instant``, so that the exchange has not dropped later rows."""
        known = self._known.get(key)
        return known is not None and known.oldest + (clock.now_ms() - known.seen_at) < instant

    def has_row_before(self, key: SeriesKey, instant: int) -> bool:
        """Whether an answer had a row of a bucket that ended before ``instant``."""
        known = self._known.get(key)
        return known is not None and key.timeframe.next(known.oldest) <= instant

    def learn(self, key: SeriesKey, found: Candles, rows: int, sent: SentWindow) -> None:
        """Learn from an answer."""
        if not len(found):
            return
        first, last = int(found.timestamp[0]), int(found.timestamp[-1])
        width, endpoint = key.timeframe.nominal_ms, self._endpoint(key)
        if sent.start is not None:
            endpoint.window = max(endpoint.window, (last - sent.start) // width)
            if sent.end is None and self.is_cut(key, rows, sent.count) and self.is_oldest_first(key, found, sent):
                self._oldest_first.add(key.kind)
        is_dense = last - first == (rows - 1) * width
        if rows == endpoint.longest_page >= _MIN_CAP and is_dense and (sent.count is None or rows < sent.count):
            endpoint.cap = rows
        elif rows > endpoint.longest_page:
            endpoint.longest_page, endpoint.cap = rows, None
        known = self._known.get(key)
        if known is None or first <= known.oldest:
            known = _KnownRows(first, max(last, known.newest if known else last), clock.now_ms())
        self._known[key] = _KnownRows(known.oldest, max(last, known.newest), known.seen_at)

    def _endpoint(self, key: SeriesKey) -> _Endpoint:
        return self._endpoints.setdefault((key.kind, key.timeframe), _Endpoint(self._documented_rows))
