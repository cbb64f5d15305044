"""What moves of one instrument: its provider followed once, however many listen, at 1m alone.

Every other timeframe is folded from these minutes. The provider's history is the authority for what is final: a stream
shows the forming minute, and a minute is closed by asking for it once it has settled.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from zlib import crc32

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import CandlegraphError
from candlegraph.provider import Live, Provider, Streaming
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from realtime.topic import Topic
from storage.candles import CandleStore, Read
from storage.collector import Collector

log = logging.getLogger(__name__)

POLL_S = 5.0  # how often the forming minute is asked for where there is no stream
STREAM_POLL_S = 60.0  # and where there is one: at least once a minute, when it closes
LATE_S = (3.0, 10.0)  # how long after it was due a minute is asked for again that should be final and is not there
SPREAD_S = 2.0  # within which the symbols are read when a minute settles, each at its own place: not all at once
MAX_BACKOFF_S = 60.0


class Feed:
    """Follows one instrument until it is closed. ``edge``: every minute before it is final and stored."""

    def __init__(self, record: Record, provider: Provider, collector: Collector, store: CandleStore) -> None:
        """Start following at the present."""
        self._record = record
        self._provider = provider
        self._collector = collector
        self._store = store
        self._settle_ms = provider.capabilities.settle_ms
        self._place_s = crc32(str(record.instrument).encode()) % 1000 / 1000 * SPREAD_S
        self.edge = MINUTE.floor(clock.now_ms() - self._settle_ms)
        self.minutes = Candles.empty()  # those that are not final yet
        self.topics: dict[tuple[object, ...], Topic] = {}
        self.pins = 0  # topics that are being made
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    # The stream first, then history up to it: between the two no minute is without a source.
                    if self._provider.capabilities.live is Live.STREAM and isinstance(self._provider, Streaming):
                        group.create_task(self._watch(self._provider.stream(self._record.instrument)))
                        period = STREAM_POLL_S
                    else:
                        period = POLL_S
                    while True:
                        await self._advance()
                        failures = 0
                        await asyncio.sleep(self._pause(period))
            except* Exception as group_error:
                error = group_error.exceptions[0]
                if not self.ready.done():
                    self.ready.set_exception(error)
                if not isinstance(error, CandlegraphError | _StreamEnded):
                    log.exception("following %s failed unexpectedly", self._record.instrument)
            # Full jitter: a thousand feeds cut at once must not come back at once.
            failures += 1
            await asyncio.sleep(random.uniform(0.1, min(MAX_BACKOFF_S, 2.0**failures)))  # noqa: S311

    def _pause(self, period: float) -> float:
        """Seconds to the next read: when a minute settles, again where it is not there yet, and each ``period``."""
        due = (self.edge + MINUTE_MS + self._settle_ms - clock.now_ms()) / 1000 + self._place_s
        if due <= 0:
            due = next((after + due for after in LATE_S if after + due > 0), period)
        return min(period, due)

    async def _watch(self, stream: AsyncIterator[Candles]) -> None:
        async for candles in stream:
            self.minutes = self.minutes.merge(candles[candles.timestamp >= self.edge])
            self._move()
        raise _StreamEnded

    async def _advance(self) -> None:
        """Have what became final stored and told, and show what is forming."""
        now = clock.now_ms()
        task = self._collector.collect(
            self._record, self._provider, MINUTE, Span(self.edge, MINUTE.next(now)), newest=False
        )
        result = await asyncio.shield(task)
        if result.failure:
            raise result.failure
        if result.exhausted:
            return
        edge = await self._covered_until(MINUTE.floor(now - self._settle_ms), result.refused)
        if edge > self.edge:
            final = await self.final_minutes(self.edge, edge)
            self.edge = edge
            for topic in self.topics.values():
                topic.advance(final, edge)
        self.minutes = self.minutes.merge(result.forming)
        self.minutes = self.minutes[self.minutes.timestamp >= self.edge]
        self._move()
        if not self.ready.done():
            self.ready.set_result(None)

    async def _covered_until(self, final: int, refused: Spans) -> int:
        """How far the minutes from the edge on are known: a provider that lags has not said yet what it will have.

        Minutes of which it sent rubbish are passed over; the history has a gap there.
        """
        if final <= self.edge:
            return self.edge
        ledger = (await self._store.ledgers([self._record.id]))[0]
        known = ledger.get(MINUTE, Spans()) | refused
        return next((min(span.until, final) for span in known if span.since <= self.edge < span.until), self.edge)

    def _move(self) -> None:
        for topic in self.topics.values():
            topic.move(self.minutes)

    async def final_minutes(self, since: int, until: int) -> Candles:
        """The stored minutes of ``[since, until)``."""
        read = Read(self._record.id, MINUTE, Span(since, until), (until - since) // MINUTE_MS)
        return (await self._store.read([read]))[0]


class _StreamEnded(Exception):
    """The provider ended its stream."""
