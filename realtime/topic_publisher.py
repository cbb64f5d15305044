"""The events of a feed's topics: written to the store first, then published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from candlegraph.candle import Candles
from candlegraph.errors import CandlegraphError
from realtime.bus import BusMessage, TopicFailure, TopicMessage
from realtime.final_candles import FinalCandles
from realtime.topic_counter import TopicCounter
from storage.leases import LeaseToken
from storage.topics import TopicAppend, TopicEvent, TopicKey, TopicStore

MAX_EVENTS = 1_000  # closed or corrected candles at once; beyond, listeners have to restart

Publish = Callable[[BusMessage], None]


@dataclass(frozen=True, slots=True)
class TopicPublisher:
    """Writes events under ``lease``, and publishes them. Raises LeaseLost, Unavailable."""

    store: TopicStore
    final: FinalCandles
    publish: Publish
    lease: LeaseToken

    async def close(self, counts: Mapping[TopicKey, TopicCounter], minutes: Candles, edge: int) -> None:
        """Close the candles that end with the final ``minutes`` up to ``edge``."""
        ahead = {key: await self._closed(count, minutes, edge) for key, count in counts.items()}
        steps = [
            TopicAppend(key, counts[key].seq, _topic_events("C", closed.timestamp), edge, counts[key].corrected)
            for key, (closed, _) in ahead.items()
        ]
        seqs = await self.store.append(self.lease, steps)
        for key, (closed, settled) in ahead.items():
            count = counts[key]
            count.edge, count.settled, count.seq = edge, settled, seqs[key]
            count.forming = count.forming[:0] if len(closed) else count.forming  # it is published again, behind these
            self._events(key, count, "C", closed)

    async def _closed(self, count: TopicCounter, minutes: Candles, edge: int) -> tuple[Candles, Candles]:
        """As `TopicCounter.close_until`; the days that close are the provider's where those of its history are."""
        closed, settled = count.close_until(minutes, edge)
        if len(closed) and self._has_native_days(count):
            closed = await self.final.candles(count, closed.timestamp.tolist())
        return closed, settled

    def _has_native_days(self, count: TopicCounter) -> bool:
        return bool(self.final.record.native_days) and not count.timeframe.width_ms and count.zone.hours is not None

    async def correct(self, counting: Mapping[TopicKey, TopicCounter]) -> bool:
        """Publish each closed candle with a corrected minute again; False if nothing was corrected.

        Corrections in the current bucket change the forming candle and are no events.
        """
        after = min((count.corrected for count in counting.values()), default=0)
        rows = await self.store.corrections(self.final.record.id, after) if counting else []
        counts = {key: count for key, count in counting.items() if rows and count.corrected < rows[-1][0]}
        if not counts:
            return False
        found: dict[TopicKey, Candles] = {}
        for key, count in counts.items():
            # Minutes do not change the days that the provider made.
            changed = [] if self._has_native_days(count) else _corrected(count, rows)
            found[key] = await self.final.candles(count, changed[: MAX_EVENTS + 1])
            count.settled = await self.final.settled(count)
        steps = [
            TopicAppend(key, counts[key].seq, _topic_events("X", candles.timestamp), counts[key].edge, rows[-1][0])
            for key, candles in found.items()
        ]
        seqs = await self.store.append(self.lease, steps)
        for key, candles in found.items():
            counts[key].seq, counts[key].corrected = seqs[key], rows[-1][0]
            self._events(key, counts[key], "X", candles)
        return True

    def forming(self, key: TopicKey, count: TopicCounter) -> None:
        """Publish the position and the forming candle of a topic."""
        self.publish(TopicMessage(key, "U", count.seq, count.edge, self.lease.epoch, count.forming))

    def failed(self, key: TopicKey, error: CandlegraphError) -> None:
        """Publish why a topic cannot be counted now."""
        self.publish(TopicFailure(key, error))

    def _events(self, key: TopicKey, count: TopicCounter, kind: str, candles: Candles) -> None:
        """Publish candles that the store has just counted."""
        if len(candles) > MAX_EVENTS:
            self.publish(TopicMessage(key, "R", count.seq, count.edge, self.lease.epoch, candles[:1]))
            return
        first = count.seq - len(candles) + 1
        for i in range(len(candles)):
            self.publish(TopicMessage(key, kind, first + i, count.edge, self.lease.epoch, candles[i : i + 1]))


def _corrected(count: TopicCounter, rows: Iterable[tuple[int, int]]) -> list[int]:
    """The openings of a topic's closed candles whose minutes have corrections (number, minute) it has not counted yet."""
    stamps = np.array([at for n, at in rows if n > count.corrected], np.int64)
    if count.zone.hours:
        stamps = stamps[count.zone.hours.contains(stamps)]
    opens = {count.timeframe.floor(at, count.zone) for at in stamps.tolist()}
    return sorted(opened for opened in opens if opened < count.opened)


def _topic_events(kind: str, stamps: Iterable[int]) -> list[TopicEvent]:
    events = [TopicEvent(kind, int(stamp)) for stamp in stamps]
    return events if len(events) <= MAX_EVENTS else [TopicEvent("R", events[0].opened)]
