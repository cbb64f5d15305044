"""Instruments: what the providers list and what was imported, kept so that a restart asks nobody."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from candlegraph.errors import BadUserInput, CandlegraphError, NotFound, ProviderUnavailable
from candlegraph.job import Selection
from candlegraph.provider import Providers, Upstream
from candlegraph.series import Instrument, Record
from storage.database import SQL, Database, to_ms

RECORD_TTL_S = 30.0
MAX_RECORDS = 20_000
LISTING_TTL_S = 3600.0
LISTING_RETRY_S = 30.0
LISTING_DEADLINE_S = 10.0  # how long somebody waits for a list; it is read on


@dataclass(slots=True)
class _List:
    """The last read of a provider's symbol list, under way or done, and when it began."""

    task: asyncio.Task[None]
    began_at: float

    @property
    def serves(self) -> bool:
        """Whether this read still stands for one made now; a failed one does for half a minute."""
        if not self.task.done():
            return True
        failed = self.task.cancelled() or self.task.exception() is not None
        return time.monotonic() - self.began_at < (LISTING_RETRY_S if failed else LISTING_TTL_S)


class Instruments:
    """The relation ``instruments``, filled from the providers' own symbol lists."""

    def __init__(self, database: Database, providers: Providers) -> None:
        """Nothing is asked before somebody needs it."""
        self._database = database
        self._providers = providers
        self._lists: dict[tuple[str, str], _List] = {}
        self._records: dict[Instrument, tuple[float, Record]] = {}
        self._behind: set[asyncio.Task[CandlegraphError | None]] = set()

    async def find(self, wanted: list[Instrument]) -> list[Record | CandlegraphError]:
        """Look instruments up, if need be in their provider's list; an error a key, never one for all."""
        kept = await self._recent(wanted)
        missing = [instrument for instrument in wanted if instrument not in kept]
        for pair in {(i.market, i.provider) for i, record in kept.items() if not record.listed}:
            self._list_behind(*pair)
        if not missing:
            return [kept[instrument] for instrument in wanted]
        pairs = {(instrument.market, instrument.provider) for instrument in missing}
        errors = dict(zip(pairs, await asyncio.gather(*(self._try_refresh(*pair) for pair in pairs)), strict=True))
        kept |= await self.kept(missing)
        return [
            kept.get(i)
            or errors[i.market, i.provider]
            or NotFound(f"{i.market}/{i.provider} has no symbol {i.symbol[:64]!r}: look it up with `symbols`.")
            for i in wanted
        ]

    async def search(
        self, market: str, provider: str, *, text: str | None, inactive: bool, after: str | None, first: int
    ) -> tuple[list[Record], int]:
        """One page of a provider's symbols in the order of their names, and how many match in all."""
        market, provider, text, after = _plain(market), _plain(provider), text and _plain(text), after and _plain(after)
        error = await self._try_refresh(market, provider)
        pattern = None if not text else "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"
        rows = await self._database.read("instruments_search", market, provider, inactive, pattern, after, first)
        count = (await self._database.read("instruments_count", market, provider, inactive, pattern))[0]["count"]
        if error and not count:
            raise error
        return [_record(row) for row in rows], count

    async def select(self, selection: Selection) -> list[Record]:
        """The listed symbols of a provider that are meant. NotFound names one there is not; BadUserInput: none fits."""
        market, provider = selection.market, selection.provider
        if (selection.symbols is None) == (selection.pattern is None):
            raise BadUserInput("Give either `symbols` or a `pattern`.")
        if selection.symbols is not None and not selection.symbols:
            raise BadUserInput("`symbols` names no symbol.")
        if error := await self._try_refresh(market, provider):
            raise error
        names = None if selection.symbols is None else list(dict.fromkeys(map(_plain, selection.symbols)))
        records = [_record(row) for row in await self._database.read("instruments_named", market, provider, names)]
        found = {record.instrument.symbol: record for record in records if record.listed}
        if names is not None:
            for name in names:
                if name not in found:
                    raise NotFound(f"{market}/{provider} has no symbol {name[:64]!r}: look it up with `symbols`.")
        chosen = [r for name, r in found.items() if selection.pattern is None or fnmatchcase(name, selection.pattern)]
        if not chosen:
            raise BadUserInput(f"No symbol of {market}/{provider} matches {(selection.pattern or '')[:64]!r}.")
        return chosen

    async def by_id(self, ids: Sequence[int]) -> list[Record]:
        """Instruments by their numbers, in that order; NotFound."""
        rows = {row["id"]: _record(row) for row in await self._database.read("instruments_by_id", list(ids))}
        return [rows[i] for i in ids]

    async def pairs(self) -> list[tuple[str, str]]:
        """Every (market, provider) that something is kept of."""
        return [(row["market"], row["provider"]) for row in await self._database.read("instrument_pairs")]

    async def timeframes(self, market: str, provider: str) -> list[str]:
        """The timeframes that are stored of a provider."""
        return [row["timeframe"] for row in await self._database.read("timeframes_stored", market, provider)]

    async def imported(self, instrument: Instrument, timezone: str) -> Record:
        """The instrument that an import goes into, made if need be; an existing one keeps its time zone."""
        async with self._database.connection() as connection:
            key = (instrument.market, instrument.provider, instrument.symbol)
            return _record(await connection.fetchrow(SQL["instrument_import"], *key, timezone))

    async def kept(self, wanted: Sequence[Instrument]) -> dict[Instrument, Record]:
        """Those that are in the store already; no provider is asked."""
        keys = [(i.market, i.provider, i.symbol) for i in set(wanted)]
        columns = [[_plain(key[part]) for key in keys] for part in range(3)]
        rows = await self._database.read("instruments_by_key", *columns)
        return {record.instrument: record for record in map(_record, rows)}

    async def _recent(self, wanted: list[Instrument]) -> dict[Instrument, Record]:
        """Those that are in the store, as they were at most half a minute ago: they seldom change."""
        now, records = time.monotonic(), self._records
        found = {i: kept[1] for i in wanted if (kept := records.get(i)) and now - kept[0] < RECORD_TTL_S}
        if missing := [i for i in wanted if i not in found]:
            fresh = await self.kept(missing)
            found |= fresh
            if len(records) > MAX_RECORDS:
                records.clear()
            records.update((instrument, (now, record)) for instrument, record in fresh.items())
        return found

    def _list_behind(self, market: str, provider: str) -> None:
        """Have the list read of a provider that may extend what was imported under its name; nobody waits for it."""
        known = self._lists.get((market, provider))
        plugins = {(status.market.id, status.id) for status in self._providers.statuses()}
        if (market, provider) in plugins and not (known and known.serves):
            task = asyncio.create_task(self._try_refresh(market, provider))
            self._behind.add(task)
            task.add_done_callback(self._behind.discard)

    async def _try_refresh(self, market: str, provider: str) -> CandlegraphError | None:
        """Read the provider's list again if that is due; askers at the same time share one read."""
        try:
            async with asyncio.timeout(LISTING_DEADLINE_S):
                source = await self._providers.get(market, provider)
                if source is None:
                    return None if (market, provider) in await self.pairs() else self._no_provider(market, provider)
                known = self._lists.get((market, provider))
                if known is None or not known.serves:
                    task = asyncio.create_task(self._read_list(source))
                    known = self._lists[market, provider] = _List(task, time.monotonic())
                await asyncio.shield(known.task)
        except CandlegraphError as error:
            return error
        except TimeoutError:
            return ProviderUnavailable(f"The list of symbols of {market}/{provider} is not here yet.", retry_after=5)
        return None

    async def _read_list(self, source: Upstream) -> None:
        # Of symbols named twice the last one counts, as with candles.
        listings = list({item.symbol: item for item in await source.listings()}.values())
        market, provider = source.market, source.id
        columns: list[list[object]] = [
            [item.symbol for item in listings],
            [item.name for item in listings],
            [item.base for item in listings],
            [item.quote for item in listings],
            [item.timezone or market.timezone for item in listings],
            [item.active for item in listings],
            [item.first_available for item in listings],
            [item.ended_at for item in listings],
        ]
        async with self._database.transaction() as connection:
            await connection.execute(SQL["instruments_list"], market.id, provider, *columns)
            await connection.execute(SQL["instruments_unlist"], market.id, provider, columns[0])
        self._records = {}  # a new one: who is reading the old state puts it into the old one

    def _no_provider(self, market: str, provider: str) -> NotFound:
        known = [status for status in self._providers.statuses() if status.market.id == market]
        if not known:
            markets = ", ".join(sorted({status.market.id for status in self._providers.statuses()}))
            return NotFound(f"Unknown market {market[:64]!r}: known are {markets}.")
        names = ", ".join(status.id for status in known)
        return NotFound(f"Market {market} has no provider {provider[:64]!r}: known are {names}.")


def _plain(text: str) -> str:
    """What somebody typed without what PostgreSQL takes for no text; no stored name has the mark that stands for it."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _record(row: Any) -> Record:
    return Record(
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
    )
