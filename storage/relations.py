"""The relations with candles: the base, and the aggregates above it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from candlegraph.timeframe import Timeframe
from storage.database import Database

BASE_RELATION = "ohlcv_data"

# Each aggregate and the relation it is made of, the finer before the coarser. A closed set: no other name gets into SQL.
# Migration 3 puts the same rows into `preaggregation_configs`, and creates the layouts from them.
MADE_OF = {
    "ohlcv_5min": BASE_RELATION,
    "ohlcv_15min": "ohlcv_5min",
    "ohlcv_30min": "ohlcv_15min",
    "ohlcv_1h": "ohlcv_30min",
    "ohlcv_4h": "ohlcv_1h",
    "ohlcv_1d": "ohlcv_4h",
    "ohlcv_1w": "ohlcv_1d",
    "ohlcv_1mon": "ohlcv_1d",
    "ohlcv_1y": "ohlcv_1mon",
}

Aggregates = Mapping[Timeframe, str]

ALL_AGGREGATES: Aggregates = MappingProxyType({Timeframe.parse(name.removeprefix("ohlcv_")): name for name in MADE_OF})


async def read_aggregates(database: Database, *, inactive: bool = False) -> Aggregates:
    """The readable aggregates in ``preaggregation_configs``: active, existing, and with an existing source.

    ``inactive`` adds the inactive ones, which writes keep up to date too.
    """
    rows = await database.read("levels_there")
    there = {row["view_name"] for row in rows} | {BASE_RELATION}
    active = {row["view_name"]: row["target_timeframe"] for row in rows if row["is_active"] or inactive}
    whole = {BASE_RELATION}
    for name, base in MADE_OF.items():
        if name in there and base in whole:
            whole.add(name)
    return MappingProxyType(
        {tf: name for tf, name in ALL_AGGREGATES.items() if name in whole and active.get(name) == str(tf)}
    )
