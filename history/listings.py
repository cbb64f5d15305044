"""The symbol lists of the providers: kept in the store, read again when they are old, once for all concurrent callers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from candlegraph.backfill import SymbolSelection
from candlegraph.errors import BadUserInput, CandlegraphError, NotFound, ProviderUnavailable
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.timeframe import MINUTE
from candlegraph.timings import Timings
from candlegraph.upstream import Providers, Upstream
from storage.instruments import Instruments

log = logging.getLogger(__name__)

MAX_SELECTED = 10_000


@dataclass(slots=True)
class _List:
    """This process's state of a provider's symbol list; instants by `time.monotonic`."""

    asked_at: float | None = None  # when the stored list was fetched; None: not known to be fetched
    failed_at: float | None = None
    error: CandlegraphError | None = None  # of the last read, if it failed
    task: asyncio.Task[None] | None = None  # the read under way

    def due(self, ttl_s: float, retry_s: float) -> bool:
        """Whether to read the list: it is old, no read is running, and the last read did not fail a moment ago."""
        now = time.monotonic()
        old = self.asked_at is None or now - self.asked_at >= ttl_s
        return old and self.task is None and (self.failed_at is None or now - self.failed_at >= retry_s)


class Listings:
    """Looks symbols up: in the store, and then in their provider's list."""

    def __init__(self, instruments: Instruments, providers: Providers) -> None:
        """Start without any list read."""
        self._instruments = instruments
        self._providers = providers
        self._lists: dict[tuple[str, str], _List] = {}

    async def find(self, wanted: list[Instrument]) -> list[InstrumentRecord | CandlegraphError]:
        """Look instruments up, if necessary in their provider's list; each failed key gets its own error."""
        kept = await self._instruments.get_cached(wanted)
        missing = [instrument for instrument in wanted if instrument not in kept]
        await self._refresh_due({(i.market, i.provider) for i in kept})
        if not missing:
            return [kept[instrument] for instrument in wanted]
        pairs = {(instrument.market, instrument.provider) for instrument in missing}
        errors = await self._ensure_listed(pairs)
        kept |= await self._instruments.get_stored(missing)
        strangers = {pair for i in missing if i not in kept and not errors[pair := (i.market, i.provider)]}
        if strangers and await self._reread(strangers):
            kept |= await self._instruments.get_stored(missing)
        return [
            kept.get(i)
            or errors[i.market, i.provider]
            or NotFound(f"{i.market}/{i.provider} has no symbol {i.symbol[:64]!r}: look it up with `symbols`.")
            for i in wanted
        ]

    async def search(
        self, market: str, provider: str, *, text: str | None, inactive: bool, after: str | None, first: int
    ) -> tuple[list[InstrumentRecord], int]:
        """One page of a provider's symbols in the order of their names, and the number of all that match."""
        error = (await self._ensure_listed({(market, provider)}))[market, provider]
        found, count = await self._instruments.search(
            market, provider, text=text, inactive=inactive, after=after, first=first
        )
        if error and not count:
            raise error
        return found, count

    async def select(self, selection: SymbolSelection) -> list[InstrumentRecord]:
        """The listed symbols that ``selection`` names or matches. NotFound names a missing one; BadUserInput: none or too many."""
        market, provider = selection.market, selection.provider
        check_selection(selection)
        if error := (await self._ensure_listed({(market, provider)}))[market, provider]:
            raise error
        names = None if selection.symbols is None else list(dict.fromkeys(selection.symbols))
        records = await self._instruments.named(market, provider, names)
        found = {record.instrument.symbol: record for record in records if record.listed}
        if names is not None:
            for name in names:
                if name not in found:
                    raise NotFound(f"{market}/{provider} has no symbol {name[:64]!r}: look it up with `symbols`.")
        pattern = selection.pattern
        chosen = [record for name, record in found.items() if pattern is None or fnmatchcase(name, pattern)]
        if not chosen:
            raise no_match(selection)
        if len(chosen) > MAX_SELECTED:
            raise BadUserInput(f"One request selects at most {MAX_SELECTED:,} symbols; these are {len(chosen):,}.")
        return chosen

    async def close(self) -> None:
        """Stop the running reads."""
        tasks = [known.task for known in self._lists.values() if known.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _timings(self) -> Timings:
        return self._instruments.database.timings

    def _is_due(self, known: _List) -> bool:
        return known.due(self._timings.listing_ttl_s, self._timings.listing_retry_s)

    async def _reread(self, pairs: set[tuple[str, str]]) -> bool:
        """Read the lists that lack a requested symbol again, except those read a moment ago; return whether one was read."""
        timings, plugins = self._timings, self._plugins()
        ages = timings.unknown_symbol_ttl_s, timings.listing_retry_s
        old = [pair for pair in pairs if pair in plugins and self._lists[pair].due(*ages)]
        for pair in old:
            self._lists[pair].task = asyncio.create_task(self._read(pair, self._lists[pair]))
        tasks = [task for pair in pairs if pair in self._lists and (task := self._lists[pair].task)]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timings.listing_deadline_s)
        return bool(tasks)

    async def _refresh_due(self, pairs: set[tuple[str, str]]) -> None:
        """Read the lists that are due, in the background."""
        for pair in await self._due(pairs):
            if pair in self._plugins():
                self._read_if_due(pair)
            else:
                self._lists.setdefault(
                    pair, _List()
                ).failed_at = time.monotonic()  # imported symbols: there is no provider with a list

    async def _ensure_listed(self, pairs: set[tuple[str, str]]) -> dict[tuple[str, str], CandlegraphError | None]:
        """Make sure that the providers' symbols are stored; return the error of each list that could not be read.

        It waits for a list that was never read; an old list is read in the background.
        """
        await self._due(pairs)
        return dict(zip(pairs, await asyncio.gather(*map(self._listed, pairs)), strict=True))

    async def _due(self, pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """The pairs whose lists are due, after a look in the store: another process may have read them."""
        maybe = [pair for pair in pairs if pair not in self._lists or self._is_due(self._lists[pair])]
        if not maybe:
            return []
        for pair, age in await self._instruments.listing_ages(maybe):
            known = self._lists.setdefault(pair, _List())
            known.asked_at = time.monotonic() - age
            if known.failed_at is not None and known.asked_at > known.failed_at:  # another process has read it since
                known.error = known.failed_at = None
        return [pair for pair in maybe if pair not in self._lists or self._is_due(self._lists[pair])]

    def _plugins(self) -> set[tuple[str, str]]:
        return {(status.market.id, status.id) for status in self._providers.statuses()}

    async def _listed(self, pair: tuple[str, str]) -> CandlegraphError | None:
        known = self._lists.get(pair)
        if known and known.asked_at is not None:
            self._read_if_due(pair)
            return known.error
        if pair not in self._plugins():
            return None if pair in await self._instruments.stored_providers() else self._no_provider(*pair)
        if task := self._read_if_due(pair):
            _, late = await asyncio.wait([task], timeout=self._timings.listing_deadline_s)
            if late:
                return ProviderUnavailable("The symbol list of {}/{} has not arrived yet.".format(*pair), retry_after=5)
        return self._lists[pair].error

    def _read_if_due(self, pair: tuple[str, str]) -> asyncio.Task[None] | None:
        """The running read of a list, or a new one if it is due; all callers share it, and no caller cancels it."""
        known = self._lists.setdefault(pair, _List())
        if self._is_due(known):
            known.task = asyncio.create_task(self._read(pair, known))
        return known.task

    async def _read(self, pair: tuple[str, str], known: _List) -> None:
        try:
            # Without a timeout: a provider may take long to start, and the list is read after that.
            source = await self._source(*pair)
            async with asyncio.timeout(self._timings.listing_timeout_s):
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
        # If a symbol is listed twice, the last entry counts, as with candles.
        listings = list({item.symbol: item for item in await source.listings()}.values())
        if not source.capabilities.has_volume:
            listings = [replace(item, has_volume=item.has_volume is True) for item in listings]
        traits, age_s = source.capabilities, time.monotonic() - began
        native_days = traits.regular_days or MINUTE not in traits.timeframes
        await self._instruments.store_list(
            market, provider, listings, source.market.timezone, age_s, native_days=native_days
        )
        self._lists[market, provider].asked_at = began

    def _no_provider(self, market: str, provider: str) -> NotFound:
        known = [status for status in self._providers.statuses() if status.market.id == market]
        if not known:
            markets = ", ".join(sorted({status.market.id for status in self._providers.statuses()}))
            return NotFound(f"Unknown market {market[:64]!r}: known are {markets}.")
        names = ", ".join(status.id for status in known)
        return NotFound(f"Market {market} has no provider {provider[:64]!r}: known are {names}.")


def check_selection(selection: SymbolSelection) -> None:
    """BadUserInput unless it names symbols or has a pattern."""
    if (selection.symbols is None) == (selection.pattern is None):
        raise BadUserInput("Give either `symbols` or a `pattern`.")
    if selection.symbols is not None and not selection.symbols:
        raise BadUserInput("`symbols` is empty.")


def no_match(selection: SymbolSelection) -> BadUserInput:
    """The error of a pattern that no symbol matches."""
    pattern = (selection.pattern or "")[:64]
    return BadUserInput(f"No symbol of {selection.market}/{selection.provider} matches {pattern!r}.")
