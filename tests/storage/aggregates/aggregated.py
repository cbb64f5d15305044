"""Every aggregate against its minutes, all of them read as of one moment and folded in numpy instead of in SQL."""

from __future__ import annotations

from typing import Any

import numpy as np

from candlegraph.candle import Candles
from candlegraph.resample import fold
from storage.relations import ALL_AGGREGATES, Aggregates

_COLUMNS = "open, high, low, close, volume"


async def differences(connection: Any, levels: Aggregates = ALL_AGGREGATES) -> list[str]:
    """The aggregates that are not the fold of the 1m candles, by relation and instrument; in one REPEATABLE READ snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        base = await connection.fetch(
            f"select instrument_id, \"timestamp\" as t, {_COLUMNS} from ohlcv_data where timeframe = '1m'"
        )
        kept = {
            relation: await connection.fetch(f"select instrument_id, bucketed_time as t, {_COLUMNS} from {relation}")
            for relation in levels.values()
        }
    minutes = _by_instrument(base)
    wrong = []
    for timeframe, relation in levels.items():
        buckets = _by_instrument(kept[relation])
        for one in minutes.keys() | buckets.keys():
            said = fold(minutes.get(one, Candles.empty()), timeframe)
            if not _same(said, buckets.get(one, Candles.empty())):
                wrong.append(f"{relation} of {one}")
    return wrong


def _by_instrument(rows: list[Any]) -> dict[int, Candles]:
    found: dict[int, list[tuple[float, ...]]] = {}
    for row in rows:
        stamp = round(row["t"].timestamp() * 1000)
        found.setdefault(row["instrument_id"], []).append((stamp, *(row[n] for n in _COLUMNS.split(", "))))
    return {one: Candles.from_rows(sorted(rows)) for one, rows in found.items()}


def _same(said: Candles, kept: Candles) -> bool:
    return (
        len(said) == len(kept)
        and all(
            np.array_equal(getattr(said, name), getattr(kept, name))
            for name in ("timestamp", "open", "high", "low", "close")
        )
        and bool(np.all(np.abs(said.volume - kept.volume) <= 1e-9 * np.abs(said.volume)))
    )
