"""Instruments: what the providers list and what was imported, kept so that a restart asks nobody."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cachetools import LRUCache

from candlegraph.backfill import Selection
from candlegraph.errors import BadUserInput, CandlegraphError, NotFound, ProviderUnavailable
from candlegraph.provider import Providers, Upstream
from candlegraph.series import Instrument, Record
from storage.database import SQL, Database, to_ms

log = logging.getLogger(__name__)

RECORD_TTL_S = 30.0
MAX_RECORDS = 20_000
MAX_SELECTED = 10_000
LISTING_TTL_S = 3600.0
LISTING_RETRY_S = 30.0
LISTING_TIMEOUT_S = 60.0
UNKNOWN_AGAIN_S = 60.0  # how old a list may be that does not know a symbol somebody asks for
LISTING_DEADLINE_S = 10.0  # how long somebody waits for a list; it is read on


@dataclass(slots=True)
class _List:
    """What this process knows of a provider's symbol list; instants by `time.monotonic`."""

    asked_at: float | None = None  # when the list that is stored was asked for; None: never, as far as we know
    failed_at: float | None = None
    error: CandlegraphError | None = None  # why, where the last read failed
    task: asyncio.Task[None] | None = None  # the read under way

    @property
    def due(self) -> bool:
        """Whether the list ought to be read: it is old, nobody reads it, and the last try did not fail just now."""
        return self.due_after(LISTING_TTL_S)

    def due_after(self, seconds: float) -> bool:
        """The same where a list is old after so many seconds."""
        now = time.monotonic()
        old = self.asked_at is None or now - self.asked_at >= seconds
        return old and self.task is None and (self.failed_at is None or now - self.failed_at >= LISTING_RETRY_S)


class Instruments:
    """The relation ``instruments``, filled from the providers' own symbol lists."""

    def __init__(self, database: Database, providers: Providers) -> None:
        """Nothing is asked before somebody needs it."""
        self._database = database
        self._providers = providers
        self._lists: dict[tuple[str, str], _List] = {}
        # With the instant of its read: cachetools' TTLCache takes nine times as long to look a record up.
        self._records: LRUCache[Instrument, tuple[float, Record]] = LRUCache(MAX_RECORDS)

    async def find(self, wanted: list[Instrument]) -> list[Record | CandlegraphError]:
        """Look instruments up, if need be in their provider's list; an error a key, never one for all."""
        kept = await self._recent(wanted)
        missing = [instrument for instrument in wanted if instrument not in kept]
        await self._renew({(i.market, i.provider) for i in kept})
        if not missing:
            return [kept[instrument] for instrument in wanted]
        pairs = {(instrument.market, instrument.provider) for instrument in missing}
        errors = await self._list(pairs)
        kept |= await self.kept(missing)
        strangers = {pair for i in missing if i not in kept and not errors[pair := (i.market, i.provider)]}
        if strangers and await self._again(strangers):
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
        error = (await self._list({(market, provider)}))[market, provider]
        pattern = None if not text else "%" + re.sub(r"([\\%_])", r"\\\1", _folded(text)) + "%"
        rows = await self._database.read("instruments_search", market, provider, inactive, pattern, after, first)
        count = (await self._database.read("instruments_count", market, provider, inactive, pattern))[0]["count"]
        if error and not count:
            raise error
        return [_record(row) for row in rows], count

    async def select(self, selection: Selection) -> list[Record]:
        """The listed symbols of a provider that are meant. NotFound names one there is not; BadUserInput: none fits, or too many."""
        market, provider = selection.market, selection.provider
        if (selection.symbols is None) == (selection.pattern is None):
            raise BadUserInput("Give either `symbols` or a `pattern`.")
        if selection.symbols is not None and not selection.symbols:
            raise BadUserInput("`symbols` names no symbol.")
        if error := (await self._list({(market, provider)}))[market, provider]:
            raise error
        names = None if selection.symbols is None else list(dict.fromkeys(map(_plain, selection.symbols)))
        rows = await self._database.read("instruments_named", market, provider, names)
        found = {row["symbol"]: row for row in rows if row["listed"]}
        if names is not None:
            for name in names:
                if name not in found:
                    raise NotFound(f"{market}/{provider} has no symbol {name[:64]!r}: look it up with `symbols`.")
        pattern = selection.pattern
        chosen = [row for name, row in found.items() if pattern is None or fnmatchcase(name, pattern)]
        if not chosen:
            raise BadUserInput(f"No symbol of {market}/{provider} matches {(pattern or '')[:64]!r}.")
        if len(chosen) > MAX_SELECTED:
            raise BadUserInput(f"At most {MAX_SELECTED:,} symbols fit one order; these are {len(chosen):,}.")
        return [_record(row) for row in chosen]

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
            folded = _folded(instrument.symbol)
            return _record(await connection.fetchrow(SQL["instrument_import"], *key, timezone, folded))

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
            records.update((instrument, (now, record)) for instrument, record in fresh.items())
        return found

    async def close(self) -> None:
        """Stop the reads under way."""
        tasks = [known.task for known in self._lists.values() if known.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, pairs: set[tuple[str, str]]) -> bool:
        """Wait for lists that lack what somebody asks for, unless they were read a moment ago; whether one was read."""
        old = [pair for pair in pairs if pair in self._plugins() and self._lists[pair].due_after(UNKNOWN_AGAIN_S)]
        for pair in old:
            self._lists[pair].task = asyncio.create_task(self._read(pair, self._lists[pair]))
        tasks = [task for pair in pairs if pair in self._lists and (task := self._lists[pair].task)]
        if tasks:
            await asyncio.wait(tasks, timeout=LISTING_DEADLINE_S)
        return bool(tasks)

    async def _renew(self, pairs: set[tuple[str, str]]) -> None:
        """Have the lists read again that are due; nobody waits for them."""
        for pair in await self._due(pairs):
            if pair in self._plugins():
                self._read_if_due(pair)
            else:
                self._lists.setdefault(pair, _List()).failed_at = time.monotonic()  # imported: nobody has a list of it

    async def _list(self, pairs: set[tuple[str, str]]) -> dict[tuple[str, str], CandlegraphError | None]:
        """See to it that the providers' symbols are stored, and of each say why they could not be.

        An old list is read again behind us; one that never was read is waited for.
        """
        await self._due(pairs)
        return dict(zip(pairs, await asyncio.gather(*map(self._listed, pairs)), strict=True))

    async def _due(self, pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those whose lists are due, also by what other processes have noted in the store."""
        maybe = [pair for pair in pairs if pair not in self._lists or self._lists[pair].due]
        if not maybe:
            return []
        columns = [[_plain(pair[part]) for pair in maybe] for part in range(2)]
        for row in await self._database.read("listing_ages", *columns):
            known = self._lists.setdefault((row["market"], row["provider"]), _List())
            known.asked_at = time.monotonic() - row["age"]
        return [pair for pair in maybe if pair not in self._lists or self._lists[pair].due]

    def _plugins(self) -> set[tuple[str, str]]:
        return {(status.market.id, status.id) for status in self._providers.statuses()}

    async def _listed(self, pair: tuple[str, str]) -> CandlegraphError | None:
        known = self._lists.get(pair)
        if known and known.asked_at is not None:
            self._read_if_due(pair)
            return known.error
        if pair not in self._plugins():
            return None if pair in await self.pairs() else self._no_provider(*pair)
        if task := self._read_if_due(pair):
            _, late = await asyncio.wait([task], timeout=LISTING_DEADLINE_S)
            if late:
                return ProviderUnavailable("The list of symbols of {}/{} is not here yet.".format(*pair), retry_after=5)
        return self._lists[pair].error

    def _read_if_due(self, pair: tuple[str, str]) -> asyncio.Task[None] | None:
        """The read of a list that is due or under way; everybody shares one, and no leaver stops it."""
        known = self._lists.setdefault(pair, _List())
        if known.due:
            known.task = asyncio.create_task(self._read(pair, known))
        return known.task

    async def _read(self, pair: tuple[str, str], known: _List) -> None:
        try:
            # However long it takes to start: the list is read when it has.
            source = await self._source(*pair)
            async with asyncio.timeout(LISTING_TIMEOUT_S):
                await self._read_list(*pair, source)
            known.error, known.failed_at = None, None
        except CandlegraphError as error:
            known.error, known.failed_at = error, time.monotonic()
        except Exception as error:  # a plugin may raise anything
            log.exception("provider %s/%s failed to list its symbols", *pair)
            failure = ProviderUnavailable(f"{pair[1]} failed to list its symbols: {type(error).__name__}.")
            known.error, known.failed_at = failure, time.monotonic()
        finally:
            known.task = None

    async def _source(self, market: str, provider: str) -> Upstream:
        source = await self._providers.get(market, provider)
        if source is None:
            raise self._no_provider(market, provider)
        return source

    async def _read_list(self, market: str, provider: str, source: Upstream) -> None:
        began = time.monotonic()
        # Of symbols named twice the last one counts, as with candles.
        listings = list({item.symbol: item for item in await source.listings()}.values())
        columns: list[list[object]] = [
            [item.symbol for item in listings],
            [item.name for item in listings],
            [_folded(item.symbol, item.name or "") for item in listings],
            [item.base for item in listings],
            [item.quote for item in listings],
            [item.timezone or source.market.timezone for item in listings],
            [item.active for item in listings],
            [item.first_available for item in listings],
            [item.ended_at for item in listings],
        ]
        async with self._database.transaction() as connection:
            if await connection.fetchval(SQL["listing_note"], market, provider, time.monotonic() - began):
                await connection.execute(SQL["instruments_list"], market, provider, *columns)
                await connection.execute(SQL["instruments_unlist"], market, provider, columns[0])
        self._lists[market, provider].asked_at = began
        self._records = LRUCache(MAX_RECORDS)  # a new one: who is reading the old state puts it into the old one

    def _no_provider(self, market: str, provider: str) -> NotFound:
        known = [status for status in self._providers.statuses() if status.market.id == market]
        if not known:
            markets = ", ".join(sorted({status.market.id for status in self._providers.statuses()}))
            return NotFound(f"Unknown market {market[:64]!r}: known are {markets}.")
        names = ", ".join(status.id for status in known)
        return NotFound(f"Market {market} has no provider {provider[:64]!r}: known are {names}.")


def _folded(*texts: str) -> str:
    """Texts as a search compares them: blind to case, in every script, and to how a character is composed.

    Between them stands what is no character: nobody finds the end of one together with the beginning of the next.
    """
    return unicodedata.normalize(
        "NFKC", "\uffff".join(unicodedata.normalize("NFKC", text).casefold() for text in texts)
    )


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
