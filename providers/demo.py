"""Synthetic prices: a market that needs no network and has the same candles for all users at all times.

A day's first price is value noise (hashed lattices, interpolated), so that any day is computed without those before it.
Within the day, a random bridge of hashed 15-second steps leads to the next day's first price. Everything is integer
arithmetic up to one last division, because the last bit of exp and sin differs between CPUs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import isqrt

import numpy as np

from candlegraph import clock
from candlegraph.candle import Candles, concat
from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.errors import UnknownSymbol, Unsupported
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Market, Page, Provider
from candlegraph.resample import fold
from candlegraph.series import Instrument, SymbolKind
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import Int64s

_STEP_MS, _STEPS, _MINUTES = 15_000, 5_760, 1_440  # the length of a step, and the steps and minutes of a day
_MAX_ROWS, _MAX_MINUTES = 10_000, 400_000  # per call: candles to return, and minutes to compute
_MS_ON_LOOP = 2_000 * MINUTE_MS  # a longer span is computed in a thread
_NATIVE = (MINUTE, Timeframe(1, "h"), Timeframe(1, "d"))
_BUDGET = Budget(weight=1_000, per_s=1, concurrent=8)  # there is no remote upstream
_PRICE, _MOOD, _HOUR, _STEP, _TRADE = range(5)  # the purposes of a hash
_ROOTS = np.array([isqrt(1 << 16 + octave) for octave in range(11)])  # of 1, 2, 4 .. 1,024 days, in 256ths
_BUSY = np.array([13, 12, 11, 10, 9, 8, 9, 12, 16, 17, 16, 15, 17, 22, 26, 27, 25, 22, 20, 19, 18, 16, 15, 14])  # UTC


@dataclass(frozen=True, slots=True)
class PriceModel:
    """The parameters of one symbol's prices: their level in ticks of ``10 ** -decimals``, and how much they move."""

    symbol: str
    name: str
    seed: int
    ticks: int
    decimals: int
    volatility: int  # per day, in millionths
    volume: int  # of a typical minute, in thousandths
    since: int = 1_420_070_400_000  # 2015
    until: int | None = None
    thin: bool = False


_PRICE_MODELS = (
    PriceModel("BTC/USD", "Synthetic Bitcoin", 1, 40_000_00, 2, 24_000, 9_000),
    PriceModel("ETH/USD", "Synthetic Ether", 2, 2_500_00, 2, 29_000, 90_000),
    PriceModel("SOL/USD", "Synthetic Solana", 3, 90_000, 3, 38_000, 700_000, since=1_622_505_600_000),  # June 2021
    PriceModel("EUR/USD", "Synthetic euro", 4, 1_10000, 5, 4_000, 2_000_000),
    PriceModel("THIN/USD", "Synthetic, rarely traded", 5, 2_50000, 5, 33_000, 400_000, thin=True),
    PriceModel("OLD/USD", "Synthetic, delisted", 6, 8_0000, 4, 35_000, 150_000, until=1_672_531_200_000),  # 2023
)


def _hash(model: PriceModel, purpose: int, index: Int64s) -> Int64s:
    """63 random bits for each index: splitmix64 (https://prng.di.unimi.it/splitmix64.c)."""
    key = (model.seed << 8 | purpose) * 0xD1342543DE82EF95 & 0xFFFF_FFFF_FFFF_FFFF
    z = index.view(np.uint64) * 0x9E3779B97F4A7C15 + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> shift
        z *= factor
    return ((z ^ z >> 31) >> 1).view(np.int64)


def _noise(model: PriceModel, purpose: int, days: Int64s, amplitude: Int64s) -> Int64s:
    """Each octave's noise on each day, within ``amplitude``: (octaves, days), linear between the points of the lattice."""
    octaves = np.arange(len(amplitude))[:, None]
    cell, into = days >> octaves, days & ((1 << octaves) - 1)
    left, right = (((_hash(model, purpose, (octaves << 40) + at) >> 42) - (1 << 20)) for at in (cell, cell + 1))
    return ((left * ((1 << octaves) - into) + right * into) >> octaves) * amplitude[:, None] >> 20


def _anchors(model: PriceModel, days: Int64s) -> Int64s:
    """The first price of each day, in ticks; it is above zero, because no octave takes away more than half of it."""
    amplitude = np.minimum(1 << 19, (model.volatility << 12) * _ROOTS // 1_000_000)
    price = np.full(len(days), model.ticks, np.int64)
    for noise in _noise(model, _PRICE, days, amplitude):
        price = price * ((1 << 20) + noise) >> 20
    return price


def _points(model: PriceModel, days: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Prices every 15 s of consecutive ``days``, and the next day's first; each day's typical move; each hour's activity."""
    n, anchors = len(days), _anchors(model, np.append(days, days[-1] + 1))[:, None]
    usual = anchors[:-1] * model.volatility // 1_000_000 + 1
    # The moves vary by week (a factor of 1/16 to 3), by hour (1/2 to 3/2), and by the time of day.
    mood = (256 + _noise(model, _MOOD, days, np.full(4, 48)).sum(axis=0)[:, None]) ** 2 >> 8
    hour = 128 + (_hash(model, _HOUR, np.arange(days[0] * 24, (days[-1] + 1) * 24)) & 0xFF).reshape(n, 24)
    scale = usual * mood * hour * (8 + _BUSY) // 96
    # The sum of two parts of a hash has a triangular distribution; a third part gives it fat tails.
    bits = _hash(model, _STEP, np.arange(days[0] * _STEPS, (days[-1] + 1) * _STEPS)).reshape(n, 24, -1)
    step = (bits & 0xFFFF) + (bits >> 16 & 0xFFFF) - 0xFFFF
    bits = bits >> 32 & 0xFF
    step *= 64 + (bits * bits >> 8)
    step = (step * scale[:, :, None] >> 42).reshape(n, -1)
    drift = (
        anchors[1:] - anchors[:-1] - step.sum(axis=1, keepdims=True)
    )  # so that the day ends at the next day's first price
    path = np.cumsum(step, axis=1) - step + anchors[:-1] + drift * np.arange(_STEPS) // _STEPS
    return np.append(path, anchors[-1]), usual, mood * hour * _BUSY >> 8


def _candles(model: PriceModel, days: Int64s, now: int) -> Candles:
    """The minutes of consecutive ``days``, including later ones than ``now``; the minute of ``now`` is cut off there."""
    path, usual, activity = _points(model, days)
    minutes = np.arange(days[0] * _MINUTES, (days[-1] + 1) * _MINUTES)
    five = path[:-1:4], path[1::4], path[2::4], path[3::4], path[4::4]
    high, low, close = reduce(np.maximum, five), reduce(np.minimum, five), five[4].copy()
    drawn = _hash(model, _TRADE, minutes)
    # A minute moves about a thirtieth of a day's move; its volume grows with its move.
    move = ((high - low).reshape(len(days), -1) * (30 << 13) // usual).ravel()
    busy = model.volume * np.repeat(activity, 60)
    volume = 1 + (busy * (8192 + ((drawn & 0xFFFF) * (drawn >> 16 & 0xFFFF) >> 16) + move) >> 27)
    at, elapsed = now // MINUTE_MS - int(minutes[0]), now % MINUTE_MS
    if 0 <= at < len(minutes):
        # The price is linear between the points, so the high and low of the forming candle only widen.
        passed, into = divmod(elapsed, _STEP_MS)
        *seen, ahead = path[at * 4 : at * 4 + passed + 2].tolist()
        seen.append(seen[-1] + (ahead - seen[-1]) * into // _STEP_MS)
        high[at], low[at], close[at] = max(seen), min(seen), seen[-1]
        volume[at] = max(1, int(volume[at]) * elapsed // MINUTE_MS)
    unit = float(10**model.decimals)
    candles = Candles.of(minutes * MINUTE_MS, five[0] / unit, high / unit, low / unit, close / unit, volume / 1000)
    if model.thin:
        some_hours = _hash(model, _HOUR, minutes // 60) >> 8 & 3 != 0
        candles = candles[some_hours & (drawn >> 32 & 7 == 0)]
    return candles


def _fold(model: PriceModel, timeframe: Timeframe, span: Span, now: int) -> Candles:
    """The candles folded from the traded minutes in ``span``."""
    days = np.arange(span.since // DAY_MS, -(-span.until // DAY_MS), dtype=np.int64)
    pieces = (days[i : i + 16] for i in range(0, len(days), 16))  # the arrays of 16 days stay in a CPU's cache
    return fold(concat([_candles(model, piece, now) for piece in pieces]).between(span), timeframe)


class Synthetic:
    """The provider ``demo/synthetic``."""

    api_version = 1
    market = Market("demo", "Demo", "Made-up symbols to try things out with.")
    id = "synthetic"
    name = "Synthetic"
    description = "Synthetic prices: a deterministic random walk, not a market."
    version = "1"  # raise it when the prices change
    capabilities = Capabilities(_NATIVE, LiveMode.STREAM, max_rows_per_call=_MAX_ROWS, settle_ms=0, budget=_BUDGET)

    def __init__(self) -> None:
        """Set the market's clock; from now on it follows the monotonic clock, which never steps."""
        self._began_ms, self._began_monotonic_ms = clock.wall_ms(), clock.monotonic_ms()

    def _now_ms(self) -> int:
        return self._began_ms + clock.monotonic_ms() - self._began_monotonic_ms

    async def start(self) -> None:
        """Do nothing: there is nothing to open."""

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def listings(self) -> Sequence[Listing]:
        """Every symbol."""
        return [
            Listing(
                w.symbol,
                w.name,
                w.symbol[:-4],
                w.symbol[-3:],
                active=w.until is None,
                first_available=w.since,
                ended_at=w.until,
                kind=SymbolKind.SPOT,
                price_increment=1 / 10**w.decimals,
                quantity_increment=0.001,
            )
            for w in _PRICE_MODELS
        ]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Candles that open within ``span`` until now, including the forming one; UnknownSymbol, Unsupported."""
        model = next((model for model in _PRICE_MODELS if model.symbol == instrument.symbol), None)
        if model is None:
            raise UnknownSymbol(f"The demo market has no symbol {instrument.symbol[:32]!r}.")
        if timeframe not in _NATIVE:
            raise Unsupported(f"The demo market has no candles of {timeframe}: fold them from 1m.")
        now = self._now_ms()
        forming = timeframe.floor(now)
        first = timeframe.ceil(max(span.since, model.since))
        rows = min(_MAX_ROWS, _MAX_MINUTES * MINUTE_MS // timeframe.nominal_ms)
        wanted = min(span.until, model.until or span.until)
        last = min(wanted, timeframe.shift(first, rows))
        complete_to = min(last if last < wanted else span.until, forming)
        work = Span(first, min(timeframe.ceil(last), MINUTE.next(now)))
        task = partial(_fold, model, timeframe, work, now)
        candles = task() if work.until - work.since <= _MS_ON_LOOP else await asyncio.to_thread(task)
        return Page(candles.with_closed(candles.timestamp < forming), span.since, complete_to)

    async def server_time(self) -> int:
        """The time by the market's clock (ms, UTC)."""
        return self._now_ms()

    async def stream(self, instrument: Instrument) -> AsyncIterator[Candles]:
        """Yield the forming minute once a second, and before it each minute that has ended since, one candle at a time."""
        since = MINUTE.floor(self._now_ms())
        while True:
            page = await self.fetch(instrument, MINUTE, Span(since, self._now_ms() + 1))
            for i in range(len(page.candles)):
                yield page.candles[i : i + 1]
            since = max(since, page.complete_to)
            await asyncio.sleep(1 - self._now_ms() % 1000 / 1000)


def create(environ: Mapping[str, str]) -> Iterable[Provider]:  # noqa: ARG001 - it has no settings
    """The provider, for the entry point ``demo.synthetic``."""
    return [Synthetic()]
