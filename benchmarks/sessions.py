"""What trading sessions cost: a year of a stock's 1m candles, asked as hours of all trading and of regular sessions, and as days.

Each figure is the fastest of several queries that find nothing cached, over the same store: a busy machine slows the others.
"""

from __future__ import annotations

import tempfile
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from candlegraph import MINUTE, Candles, Instrument, Listing, Series, Span, Timeframe
from candlegraph.answer import CandleRequest
from candlegraph.clock import MINUTE_MS
from candlegraph.span import Spans
from candlegraph.trading_calendar import SessionFilter, installed
from history.orchestrator import History
from providers.registry import Registry
from storage.batches import CandleWrite
from storage.database import Database
from storage.embedded.postgres import EmbeddedPostgres
from storage.migration.migrate import migrate

ROUNDS = 15
NEW_YORK = ZoneInfo("America/New_York")


def _at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000)


async def _fill(history: History, since: int, until: int) -> tuple[Instrument, Instrument]:
    """Two stocks with the same minutes of the extended hours: one with a calendar, one without."""
    stock, plain = Instrument("b", "b", "STOCK"), Instrument("b", "b", "PLAIN")
    listings = [Listing("STOCK", calendar="XNYS"), Listing("PLAIN")]
    await history.instruments.store_list("b", "b", listings, "America/New_York", 0.0)
    stamps = np.arange(since, until, MINUTE_MS, dtype=np.int64)
    hours = installed()["XNYS"].extended.hours
    assert hours
    stamps = stamps[hours.contains(stamps)]
    price = 100 + np.sin(np.arange(len(stamps)) / 500)
    candles = Candles.of(stamps, price, price + 1, price - 1, price, np.ones(len(stamps)))
    records = await history.instruments.get_stored([stock, plain])
    for name in (stock, plain):
        await history.store.write([CandleWrite(records[name].id, MINUTE, candles, Spans([Span(since, until)]), "i")])
    return stock, plain


async def _fastest_ms(history: History, request: CandleRequest) -> tuple[float, int]:
    times, rows = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = (await history.answer([request]))[0]
        times.append((time.perf_counter() - began) * 1000)
        if isinstance(answer, BaseException):
            raise answer
        rows = len(answer.candles)
    return min(times), rows


async def regular_sessions() -> list[tuple[str, str, str]]:
    """A row for each query: its candles, and its time."""
    found = [("a year of a stock", "candles", "ms")]
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder))
        try:
            database = Database(postgres.start().dsn)
            await database.open()
            await migrate(database)
            history = History.create(database, Registry({}, []))
            since, until = _at("2024-01-02 00:00"), _at("2025-01-02 00:00")
            stock, plain = await _fill(history, since, until)
            for name, symbol, timeframe, session in (
                ("1h, all trading, no calendar", plain, "1h", SessionFilter.ALL),
                ("1h, all trading", stock, "1h", SessionFilter.ALL),
                ("1h, regular sessions", stock, "1h", SessionFilter.REGULAR),
                ("30m, all trading", stock, "30m", SessionFilter.ALL),
                ("30m, regular sessions", stock, "30m", SessionFilter.REGULAR),
                ("1d, no calendar", plain, "1d", SessionFilter.ALL),
                ("1d, regular sessions", stock, "1d", SessionFilter.ALL),
            ):
                series = Series(symbol, Timeframe.parse(timeframe))
                fastest, rows = await _fastest_ms(history, CandleRequest(series, 20_000, since, until, session=session))
                found.append((name, f"{rows:,}", f"{fastest:.1f}"))
            await history.close()
            await database.close()
        finally:
            postgres.stop()
    return found
