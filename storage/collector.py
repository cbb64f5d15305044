"""Asking providers for what the ledger lacks: each missing piece once, whoever and how many are waiting for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Candles, concat
from candlegraph.errors import CandlegraphError, ProviderError
from candlegraph.outage import Outage
from candlegraph.provider import Page, Upstream, Urgency
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC, Zone, zone
from storage.arrivals import Arrivals
from storage.candles import CandleStore, Fetch, Ledger, Write
from storage.claims import Claims
from storage.ledgers import Ledgers
from storage.live import Held, LeaseLost
from storage.suspects import Suspects, is_suspect

log = logging.getLogger(__name__)

MAX_CALLS = 12  # upstream calls one question may cost; what is left is asked by the next page
FORMING_TTL_S = 2.0
DENSE = 0.8  # of a page's minutes have a candle: the next pages can be told beforehand


@dataclass(frozen=True, slots=True)
class Want:
    """What is to be fetched: what is missing of ``span``, or ``again`` all of it, in at most so many ``calls``.

    The oldest first, or the ``newest``. What lies up to ``overlap_ms`` before it is looked at once more by the same call. What
    is ``held`` must still be so when something is stored.
    """

    timeframe: Timeframe
    span: Span
    newest: bool = False
    urgency: Urgency = Urgency.QUERY
    calls: int = MAX_CALLS
    again: bool = False
    overlap_ms: int = 0
    held: Held | None = None


@dataclass(slots=True)
class Collected:
    """What came of asking: the rows that are not final yet, what was asked and stored, and what went wrong."""

    forming: Candles = field(default_factory=Candles.empty)
    fetched: Spans = field(default_factory=Spans)
    refused: Spans = field(default_factory=Spans)  # the provider has rows there that are no candles
    unavailable: Spans = field(default_factory=Spans)  # the provider does not reach there
    failure: ProviderError | None = None
    calls: int = 0
    rows: int = 0  # how many candles were stored
    exhausted: bool = False  # the call budget ended before the span did
    reached: int = 0  # where it did: everything before was asked for (of the oldest first)
    live: bool = False  # what is forming came from whoever follows it


@dataclass(frozen=True, slots=True)
class Tail:
    """The rows of ``span`` that were not final when it was asked for, and when that was; ``live``: told by who follows it."""

    candles: Candles
    span: Span
    at: float
    live: bool = False

    def serves(self, ahead: Spans) -> bool:
        """Whether it may stand for another look at ``ahead``."""
        fresh = self.live or time.monotonic() - self.at < FORMING_TTL_S
        return fresh and not ahead - Spans([self.span])


# The 1m candles that are not final, and the span that they are all of; None where they are not known now.
Peek = Callable[[], tuple[Candles, Span] | None]


class Collector:
    """Fetches, checks and stores pages. Equal questions at the same time share one task, which no leaver cancels."""

    def __init__(self, store: CandleStore, ledgers: Ledgers) -> None:
        """Nothing runs yet."""
        self.store = store
        self.ledgers = ledgers
        self.claims = Claims(store.database, store.changes)
        self.suspects = Suspects(store.database)
        self._tasks: dict[tuple[int, Want], asyncio.Task[Collected]] = {}
        self._tails: dict[tuple[int, Timeframe], Tail] = {}
        self._reaches: dict[tuple[int, Timeframe], int] = {}
        self._peeks: dict[int, Peek] = {}
        self.storing = Outage("storing what was fetched")
        self.logging = Outage("logging failed fetches")
        self.rechecking = Outage("fetching suspect candles again")

    def collect(self, record: Record, provider: Upstream, want: Want) -> asyncio.Task[Collected]:
        """Start, or join, the fetching of what is missing of what is wanted; await it shielded.

        The result holds a failure as a value, beside what was fetched before it. What is not final yet serves everybody
        for two seconds. Raises LeaseLost, Unavailable.
        """
        key = (record.id, want)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._run(_Errand(self, record, provider, want)))
            task.add_done_callback(lambda done: self._retire(key, done))
        return task

    def recent(self, record: Record, timeframe: Timeframe, ahead: Spans) -> Tail | None:
        """The candles of ``ahead``, none of it final, where they came within two seconds; asks nobody."""
        tail = self._tails.get((record.id, timeframe))
        return tail if tail and tail.serves(ahead) else None

    async def close(self) -> None:
        """Stop what is under way; what was stored is stored, the rest will be asked for again."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.claims.close()

    def watch(self, instrument_id: int, peek: Peek | None) -> None:
        """Ask ``peek`` how the minute of an instrument that is followed stands, rather than its provider; None: no more."""
        if peek:
            self._peeks[instrument_id] = peek
        else:
            self._peeks.pop(instrument_id, None)

    def overhear(self, instrument_id: int, minutes: Candles, span: Span) -> None:
        """Take what another process says that follows an instrument: the minutes of ``span``, none of them final."""
        self.remember((instrument_id, MINUTE), Tail(minutes, span, time.monotonic(), live=True))

    def _retire(self, key: tuple[int, Want], task: asyncio.Task[Collected]) -> None:
        del self._tasks[key]
        # Everybody who waited may have left: what broke then is seen here or never.
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            log.warning("fetching %s of instrument %d was given up: %r", key[1].timeframe, key[0], error)
        elif isinstance(error, CandlegraphError):
            self.storing.begin(error.message)
        elif error:
            log.error("fetching %s of instrument %d failed", key[1].timeframe, key[0], exc_info=error)
        elif not task.cancelled():
            self.storing.end()

    async def _run(self, errand: _Errand) -> Collected:
        key = errand.key
        errand.reach = self._reaches.get(key, 0)
        while await errand.step():
            self._reaches[key] = errand.reach
        if errand.want.again:
            await errand.settle()
        return errand.result

    def tail(self, key: tuple[int, Timeframe], want: Want) -> Tail | None:
        """How the candles of a series stand that are not final: as whoever follows it has them, or as they were last seen."""
        instrument_id, timeframe = key
        peek = self._peeks.get(instrument_id)
        if timeframe == MINUTE and want.held is None and peek and (seen := peek()):
            return Tail(*seen, time.monotonic(), live=True)
        tail = self._tails.get(key)
        return None if tail and tail.live and want.held else tail  # who follows it does not ask itself

    def remember(self, key: tuple[int, Timeframe], tail: Tail) -> None:
        """Have it serve whoever asks in the next moment."""
        self._tails[key] = tail
        asyncio.get_running_loop().call_later(FORMING_TTL_S, self._forget, key, tail)

    def _forget(self, key: tuple[int, Timeframe], tail: Tail) -> None:
        if self._tails.get(key) is tail:
            del self._tails[key]


@dataclass(slots=True)
class _Errand:
    """The fetching of one series' missing pieces."""

    collector: Collector
    record: Record
    provider: Upstream
    want: Want
    reach: int = 0  # how far back one call asked last time, ms
    dense: bool = False  # the last page was as long as it has rows, or nearly
    result: Collected = field(default_factory=Collected)
    tried: Spans = field(default_factory=Spans)  # asked for: what is not known by now cannot be had
    arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        """Nothing has arrived."""
        self.arrivals = Arrivals(self.collector.store, self.want.held)

    @property
    def timeframe(self) -> Timeframe:
        """The timeframe wanted."""
        return self.want.timeframe

    @property
    def key(self) -> tuple[int, Timeframe]:
        """The series."""
        return self.record.id, self.timeframe

    @property
    def days(self) -> Zone:
        """The zone whose days the timeframe counts."""
        return UTC if self.timeframe.width_ms else zone(self.record.timezone)

    @property
    def _page_ms(self) -> int:
        return self.provider.capabilities.max_rows_per_call * self.timeframe.nominal_ms

    def _final_until(self) -> int:
        """Candles that end here or before are final."""
        return self.timeframe.floor(self.provider.now_ms() - self.provider.capabilities.final_after_ms, self.days)

    async def step(self) -> bool:
        """Fetch one missing piece, the oldest or the newest; False where there is none, or no use in going on."""
        if self.result.failure or self.result.exhausted:
            return False
        ledger = (await self.collector.ledgers.load([self.record.id]))[0]
        missing = self._without_tail(self._unknown(self.want.span, ledger) - self.tried)
        if not missing:
            return False
        self.reach = max(self.reach, self._page_ms)
        *_, piece = missing if self.want.newest else [next(iter(missing))]
        if self.want.newest:
            calls = max(1, self.want.calls - self.result.calls) if self.dense else 1
            reach = max(self.reach, calls * self._page_ms)
            piece = Span(max(piece.since, self.timeframe.floor(piece.until - reach, self.days)), piece.until)
        final = piece.since < self._final_until()
        # Whoever leads need not wait until what a dead leader had claimed is free again: the lease says whose turn it is.
        async with self.collector.claims.taken(self.key, piece, shared=final and not self.want.held) as ours:
            if ours:
                await self._fetch(piece, final=final, missing=missing)
        return True

    async def _fetch(self, piece: Span, *, final: bool, missing: Spans) -> None:
        """Fetch a piece that is ours alone."""
        left = Spans([piece])
        if final:  # whoever had it before us may have fetched some of it
            left = self._unknown(piece, (await self.collector.store.ledgers([self.record.id]))[0])
            if left != Spans([piece]):
                self.collector.ledgers.forget(self.record.id)  # we have not been told of it yet
        left = self._without_tail(left)
        rows, length = 0, piece.until - piece.since
        for part in left:
            rows += await self._fill(Span(part.since - self.want.overlap_ms, part.until) if final else part)
        if not self.result.exhausted:
            self.tried |= Spans([piece])
        if not left:
            return
        if self.want.newest and Spans([Span(piece.since, piece.since + 1)]) & self.result.unavailable:
            older = Spans(Span(gap.since, min(gap.until, piece.since)) for gap in missing)
            self.result.unavailable |= older  # older than what the provider does not have
            self.tried |= older
        # A page of a symbol that seldom trades, or did not yet, reaches further back than its number of rows says.
        # It is remembered: otherwise every question would feel its way anew, and never arrive at the first trade.
        if rows * 4 * self.timeframe.nominal_ms >= length:
            self.reach = self._page_ms
        elif length >= self.reach:
            self.reach *= 4

    async def settle(self) -> None:
        """What was asked for again is no longer suspect: the second answer is final."""
        asked = self.result.fetched | self.result.unavailable | self.result.refused
        await self.collector.suspects.settle(self.record.id, self.timeframe, asked, self.provider.now_ms())
        self.collector.ledgers.forget(self.record.id)

    def _unknown(self, span: Span, ledger: Ledger) -> Spans:
        return Spans([span]) - (ledger.behind if self.want.again else ledger.final)(self.timeframe)

    def _without_tail(self, missing: Spans) -> Spans:
        """``missing``, less what is not final and was looked at a moment ago."""
        tail = self.collector.tail(self.key, self.want)
        final_until = self._final_until()
        ahead = Spans(Span(max(span.since, final_until), span.until) for span in missing)
        if not ahead or not tail or not tail.serves(ahead):
            return missing
        self.result.forming = tail.candles[tail.candles.timestamp >= final_until]
        self.result.live = tail.live
        return missing - ahead

    async def _fill(self, piece: Span) -> int:
        """Page through ``piece`` until it is settled, the budget is spent or the provider fails; the rows that came.

        A page is stored while the next ones are asked for; all are before this returns, and the claim is given back.
        """
        left, rows = Spans([piece]), 0
        async with self.arrivals.stored():
            while left and not self.result.failure:
                if self.result.calls >= self.want.calls:
                    self.result.exhausted, self.result.reached = True, next(iter(left)).since
                    break
                windows = self._windows(next(iter(left)))
                # All of them are waited for, also where one broke: what the others bring is stored.
                pages = await asyncio.gather(*(self._call(window) for window in windows), return_exceptions=True)
                for window, page in zip(windows, pages, strict=True):
                    if isinstance(page, BaseException):
                        raise page
                    count, reached = page
                    rows += count
                    left -= Spans([Span(window.since, reached)])
                    self.dense = count * self.timeframe.nominal_ms >= DENSE * (reached - window.since)
        return rows

    def _windows(self, rest: Span) -> list[Span]:
        """What to ask for at once: all of the rest, of which a page comes; or where a page is as long as it has rows, page by
        page side by side, as far as the budget of calls goes.
        """
        page = self._page_ms
        calls = min(self.want.calls - self.result.calls, -(-(rest.until - rest.since) // page))
        if not self.dense or calls < 2 or not self.timeframe.width_ms:
            return [rest]
        starts = [rest.since + i * page for i in range(calls)]
        return [Span(start, min(start + page, rest.until)) for start in starts]

    async def _call(self, asked: Span) -> tuple[int, int]:
        """One upstream call: how many rows came, and the instant to go on from."""
        self.result.calls += 1
        began = time.monotonic()
        final_until = self._final_until()  # by when it was asked: what settles meanwhile was not final yet
        try:
            page = await self.provider.fetch(self.record.instrument, self.timeframe, asked, self.want.urgency)
        except ProviderError as error:
            self.result.failure = error
            await self._log(asked, 0, error.code, began)
            return 0, asked.since
        candles = page.candles.sorted().between(asked)
        return len(candles), await self._keep(asked, page, candles, final_until, began)

    async def _keep(self, asked: Span, page: Page, candles: Candles, final_until: int, began: float) -> int:
        """Check one page and have it stored; the instant to go on from (the end of the span where nothing more can come)."""
        traits, result, empty = self.provider.capabilities, self.result, not len(candles)
        candles, bad = self._checked(candles, asked)
        if traits.has_volume:
            candles = candles[~_fillers(candles)]
        covered = Spans([Span(page.complete_from, min(page.complete_to, final_until)) & asked]) - bad
        fetch = Fetch(
            self.record.id, self.timeframe, asked, len(candles), "bad rows" if bad else "ok", _ms_since(began)
        )
        kept = concat([candles.between(span) for span in covered])
        if empty and covered and not self.want.again:
            await self._doubt(covered, strayed=bool(len(page.candles)))
        if asked.since < final_until or bad:  # a look at the forming candle alone would only fill the log
            self.arrivals.add(Write(self.record.id, self.timeframe, kept, covered), fetch)
        forming = candles[candles.timestamp >= final_until]
        result.forming = result.forming.merge(forming)
        result.fetched |= covered
        result.rows += len(kept)
        result.refused |= bad
        nothing = page.complete_to <= asked.since
        unproved = asked.until if nothing else page.complete_from
        result.unavailable |= Spans([Span(asked.since, min(unproved, asked.until, final_until))])
        # Past the last final candle comes the forming one alone, and only a full page can have cut that off.
        whole = page.complete_to >= final_until and len(page.candles) < traits.max_rows_per_call
        reached = asked.until if nothing or whole else page.complete_to
        if not nothing and reached >= asked.until > final_until:
            tail = Tail(forming, Span(max(asked.since, final_until), asked.until), began)
            self.collector.remember(self.key, tail)
        return reached

    async def _doubt(self, covered: Spans, *, strayed: bool) -> None:
        """Note what is to be asked for once more: an outage looks like this, and so does the answer to something else.

        Before the coverage is written: what is noted for nothing does no harm, what is not noted is believed for ever.
        """
        now = self.provider.now_ms()
        if strayed or is_suspect(covered, now):
            await self.collector.suspects.add(self.record.id, self.timeframe, covered, now)

    def _checked(self, candles: Candles, asked: Span) -> tuple[Candles, Spans]:
        """The rows that are candles, and the buckets of those that are not: these are neither stored nor covered."""
        problems = candles.problems(self.timeframe, asked, self.days)
        if not problems:
            return candles, Spans()
        first = min(problems)
        self.provider.refused(len(problems))
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
        fetch = Fetch(self.record.id, self.timeframe, asked, rows, outcome, _ms_since(began))
        with self.collector.logging.watched():
            await self.collector.store.log(fetch)


def _fillers(candles: Candles) -> NDArray[np.bool_]:
    """The flat rows without volume that some exchanges put where nobody traded."""
    flat = (candles.open == candles.close) & (candles.high == candles.low)
    return np.asarray(flat & (candles.volume == 0))


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
