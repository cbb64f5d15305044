"""The history that a subscription gets first: in pages, and for all its series together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from candlegraph import clock
from candlegraph.answer import Answer, CandleRequest, GapReason
from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput, ProviderUnavailable
from candlegraph.event import Event, SeriesFailure
from history.fetch_limits import FetchBudget
from history.orchestrator import History
from realtime.subscriber import Subscriber
from storage.counts.candle_counts import count_up_to

SNAPSHOT_PAGE_ROWS = 1_000
MAX_SNAPSHOT_ROWS = 50_000
_TEMPORARY_GAPS = {GapReason.OUTAGE, GapReason.PENDING, GapReason.REFUSED, GapReason.NOT_FETCHED}


class SnapshotReader:
    """Reads the history of the series of one subscription: at most 50,000 candles, counted over all of them."""

    def __init__(self, history: History, fetch_budget: FetchBudget) -> None:
        """Read for a caller: fetched rows count against its ``fetch_budget``."""
        self._history = history
        self._fetch_budget = fetch_budget
        self._left = MAX_SNAPSHOT_ROWS

    async def check(self, subscribers: Sequence[Subscriber]) -> None:
        """Refuse a history with too many stored candles, before any of it is sent. BadUserInput."""
        now = clock.now_ms()
        long = [one for one in subscribers if one.request.since is not None]
        buckets = sum((now - (one.request.since or 0)) // one.topic.timeframe.nominal_ms + 1 for one in long)
        if buckets <= MAX_SNAPSHOT_ROWS:
            return
        spans = [(one.record.id, one.topic.timeframe, one.request.since or 0) for one in long]
        stored = await count_up_to(self._history.store.database, self._history.aggregates, spans, MAX_SNAPSHOT_ROWS + 1)
        if stored > MAX_SNAPSHOT_ROWS:
            since = ", ".join(sorted({str(one.request.since) for one in long})[:3])
            raise BadUserInput(
                f"More than {MAX_SNAPSHOT_ROWS:,} candles since {since}: page through `candles` first, then subscribe."
            )

    async def read(
        self, subscribers: Sequence[Subscriber]
    ) -> AsyncGenerator[tuple[Subscriber, Event | SeriesFailure], None]:
        """The closed candles of each series from its ``since`` on; a RESYNC ends a history that exceeds the limit.

        One batch reads the next page of every series. A series with an incomplete history fails alone.
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
        """The next page of each series; None if there is nothing to read."""
        found: dict[Subscriber, Answer | BaseException | None] = dict.fromkeys(waiting)
        requests = {
            one: CandleRequest(
                one.topic.series,
                SNAPSHOT_PAGE_ROWS,
                since,
                one.until,
                zone=one.topic.zone,
                final_until=min(one.until or 0, one.topic.edge),  # the next session opens later
            )
            for one, since in waiting.items()
            if since is not None and (one.until is None or since < one.until)
        }
        answers = await self._history.answer(list(requests.values()), self._fetch_budget) if requests else []
        for one, answer in zip(requests, answers, strict=True):
            found[one] = answer if isinstance(answer, BaseException) else _failure(one, answer) or answer
        return found

    def _events(self, one: Subscriber, page: Answer | None) -> tuple[list[Event], int | None]:
        """The events of a page, and where the next page begins; None if it is the last."""
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
    """The failure of an incomplete history, or None. Gaps of a series without a provider are no failure."""
    for gap in answer.gaps:
        if gap.reason in _TEMPORARY_GAPS and (one.record.listed or gap.reason is not GapReason.NOT_FETCHED):
            return ProviderUnavailable(f"The history is incomplete: {gap.detail}", retry_after=5)
    return None
