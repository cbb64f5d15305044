"""The harness of a provider under test: an event loop of its own, one start, and cached answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any, Self

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import RateLimited, Unsupported
from candlegraph.provider import Listing, Page, Provider, SupportsFirstAvailable
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.testing.outcome import RuleNotApplicable, RuleViolation
from candlegraph.testing.subject import Fault, Subject, SubjectFactory
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone, zone

_MAX_ATTEMPTS = 3  # of a rate-limited call


class Harness:
    """One provider, for all checks that can share it."""

    subject: Subject
    provider: Provider
    leave_s = 5.0  # how long a cancelled task may take to end

    def __init__(self, factory: SubjectFactory) -> None:
        """Create nothing before ``with``."""
        self._factory, self._stack = factory, AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._listed: Sequence[Listing] = ()
        self._known: dict[Timeframe, Candles] = {}
        self._seen: dict[Timeframe, Candles] = {}
        self.broken: set[str] = set()

    def __enter__(self) -> Self:
        """Make the subject and start its provider."""
        self._loop.run_until_complete(self._open())
        return self

    async def _open(self) -> None:
        self.subject = await self._stack.enter_async_context(self._factory())
        self.provider = self.subject.make()
        self._stack.push_async_callback(self.provider.close)
        await self.provider.start()

    def __exit__(self, *_: object) -> None:
        """Close both; cancel what a provider left running."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.run_until_complete(self.cancel_tasks(asyncio.all_tasks(self._loop)))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @property
    def id(self) -> str:
        """The provider as ``<market>.<id>``."""
        return f"{self.provider.market.id}.{self.provider.id}"

    def run(self, question: Coroutine[Any, Any, None]) -> None:
        """Run a check in the loop of this harness."""
        self._loop.run_until_complete(question)

    # Calls to the provider.

    async def listings(self) -> Sequence[Listing]:
        """Its symbols, listed once."""
        if not self._listed:
            self._listed = await self.provider.listings()
        return self._listed

    async def instrument(self) -> Instrument:
        """The instrument under test: the subject's, or the first active one."""
        symbol = self.subject.symbol
        if symbol is None:
            listed = await self.listings()
            if not listed:
                raise RuleViolation("It lists no symbol, and none was named (--provider-symbol).")
            symbol = next((listing.symbol for listing in listed if listing.active), listed[0].symbol)
        return Instrument(self.provider.market.id, self.provider.id, symbol)

    async def page(self, timeframe: Timeframe, span: Span) -> Page:
        """Fetch one page, unchanged. Calls a real upstream no faster than its budget allows."""
        instrument = await self.instrument()
        for left in reversed(range(_MAX_ATTEMPTS)):
            await self._pace()
            try:
                page = await self.provider.fetch(instrument, timeframe, span)
                return replace(page, candles=page.candles.with_known_volumes()[0])
            except RateLimited as error:
                if self.subject.fail or not left:
                    raise
                await asyncio.sleep(error.retry_after or 1)
        raise AssertionError("unreachable")

    async def _pace(self) -> None:
        traits = self.provider.capabilities
        if traits.budget and not self.subject.fail:
            await asyncio.sleep(traits.call_weight * traits.budget.per_s / traits.budget.weight)

    async def settled_page(self, timeframe: Timeframe, span: Span) -> tuple[Page, Candles]:
        """A page, and its settled rows sorted and unique: so that each check sees its own kind of mistake alone."""
        page = await self.page(timeframe, span)
        rows = page.candles.sorted().between(Span(span.since, min(span.until, await self.settled_before(timeframe))))
        self._seen[timeframe] = rows.merge(self._seen.get(timeframe, Candles.empty()))
        return page, rows

    def observed_rows(self, timeframe: Timeframe, span: Span) -> Candles:
        """All settled rows of any answer, as they were first seen."""
        return self._seen.get(timeframe, Candles.empty()).between(span)

    # Known facts about it.

    async def day_zone(self, timeframe: Timeframe) -> Zone:
        """The zone in which its buckets open."""
        if timeframe.width_ms:
            return UTC
        symbol = (await self.instrument()).symbol
        listing = next((one for one in await self.listings() if one.symbol == symbol), None)
        return zone((listing and listing.timezone) or self.provider.market.timezone)

    async def settled_before(self, timeframe: Timeframe) -> int:
        """Candles that open before this instant are final."""
        settle_ms = self.provider.capabilities.settle_ms
        return timeframe.floor(clock.now_ms() - settle_ms, await self.day_zone(timeframe))

    async def known_candles(self) -> dict[Timeframe, Candles]:
        """Some candles of every native timeframe that the symbol has."""
        if not self._known:
            for timeframe in sorted(self.provider.capabilities.timeframes, key=lambda each: each.nominal_ms):
                for span in await self._candidate_spans(timeframe):
                    try:
                        rows = (await self.page(timeframe, span)).candles.sorted().between(span)
                    except Unsupported:
                        break
                    if len(rows):
                        self._known[timeframe] = rows
                        break
            if not self._known:
                raise RuleViolation(
                    "No candles were found. Name a symbol and a span that have some: --provider-symbol=BTC/USDT "
                    "--provider-span=2024-05-01/2024-05-08, or Subject(symbol=..., span=...)."
                )
        return self._known

    async def _candidate_spans(self, timeframe: Timeframe) -> list[Span]:
        """Where candles may be: in the subject's span, else near now, at the listing, before the delisting, anywhere."""
        days, now = await self.day_zone(timeframe), clock.now_ms()
        if self.subject.span:
            span = self.subject.span.outer(timeframe, days)
            return [Span(self._within_reach(timeframe, span.since), span.until)]
        instrument, ends = await self.instrument(), [now]
        listing = next((one for one in await self.listings() if one.symbol == instrument.symbol), None)
        first = (
            await self.provider.first_available(instrument)
            if isinstance(self.provider, SupportsFirstAvailable)
            else None
        )
        first = (listing and listing.first_available) or first
        if listing and listing.ended_at:
            ends.append(listing.ended_at)
        ends += [timeframe.shift(first, 200, days)] if first is not None else []
        homes = [Span(self._within_reach(timeframe, timeframe.shift(end, -200, days)), end) for end in ends]
        return [*homes, Span(self._within_reach(timeframe, 0), now)]

    def _within_reach(self, timeframe: Timeframe, since: int) -> int:
        reach = self.provider.capabilities.reach_ms(timeframe)
        # Not to the very edge: it moves on while the check runs.
        return max(since, 0 if reach is None else clock.now_ms() - reach * 9 // 10)

    async def sample_span(self, timeframe: Timeframe) -> Span:
        """Settled time that begins with a known candle, as long as two pages and a bit where there is so much."""
        known, days = (await self.known_candles())[timeframe], await self.day_zone(timeframe)
        since = int(known.timestamp[len(known) // 4])
        pages = timeframe.shift(since, 2 * self.provider.capabilities.max_rows_per_call + 7, days)
        return Span(since, min(pages, await self.settled_before(timeframe)))

    # Failures and tasks.

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Let the upstream fail; RuleNotApplicable where it cannot be made to."""
        if self.subject.fail is None or fault not in self.subject.faults:
            raise RuleNotApplicable("the upstream cannot be made to fail in this way")
        self.subject.fail(fault)
        try:
            yield
        finally:
            self.subject.fail(None)

    async def cancel_tasks(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Cancel tasks, and wait for them."""
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self.leave_s)

    async def leaked_tasks(self, before: set[asyncio.Task[Any]]) -> str:
        """The tasks that were not there before and do not end by themselves, if any; they are cancelled."""
        extra = asyncio.all_tasks() - before
        pending = (await asyncio.wait(extra, timeout=self.leave_s))[1] if extra else set()
        await self.cancel_tasks(pending)
        return ", ".join(str(task.get_coro()) for task in pending)
