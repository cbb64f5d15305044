"""The newest stored candle of many symbols: one statement, no provider, and arrays instead of objects.

A bucket counts only if it is covered from its opening on: to its end if it has settled, else without a gap up to its last
covered minute. The candle of a bucket that has not settled is folded from its final minutes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from candlegraph import clock
from candlegraph.candle import Bools, Candles, Floats
from candlegraph.clock import DAY_MS
from candlegraph.errors import BadUserInput
from candlegraph.latest import LatestCandles
from candlegraph.series import InstrumentColumns
from candlegraph.series_candles import SeriesCandles
from candlegraph.timeframe import MINUTE, ORIGIN_MS, Timeframe
from candlegraph.trading_calendar import TradingCalendar
from candlegraph.trading_hours import TradingHours
from candlegraph.zone import Int64s, Zone
from history.orchestrator import History
from storage.aggregates.continuous import ContinuousReader
from storage.aggregates.latest import LatestRead, NewestRows, read_latest
from storage.relations import BASE_RELATION, Aggregates

MAX_ROWS = 300_000  # of all symbols together: 15 MB

_OFFSET_MS, _BITS = 1 << 43, 45  # pack a position and an instant (ms, UTC) into one int64 that sorts by both
_NEVER_MS = 1 << 43
_DECADE, _DAY = Timeframe(10, "y"), Timeframe(1, "d")


@dataclass(frozen=True, slots=True)
class LatestRequest:
    """Symbols of a provider, and the buckets of their candles; days open in ``zone``. All symbols have the ``calendar``, if any."""

    market: str
    provider: str
    timeframe: Timeframe
    zone: Zone
    symbols: Sequence[str] | None = None
    pattern: str | None = None
    after: str | None = None
    first: int = 0
    calendar: TradingCalendar | None = None

    @property
    def trading(self) -> TradingHours | None:
        """The hours outside of which nothing is expected."""
        return self.zone.hours or (self.calendar.extended.hours if self.calendar else None)

    @property
    def has_calendar_days(self) -> bool:
        """Whether its buckets are days or longer, and made of regular sessions."""
        return bool(self.zone.hours) and not self.timeframe.width_ms


@dataclass(frozen=True, slots=True)
class _Time:
    """The present by the provider's clock: buckets that end by ``settled`` are final, minutes before ``minute`` available."""

    settled: int
    minute: int


@dataclass(frozen=True, slots=True, eq=False)
class _Buckets:
    """Buckets with candles, ascending by position and opening; ``reached`` is the end of their contiguous coverage."""

    candles: Candles
    owner: Int64s
    end: Int64s
    reached: Int64s


async def latest_candles(history: History, request: LatestRequest) -> LatestCandles:
    """The newest known candle of each existing symbol, in the requested order. BadUserInput: too many rows."""
    level, relation = _level(history.aggregates, request.timeframe, request.zone)
    count = len(request.symbols) if request.symbols is not None else request.first
    buckets_rows = -(-request.timeframe.nominal_ms // level.nominal_ms)
    rows = 4 if level == request.timeframe else 3 * buckets_rows + 1
    if request.zone.hours:  # the newest rows may lie outside: a night, or a long weekend
        rows += 4 * DAY_MS // level.nominal_ms
    if rows * count > MAX_ROWS:
        raise BadUserInput(
            f"{count:,} symbols at {request.timeframe} in {request.zone.name} are made of too many rows: ask for fewer."
        )
    read = LatestRead(
        request.market, request.provider, request.timeframe, level, relation, rows,
        request.symbols, request.pattern, request.after, request.first,
        isinstance(history.store.reading, ContinuousReader), _DAY if request.has_calendar_days else None,
    )  # fmt: skip
    records, made, native = await read_latest(history.store.database, read)
    time = _time(history, request)
    found = [_buckets(made, request, records, time.settled)]
    if request.zone.hours is None and (set(records.timezone) <= {request.zone.name} or request.timeframe.width_ms):
        found.append(_buckets(native, request, records, time.settled))
    if request.has_calendar_days:
        found.append(_buckets(_native_days(native, records), request, records, time.settled, native=True))
        found[0] = _of(found[0], ~_is_native(records)[found[0].owner])
    return _newest(found, records, request, time)


def _time(history: History, request: LatestRequest) -> _Time:
    """The present by the clock of a running provider, else by our own."""
    name = (request.market, request.provider)
    status = history.providers.status(*name)
    running = history.providers.running(*name)
    now = running.now_ms() if running else clock.now_ms()
    settle_ms = status.capabilities.settle_ms if status else 0  # imported candles without a provider settle at once
    final_after_ms = status.capabilities.final_after_ms if status else 0
    return _Time(request.timeframe.settled(now - settle_ms, request.zone), MINUTE.floor(now - final_after_ms))


def _level(aggregates: Aggregates, timeframe: Timeframe, zone: Zone) -> tuple[Timeframe, str]:
    """The coarsest aggregate of 1m candles that folds into ``timeframe``; its days are those of UTC."""
    found = [(level, relation) for level, relation in aggregates.items() if _nests(level, timeframe, zone)]
    return max(found, key=lambda item: item[0].nominal_ms, default=(MINUTE, BASE_RELATION))


def _nests(level: Timeframe, timeframe: Timeframe, zone: Zone) -> bool:
    if zone.hours is None:
        return (bool(level.width_ms) or zone.is_utc) and level.nests_in(timeframe, zone)
    recent = zone.hours.grid_ms(_DECADE.floor(clock.now_ms()), ORIGIN_MS)
    return bool(level.width_ms) and timeframe.width_ms % level.width_ms == 0 and recent % level.width_ms == 0


def _is_native(records: InstrumentColumns) -> Bools:
    return np.array([bool(native) for native in records.native_days], np.bool_)


def _native_days(rows: NewestRows, records: InstrumentColumns) -> NewestRows:
    """The rows of the symbols whose days are those of their provider."""
    kept = _is_native(records)[rows.owner]
    return replace(rows, candles=rows.candles[kept], owner=rows.owner[kept])


def _of(buckets: _Buckets, kept: Bools) -> _Buckets:
    return _Buckets(buckets.candles[kept], buckets.owner[kept], buckets.end[kept], buckets.reached[kept])


def _buckets(
    rows: NewestRows, request: LatestRequest, records: InstrumentColumns, settled: int, *, native: bool = False
) -> _Buckets:
    """The rows folded into buckets, without the buckets that are not covered."""
    timeframe, zone = request.timeframe, request.zone
    if zone.hours and not native:
        kept = zone.hours.contains(rows.candles.timestamp)
        rows = replace(rows, candles=rows.candles[kept], owner=rows.owner[kept])
    stamps = rows.candles.timestamp
    index = timeframe.index(stamps, zone)
    changes = np.ones(len(stamps), np.bool_)
    changes[1:] = (index[1:] != index[:-1]) | (rows.owner[1:] != rows.owner[:-1])
    starts = np.flatnonzero(changes)
    owner, opens = rows.owner[starts], timeframe.open_at(index[starts], zone)
    ends = timeframe.open_at(index[starts] + 1, zone)
    folded = _fold(rows.candles, starts, opens)
    # Where there are trading hours, nothing needs to be covered before the first trading of a bucket and after its last.
    first, last = zone.hours.trim_all(opens, ends) if zone.hours else (opens, ends)
    reached, covered, broken = _reached(_joined(rows, request.trading), owner, first, last, records)
    if request.trading:
        reached = np.where(reached >= last, np.maximum(ends, request.trading.resume_all(reached)), reached)
    whole = covered & ((reached >= ends) | ((ends > settled) & ~broken))
    # The limit of rows may have cut off the first rows of the oldest bucket.
    oldest = np.append(True, owner[1:] != owner[:-1]) if len(owner) else np.empty(0, np.bool_)
    whole &= ~(oldest & rows.full[owner] & (stamps[starts] != opens))
    return _Buckets(folded[whole], owner[whole], ends[whole], reached[whole])


def _joined(rows: NewestRows, trading: TradingHours | None) -> NewestRows:
    """The rows, with neighbouring covered spans as one where there is no trading between them."""
    if trading is None or not len(rows.since):
        return rows
    apart = (rows.span_owner[1:] != rows.span_owner[:-1]) | trading.overlaps(rows.until[:-1], rows.since[1:])
    starts = np.flatnonzero(np.append(True, apart))
    ends = np.append(starts[1:], len(rows.since)) - 1
    return replace(rows, since=rows.since[starts], until=rows.until[ends], span_owner=rows.span_owner[starts])


def _fold(candles: Candles, starts: Int64s, opens: Int64s) -> Candles:
    if len(starts) == len(candles):
        return replace(candles, timestamp=opens)
    ends = np.append(starts[1:], len(candles)) - 1
    return Candles.of(
        opens,
        candles.open[starts],
        np.maximum.reduceat(candles.high, starts),
        np.minimum.reduceat(candles.low, starts),
        candles.close[ends],
        np.add.reduceat(candles.volume, starts),
    )


def _reached(
    rows: NewestRows, owner: Int64s, opens: Int64s, ends: Int64s, records: InstrumentColumns
) -> tuple[Int64s, Bools, Bools]:
    """Of each bucket: the end of its contiguous coverage, whether its opening is covered, and whether a gap is within it.

    The time before a symbol's listing and after its delisting counts as covered.
    """
    if not len(rows.since):
        nowhere = np.zeros(len(opens), np.bool_)
        return opens, nowhere, nowhere
    first = np.array([-_NEVER_MS if at is None else at for at in records.first_available], np.int64)
    ended = np.array([_NEVER_MS if at is None else at for at in records.ended_at], np.int64)
    begin = np.maximum(opens, np.minimum(first[owner] // 60_000 * 60_000, ends - 1))
    keys = (rows.span_owner << _BITS) + rows.since + _OFFSET_MS
    at = keys.searchsorted((owner << _BITS) + begin + _OFFSET_MS, side="right") - 1
    span = np.maximum(at, 0)
    covered = (at >= 0) & (rows.span_owner[span] == owner) & (rows.until[span] > begin)
    until = rows.until[span]
    following = np.minimum(span + 1, len(keys) - 1)
    broken = (following > span) & (rows.span_owner[following] == owner) & (rows.since[following] < ends)
    reached = np.where(until >= ended[owner], _NEVER_MS, until)
    return reached, covered, broken


def _newest(
    found: Sequence[_Buckets], records: InstrumentColumns, request: LatestRequest, time: _Time
) -> LatestCandles:
    """The newest bucket of each symbol; if there are two of it, the one made of 1m candles, which is first in ``found``."""
    owner = np.concatenate([one.owner for one in found])
    columns = [np.concatenate(parts) for parts in zip(*(one.candles.columns for one in found), strict=True)]
    made = np.repeat(np.arange(len(found)), [len(one.owner) for one in found])
    order = np.lexsort((-made, columns[0], owner))
    owner, candles = owner[order], Candles.of(*(column[order] for column in columns[:6]))
    end, reached = (np.concatenate([getattr(one, n) for one in found])[order] for n in ("end", "reached"))
    last = np.flatnonzero(np.append(owner[1:] != owner[:-1], True)) if len(owner) else np.empty(0, np.int64)
    before = _before(last, owner, candles)
    known, current = np.zeros(len(records), np.bool_), np.zeros(len(records), np.bool_)
    closes: Floats = np.full(len(records), np.nan)
    known[owner[last]] = True
    closed = end[last] <= time.settled
    current[owner[last]] = reached[last] >= np.where(closed, time.settled, time.minute)
    joined = (before >= 0) & (reached[before] >= candles.timestamp[last]) if len(last) else before >= 0
    closes[owner[last][joined]] = candles.close[before[joined]]
    newest = candles[last].with_closed(closed)
    return LatestCandles(records, known, SeriesCandles(newest, request.timeframe, request.zone), current, closes)


def _before(last: Int64s, owner: Int64s, candles: Candles) -> Int64s:
    """The position of the bucket before each of ``last``, of the same symbol; -1 if there is none."""
    before = last - 1
    # A bucket may be there twice: folded from 1m candles, and native.
    twin = (before >= 0) & (owner[before] == owner[last]) & (candles.timestamp[before] == candles.timestamp[last])
    before = np.where(twin, before - 1, before)
    return np.where((before >= 0) & (owner[before] == owner[last]), before, -1)
