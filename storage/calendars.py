"""Trading calendars: the relation ``calendars``, whose rows another process computes and renews each month."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np

from candlegraph import clock
from candlegraph.errors import Unavailable
from candlegraph.outage import Outage
from candlegraph.trading_calendar import TradingCalendar, install, installed
from storage.database import SQL, Database

log = logging.getLogger(__name__)

FIRST_DATE = "1962-01-01"  # minutes of older sessions are rare; before it every weekday is assumed to trade
YEARS_AHEAD = 2
_COLUMNS = ("dates", "opens", "closes", "break_starts", "break_ends", "extended_opens", "extended_closes", "early")
_UNKNOWN = 3  # the exit status of storage/calendar_process.py for an unknown name

Row = dict[str, Any]  # the columns of a `TradingCalendar` by name, as lists


class Calendars:
    """The calendars of the instruments of a database; `ensure` makes them known to this process."""

    _computed: dict[str, Row] = {}  # by this process, for any database: they are the same everywhere

    def __init__(self, database: Database) -> None:
        """Read nothing yet."""
        self._database = database
        self._versions: dict[str, int] = {}  # of those that were read from this database
        self._lock = asyncio.Lock()
        self.outage = Outage("renewing the trading calendars")

    async def ensure(self, names: Iterable[str | None]) -> set[str]:
        """Install the named calendars, computed where they are not stored; return the names of those that exist."""
        wanted = set(filter(None, names))
        if wanted <= self._versions.keys():
            return wanted
        async with self._lock:
            await self._load(wanted - self._versions.keys())
            for name in wanted - self._versions.keys():
                if row := await self._compute(name):
                    await self._store(row)
                    await self._load({name})
        return wanted & self._versions.keys()

    async def ensure_all(self) -> list[Any]:
        """Install those of all stored instruments; return a row for each: the number of its instruments, by their days."""
        rows = list(await self._database.read("calendar_counts"))
        await self.ensure(row["calendar"] for row in rows)
        return rows

    async def run(self) -> None:
        """Compute old calendars again, and install those that another process has computed, until cancelled."""
        timings = self._database.timings
        while True:
            await asyncio.sleep(timings.calendar_check_interval_s)
            with self.outage.recording():
                await self.renew()

    async def renew(self) -> None:
        """Compute the calendars that are due, and install the newer ones."""
        for row in await self._database.read("calendars_due", self._database.timings.calendar_max_age_s):
            self._computed.pop(row["name"], None)
            if found := await self._compute(row["name"]):
                await self._store(found)
        known = list(self._versions), list(self._versions.values())
        changed = {row["name"] for row in await self._database.read("calendars_changed", *known)}
        if changed:
            await self._load(changed)

    async def _load(self, names: set[str]) -> None:
        for row in await self._database.read("calendars_read", list(names)) if names else ():
            calendar = _calendar(row)
            kept = installed().get(calendar.name)
            if kept is None or not _same(kept, calendar):  # else zones and caches of the installed one stay valid
                install(calendar)
            self._versions[calendar.name] = row["version"]

    async def _store(self, row: Row) -> None:
        async with self._database.connection() as connection:
            await connection.execute(SQL["calendar_store"], row["name"], row["timezone"], *(row[c] for c in _COLUMNS))

    async def _compute(self, name: str) -> Row | None:
        """The columns of a calendar, by a process of its own; None if exchange-calendars does not know it. Unavailable."""
        if name not in self._computed:
            today = date.fromtimestamp(clock.now_ms() / 1000)  # noqa: DTZ012 - a day more or less is the same
            until = today.replace(year=today.year + YEARS_AHEAD, day=1)
            command = (sys.executable, "-m", "storage.calendar_process", name, FIRST_DATE, str(until))
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            try:
                async with asyncio.timeout(self._database.timings.calendar_timeout_s):
                    out, err = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
            if process.returncode == _UNKNOWN:
                log.warning("there is no trading calendar %r: its instruments count as always open", name[:64])
                return None
            if process.returncode:
                raise Unavailable(f"The trading calendar {name[:64]} cannot be computed: {err.decode()[-500:]}")
            self._computed[name] = json.loads(out)
        return self._computed[name]


def _calendar(row: Any) -> TradingCalendar:
    """The calendar of a row of ``calendars``."""
    instants = {column: np.array(row[column], np.int64) for column in _COLUMNS[:-1]}
    return TradingCalendar(row["name"], row["timezone"], **instants, early=np.array(row["early"], np.bool_))


def _same(one: TradingCalendar, other: TradingCalendar) -> bool:
    return one.timezone == other.timezone and all(
        np.array_equal(getattr(one, column), getattr(other, column)) for column in _COLUMNS
    )
