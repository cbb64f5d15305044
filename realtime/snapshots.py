"""The history that a subscription begins with: of all its series together, in pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from candlegraph import clock
from candlegraph.answer import Answer, CandleRequest, GapReason
from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput, ProviderUnavailable
from candlegraph.event import Event, SeriesFailure
from history.orchestrator import History
from realtime.subscriber import Subscriber
from storage.candle_counts import count_up_to

SNAPSHOT_PAGE_ROWS = 1_000
MAX_SNAPSHOT_ROWS = 50_000
_TEMPORARY_GAPS = {GapReason.OUTAGE, GapReason.PENDING, GapReason.REFUSED, GapReason.NOT_FETCHED}


class Snapshots:
    """Reads the history of the series of one subscription: at most 50,000 candles in all of them together."""

    def __init__(self, history: History) -> None:
        """Nothing was read yet."""
        self._history = history
        self._left = MAX_SNAPSHOT_ROWS

    async def check(self, subscribers: Sequence[Subscriber]) -> None:
        """Refuse a history of which more is stored than fits, before anything of it is sent. BadUserInput."""
        now = clock.now_ms()
        long = [one for one in subscribers if one.request.since is not None]
        buckets = sum((now - (one.request.since or 0)) // one.topic.timeframe.nominal_ms + 1 for one in long)
        if buckets <= MAX_SNAPSHOT_ROWS:
            return
        spans = [(one.record.id, one.topic.timeframe, one.request.since or 0) for one in long]
        stored = await count_up_to(self._history.store.database, self._history.aggregates, spans, MAX_SNAPSHOT_ROWS + 1)
        if stored > MAX_SNAPSHOT_ROWS:
            asked = ", ".join(sorted({str(one.request.since) for one in long})[:3])
            raise BadUserInput(
                f"More than {MAX_SNAPSHOT_ROWS:,} candles since {asked}: page through `candles` first, then subscribe."
            )

    async def read(
        self, subscribers: Sequence[Subscriber]
    ) -> AsyncGenerator[tuple[Subscriber, Event | SeriesFailure], None]:
        """The closed candles of each from its ``since`` on; the last page says so, a RESYNC that there is more than fits.

        The pages of all are read together. A series whose history cannot be read in full fails alone.
        """
        waiting = {one: one.request.since for one in subscribers}
        while waiting:
            pages = await self._pages(waiting)
            waiting = {}
            for one, page in pages.items():
                if isinstance(page, BaseException):
                    yield one, SeriesFailure(one.request.series, page)
                    continue
                events, since = self._events(one, page)
                for event in events:
                    yield one, event
                if since is not None:
                    waiting[one] = since

    async def _pages(self, waiting: Mapping[Subscriber, int | None]) -> dict[Subscriber, Answer | BaseException | None]:
        """The next page of each; None where there is nothing to read."""
        found: dict[Subscriber, Answer | BaseException | None] = dict.fromkeys(waiting)
        asks = {
            one: CandleRequest(
                one.topic.series, SNAPSHOT_PAGE_ROWS, since, one.until, zone=one.topic.zone, final_until=one.until or 0
            )
            for one, since in waiting.items()
            if since is not None and (one.until is None or since < one.until)
        }
        for one, answer in zip(asks, await self._history.answer(list(asks.values())) if asks else (), strict=True):
            found[one] = answer if isinstance(answer, BaseException) else _failure(one, answer) or answer
        return found

    def _events(self, one: Subscriber, page: Answer | None) -> tuple[list[Event], int | None]:
        """What is sent of a page, and where the next one begins; None where none follows."""
        candles, since = (page.candles, page.next_since) if page else (Candles.empty(), None)
        if len(candles) > self._left:
            cut, first_left = candles[: self._left], int(candles.timestamp[self._left])
            self._left = 0
            return [*one.snapshots(cut, SNAPSHOT_PAGE_ROWS, last=False), one.resync(first_left)], None
        self._left -= len(candles)
        if since is not None and one.until is not None and since >= one.until:
            since = None
        return one.snapshots(candles, SNAPSHOT_PAGE_ROWS, last=since is None), since


def _failure(one: Subscriber, answer: Answer) -> ProviderUnavailable | None:
    """Why an answer is not the whole history. What was not imported is no failure where there is no provider to ask."""
    for gap in answer.gaps:
        if gap.reason in _TEMPORARY_GAPS and (one.record.listed or gap.reason is not GapReason.NOT_FETCHED):
            return ProviderUnavailable(f"The history cannot be read in full: {gap.detail}", retry_after=5)
    return None
