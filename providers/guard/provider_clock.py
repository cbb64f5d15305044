"""The clock of an upstream: it decides what is final, and never our wall clock does, which can step."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.clock import DAY_MS
from candlegraph.provider import LiveMode, Provider, SupportsServerTime
from candlegraph.upstream import Urgency
from providers.guard.calls import UpstreamCalls

log = logging.getLogger(__name__)

DEADLINE_S = 2.0
MEASURE_INTERVAL_S, RETRY_INTERVAL_S = 3600.0, 60.0
STEP_MS = 1_000  # our two clocks have parted when they differ by more than before
DATE_RESOLUTION_MS = 1_000


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """An instant by the upstream's clock, and what our monotonic clock showed then."""

    at_ms: int
    monotonic_ms: int

    def now_ms(self) -> int:
        """The upstream's clock now."""
        return self.at_ms + clock.monotonic_ms() - self.monotonic_ms


class ProviderClock:
    """The upstream's last time, plus the monotonic time since.

    It is measured at the start, each hour, and when our wall clock steps. An upstream without a ``server_time`` is read by the
    ``Date`` of its answers. Without either it is our wall clock, and the rows prove what is past; see `proved_until`.
    """

    def __init__(self, provider: Provider, calls: UpstreamCalls) -> None:
        """Not measured yet."""
        self._provider, self._calls = provider, calls
        self._reported: ClockAnchor | None = None  # by server_time or by a Date
        self._is_measured = False  # by server_time, which is exacter
        self._seen: ClockAnchor | None = None  # by its rows: it is at least so late
        self._newest = 0  # the opening of the newest row
        self._parted_by = _parted_by()
        self._next = self._retry_at = float("inf")
        self._task: asyncio.Task[None] | None = None

    def now_ms(self) -> int:
        """The instant by the upstream's clock (ms, UTC)."""
        if self._reported:
            return self._reported.now_ms()
        return max(clock.wall_ms(), self._seen.now_ms() if self._seen else 0)

    def proved_until(self) -> int | None:
        """What has settled for sure; None where nothing moves.

        Where the upstream gives no time, its newest row is the evidence. Anything older than a day is past by any clock.
        """
        capabilities = self._provider.capabilities
        if capabilities.live is LiveMode.NONE:
            return None
        if self._reported:
            return self._reported.now_ms() - capabilities.settle_ms
        proved = min(self._newest, self._seen.now_ms() - capabilities.settle_ms) if self._seen else 0
        return max(proved, clock.wall_ms() - DAY_MS)

    def note_date(self, at_ms: int, elapsed_ms: int = 0) -> None:
        """Compare with the ``Date`` of an answer to a question that was put ``elapsed_ms`` ago."""
        low, high = at_ms, at_ms + DATE_RESOLUTION_MS + elapsed_ms
        if (self._reported and low <= self._reported.now_ms() <= high) or not _is_plausible(at_ms):
            return
        if self._is_measured:  # some servers' Date is not the clock of their candles
            self._next = min(self._next, self._retry_at)
        else:
            ahead = self._reported is not None and self._reported.now_ms() > high
            self._reported = ClockAnchor(high if ahead else low, clock.monotonic_ms())

    def note_rows(self, candles: Candles) -> None:
        """Take in valid candles, ascending, of a span that was asked for: none opens in the future.

        One candle that is ahead of our wall clock is no evidence of its own, for the provider may be wrong: the one before is.
        """
        if self._provider.capabilities.live is LiveMode.NONE:  # its candles are of any time
            return
        now, stamps = clock.wall_ms(), candles.timestamp
        past = int(stamps.searchsorted(now, side="right"))
        ahead = stamps[past:][stamps[past:] < now + DAY_MS]
        found = [*stamps[:past].tolist()[-1:], *ahead[:-1].tolist()]
        if not found:
            return
        newest = found[-1]
        self._newest = max(self._newest, newest)
        if self._seen is None or newest > self._seen.now_ms():
            self._seen = ClockAnchor(newest, clock.monotonic_ms())

    def keep(self) -> None:
        """Measure it again in the background if it is due or our wall clock has stepped."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # read in a thread: the next reading on the loop sees to it
            return
        stepped = abs(_parted_by() - self._parted_by) > STEP_MS
        if (stepped or loop.time() >= self._next) and (self._task is None or self._task.done()):
            self._next = float("inf")
            self._task = asyncio.create_task(self.measure())

    async def measure(self) -> None:
        """Ask what time it is there: the answer is as old as half of its way. Without one, it goes on as it was."""
        self._parted_by = _parted_by()
        provider, loop = self._provider, asyncio.get_running_loop()
        if not isinstance(provider, SupportsServerTime):
            return
        self._next = loop.time() + MEASURE_INTERVAL_S
        self._retry_at = loop.time() + RETRY_INTERVAL_S

        async def ask() -> ClockAnchor:
            began = clock.monotonic_ms()
            there, ended = int(await provider.server_time()), clock.monotonic_ms()
            return ClockAnchor(there + (ended - began) // 2, ended)

        where = f"{provider.market.id}/{provider.id}"
        try:
            reading = await self._calls.make_once(ask, Urgency.LIVE, loop.time() + DEADLINE_S, DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the clock goes on as it was
            log.info("the clock of %s could not be read: %s", where, error)
            return
        if _is_plausible(reading.at_ms):
            self._reported, self._is_measured = reading, True
        else:
            log.warning("the clock of %s shows %d, a day or more from ours: it is ignored", where, reading.at_ms)

    async def close(self) -> None:
        """Stop measuring."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class CallClock:
    """The clock as one call of the provider reads it."""

    def __init__(self, provider_clock: ProviderClock) -> None:
        """The call begins now."""
        self._clock, self._began_ms = provider_clock, clock.monotonic_ms()

    def now_ms(self) -> int:
        """As `ProviderClock.now_ms`."""
        return self._clock.now_ms()

    def note_date(self, at_ms: int) -> None:
        """As `ProviderClock.note_date`."""
        self._clock.note_date(at_ms, clock.monotonic_ms() - self._began_ms)


def _is_plausible(at_ms: int) -> bool:
    """Whether an upstream's clock may show it: one that is a day from ours counts in other units, or is broken."""
    return abs(at_ms - clock.wall_ms()) < DAY_MS


def _parted_by() -> int:
    return clock.wall_ms() - clock.monotonic_ms()
