"""The current time. Call it as ``clock.now_ms()``, so that a test can replace `wall_ms` and `monotonic_ms`.

The wall clock can step. While the core calls a provider, ``now_ms()`` is therefore that provider's time, which cannot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Protocol

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
OLDEST_MS, NEWEST_MS = -2_208_988_800_000, 9_999_999_999_999  # the first and the last Timestamp: 1900 and 2286


def looks_like_seconds(instant: int) -> bool:
    """Whether a number is probably in seconds (2001 to 2286), since as milliseconds it is in early 1970 and no whole minute."""
    return 10**9 <= instant < 10**10 and instant % MINUTE_MS != 0


# On Linux CLOCK_MONOTONIC stands still while the machine sleeps, CLOCK_BOOTTIME does not.
_STEADY = getattr(time, "CLOCK_BOOTTIME", None)


class Source(Protocol):
    """The clock of the upstream that is being called."""

    def now_ms(self) -> int:
        """The instant by the upstream's clock (ms, UTC)."""
        ...

    def note_date(self, at_ms: int) -> None:
        """Take the second (ms, UTC) in which the upstream made an answer."""
        ...


_source: ContextVar[Source | None] = ContextVar("provider_clock", default=None)


def wall_ms() -> int:
    """The machine's clock: milliseconds since the epoch, UTC. It may step."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds since some instant; it never steps."""
    if _STEADY is not None:
        return time.clock_gettime_ns(_STEADY) // 1_000_000
    return time.monotonic_ns() // 1_000_000


def now_ms() -> int:
    """Milliseconds since the epoch, UTC: by the provider's clock while a provider is called, else by the wall clock."""
    source = _source.get()
    return source.now_ms() if source else wall_ms()


def note_date(headers: Mapping[str, str]) -> None:
    """Pass the ``Date`` of an upstream's answer to the core. It ignores an answer from a cache, which has an ``Age``."""
    source = _source.get()
    found = {name.lower(): value for name, value in headers.items() if name.lower() in {"date", "age"}}
    if source is None or "date" not in found or found.get("age", "0").strip() != "0":
        return
    try:
        source.note_date(round(parsedate_to_datetime(found["date"]).timestamp() * 1000))
    except (ValueError, OverflowError):
        return


@contextmanager
def read_from(source: Source) -> Iterator[None]:
    """Let `now_ms` and `note_date` mean the clock of ``source`` in this block and in the tasks it starts."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)
