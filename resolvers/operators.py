"""Resolvers for operators: what is stored, corrections, stored series, and what a backfill would cost."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from candlegraph.backfill import BackfillEstimate, BackfillRequest
from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput
from candlegraph.identity import decode_name, parse_node_id
from candlegraph.series import InstrumentRecord
from candlegraph.series_candles import SeriesCandle, SeriesCandles
from candlegraph.timeframe import Timeframe
from candlegraph.zone import zone
from history.backfill.estimate import estimate_backfill
from history.series_list import SeriesCoverage, series_page
from resolvers.context import Context
from resolvers.names import check_name, market_name, provider_of
from resolvers.pagination import (
    NO_CURSOR,
    ListPage,
    decode_number,
    decode_text,
    encode_cursor,
    encode_number,
    rows_to_read,
)
from storage.corrections import NEWEST, CandleVersion, Correction, newest_corrections
from storage.counts.series_pages import SeriesFilter, SeriesPosition
from storage.counts.storage_sizes import StorageSizes, storage_sizes


@dataclass(frozen=True, slots=True)
class CorrectedCandle:
    """A changed final candle with both versions; ``at`` and ``timestamp`` in ms, UTC."""

    id: int
    symbol: InstrumentRecord
    timeframe: Timeframe
    timestamp: int
    old: SeriesCandle | None
    new: SeriesCandle | None
    at: int


@dataclass(frozen=True, slots=True)
class Storage:
    """The stored candles, and the free bytes of their disk (None where they cannot be read)."""

    sizes: StorageSizes
    free_bytes: int | None


async def resolve_storage(context: Context) -> Storage:
    """What is stored, and what it takes. Unavailable."""
    history = context.services.history
    sizes = await storage_sizes(history.store.database)
    space = history.fetcher.free_space
    return Storage(sizes, await space.free_bytes() if space else None)


async def resolve_corrections(
    context: Context, market: str | None, provider: str | None, symbol: str | None, first: int, after: str | None
) -> ListPage[CorrectedCandle]:
    """The newest corrections. BadUserInput, Unavailable."""
    ahead = rows_to_read(first)
    start = None if after is None else decode_number(after, NEWEST)
    names = _names(market, provider)
    if symbol is not None:
        check_name("symbol", symbol)
    database = context.services.history.store.database
    found = await newest_corrections(database, *names, symbol, ahead, NEWEST if start is None else start)
    nodes = with_candles(found[:first])
    return ListPage(nodes, lambda one: encode_number(one.id), len(found) > first, start is not None)


async def resolve_series_list(
    context: Context, market: str | None, provider: str | None, search: str | None, first: int, after: str | None
) -> ListPage[SeriesCoverage]:
    """The stored series in the order of their names. BadUserInput, Unavailable."""
    ahead = rows_to_read(first)
    start = None if after is None else _decode_key(after)
    check_name("search", search or "-")
    wanted = SeriesFilter(*_names(market, provider), search)
    found = await series_page(context.services.history, wanted, start or SeriesPosition(), ahead)
    return ListPage(found[:first], lambda one: _encode_key(one.key), len(found) > first, start is not None)


async def resolve_estimate(context: Context, order: BackfillRequest) -> BackfillEstimate:
    """What a backfill would cost. Errors as `history.backfill.estimate.estimate_backfill`."""
    return await estimate_backfill(context.services.history, order)


def with_candles(corrections: Sequence[Correction]) -> list[CorrectedCandle]:
    """The corrections with their versions as candles, made in bulk for each timeframe and zone."""
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, one in enumerate(corrections):
        alike[one.timeframe, one.record.timezone].append(position)
    made: dict[int, CorrectedCandle] = {}
    for (timeframe, days), positions in alike.items():
        group = [corrections[position] for position in positions]
        stamps, step = [one.timestamp for one in group], Timeframe.parse(timeframe)
        old = _versions(stamps, [one.old for one in group], step, days)
        new = _versions(stamps, [one.new for one in group], step, days)
        for position, one, before, now in zip(positions, group, old, new, strict=True):
            at = round(one.corrected_at.timestamp() * 1000)
            made[position] = CorrectedCandle(one.id, one.record, step, one.timestamp, before, now, at)
    return [made[position] for position in range(len(corrections))]


def _versions(
    stamps: list[int], versions: Sequence[CandleVersion | None], timeframe: Timeframe, days: str
) -> list[SeriesCandle | None]:
    """A closed candle for each version; None where there is none."""
    known = [one is not None for one in versions]
    numbers = np.array([one.numbers for one in versions if one is not None], np.float64).reshape(-1, 5)
    candles = Candles.of(np.array(list(compress(stamps, known)), np.int64), *numbers.T)
    made = iter(SeriesCandles(candles, timeframe, zone(days)))
    return [next(made) if one else None for one in known]


def _names(market: str | None, provider: str | None) -> tuple[str | None, str | None]:
    """The market and the provider to filter by; the provider's id has both."""
    if market is not None:
        return (market_name(market), None) if provider is None else provider_of(market, provider)
    if provider is None:
        return None, None
    name = parse_node_id(provider)
    if name is not None and name.provider is not None and name.symbol is None:
        check_name("provider", name.provider)
        return name.market, name.provider
    check_name("provider", short := decode_name(provider))
    return None, short


def _encode_key(key: SeriesPosition) -> str:
    return encode_cursor(json.dumps(key))


def _decode_key(cursor: str) -> SeriesPosition:
    """The key in a cursor; BadUserInput for anything that is no cursor of ours."""
    try:
        names = json.loads(decode_text(cursor))
        market, provider, symbol, timeframe = names
        for name in names:
            check_name("after", name)
        return SeriesPosition(market, provider, symbol, timeframe)
    except (ValueError, TypeError, RecursionError, BadUserInput):
        raise BadUserInput(NO_CURSOR) from None
