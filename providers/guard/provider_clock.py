"""The clock of an upstream. It decides which candles are final; our wall clock must not, because it can step."""

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
STEP_MS = 1_000  # our wall clock has stepped if it moves by more than this against the monotonic one
DATE_RESOLUTION_MS = 1_000


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """An instant by the upstream's clock, and the time of our monotonic clock at that moment."""

    at_ms: int
    monotonic_ms: int

    def now_ms(self) -> int:
        """The present time by the upstream's clock (ms, UTC)."""
        return self.at_ms + clock.monotonic_ms() - self.monotonic_ms


class ProviderClock:
    """The last time that the upstream reported, plus the monotonic time since.

    It is measured at the start, each hour, and when our wall clock steps. If the upstream has no ``server_time``, the ``Date``
    of its answers is used. Without either it is our wall clock, and only rows prove what is past; see `proved_until`.
    """

    def __init__(self, provider: Provider, calls: UpstreamCalls) -> None:
        """Start without a measurement."""
        self._provider, self._calls = provider, calls
        self._reported: ClockAnchor | None = None  # by server_time or by a Date
        self._is_measured = False  # by server_time, which is more precise
        self._seen: ClockAnchor | None = None  # by its rows: a lower bound of its time
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
        """The instant before which everything has settled for sure; None for an upstream without live data.

        If the upstream reports no time, its newest row is the evidence. Anything older than a day is past by any clock.
        """
        capabilities = self._provider.capabilities
        if capabilities.live is LiveMode.NONE:
            return None
        if self._reported:
            return self._reported.now_ms() - capabilities.settle_ms
        proved = min(self._newest, self._seen.now_ms() - capabilities.settle_ms) if self._seen else 0
        return max(proved, clock.wall_ms() - DAY_MS)

    def note_date(self, at_ms: int, elapsed_ms: int = 0) -> None:
        """Compare with the ``Date`` of the answer to a request that was sent ``elapsed_ms`` ago."""
        low, high = at_ms, at_ms + DATE_RESOLUTION_MS + elapsed_ms
        if (self._reported and low <= self._reported.now_ms() <= high) or not _is_plausible(at_ms):
            return
        if self._is_measured:  # prefer that: the Date of some servers is not the clock of their candles
            self._next = min(self._next, self._retry_at)
        else:
            ahead = self._reported is not None and self._reported.now_ms() > high
            self._reported = ClockAnchor(high if ahead else low, clock.monotonic_ms())

    def note_rows(self, candles: Candles) -> None:
        """Note valid candles, ascending, of a requested span: their times are in the past of the upstream's clock.

        A last candle that is ahead of our wall clock is not used, because the provider may be wrong; the one before it is.
        """
        if self._provider.capabilities.live is LiveMode.NONE:  # its candles may have any time
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
        except RuntimeError:  # called in a thread: the next call in the event loop measures
            return
        stepped = abs(_parted_by() - self._parted_by) > STEP_MS
        if (stepped or loop.time() >= self._next) and (self._task is None or self._task.done()):
            self._next = float("inf")
            self._task = asyncio.create_task(self.measure())

    async def measure(self) -> None:
        """Request the upstream's time; it was right after half of the round trip. After a failure the clock stays as it was."""
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
        except Exception as error:  # noqa: BLE001 - after any failure the clock stays as it was
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
    """The clock for one call of the provider, which knows when the call began."""

    def __init__(self, provider_clock: ProviderClock) -> None:
        """Note that the call begins now."""
        self._clock, self._began_ms = provider_clock, clock.monotonic_ms()

    def now_ms(self) -> int:
        """As `ProviderClock.now_ms`."""
        return self._clock.now_ms()

    def note_date(self, at_ms: int) -> None:
        """As `ProviderClock.note_date`."""
        self._clock.note_date(at_ms, clock.monotonic_ms() - self._began_ms)


def _is_plausible(at_ms: int) -> bool:
    """Whether it is within a day of our clock; otherwise the upstream's clock has other units or is broken."""
    return abs(at_ms - clock.wall_ms()) < DAY_MS


def _parted_by() -> int:
    return clock.wall_ms() - clock.monotonic_ms()
