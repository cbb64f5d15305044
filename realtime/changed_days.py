"""Makes the listeners of days restart whose instrument has got a trading calendar: these days are others from then on."""

from __future__ import annotations

from collections.abc import Iterable

from realtime.topic import Topic
from storage.instruments import Instruments


async def resync_changed_days(instruments: Instruments, topics: Iterable[Topic]) -> None:
    """Send RESYNC to the listeners of days and longer candles that were folded without the calendar."""
    days = [topic for topic in topics if topic.listeners and not topic.timeframe.width_ms and not topic.record.calendar]
    records = await instruments.get_cached([topic.record.instrument for topic in days]) if days else {}
    for topic in days:
        record = records.get(topic.record.instrument)
        if record and record.calendar:
            topic.resync(topic.seq, topic.edge, None)
