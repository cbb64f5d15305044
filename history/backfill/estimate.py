"""What a backfill would cost, from coverage and the provider's limits alone: it calls no provider, and starts none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from fnmatch import fnmatchcase

from candlegraph.backfill import BackfillEstimate, BackfillRequest, SymbolSelection
from candlegraph.errors import BadUserInput, CandlegraphError, NotFound, ProviderUnavailable
from candlegraph.rate_budget import BUDGET_SHARES
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import ProviderStatus, Urgency
from history.backfill.jobs import check_priority, find_missing, reachable_span
from history.listings import MAX_SELECTED, check_selection, no_match
from history.orchestrator import History
from history.provider_traits import ProviderTraits, traits_of
from storage.coverage import Coverage

BATCH_SIZE = 500  # symbols that are read at once, which takes the event loop some 10 ms


async def estimate_backfill(history: History, order: BackfillRequest) -> BackfillEstimate:
    """Estimate the job that `history.backfill.jobs.BackfillJobs.start` would queue; there is no limit of pieces.

    Its symbols are those of the stored list. BadUserInput and NotFound as there; ProviderUnavailable if the provider has
    failed; Unavailable.
    """
    check_priority(order)
    check_selection(order.selection)
    status = _status(history, order.selection)
    provider = traits_of(history.providers, status)
    span = reachable_span(order, provider)
    symbols, calls, candles = 0, 0, 0
    async for records in _selected(history, order.selection):
        symbols += len(records)
        if symbols > MAX_SELECTED:
            raise BadUserInput(f"One request selects at most {MAX_SELECTED:,} symbols; these are more.")
        coverages = await history.coverage_cache.load([record.id for record in records])
        found = await asyncio.to_thread(_missing, records, coverages, order.timeframe, span, provider)
        calls, candles = calls + found[0], candles + found[1]
    if not symbols:
        raise await _no_match(history, order.selection)
    return BackfillEstimate(symbols, calls, float(candles), _seconds(status, calls))


async def _no_match(history: History, selection: SymbolSelection) -> CandlegraphError:
    pair = selection.market, selection.provider
    if await history.instruments.listing_ages([pair]):
        return no_match(selection)
    return NotFound("The symbols of {}/{} have not been read yet: ask for its `symbols` first.".format(*pair))


def _status(history: History, selection: SymbolSelection) -> ProviderStatus:
    status = history.providers.status(selection.market, selection.provider)
    if status is None:
        raise NotFound(f"There is no provider {selection.market[:64]}/{selection.provider[:64]} to ask.")
    if not status.capabilities.timeframes:
        raise ProviderUnavailable(status.reason)
    return status


def _missing(
    records: Sequence[InstrumentRecord],
    coverages: Sequence[Coverage],
    timeframe: Timeframe,
    span: Span,
    provider: ProviderTraits,
) -> tuple[int, int]:
    """The upstream calls for the gaps of these symbols, and the buckets in them."""
    page_ms = provider.capabilities.max_rows_per_call * timeframe.nominal_ms
    calls = buckets = 0
    for record, coverage in zip(records, coverages, strict=True):
        for gap in find_missing(record, coverage, timeframe, span, provider)[0]:
            length = gap.until - gap.since
            calls += -(-length // page_ms)
            buckets += -(-length // timeframe.nominal_ms)
    return calls, buckets


def _seconds(status: ProviderStatus, calls: int) -> float | None:
    """The seconds for so many calls within the share of the rate budget that backfills may use."""
    if status.budget is None:
        return None
    weight = calls * status.capabilities.call_weight
    return weight * status.budget.per_s / (status.budget.weight * BUDGET_SHARES[Urgency.BACKFILL])


async def _selected(history: History, selection: SymbolSelection) -> AsyncIterator[list[InstrumentRecord]]:
    """The selected symbols of the stored list, in batches. NotFound names one that is not there."""
    market, provider = selection.market, selection.provider
    if selection.symbols is not None:
        names = list(dict.fromkeys(selection.symbols))
        for start in range(0, len(names), BATCH_SIZE):
            batch = names[start : start + BATCH_SIZE]
            records = await history.instruments.named(market, provider, batch)
            found = {record.instrument.symbol: record for record in records if record.listed}
            if missing := [name for name in batch if name not in found]:
                raise NotFound(f"{market}/{provider} has no symbol {missing[0][:64]!r}: look it up with `symbols`.")
            yield [found[name] for name in batch]
        return
    after: str | None = None
    while page := await history.instruments.page(market, provider, after, BATCH_SIZE):
        after = page[-1].instrument.symbol
        if chosen := [
            one for one in page if one.listed and fnmatchcase(one.instrument.symbol, selection.pattern or "")
        ]:
            yield chosen
