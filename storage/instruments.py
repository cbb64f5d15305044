"""Instruments: listed and imported symbols. They are stored, so that a restart needs no upstream call."""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cachetools import LRUCache

from candlegraph.errors import BadUserInput
from candlegraph.provider import Listing
from candlegraph.series import Instrument, InstrumentRecord, SymbolKind
from candlegraph.trading_calendar import installed
from storage.calendars import Calendars
from storage.database import SQL, Database, to_ms

log = logging.getLogger(__name__)

MAX_RECORDS = 20_000


class Instruments:
    """The relation ``instruments``."""

    def __init__(self, database: Database) -> None:
        """Read nothing yet."""
        self.database = database
        self.calendars = Calendars(database)
        # With the instant of the read: a lookup in cachetools' TTLCache takes nine times as long.
        self._records: LRUCache[Instrument, tuple[float, InstrumentRecord]] = LRUCache(MAX_RECORDS)

    async def search(
        self, market: str, provider: str, *, text: str | None, inactive: bool, after: str | None, first: int
    ) -> tuple[list[InstrumentRecord], int]:
        """One page of the stored symbols of a provider, by name, and the number of all matches."""
        market, provider, text, after = _plain(market), _plain(provider), text and _plain(text), after and _plain(after)
        pattern = None if not text else "%" + re.sub(r"([\\%_])", r"\\\1", fold_text(text)) + "%"
        rows = await self.database.read("instruments_search", market, provider, inactive, pattern, after, first)
        count = (await self.database.read("instruments_count", market, provider, inactive, pattern))[0]["count"]
        return await self._read(rows), count

    async def page(self, market: str, provider: str, after: str | None, first: int) -> list[InstrumentRecord]:
        """The ``first`` stored symbols of a provider after a name, in the order of their names."""
        after = after and _plain(after)
        rows = await self.database.read(
            "instruments_search", _plain(market), _plain(provider), True, None, after, first
        )
        return await self._read(rows)

    async def named(self, market: str, provider: str, names: Sequence[str] | None) -> list[InstrumentRecord]:
        """The stored symbols of a provider: the named ones, or all."""
        plain = None if names is None else list(map(_plain, names))
        return await self._read(await self.database.read("instruments_named", market, provider, plain))

    async def by_id(self, ids: Sequence[int]) -> list[InstrumentRecord]:
        """Instruments by their ids, in that order; NotFound."""
        records = await self._read(await self.database.read("instruments_by_id", list(ids)))
        found = {record.id: record for record in records}
        return [found[i] for i in ids]

    async def stored_providers(self) -> list[tuple[str, str]]:
        """Every (market, provider) with stored data."""
        return [(row["market"], row["provider"]) for row in await self.database.read("instrument_pairs")]

    async def calendar_of(self, market: str, provider: str) -> str | None:
        """The calendar of some symbol of a provider; None if none of them has one."""
        rows = await self.database.read("calendar_of_provider", _plain(market), _plain(provider)) if installed() else ()
        await self.calendars.ensure({row["calendar"] for row in rows})
        return next((row["calendar"] for row in rows if row["calendar"] in installed()), None)

    async def timeframes(self, market: str, provider: str) -> list[str]:
        """The stored timeframes of a provider."""
        return [row["timeframe"] for row in await self.database.read("timeframes_stored", market, provider)]

    async def get_or_create(
        self, instrument: Instrument, timezone: str, *, has_volume: bool = True
    ) -> InstrumentRecord:
        """The instrument for an import, created if it is new; an existing one keeps its time zone.

        ``has_volume``: the volumes of the import are known; those of an existing instrument stay known.
        """
        async with self.database.connection() as connection:
            key = (instrument.market, instrument.provider, instrument.symbol)
            folded = fold_text(instrument.symbol)
            return record_of(await connection.fetchrow(SQL["instrument_import"], *key, timezone, folded, has_volume))

    async def get_stored(self, wanted: Sequence[Instrument]) -> dict[Instrument, InstrumentRecord]:
        """Those of ``wanted`` that are stored; calls no provider."""
        keys = [(i.market, i.provider, i.symbol) for i in set(wanted)]
        columns = [[_plain(key[part]) for key in keys] for part in range(3)]
        rows = await self.database.read("instruments_by_key", *columns)
        return {record.instrument: record for record in await self._read(rows)}

    async def _read(self, rows: Sequence[Any]) -> list[InstrumentRecord]:
        """The instruments of rows, whose calendars this process knows from now on."""
        await self.calendars.ensure({row["calendar"] for row in rows})
        return [record_of(row) for row in rows]

    async def get_cached(self, wanted: list[Instrument]) -> dict[Instrument, InstrumentRecord]:
        """Those of ``wanted`` that are stored, from a cache of half a minute: they seldom change."""
        now, records = time.monotonic(), self._records
        ttl_s = self.database.timings.record_ttl_s
        found = {i: kept[1] for i in wanted if (kept := records.get(i)) and now - kept[0] < ttl_s}
        if missing := [i for i in wanted if i not in found]:
            fresh = await self.get_stored(missing)
            found |= fresh
            records.update((instrument, (now, record)) for instrument, record in fresh.items())
        return found

    async def note_beginning(self, record: InstrumentRecord, first: int) -> bool:
        """Store ``first`` as the opening of an instrument's first 1m candle; False if the store has an older candle."""
        async with self.database.connection() as connection:
            noted = await connection.fetchval(SQL["instrument_beginning"], record.id, first)
        self._records.pop(record.instrument, None)
        return noted is not None

    async def listing_ages(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], float]]:
        """The age in seconds of each stored list, for (market, provider) pairs."""
        columns = [[_plain(pair[part]) for pair in pairs] for part in range(2)]
        rows = await self.database.read("listing_ages", *columns)
        return [((row["market"], row["provider"]), row["age"]) for row in rows]

    async def store_list(
        self,
        market: str,
        provider: str,
        listings: Sequence[Listing],
        timezone: str,
        age_s: float,
        *,
        native_days: bool = False,
    ) -> None:
        """Store a provider's list, fetched ``age_s`` seconds ago, unless a newer one is stored; ``timezone`` is its market's.

        ``native_days``: new instruments with a calendar use the provider's own days.
        """
        known = await self.calendars.ensure({item.calendar for item in listings})
        columns: list[list[object]] = [
            [item.symbol for item in listings],
            [item.name for item in listings],
            [fold_text(item.symbol, item.name or "") for item in listings],
            [item.base for item in listings],
            [item.quote for item in listings],
            [item.timezone or timezone for item in listings],
            [item.active for item in listings],
            [item.first_available for item in listings],
            [item.ended_at for item in listings],
            [item.has_volume is not False for item in listings],
            [item.kind for item in listings],
            [item.contract_size for item in listings],
            [item.price_increment for item in listings],
            [item.quantity_increment for item in listings],
        ]
        async with self.database.transaction() as connection:
            if await connection.fetchval(SQL["listing_note"], market, provider, age_s):
                await connection.execute(SQL["instruments_list"], market, provider, *columns)
                await connection.execute(SQL["instruments_unlist"], market, provider, columns[0])
                calendars = _calendars_of(listings, known, timezone)
                await self._gain_calendars(connection, market, provider, calendars, native_days=native_days)
        self._records = LRUCache(MAX_RECORDS)  # a new object: reads that began before this fill the old one

    async def give_calendar(self, market: str, provider: str, symbols: Sequence[str], calendar: str) -> int:
        """Give stored symbols without a trading calendar this one; return their number. BadUserInput for an unknown one.

        What is stored decides the source of their days: days if there are any, else 1m candles.
        """
        if not await self.calendars.ensure({calendar}):
            raise BadUserInput(
                f"There is no trading calendar {calendar[:64]!r}: name one of exchange-calendars, such as XNYS."
            )
        for record in await self.named(market, provider, symbols):
            if not _fits(calendar, record.timezone):
                raise BadUserInput(
                    f"The days of {record.instrument} are those of {record.timezone}, and {calendar} is in another time zone."
                )
        async with self.database.transaction() as connection:
            given = await self._gain_calendars(
                connection, market, provider, dict.fromkeys(symbols, calendar), native_days=False
            )
        self._records = LRUCache(MAX_RECORDS)
        return given

    async def _gain_calendars(
        self, connection: Any, market: str, provider: str, calendars: Mapping[str, str | None], *, native_days: bool
    ) -> int:
        """Give symbols the calendars that they lack; log what that changes, and return how many it changes."""
        columns = list(calendars), list(calendars.values())
        row = calendars and await connection.fetchrow(
            SQL["instruments_calendars"], market, provider, *columns, native_days
        )
        if row and row["withdrawn"]:
            log.warning(
                "%s/%s: %d instruments have a trading calendar now, %d of them with their provider's days; the earlier "
                "days of %d series were withdrawn", market, provider, row["gained_count"], row["native"], row["withdrawn"],
            )  # fmt: skip
        return int(row["gained_count"]) if row else 0


def fold_text(*texts: str) -> str:
    """Fold texts for the search, which ignores case in every script and the composition of characters.

    A noncharacter separates the texts, so that no match spans the end of one and the beginning of the next.
    """
    return unicodedata.normalize(
        "NFKC", "\uffff".join(unicodedata.normalize("NFKC", text).casefold() for text in texts)
    )


def _plain(text: str) -> str:
    """Replace characters that PostgreSQL does not accept; no stored name has the replacement character."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _calendars_of(listings: Sequence[Listing], known: Collection[str], timezone: str) -> dict[str, str | None]:
    """The calendars of symbols, those that exist and are in the time zone of their days."""
    found = (item for item in listings if item.calendar in known)
    return {item.symbol: item.calendar for item in found if _fits(item.calendar, item.timezone or timezone)}


def _fits(calendar: str | None, timezone: str) -> bool:
    """Whether the days of a symbol open in the zone of a calendar: stored days of another zone are not its sessions."""
    found = installed().get(calendar or "")
    return found is not None and found.timezone == timezone


def record_of(row: Any) -> InstrumentRecord:
    """The instrument of a row of ``instruments``."""
    return InstrumentRecord(
        id=row["id"],
        instrument=Instrument(row["market"], row["provider"], row["symbol"]),
        name=row["name"],
        base=row["base_currency"],
        quote=row["quote_currency"],
        timezone=row["timezone"],
        active=row["active"],
        listed=row["listed"],
        first_available=to_ms(row["first_available"]),
        ended_at=to_ms(row["ended_at"]),
        has_volume=row["has_volume"],
        kind=row["kind"] and SymbolKind(row["kind"]),
        contract_size=row["contract_size"],
        price_increment=row["price_increment"],
        quantity_increment=row["quantity_increment"],
        calendar=row["calendar"] if row["calendar"] in installed() else None,
        native_days=row["native_days"],
    )
