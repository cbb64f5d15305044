"""Providers that break one rule of the contract each, and the honest one they are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from candlegraph import (
    MINUTE,
    Budget,
    Candles,
    Capabilities,
    Instrument,
    Listing,
    LiveMode,
    Page,
    Span,
    Timeframe,
    clock,
)
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.errors import ProviderUnavailable, RateLimited, Unsupported
from candlegraph.resample import fold
from candlegraph.testing import RETRY_AFTER_S, Fault
from candlegraph.zone import zone
from tests.fakes.upstream import FakeUpstream, emptying, hanging, minutes, raising

T0 = 1_735_689_600_000  # 2025-01-01T00:00Z
COUNT = 3_000
NOW = T0 + (COUNT - 1) * MINUTE_MS + 20_000
SYMBOL = "A/USD"
HOUR, DAY = Timeframe(1, "h"), Timeframe(1, "d")
TRUTH = minutes(T0, COUNT + 10, holes=[120, *range(700, 740), 903, 1_111])


class Honest(FakeUpstream):
    """Keeps every rule; has whatever a provider may have."""

    pages: ClassVar[Callable[[Page, Span], Page]] = staticmethod(lambda page, span: page)

    def __init__(self) -> None:
        traits = Capabilities((MINUTE, HOUR, DAY), LiveMode.STREAM, settle_ms=5_000, max_lookback_ms=30 * DAY_MS)
        super().__init__({SYMBOL: TRUTH}, traits, vouches_to_now=True)

    def fail(self, fault: Fault | None) -> None:
        """An upstream that misbehaves on request, seen through a correct provider."""
        self.always = None if fault is None else hanging() if fault is Fault.HANG else raising(self.error(fault))
        self.listing_fault = None if fault is None or fault is Fault.HANG else self._refuse

    def error(self, fault: Fault) -> Exception:
        return RateLimited(retry_after=RETRY_AFTER_S) if fault is Fault.RATE_LIMITED else ProviderUnavailable()

    async def _refuse(self) -> None:
        raise ProviderUnavailable

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        if timeframe not in self.capabilities.timeframes:
            raise Unsupported
        return type(self).pages(await super().fetch(instrument, timeframe, span), span)

    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        since = MINUTE.floor(clock.now_ms())
        while True:
            now = clock.now_ms()
            if len(rows := self.seen(instrument.symbol, now).between(Span(since, now + 1))):
                yield rows
            since = MINUTE.floor(now)
            await asyncio.sleep(0.01)

    async def first_available(self, instrument: Instrument) -> int | None:
        return T0

    async def server_time(self) -> int:
        return clock.now_ms()


def _paged(change: Callable[[Page, Span], Page]) -> Callable[[Page, Span], Page]:
    return staticmethod(change)


def _claiming(page: Page, since: int, until: int) -> Page:
    return replace(page, complete_from=since, complete_to=until)


def _with(page: Page, candles: Candles) -> Page:
    return replace(page, candles=candles)


class OfAnotherVersion(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.api_version = 2


class CannotAffordACall(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, budget=Budget(1, 60), call_weight=2)


class HasCandlesOfTheMiddleAges(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, earliest_ms=-(10**15))


class SaysItStreams(Honest):
    stream = None  # type: ignore[assignment]


class StartsOnce(Honest):
    started = False

    async def start(self) -> None:
        if self.started:
            raise RuntimeError("already started")
        self.started = True


class ClosesWhatWasNeverOpened(Honest):
    async def close(self) -> None:
        self.session.cancel()  # type: ignore[attr-defined]  # only start() makes one

    async def start(self) -> None:
        self.session = asyncio.get_running_loop().create_future()


class LeavesATask(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        self.task = asyncio.create_task(asyncio.sleep(3_600))
        return await super().fetch(instrument, timeframe, span)


class ListsTwice(Honest):
    async def listings(self) -> Sequence[Listing]:
        return [*await super().listings()] * 2


class ListsInSeconds(Honest):
    async def listings(self) -> Sequence[Listing]:
        return [replace(each, first_available=T0 // 1_000) for each in await super().listings()]


class SinceIsExclusive(Honest):
    pages = _paged(lambda page, span: _with(page, page.candles[page.candles.timestamp > span.since]))


class BringsTheOneBefore(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        page = await super().fetch(instrument, timeframe, Span(timeframe.floor(span.since), span.until))
        return replace(page, complete_from=max(page.complete_from, span.since))


class UntilIsInclusive(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        page = await super().fetch(instrument, timeframe, Span(span.since, span.until + 1))
        return replace(page, complete_to=min(page.complete_to, span.until))


class NewestFirst(Honest):
    pages = _paged(lambda page, span: _with(page, page.candles[np.arange(len(page.candles))[::-1]]))


class RepeatsARow(Honest):
    pages = _paged(lambda page, span: _with(page, page.candles[np.repeat(np.arange(len(page.candles)), 2)]))


class SwapsHighAndLow(Honest):
    pages = _paged(lambda page, span: _with(page, replace(page.candles, high=page.candles.low, low=page.candles.high)))


class DaysOfNewYork(Honest):
    def _rows(self, symbol: str, timeframe: Timeframe, now: int) -> Candles:
        if timeframe == DAY:
            return fold(self.seen(symbol, now), DAY, zone("America/New_York"))
        return super()._rows(symbol, timeframe, now)


class VouchesForTheFormingOne(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.vouches_to_now = False


class VouchesForACutPage(Honest):
    pages = _paged(lambda page, span: _claiming(page, page.complete_from, min(span.until, MINUTE.floor(NOW) - DAY_MS)))


class TakesASmallPageForWhole(Honest):
    """Its upstream sends the newest rows up to an inclusive end; a page of fewer than a hundred is taken for uncut."""

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        page = await super().fetch(instrument, timeframe, span)
        buckets = (span.until - span.since) // MINUTE_MS
        cut = timeframe == MINUTE and 2 < buckets < 100 and len(page.candles) == buckets
        return _with(page, page.candles[1:]) if cut else page


class VouchesForMoreThanAsked(Honest):
    pages = _paged(lambda page, span: _claiming(page, page.complete_from - HOUR_MS, page.complete_to))


class LosesTheLastRow(Honest):
    pages = _paged(lambda page, span: _with(page, page.candles[:-1]) if len(page.candles) == 500 else page)


class OtherNumbersEachTime(Honest):
    pages = _paged(
        lambda page, span: _with(page, replace(page.candles, volume=page.candles.volume * (1 + span.since % 7)))
    )


class VouchesForNothing(Honest):
    pages = _paged(lambda page, span: _claiming(page, span.since, span.since))


class ProvesNoQuietTime(Honest):
    pages = _paged(lambda page, span: page if len(page.candles) else _claiming(page, span.since, span.since))


class VouchesOutOfReach(Honest):
    pages = _paged(
        lambda page, span: replace(page, complete_from=span.since) if page.complete_from > span.until else page
    )


class RefusesTheFuture(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        if span.since > clock.now_ms() + DAY_MS:
            raise ProviderUnavailable("start is in the future")
        return await super().fetch(instrument, timeframe, span)


class RefusesAnEmptySpan(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        if not span:
            raise ValueError("start is not before end")
        return await super().fetch(instrument, timeframe, span)


class KnowsEverySymbol(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        if instrument.symbol != SYMBOL:
            return Page(Candles.empty(), span.since, span.until)
        return await super().fetch(instrument, timeframe, span)


class KnowsEveryTimeframe(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        return await super().fetch(instrument, timeframe if timeframe in (MINUTE, HOUR, DAY) else MINUTE, span)


class MixesQuestions(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        self.span = span
        await asyncio.sleep(0)
        return await super().fetch(instrument, timeframe, self.span)


class SwallowsCancellation(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        try:
            return await super().fetch(instrument, timeframe, span)
        except asyncio.CancelledError:
            return Page(Candles.empty(), span.since, span.since)


class TranslatesCancellation(Honest):
    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        try:
            return await super().fetch(instrument, timeframe, span)
        except BaseException as error:
            raise error if isinstance(error, Exception) else ProviderUnavailable() from error


class _Empties(Honest):
    """Takes one kind of failure for an empty answer."""

    taken: ClassVar[Fault]

    def fail(self, fault: Fault | None) -> None:
        super().fail(fault)
        if fault is self.taken:
            self.always = emptying()


class EmptyWhereItHangs(_Empties):
    taken = Fault.HANG


class EmptyOnServerError(_Empties):
    taken = Fault.SERVER_ERROR


class EmptyOnHalfABody(_Empties):
    taken = Fault.TRUNCATED


class EmptyOnHtml(_Empties):
    taken = Fault.HTML


class EmptyOnNonsense(_Empties):
    taken = Fault.NONSENSE


class ListsNothingOnServerError(Honest):
    failing: Fault | None = None

    def fail(self, fault: Fault | None) -> None:
        super().fail(fault)
        self.failing, self.listing_fault = fault, None

    async def listings(self) -> Sequence[Listing]:
        return [] if self.failing is Fault.SERVER_ERROR else await super().listings()


class RaisesWhatItsParserRaises(Honest):
    def error(self, fault: Fault) -> Exception:
        return KeyError("candles") if fault is Fault.NONSENSE else super().error(fault)


class ForgetsHowLongToWait(Honest):
    def error(self, fault: Fault) -> Exception:
        return RateLimited() if fault is Fault.RATE_LIMITED else super().error(fault)


class CallsARateLimitAnOutage(Honest):
    def error(self, fault: Fault) -> Exception:
        return ProviderUnavailable()


class LosesAMinute(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.truth = {SYMBOL: TRUTH[np.delete(np.arange(len(TRUTH)), 1_234)]}


class ProbesAnHourEarly(Honest):
    async def first_available(self, instrument: Instrument) -> int | None:
        return T0 - HOUR_MS


class ProbesAnHourLate(Honest):
    async def first_available(self, instrument: Instrument) -> int | None:
        return T0 + HOUR_MS


class TellsTheTimeInSeconds(Honest):
    async def server_time(self) -> int:
        return clock.now_ms() // 1_000


class StreamsAnotherMarket(Honest):
    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        async for rows in super().stream(instrument):
            yield replace(rows, open=rows.open + 1, high=rows.high + 1)


class StreamsCloseTimes(Honest):
    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        async for rows in super().stream(instrument):
            yield replace(rows, timestamp=rows.timestamp + MINUTE_MS - 1)


class StreamsPastAMinute(Honest):
    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        async for rows in super().stream(instrument):
            yield rows[-1:]


class StreamGoesOn(Honest):
    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        self.reader = asyncio.create_task(asyncio.sleep(3_600))
        async for rows in super().stream(instrument):
            yield rows


class StreamCannotBeCancelled(Honest):
    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        try:
            async for rows in super().stream(instrument):
                yield rows
        except asyncio.CancelledError:
            return


BROKEN: dict[type[Honest], str] = {
    OfAnotherVersion: "it describes itself",
    CannotAffordACall: "its capabilities make sense",
    HasCandlesOfTheMiddleAges: "its capabilities make sense",
    SaysItStreams: "its capabilities make sense",
    StartsOnce: "start and close may be repeated",
    ClosesWhatWasNeverOpened: "start and close may be repeated",
    LeavesATask: "closing leaves no task behind",
    ListsTwice: "symbols are listed once",
    ListsInSeconds: "symbols are listed once",
    SinceIsExclusive: "since is inclusive",
    BringsTheOneBefore: "since is inclusive",
    UntilIsInclusive: "until is exclusive",
    NewestFirst: "rows are ascending and unique",
    RepeatsARow: "rows are ascending and unique",
    SwapsHighAndLow: "rows are candles",
    DaysOfNewYork: "rows are candles",
    VouchesForTheFormingOne: "the forming candle is never complete",
    VouchesForACutPage: "a complete span lacks no candle",
    TakesASmallPageForWhole: "a full page ends where it was cut",
    VouchesForMoreThanAsked: "a complete span lacks no candle",
    LosesTheLastRow: "a complete span lacks no candle",
    OtherNumbersEachTime: "a complete span lacks no candle",
    VouchesForNothing: "paging reaches the end",
    ProvesNoQuietTime: "quiet time is proved",
    VouchesOutOfReach: "nothing beyond the lookback is complete",
    RefusesTheFuture: "an empty range is no error",
    RefusesAnEmptySpan: "an empty range is no error",
    KnowsEverySymbol: "an unknown symbol is reported",
    KnowsEveryTimeframe: "an unsupported timeframe is reported",
    MixesQuestions: "concurrent fetches do not mix",
    SwallowsCancellation: "a fetch can be cancelled",
    TranslatesCancellation: "a fetch can be cancelled",
    EmptyWhereItHangs: "a hanging fetch can be cancelled",
    EmptyOnServerError: "a server error is reported",
    ListsNothingOnServerError: "a server error is reported",
    EmptyOnHalfABody: "a truncated response is an error",
    EmptyOnHtml: "an html page is an error",
    EmptyOnNonsense: "unexpected json is an error",
    RaisesWhatItsParserRaises: "unexpected json is an error",
    ForgetsHowLongToWait: "a rate limit is reported",
    CallsARateLimitAnOutage: "a rate limit is reported",
    LosesAMinute: "the candles match the truth",
    ProbesAnHourEarly: "the first candle is where it says",
    ProbesAnHourLate: "the first candle is where it says",
    TellsTheTimeInSeconds: "its clock is right",
    StreamsAnotherMarket: "a stream continues the history",
    StreamsCloseTimes: "a stream continues the history",
    StreamsPastAMinute: "a stream continues the history",
    StreamGoesOn: "closing a stream leaves nothing",
    StreamCannotBeCancelled: "closing a stream leaves nothing",
}
