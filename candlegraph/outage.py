"""Outages of dependencies: logged once a minute at most, with their duration, and once at their end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from candlegraph.errors import CandlegraphError, Unavailable

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 60.0


class Outage:
    """The state of one activity that fails while something else is away: the database, the bus, a lease."""

    def __init__(
        self, activity: str, *, remind_s: float = LOG_INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without an outage. ``activity`` begins the log lines: "renewing the leases"."""
        self._activity = activity
        self._remind_s = remind_s
        self._clock = clock
        self._since: float | None = None
        self._logged = False  # whether the log mentions the present outage
        self._logged_at = float("-inf")
        self.reason: str | None = None

    def begin(self, reason: str, *, logged: bool = False) -> None:
        """Record a failure; log a warning unless one of this activity was logged within the last minute.

        A failure that is ``logged`` already, by what it depends on, is only recorded.
        """
        now = self._clock()
        if self._since is None:
            self._since, self._logged = now, False
        self.reason = reason
        if not logged and now - self._logged_at >= self._remind_s:
            self._logged_at, self._logged = now, True
            how_long = f"has failed for {now - self._since:.0f} s" if now > self._since else "fails"
            log.warning("%s %s: %s", self._activity, how_long, reason)

    def end(self) -> None:
        """Record a success; log it after an outage that was logged."""
        if self._since is not None and self._logged:
            log.warning("%s works again after %.0f s", self._activity, self._clock() - self._since)
        self._since = self.reason = None

    def fail(self, error: CandlegraphError) -> None:
        """Record an error; the database itself logs its outage once, so its users do not."""
        self.begin(error.message, logged=isinstance(error, Unavailable) and error.logged)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the outcome of the block, and suppress a CandlegraphError."""
        try:
            yield
        except CandlegraphError as error:
            self.fail(error)
        else:
            self.end()
