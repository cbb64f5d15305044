"""A history with a programmable provider and a clock that stands still, and the naive answer to hold its answers against."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from candlegraph.answer import Answer, CandleRequest
from candlegraph.candle import Candle, Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.series import Instrument, InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.upstream import Providers
from history.orchestrator import History
from providers.guard.guard import Guard
from storage.batches import CandleWrite
from storage.cache.memory import CandleCache
from storage.database import Database
from tests.candlegraph import scalar_calendar as scalar
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import FakeProviders, FakeUpstream

HOUR_MS, DAY_MS = 60 * MINUTE_MS, 1440 * MINUTE_MS
T0 = 1_709_856_000_000  # Friday 2024-03-08T00:00:00Z; on the Sunday New York's clock goes forward

_numbers = itertools.count()


@dataclass
class World:
    """One symbol of one provider, and everything below the API that answers for it."""

    database: Database
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    now: int = T0
    providers: Providers | None = None
    guarded: bool = False  # by what the server puts around a provider; otherwise each fault is seen as it is
    cache: CandleCache | None = None
    symbol: str = field(default_factory=lambda: f"S{next(_numbers)}")
    history: History = field(init=False)

    def __post_init__(self) -> None:
        """Wire it as the server does, but look a new symbol up at once: worlds share a database, and each lists its own."""
        self.database.timings = replace(self.database.timings, unknown_symbol_ttl_s=0.0)
        self.lineup = FakeProviders([Guard(self.upstream) if self.guarded else self.upstream])
        self.restart()

    def restart(self) -> None:
        """Forget what is only remembered."""
        providers = self.providers or self.lineup
        self.history = History.create(self.database, providers, cache=self.cache)
        self.store, self.instruments, self.fetcher = (
            self.history.store,
            self.history.instruments,
            self.history.fetcher,
        )

    @property
    def instrument(self) -> Instrument:
        return Instrument("fake", "upstream", self.symbol)

    @property
    def calls(self) -> int:
        return len(self.upstream.calls)

    def lists(self, truth: Candles) -> World:
        """Let the provider have these minutes of our symbol."""
        self.upstream.truth[self.symbol] = truth
        return self

    def question(self, timeframe: str = "1m", limit: int = 500, **more: Any) -> CandleRequest:
        return CandleRequest(Series(self.instrument, Timeframe.parse(timeframe)), limit, **more)

    async def try_ask(self, timeframe: str = "1m", limit: int = 500, **more: Any) -> Answer | BaseException:
        return (await self.history.answer([self.question(timeframe, limit, **more)]))[0]

    async def ask(self, timeframe: str = "1m", limit: int = 500, **more: Any) -> Answer:
        answer = await self.try_ask(timeframe, limit, **more)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def record(self) -> InstrumentRecord:
        found = (await self.history.listings.find([self.instrument]))[0]
        assert isinstance(found, InstrumentRecord)
        return found

    async def covered(self, timeframe: Timeframe = MINUTE) -> Spans:
        ledger = (await self.store.read_coverage([(await self.record()).id]))[0]
        return ledger.spans.get(timeframe, Spans())

    async def stored(self, timeframe: str = "1m") -> list[tuple[float, ...]]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                """select (extract(epoch from "timestamp") * 1000)::int8, open, high, low, close, volume
                   from ohlcv_data_flat where symbol = $1 and timeframe = $2 order by "timestamp" """,
                self.symbol,
                timeframe,
            )
        return [tuple(row) for row in rows]

    async def keeps(self, *spans: Span, timeframe: Timeframe = MINUTE, rows: Candles | None = None) -> None:
        """Store the truth of some spans, covered."""
        rows = self.upstream.truth[self.symbol] if rows is None else rows
        covered = Spans(spans)
        kept = concat([rows.between(span) for span in covered])
        await self.store.write([CandleWrite((await self.record()).id, timeframe, kept, covered)])


def rows_of(candles: Candles) -> list[tuple[float, ...]]:
    """The candles as plain tuples, without their flags."""
    table = (candles.timestamp, candles.open, candles.high, candles.low, candles.close, candles.volume)
    return list(zip(*(column.tolist() for column in table), strict=True))


def folded(rows: Iterable[tuple[float, ...]], timeframe: Timeframe, zone: str = "UTC") -> dict[int, tuple[float, ...]]:
    """Buckets by their opening, folded one minute after the other in plain Python."""
    buckets: dict[int, tuple[float, ...]] = {}
    for stamp, opened, high, low, close, volume in rows:
        opening = scalar.floor(timeframe, int(stamp), zone)
        if opening not in buckets:
            buckets[opening] = (opened, high, low, close, volume)
        else:
            first, highest, lowest, _, total = buckets[opening]
            buckets[opening] = (first, max(highest, high), min(lowest, low), close, total + volume)
    return buckets


def numbers(candle: Candle) -> tuple[float, ...]:
    return candle.open, candle.high, candle.low, candle.close, candle.volume


def stop_clock(monkeypatch: Any, world: World) -> None:
    set_clock(monkeypatch, lambda: world.now)
