"""Repairs, once, volumes that an older version stored in another unit (`candlegraph.provider.Taint`).

It fetches the candles from the provider again and never converts a volume. A candle that the provider no longer has keeps
its prices, and its volume becomes 0. Both are corrections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.errors import UnknownSymbol
from candlegraph.evidence import bucket_ends
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.upstream import Upstream, Urgency
from candlegraph.zone import zone
from history.verdict import FetchCall, judge_page, traits_for
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore
from storage.leases import LeaseToken
from storage.migration.upgrade import Task
from storage.withdrawals import note, openings

VOLUMES = "volumes of an older version were fetched again"
ALL_TIME = Span(-62_135_596_800_000, 253_402_300_800_000)  # the years 1 to 9999


@dataclass(frozen=True, slots=True)
class VolumeCorrection:
    """The correction of one series."""

    store: CandleStore
    task: Task
    record: InstrumentRecord
    provider: Upstream

    async def step(self, reached: int | None, held: LeaseToken) -> tuple[int | None, int]:
        """Correct the stored candles of one call: the oldest that open at ``reached`` or later.

        Returns where the next step begins (None at the end), and the number of changed candles. ProviderError.
        """
        series = self.task.series
        since = ALL_TIME.since if reached is None else reached
        rows = max(1, self.provider.capabilities.max_rows_per_call)
        read = CandleRead(series.instrument_id, series.timeframe, Span(since, ALL_TIME.until), rows)
        stored = (await self.store.read([read]))[0]
        if not len(stored):
            return None, 0
        days = zone(series.timezone)
        span = Span(int(stored.timestamp[0]), series.timeframe.next(int(stored.timestamp[-1]), days))
        found, until = await self._ask(span)
        stored = stored.between(Span(span.since, until))
        imported = await openings(self.store.database, series, Span(span.since, until))
        stored = stored[~np.isin(stored.timestamp, imported.stamps[imported.imported])]
        found = found[np.isin(found.timestamp, stored.timestamp)]
        corrected = replace(stored, volume=np.zeros(len(stored))).merge(found)
        changed = corrected[_unequal(stored, corrected)]
        if len(changed):
            ends = bucket_ends(changed.timestamp, series.timeframe, days)
            spans = Spans(map(Span, changed.timestamp.tolist(), ends.tolist()))
            await self.store.write([CandleWrite(series.instrument_id, series.timeframe, changed, spans)], held=held)
            await note(self.store, series, span, VOLUMES, len(changed))
        return until, len(changed)

    async def _ask(self, span: Span, *, again: bool = True) -> tuple[Candles, int]:
        """The provider's final candles within ``span``, and the end of the span that was fetched."""
        series, provider = self.task.series, self.provider
        if not self.record.has_volume or series.timeframe not in provider.capabilities.timeframes:
            return Candles.empty(), span.until
        days = zone(series.timezone)
        now = series.timeframe.floor(provider.now_ms() - provider.capabilities.final_after_ms, days)
        try:
            page = await provider.fetch(self.record.instrument, series.timeframe, span, Urgency.BACKFILL)
        except UnknownSymbol:
            return Candles.empty(), span.until
        verdict = judge_page(
            page, FetchCall(series.timeframe, days, span, now), traits_for(self.record, provider.capabilities)
        )
        found = [verdict.kept]
        if again:  # the page may lack its beginning: request a smaller one
            heads = [head for head in verdict.unproven if head != span]
            found += [(await self._ask(head, again=False))[0] for head in heads]
        return concat(found).sorted(), min(verdict.resume_at, span.until)


def _unequal(before: Candles, after: Candles) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A mask of the candles that differ between two batches of equal length."""
    columns = zip(before.columns[1:6], after.columns[1:6], strict=True)
    return np.asarray(np.any([mine != other for mine, other in columns], axis=0))
