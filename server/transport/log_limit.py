"""Limits the warnings that any client can cause: a few of each kind a minute, then their number."""

from __future__ import annotations

import logging
import time

PER_MINUTE = 5
LOGGERS = {"uvicorn.error": PER_MINUTE, "asyncio": PER_MINUTE, "server.transport.origins": 1}


class LogLimit(logging.Filter):
    """Lets a number of records of one text pass in a minute; the first of a later minute has the number of those left out."""

    def __init__(self, per_minute: int = PER_MINUTE) -> None:
        """Start with no record."""
        super().__init__()
        self._per_minute = per_minute
        self._minutes: dict[str, tuple[int, int]] = {}  # of each text, which are ours: the minute, and how many in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if record.levelno != logging.WARNING:
            return True
        text, now = str(record.msg), int(time.monotonic() // 60)
        minute, count = self._minutes.get(text, (now, 0))
        if minute != now:
            if count > self._per_minute:
                record.msg, record.args = f"{record.getMessage()} ({count - self._per_minute} more before)", ()
            count = 0
        self._minutes[text] = (now, count + 1)
        return count < self._per_minute


def limit_logs() -> None:
    """Limit the loggers whose warnings any client can cause."""
    for name, per_minute in LOGGERS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, LogLimit) for one in logger.filters):
            logger.addFilter(LogLimit(per_minute))
