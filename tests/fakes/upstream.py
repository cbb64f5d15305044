"""A provider out of one table of 1m candles: every habit that upstreams have is a switch, every failure can be ordered.

It runs in memory on ``candlegraph.clock`` and writes down what it was asked. Its truth never changes; what it shows of
it depends on the time: the minute under way is drawn as far as it has come, and one that ended less than
``settle_ms`` ago lacks some of its volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable, UnknownSymbol
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Market, Page, Revision, Taint
from candlegraph.resample import fill_previous, fold
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import ProviderState, ProviderStatus, Urgency
from candlegraph.upstream import Upstream as GuardedUpstream
from candlegraph.zone import UTC, zone

MARKET = Market("fake", "Fake", "Nothing here is real.")

UNLIMITED = Budget(weight=1e9, per_s=1.0, concurrent=100)

Fault = Callable[[Page], Awaitable[Page]]


def minutes(since: int, count: int, *, holes: Sequence[int] = (), seed: int = 0) -> Candles:
    """So many random minutes from ``since`` without those at the positions ``holes``; sums of their volumes are exact."""
    dice = np.random.default_rng(seed)
    closes = 1000 + np.cumsum(dice.integers(-8, 9, count + 1)) / 4
    opened, close = closes[:-1], closes[1:]
    high = np.maximum(opened, close) + dice.integers(0, 5, count) / 4
    low = np.minimum(opened, close) - dice.integers(0, 5, count) / 4
    volume = dice.integers(1, 400, count) / 4
    made = Candles.of(since + MINUTE_MS * np.arange(count), opened, high, low, close, volume)
    return made[np.setdiff1d(np.arange(count), np.array(holes, np.int64))]


@dataclass(frozen=True, slots=True)
class Call:
    """One question it was asked, and when."""

    symbol: str
    timeframe: Timeframe
    span: Span
    at: int
    urgency: Urgency = Urgency.QUERY


@dataclass
class FakeUpstream:
    """Implements `candlegraph.provider.Provider`, and `Upstream` too, so that a history can have it unguarded.

    All fields may be changed at any time.
    """

    truth: dict[str, Candles] = field(default_factory=dict)
    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities((MINUTE,), LiveMode.POLL, max_rows_per_call=500, settle_ms=0)
    )
    listed: Mapping[str, Listing] = field(default_factory=dict)  # what `listings` says beyond the name of a symbol
    fillers: bool = False  # a flat row without volume for a minute without trades
    newest_only: int | None = None  # so many newest rows, whatever was asked
    sloppy: int = 0  # so many rows before and after the range come as well
    page_rows: int | None = None  # fewer rows a page than it says it can
    vouches_to_now: bool = False  # vouch for what has ended only, not for the whole range
    knows_beginnings: bool = False  # it can say where a symbol begins
    beginning_calls: int = 0
    edges_only: bool = False  # answer one window, and vouch only from its first row to its last one
    faults: list[Fault] = field(default_factory=list)  # what happens to the next calls, one each
    always: Fault | None = None  # what happens to every call without a fault of its own
    calls: list[Call] = field(default_factory=list)
    refusals: int = 0  # rows of ours that were refused
    skew_ms: int = 0  # how far our clock is from all other clocks
    listing_calls: int = 0
    listing_fault: Callable[[], Awaitable[None]] | None = None
    api_version: int = 1
    market: Market = MARKET
    id: str = "upstream"
    name: str = "Upstream"
    description: str = "Not real."
    version: str = "1"
    taints: Sequence[Taint] = ()

    async def start(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to let go."""

    async def listings(self) -> Sequence[Listing]:
        """Every symbol of the truth."""
        self.listing_calls += 1
        await asyncio.sleep(0)
        if self.listing_fault:
            await self.listing_fault()
        return [replace(self.listed.get(symbol, Listing(symbol)), symbol=symbol) for symbol in self.truth]

    def now_ms(self) -> int:
        """The time by our clock."""
        return clock.wall_ms() + self.skew_ms

    async def server_time(self) -> int:
        """The time by our clock, for providers without a clock of their own."""
        return self.now_ms()

    async def first_available(self, instrument: Instrument) -> int | None:
        """When the truth begins, if it ``knows_beginnings``."""
        self.beginning_calls += 1
        if not self.knows_beginnings:
            return None
        stamps = self.truth[instrument.symbol].timestamp
        return int(stamps[0]) if len(stamps) else None

    async def revision(self, instrument: Instrument, timeframe: Timeframe, stored: Revision | None) -> Revision | None:
        """It declares none."""
        return stored

    def stream(self, instrument: Instrument) -> None:
        """It has to be polled."""

    def count_refused_rows(self, rows: int) -> None:
        """Count them."""
        self.refusals += rows

    async def fetch(
        self, instrument: Instrument, timeframe: Timeframe, span: Span, urgency: Urgency = Urgency.QUERY
    ) -> Page:
        """An honest page, and then what was ordered to happen to it."""
        self.calls.append(Call(instrument.symbol, timeframe, span, self.now_ms(), urgency))
        fault = self.faults.pop(0) if self.faults else self.always
        await asyncio.sleep(0)
        if instrument.symbol not in self.truth:
            raise UnknownSymbol
        page = self._page(instrument.symbol, timeframe, span)
        return await fault(page) if fault else page

    def seen(self, symbol: str, now: int) -> Candles:
        """The minutes as they look at ``now``."""
        rows = self.truth[symbol]
        rows = rows[rows.timestamp <= now]
        volume, close, high, low = rows.volume.copy(), rows.close.copy(), rows.high.copy(), rows.low.copy()
        unsettled = rows.timestamp + MINUTE_MS + self.capabilities.settle_ms > now
        volume[unsettled] /= 2
        forming = rows.timestamp + MINUTE_MS > now
        close[forming] = (rows.open[forming] + close[forming]) / 2
        high[forming] = np.maximum(rows.open, close)[forming]
        low[forming] = np.minimum(rows.open, close)[forming]
        return replace(rows, volume=volume, close=close, high=high, low=low)

    def _rows(self, symbol: str, timeframe: Timeframe, now: int) -> Candles:
        listing = self.listed.get(symbol)
        days = UTC if timeframe.width_ms else zone((listing and listing.timezone) or self.market.timezone)
        rows = fold(self.seen(symbol, now), timeframe, days)
        if self.fillers and len(rows):
            opens = timeframe.edges(int(rows.timestamp[0]), now + 1, days)
            rows = replace(fill_previous(rows, opens, None), synthetic=np.zeros(len(opens), np.bool_))
        return rows

    def _page(self, symbol: str, timeframe: Timeframe, span: Span) -> Page:
        now = self.now_ms()
        rows, whole_from, until = self._rows(symbol, timeframe, now), span.since, span.until
        if self.vouches_to_now:
            until = min(until, timeframe.floor(now))
        if (reach := self.capabilities.reach_ms(timeframe)) is not None:
            rows, whole_from = rows[rows.timestamp >= now - reach], max(whole_from, now - reach)
        if self.newest_only is not None:
            if len(rows) > self.newest_only:
                rows = rows[-self.newest_only :]
                whole_from = max(whole_from, int(rows.timestamp[0]))
            return Page(rows, whole_from, until)
        if self.edges_only:
            span = Span(span.since, min(span.until, timeframe.shift(span.since, self.capabilities.max_rows_per_call)))
        inside, most = rows.between(span), self.page_rows or self.capabilities.max_rows_per_call
        if len(inside) > most:
            inside = inside[:most]
            until = min(until, timeframe.next(int(inside.timestamp[-1])))
        if self.sloppy and len(inside):
            first, last = np.searchsorted(rows.timestamp, [inside.timestamp[0], inside.timestamp[-1]])
            inside = rows[max(0, first - self.sloppy) : last + 1 + self.sloppy]
        if self.edges_only:
            if not len(inside):
                return Page(inside, span.since, span.since)
            whole_from = max(whole_from, int(inside.timestamp[0]))
            until = min(until, timeframe.next(int(inside.timestamp[-1])))
        return Page(inside, whole_from, until)


def raising(error: BaseException) -> Fault:
    """Fail."""

    async def fault(page: Page) -> Page:
        raise error

    return fault


def hanging(release: asyncio.Event | None = None) -> Fault:
    """Answer nothing until ``release`` is set."""

    async def fault(page: Page) -> Page:
        await (release or asyncio.Event()).wait()
        return page

    return fault


def delaying(seconds: float) -> Fault:
    """Answer late."""

    async def fault(page: Page) -> Page:
        await asyncio.sleep(seconds)
        return page

    return fault


def changing(change: Callable[[Page], object]) -> Fault:
    """Answer what ``change`` makes of the page: bad rows, rows that are missing, something else altogether."""

    async def fault(page: Page) -> Page:
        return change(page)  # type: ignore[return-value]

    return fault


def spoiling(*positions: int) -> Fault:
    """Let the high of some rows be below their low."""

    def spoil(page: Page) -> Page:
        high = page.candles.high.copy()
        high[list(positions)] = page.candles.low[list(positions)] - 1
        return replace(page, candles=replace(page.candles, high=high))

    return changing(spoil)


def emptying() -> Fault:
    """Vouch that there is nothing."""
    return changing(lambda page: replace(page, candles=Candles.empty()))


def proving_nothing() -> Fault:
    """Vouch for nothing, rows or not."""
    return changing(lambda page: replace(page, complete_from=0, complete_to=0))


def lagging(rows: int) -> Fault:
    """Let the newest rows come later, and say so."""

    def lag(page: Page) -> Page:
        if len(page.candles) <= rows:
            return Page(Candles.empty(), page.complete_from, page.complete_from)
        return Page(page.candles[:-rows], page.complete_from, int(page.candles.timestamp[-rows]))

    return changing(lag)


@dataclass
class FakeProviders:
    """Implements `candlegraph.upstream.Providers` for tests, with given providers, some of which cannot be started."""

    members: Sequence[GuardedUpstream]
    down: bool = False

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> GuardedUpstream | None:
        """The member of that name."""
        await asyncio.sleep(0)
        for member in self.members:
            if (member.market.id, member.id) == (market, provider):
                if self.down:
                    raise ProviderUnavailable(f"{member.name} is down.")
                return member
        return None

    def running(self, market: str, provider: str) -> GuardedUpstream | None:
        """The member of that name."""
        return next((one for one in self.members if (one.market.id, one.id) == (market, provider)), None)

    def status(self, market: str, provider: str) -> ProviderStatus | None:
        """The status of the member of that name."""
        return next((one for one in self.statuses() if (one.market.id, one.id) == (market, provider)), None)

    def statuses(self) -> Sequence[ProviderStatus]:
        """Every member."""
        return [
            ProviderStatus(m.market, m.id, m.name, "", "1", ProviderState.READY, taints=tuple(getattr(m, "taints", ())))
            for m in self.members
        ]

    async def inspect(self) -> None:
        """There is no provider with data of its own."""
