"""Compares stored 1m candles with the provider's present ones, day by day, and corrects the differences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from candlegraph.candle import Candles, concat
from candlegraph.clock import DAY_MS
from candlegraph.errors import ProviderError, ProviderUnavailable
from candlegraph.provider import Revision
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import Upstream, Urgency
from candlegraph.zone import UTC
from history.revisions import Revisions
from history.verdict import FetchCall, judge_page, traits_for
from storage.batches import CandleRead, CandleWrite, Superseded
from storage.candles import CandleStore

_DAY = Timeframe(1, "d")
_MINUTES_A_DAY = DAY_MS // MINUTE.width_ms


@dataclass(frozen=True, slots=True)
class DayCheck:
    """The result of comparing one day (UTC), as counts of candles.

    ``missing``: only the provider has the candle, and the minute is covered here. ``extra``: only we have it. ``different``:
    the open, high, low, close or volume differ. ``kept``: extra candles that stay, because the provider has no candle of the
    day at all and may have deleted it.
    """

    day: Span
    checked: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    kept: int = 0

    @property
    def wrong(self) -> int:
        """The number of all differences."""
        return self.missing + self.extra + self.different


def stored_days(covered: Spans, count: int) -> list[Span]:
    """The newest ``count`` days (UTC) with any coverage, the newest first."""
    days: list[Span] = []
    for span in reversed(list(covered)):
        at = _DAY.floor(span.until - 1)
        while len(days) < count and at + DAY_MS > span.since:
            if not days or days[-1].since != at:
                days.append(Span(at, at + DAY_MS))
            at -= DAY_MS
    return days


async def check_days(
    revisions: Revisions, record: InstrumentRecord, provider: Upstream, days: Sequence[Span]
) -> tuple[list[DayCheck], ProviderError | None]:
    """As `check_day`, one day after the other; return the results up to the first error, and that error."""
    checks: list[DayCheck] = []
    for day in days:
        try:
            checks.append(await _check_newest_revision(revisions, record, provider, day))
        except ProviderError as error:
            return checks, error
    return checks, None


async def _check_newest_revision(
    revisions: Revisions, record: InstrumentRecord, provider: Upstream, day: Span
) -> DayCheck:
    """As `check_day`, and once more if the provider's data were replaced meanwhile. ProviderError."""
    for _ in range(2):
        await revisions.follow(record, provider, revisions.store.database.timings.query_deadline_s)
        with suppress(Superseded):
            return await check_day(revisions.store, record, provider, day)
    raise ProviderUnavailable("its data were replaced while they were compared: compare them again.")


async def check_day(store: CandleStore, record: InstrumentRecord, provider: Upstream, day: Span) -> DayCheck:
    """Compare the covered part of a day, and store the provider's candles like every other write. ProviderError.

    Superseded if the stored candles and the provider's are not of one lineage of revisions all the time.
    """
    coverage = (await store.read_coverage([record.id]))[0]
    known, stored_as = coverage.spans.get(MINUTE, Spans()) & Spans([day]), coverage.sources.get(MINUTE)
    revision = await _common_revision(record, provider, stored_as)
    theirs, proved = await _fetched(record, provider, known)
    await _common_revision(record, provider, stored_as)
    known &= proved
    stored = (await store.read([CandleRead(record.id, MINUTE, day, _MINUTES_A_DAY)]))[0]
    ours = concat([stored.between(span) for span in known])
    theirs = concat([theirs.between(span) for span in known])
    missing = int(np.count_nonzero(~np.isin(theirs.timestamp, ours.timestamp)))
    # Flat minutes without a volume were imported on purpose; that the provider has no candle does not contradict them.
    extra = ~np.isin(ours.timestamp, theirs.timestamp) & ~_is_flat(ours)
    kept_extra = 0 if len(theirs) else int(np.count_nonzero(extra))
    different = _different(ours, theirs)
    check = DayCheck(day, len(ours), missing, int(np.count_nonzero(extra)), different, kept_extra)
    if check.wrong > kept_extra:
        flat = ours[_is_flat(ours) & ~np.isin(ours.timestamp, theirs.timestamp)]
        candles = flat.merge(theirs)
        await store.write([CandleWrite(record.id, MINUTE, candles, known, replaces=True, revision=revision)])
    return check


async def _common_revision(record: InstrumentRecord, provider: Upstream, stored: Revision | None) -> Revision | None:
    """The provider's present revision. Superseded if it does not continue the ``stored`` one; ProviderError."""
    found = await provider.revision(record.instrument, MINUTE, stored)
    if (found and found.lineage) != (stored and stored.lineage):
        raise Superseded
    return found


async def _fetched(record: InstrumentRecord, provider: Upstream, known: Spans) -> tuple[Candles, Spans]:
    """The provider's final candles within ``known``, and the spans for which they are complete. ProviderError."""
    found, proved = [Candles.empty()], Spans()
    final_until = MINUTE.floor(provider.now_ms() - provider.capabilities.final_after_ms)
    at = min((span.since for span in known), default=final_until)
    until = min(final_until, max((span.until for span in known), default=0))
    while at < until:
        call = FetchCall(MINUTE, UTC, Span(at, until), final_until)
        page = await provider.fetch(record.instrument, MINUTE, call.span, Urgency.BACKFILL)
        verdict = judge_page(page, call, traits_for(record, provider.capabilities))
        found.append(verdict.kept)
        proved |= verdict.covered
        if verdict.resume_at <= at:
            break
        at = verdict.resume_at
    return concat(found).sorted(), proved


def _different(ours: Candles, theirs: Candles) -> int:
    """The number of candles that both have and that differ."""
    both = np.intersect1d(ours.timestamp, theirs.timestamp)
    left, right = (candles[np.isin(candles.timestamp, both)] for candles in (ours, theirs))
    unequal = np.zeros(len(both), np.bool_)
    for mine, other in zip(left.columns[1:6], right.columns[1:6], strict=True):
        unequal |= mine != other
    return int(np.count_nonzero(unequal))


def _is_flat(candles: Candles) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray((candles.open == candles.close) & (candles.high == candles.low) & (candles.volume == 0))
