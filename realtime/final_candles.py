"""The final candles of one instrument, read completely or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from candlegraph.answer import CandleRequest, GapReason
from candlegraph.candle import Candles, concat
from candlegraph.errors import ProviderUnavailable
from candlegraph.series import InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.trading_calendar import tradable
from candlegraph.upstream import Upstream
from candlegraph.zone import UTC, Zone
from history.orchestrator import History
from realtime.topic_counter import TopicCounter

PAGE_ROWS = 1_000
MAX_PAGES = 50  # of history, for the candle that is forming

# The timeframes for a bucket's final minutes: the months and days before today, the hours before this one, the minutes.
_DECOMPOSITION = (Timeframe(1, "mon"), Timeframe(1, "d"), Timeframe(1, "h"), MINUTE)


@dataclass(frozen=True, slots=True)
class FinalCandles:
    """Reads the candles of ``record`` through the history, which fetches missing ones. Raises ProviderUnavailable."""

    record: InstrumentRecord
    history: History

    async def minutes(self, span: Span) -> Candles:
        """The stored minutes of ``span``, without a fetch."""
        return await self.history.store.read_minutes(self.record.id, span)

    async def covered_until(self, span: Span, provider: Upstream, refused: Spans) -> int:
        """The end of the contiguous covered minutes from the start of ``span``: before its end if the provider lags.

        ``refused`` minutes and minutes beyond the provider's reach count as covered; the history has a gap there.
        """
        if not span:
            return span.since
        reach = provider.capabilities.reach_ms(MINUTE)
        beyond = Spans() if reach is None else Spans([Span(0, provider.now_ms() - reach)])
        coverage = (await self.history.coverage_cache.load([self.record.id]))[0]
        known = coverage.spans.get(MINUTE, Spans()) | refused | beyond
        gaps = Spans([span]) - known  # where no exchange trades there is nothing to cover
        return _reached(span, known | (gaps - tradable(self.record, gaps, MINUTE, UTC)))

    async def settled(self, count: TopicCounter) -> Candles:
        """The current bucket's candle up to its last final minute, folded from as few and as long candles as possible."""
        reached, found = count.opened, Candles.empty()
        for step in _DECOMPOSITION:
            until = step.floor(count.edge, count.zone)
            if until > reached and step.nests_in(count.timeframe, count.zone):
                found, reached = found.merge(await self._read(step, count.zone, Span(reached, until))), until
        return count.fold(found)

    async def candles(self, count: TopicCounter, opens: Iterable[int]) -> Candles:
        """The closed candles of a topic that open at the instants ``opens`` (ms, UTC)."""
        spans = [Span(at, count.timeframe.next(at, count.zone)) for at in opens]
        return concat([await self._read(count.timeframe, count.zone, span) for span in Spans(spans)])

    async def _read(self, timeframe: Timeframe, days: Zone, span: Span) -> Candles:
        found, series = [], Series(self.record.instrument, timeframe)
        since: int | None = span.since
        for _ in range(MAX_PAGES):
            request = CandleRequest(series, PAGE_ROWS, since, span.until, zone=days, final_until=span.until)
            answer = (await self.history.answer([request]))[0]
            if isinstance(answer, BaseException):
                raise answer
            for gap in answer.gaps:
                if gap.reason in {GapReason.OUTAGE, GapReason.PENDING, GapReason.NOT_FETCHED}:
                    raise ProviderUnavailable(f"The history is incomplete: {gap.detail}", retry_after=5)
            found.append(answer.candles)
            if (since := answer.next_since) is None:
                return concat(found)
        raise ProviderUnavailable(f"Too much of the history of {self.record.instrument} is missing: load it first.")


def _reached(span: Span, known: Spans) -> int:
    """The end of the contiguous known span from the start of ``span``."""
    return next((min(s.until, span.until) for s in known if s.since <= span.since < s.until), span.since)
