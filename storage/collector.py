"""Asking providers for what the ledger lacks: each missing piece once, whoever and how many are waiting for it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from candlegraph import clock
from candlegraph.candle import Candles, concat
from candlegraph.errors import CandlegraphError, ProviderError, ProviderUnavailable
from candlegraph.provider import Page, Provider
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone, zone
from storage.candles import CandleStore, Fetch, Write

log = logging.getLogger(__name__)

MAX_CALLS = 12  # upstream calls one question may cost; what is left is asked by the next page
CALL_TIMEOUT_S = 60.0  # a call that never ends would keep everybody from this series
FORMING_TTL_S = 2.0


@dataclass(slots=True)
class Collected:
    """What came of asking: the rows that are not final yet, what was asked and stored, and what went wrong."""

    forming: Candles = field(default_factory=Candles.empty)
    fetched: Spans = field(default_factory=Spans)
    refused: Spans = field(default_factory=Spans)  # the provider has rows there that are no candles
    unavailable: Spans = field(default_factory=Spans)  # the provider does not reach there
    failure: ProviderError | None = None
    calls: int = 0
    exhausted: bool = False  # the call budget ended before the span did


@dataclass(frozen=True, slots=True)
class _Tail:
    """The rows of ``span`` that were not final when it was asked for, and when that was."""

    candles: Candles
    span: Span
    at: float

    def serves(self, ahead: Spans) -> bool:
        """Whether it may stand for another look at ``ahead``."""
        return time.monotonic() - self.at < FORMING_TTL_S and not ahead - Spans([self.span])


class Collector:
    """Fetches, checks and stores pages. Equal questions at the same time share one task, which no leaver cancels."""

    def __init__(self, store: CandleStore) -> None:
        """Nothing runs yet."""
        self._store = store
        self._tasks: dict[tuple[int, Timeframe, Span, bool], asyncio.Task[Collected]] = {}
        self._locks: WeakValueDictionary[tuple[int, Timeframe], asyncio.Lock] = WeakValueDictionary()
        self._tails: dict[tuple[int, Timeframe], _Tail] = {}
        self._reaches: dict[tuple[int, Timeframe], int] = {}

    def collect(
        self, record: Record, provider: Provider, timeframe: Timeframe, span: Span, *, newest: bool
    ) -> asyncio.Task[Collected]:
        """Start, or join, the fetching of what is missing of ``span``; await it shielded.

        The result holds a failure as a value, beside what was fetched before it. What is not final yet serves everybody
        for two seconds.
        """
        key = (record.id, timeframe, span, newest)
        task = self._tasks.get(key)
        if task is None:
            errand = _Errand(self._store, record, provider, timeframe)
            task = self._tasks[key] = asyncio.create_task(self._run(errand, span, newest=newest))
            task.add_done_callback(lambda done: self._retire(key, done))
        return task

    def recent(self, record: Record, timeframe: Timeframe, ahead: Spans) -> Candles | None:
        """The candles of ``ahead``, none of it final, where they were fetched within two seconds; asks nobody."""
        tail = self._tails.get((record.id, timeframe))
        return tail.candles if tail and tail.serves(ahead) else None

    async def close(self) -> None:
        """Stop what is under way; what was stored is stored, the rest will be asked for again."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _retire(self, key: tuple[int, Timeframe, Span, bool], task: asyncio.Task[Collected]) -> None:
        del self._tasks[key]
        # Everybody who waited may have left: what broke then is seen here or never.
        if not task.cancelled() and (error := task.exception()):
            log.warning("fetching %s of instrument %d was given up: %r", key[1], key[0], error)

    async def _run(self, errand: _Errand, span: Span, *, newest: bool) -> Collected:
        key = (errand.record.id, errand.timeframe)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            errand.tail, errand.reach = self._tails.get(key), self._reaches.get(key, 0)
            await errand.run(span, newest=newest)
            self._reaches[key] = errand.reach
            if errand.tail and errand.tail is not self._tails.get(key):
                self._tails[key] = errand.tail
                asyncio.get_running_loop().call_later(FORMING_TTL_S, self._forget, key, errand.tail)
        return errand.result

    def _forget(self, key: tuple[int, Timeframe], tail: _Tail) -> None:
        if self._tails.get(key) is tail:
            del self._tails[key]


@dataclass(slots=True)
class _Errand:
    """The fetching of one series' missing pieces."""

    store: CandleStore
    record: Record
    provider: Provider
    timeframe: Timeframe
    tail: _Tail | None = None
    reach: int = 0  # how far back one call asked last time, ms
    result: Collected = field(default_factory=Collected)

    @property
    def days(self) -> Zone:
        """The zone whose days the timeframe counts."""
        return UTC if self.timeframe.width_ms else zone(self.record.timezone)

    def _final_until(self) -> int:
        """Candles that end here or before are final."""
        return self.timeframe.floor(clock.now_ms() - self.provider.capabilities.settle_ms, self.days)

    async def run(self, span: Span, *, newest: bool) -> None:
        """Fetch what is missing: piece by piece from the oldest, or page by page from the newest."""
        # Whoever held the lock before us may have fetched it meanwhile: the ledger is read under the lock.
        ledger = (await self.store.ledgers([self.record.id]))[0]
        missing = self._without_tail(Spans([span]) - ledger.spans.get(self.timeframe, Spans()))
        page = self.provider.capabilities.max_rows_per_call * self.timeframe.nominal_ms
        self.reach = max(self.reach, page)
        while missing and not self.result.failure and not self.result.exhausted:
            piece = next(iter(missing))
            if newest:
                *_, piece = missing
                piece = Span(max(piece.since, self.timeframe.floor(piece.until - self.reach, self.days)), piece.until)
            rows, length = await self._fill(piece), piece.until - piece.since
            missing -= Spans([piece])
            if newest and Spans([Span(piece.since, piece.since + 1)]) & self.result.unavailable:
                self.result.unavailable |= missing  # older than what the provider does not have
                break
            # A page of a symbol that seldom trades, or did not yet, reaches further back than its number of rows says.
            # It is remembered: otherwise every question would feel its way anew, and never arrive at the first trade.
            if rows * 4 * self.timeframe.nominal_ms >= length:
                self.reach = page
            elif length >= self.reach:
                self.reach *= 4

    def _without_tail(self, missing: Spans) -> Spans:
        """``missing``, less what is not final and was looked at a moment ago."""
        final_until = self._final_until()
        ahead = Spans(Span(max(span.since, final_until), span.until) for span in missing)
        if not ahead or not self.tail or not self.tail.serves(ahead):
            return missing
        self.result.forming = self.tail.candles[self.tail.candles.timestamp >= final_until]
        return missing - ahead

    async def _fill(self, piece: Span) -> int:
        """Page through ``piece`` until it is settled, the budget is spent or the provider fails; the rows that came."""
        cursor, rows = piece.since, 0
        while cursor < piece.until:
            if self.result.calls >= MAX_CALLS:
                self.result.exhausted = True
                break
            self.result.calls += 1
            asked, began = Span(cursor, piece.until), time.monotonic()
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    page = await self.provider.fetch(self.record.instrument, self.timeframe, asked)
                candles = page.candles.sorted().between(asked)
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is reported as the provider's
                self.result.failure = _as_provider_error(self.provider, error)
                await self._log(asked, 0, self.result.failure.code, began)
                break
            cursor = await self._keep(asked, page, candles, began)
            rows += len(candles)
        return rows

    async def _keep(self, asked: Span, page: Page, candles: Candles, began: float) -> int:
        """Check and store one page; the instant to go on from (the end of the span where nothing more can come)."""
        traits, result, final_until = self.provider.capabilities, self.result, self._final_until()
        candles, bad = self._checked(candles, asked)
        if traits.has_volume:
            candles = candles[~_fillers(candles)]
        covered = Spans([Span(page.complete_from, min(page.complete_to, final_until)) & asked]) - bad
        fetch = Fetch(
            self.record.id, self.timeframe, asked, len(candles), "bad rows" if bad else "ok", _ms_since(began)
        )
        kept = concat([candles.between(span) for span in covered])
        await self.store.write([Write(self.record.id, self.timeframe, kept, covered)], fetch)
        forming = candles[candles.timestamp >= final_until]
        result.forming = result.forming.merge(forming)
        result.fetched |= covered
        result.refused |= bad
        nothing = page.complete_to <= asked.since
        unproved = asked.until if nothing else page.complete_from
        result.unavailable |= Spans([Span(asked.since, min(unproved, asked.until, final_until))])
        # Past the last final candle comes the forming one alone, and only a full page can have cut that off.
        whole = page.complete_to >= final_until and len(page.candles) < traits.max_rows_per_call
        reached = asked.until if nothing or whole else page.complete_to
        if not nothing and reached >= asked.until > final_until:
            self.tail = _Tail(forming, Span(max(asked.since, final_until), asked.until), began)
        return reached

    def _checked(self, candles: Candles, asked: Span) -> tuple[Candles, Spans]:
        """The rows that are candles, and the buckets of those that are not: these are neither stored nor covered."""
        problems = candles.problems(self.timeframe, asked, self.days)
        if not problems:
            return candles, Spans()
        first = min(problems)
        log.warning(
            "%s %s: %d bad rows refused, the first at %d: %s",
            self.record.instrument, self.timeframe, len(problems), candles.timestamp[first], problems[first],
        )  # fmt: skip
        bad = np.isin(np.arange(len(candles)), list(problems))
        return candles[~bad], Spans(
            Span(self.timeframe.floor(stamp, self.days), self.timeframe.next(stamp, self.days))
            for stamp in candles.timestamp[bad].tolist()
        )

    async def _log(self, asked: Span, rows: int, outcome: str, began: float) -> None:
        try:
            await self.store.log(Fetch(self.record.id, self.timeframe, asked, rows, outcome, _ms_since(began)))
        except CandlegraphError as away:
            log.warning("a failed fetch of %s could not be logged: %s", self.record.instrument, away)


def _fillers(candles: Candles) -> NDArray[np.bool_]:
    """The flat rows without volume that some exchanges put where nobody traded."""
    flat = (candles.open == candles.close) & (candles.high == candles.low)
    return np.asarray(flat & (candles.volume == 0))


def _as_provider_error(provider: Provider, error: Exception) -> ProviderError:
    if isinstance(error, ProviderError):
        return error
    log.error("provider %s/%s failed unexpectedly", provider.market.id, provider.id, exc_info=error)
    return ProviderUnavailable(f"{provider.name} failed: {type(error).__name__}.")


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
