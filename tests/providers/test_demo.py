"""The demo market: the same prices for all users, and pages with the span that they prove."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlegraph import (
    MINUTE,
    Candle,
    Candles,
    Instrument,
    Listing,
    Page,
    Provider,
    Span,
    SupportsStreaming,
    SymbolKind,
    Timeframe,
    UnknownSymbol,
    Unsupported,
    concat,
    fold,
)
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from providers import demo
from providers.demo import Synthetic, create
from tests.fakes.clocks import set_clock
from tests.waiting import HANG_S

HOUR, DAY = Timeframe(1, "h"), Timeframe(1, "d")
NATIVE = (MINUTE, HOUR, DAY)
LISTED = 1_420_070_400_000  # 2015-01-01
YOUNGER = 1_622_505_600_000  # 2021-06-01
DELISTED = 1_672_531_200_000  # 2023-01-01
NEW_YEAR_2024 = 1_704_067_200_000
NOW = NEW_YEAR_2024 + 200 * DAY_MS + 13 * HOUR_MS + 37 * MINUTE_MS + 22_222
BUSY = ("BTC/USD", "ETH/USD", "SOL/USD", "EUR/USD")
EVERY = (*BUSY, "THIN/USD", "OLD/USD")
GOLDEN_BITCOIN = [
    (1704067200000, 24727.2, 24727.2, 24717.13, 24717.13, 1.453),
    (1704067260000, 24717.13, 24723.16, 24715.98, 24723.16, 1.1),
]
GOLDEN_EURO = (1420070400000, 1.13743, 1.14295, 1.13571, 1.14136, 2283014.006)
GOLDEN_PRINT = "326d18a762ace06096de2b5e3b4e0476b1d69db4b1de0d8c0bd0195a58fe1316"

Seen = tuple[int, Candle]  # when it was seen, and what


@dataclass
class FakeClock:
    """A clock that only moves for tasks that sleep."""

    now: int

    def __call__(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """It is `NOW` in every test, unless the test says otherwise."""
    fake = FakeClock(NOW)
    set_clock(monkeypatch, fake)
    return fake


def instrument(symbol: str) -> Instrument:
    return Instrument("demo", "synthetic", symbol)


async def page_of(symbol: str, since: int, until: int, timeframe: Timeframe = MINUTE) -> Page:
    return await Synthetic().fetch(instrument(symbol), timeframe, Span(since, until))


async def candles_of(symbol: str, since: int, until: int, timeframe: Timeframe = MINUTE) -> Candles:
    """Ask page after page until all of the range is answered, as the core does."""
    found, start = [], since
    while start < until:
        page = await page_of(symbol, start, until, timeframe)
        assert page.complete_from == start
        assert page.complete_to > start, "a page that proves nothing would be requested for ever"
        found.append(page.candles)
        start = page.complete_to
    return concat(found)


def same(one: Candles, other: Candles) -> bool:
    """Whether two batches are equal to the bit."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(one.columns, other.columns, strict=True))


def fingerprint(candles: Candles) -> str:
    return hashlib.sha256(b"".join(column.tobytes() for column in candles.columns)).hexdigest()


def rows(candles: Candles) -> list[tuple[float, ...]]:
    return [(c.timestamp, c.open, c.high, c.low, c.close, c.volume) for c in candles]


async def test_the_factory_needs_no_setting_and_makes_a_streaming_provider() -> None:
    (provider,) = create({})
    assert isinstance(provider, Provider)
    assert isinstance(provider, SupportsStreaming)
    assert (provider.market.id, provider.market.name, provider.market.timezone) == ("demo", "Demo", "UTC")
    assert provider.id == "synthetic"
    assert provider.description.startswith("Synthetic prices")
    assert provider.capabilities.timeframes == NATIVE


async def test_every_symbol_is_listed_with_its_names_and_its_dates() -> None:
    listings = {listing.symbol: listing for listing in await Synthetic().listings()}
    assert tuple(listings) == EVERY
    assert listings["SOL/USD"].first_available == YOUNGER
    assert listings["THIN/USD"] == Listing(
        "THIN/USD",
        "Synthetic, rarely traded",
        "THIN",
        "USD",
        active=True,
        first_available=LISTED,
        kind=SymbolKind.SPOT,
        price_increment=0.00001,
        quantity_increment=0.001,
    )
    old = listings["OLD/USD"]
    assert (old.active, old.first_available, old.ended_at) == (False, LISTED, DELISTED)


async def test_the_walk_is_the_one_that_was_shipped() -> None:
    """A change of the walk changes stored charts: raise ``Synthetic.version`` with these values."""
    minutes = await candles_of("BTC/USD", NEW_YEAR_2024, NEW_YEAR_2024 + 2 * MINUTE_MS)
    assert rows(minutes) == GOLDEN_BITCOIN
    (first_day,) = rows(await candles_of("EUR/USD", LISTED, LISTED + DAY_MS, DAY))
    assert first_day == pytest.approx(GOLDEN_EURO, rel=1e-9)
    days = [await candles_of(symbol, DELISTED - 20 * DAY_MS, DELISTED) for symbol in EVERY]
    assert fingerprint(concat(days)) == GOLDEN_PRINT


async def test_another_process_walks_the_same_way() -> None:
    script = (
        "import asyncio, hashlib\n"
        "from candlegraph import MINUTE, Instrument, Span\n"
        "from providers.demo import create\n"
        "(provider,) = create({})\n"
        f"for symbol in {EVERY!r}:\n"
        f"    asked = Instrument('demo', 'synthetic', symbol), MINUTE, Span({DELISTED - 3 * DAY_MS}, {DELISTED})\n"
        "    page = asyncio.run(provider.fetch(*asked))\n"
        "    print(hashlib.sha256(b''.join(c.tobytes() for c in page.candles.columns)).hexdigest())\n"
    )
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    here = [fingerprint((await page_of(symbol, DELISTED - 3 * DAY_MS, DELISTED)).candles) for symbol in EVERY]
    assert ran.stdout.split() == here
    assert len(set(here)) == len(EVERY)


@given(data=st.data(), symbol=st.sampled_from(EVERY), timeframe=st.sampled_from(NATIVE))
@settings(max_examples=60, deadline=None)
async def test_a_part_of_a_range_holds_what_the_whole_range_holds_there(
    data: st.DataObject, symbol: str, timeframe: Timeframe
) -> None:
    whole = Span(DELISTED - 34 * DAY_MS, DELISTED + 3 * DAY_MS)
    since = data.draw(st.integers(whole.since, whole.until), label="since")
    until = data.draw(st.integers(since, min(since + 6 * DAY_MS, whole.until)), label="until")
    expected = (await candles_of(symbol, whole.since, whole.until, timeframe)).between(Span(since, until))
    assert same((await page_of(symbol, since, until, timeframe)).candles, expected)


@pytest.mark.parametrize("symbol", BUSY)
async def test_a_minute_opens_where_the_one_before_closed(symbol: str) -> None:
    candles = await candles_of(symbol, DELISTED - 40 * DAY_MS, DELISTED)
    assert len(candles) == 40 * 1440
    assert (candles.open[1:] == candles.close[:-1]).all()
    moves = np.abs(candles.close - candles.open).reshape(40, 1440)
    assert moves[:, -1].mean() < 3 * moves.mean(), "a day leads up to the next one without a jump"


@pytest.mark.parametrize("timeframe", NATIVE, ids=str)
@pytest.mark.parametrize("symbol", EVERY)
async def test_candles_are_valid_positive_and_traded(symbol: str, timeframe: Timeframe) -> None:
    span = Span(DELISTED - 30 * DAY_MS, DELISTED)
    candles = await candles_of(symbol, span.since, span.until, timeframe)
    assert candles.problems(timeframe, span) == {}
    assert candles.low.min() > 0
    assert candles.volume.min() > 0
    assert candles.closed.all()
    assert not candles.synthetic.any()
    assert (np.diff(candles.timestamp) > 0).all()


@pytest.mark.parametrize(("symbol", "decimals"), [("BTC/USD", 2), ("SOL/USD", 3), ("EUR/USD", 5), ("THIN/USD", 5)])
async def test_numbers_are_as_short_as_their_decimals(symbol: str, decimals: int) -> None:
    for candle in (await page_of(symbol, NEW_YEAR_2024, NEW_YEAR_2024 + 9 * HOUR_MS)).candles:
        assert candle.close == round(candle.close, decimals)
        assert candle.high == round(candle.high, decimals)
        assert candle.volume == round(candle.volume, 3)


@pytest.mark.parametrize("symbol", ["BTC/USD", "ETH/USD", "SOL/USD"])
async def test_it_looks_like_a_market(symbol: str) -> None:
    since = NEW_YEAR_2024 - 365 * DAY_MS
    days = await candles_of(symbol, since, NEW_YEAR_2024, DAY)
    assert 0.02 < ((days.high - days.low) / days.open).mean() < 0.12
    assert 0.01 < np.diff(np.log(days.close)).std() < 0.06
    minutes = await candles_of(symbol, NEW_YEAR_2024 - 7 * DAY_MS, NEW_YEAR_2024)
    assert (minutes.open != minutes.close).mean() > 0.9, "bodies"
    assert (minutes.high > np.maximum(minutes.open, minutes.close)).mean() > 0.3, "wicks"
    by_hour = minutes.volume.reshape(7, 24, 60).mean(axis=(0, 2))
    assert by_hour[13:17].mean() > 1.5 * by_hour[2:6].mean(), "busy afternoons"


@pytest.mark.parametrize("timeframe", [HOUR, DAY], ids=str)
@pytest.mark.parametrize("symbol", EVERY)
async def test_hours_and_days_are_folded_minutes(symbol: str, timeframe: Timeframe) -> None:
    since, until = DELISTED - 33 * DAY_MS, DELISTED
    native = await candles_of(symbol, since, until, timeframe)
    folded = fold(await candles_of(symbol, since, until), timeframe)
    for ours, theirs in zip(native.columns[:5], folded.columns[:5], strict=True):
        assert ours.tobytes() == theirs.tobytes()
    np.testing.assert_allclose(native.volume, folded.volume, rtol=1e-9)


@pytest.mark.parametrize("timeframe", NATIVE, ids=str)
@pytest.mark.parametrize("symbol", ["BTC/USD", "EUR/USD", "THIN/USD"])
async def test_the_forming_candle_only_grows_into_the_final_one(
    symbol: str, timeframe: Timeframe, time: FakeClock
) -> None:
    traded = (await page_of(symbol, NOW - 2 * HOUR_MS, NOW)).candles.timestamp.tolist()[-1]
    opening = timeframe.floor(traded)
    time.now = timeframe.next(opening)
    (final,) = (await page_of(symbol, opening, time.now, timeframe)).candles
    assert final.closed
    seen: list[Candle] = []
    for now in [*range(traded, traded + MINUTE_MS, 617), traded + MINUTE_MS - 1]:
        time.now = now
        page = await page_of(symbol, opening, now + 1, timeframe)
        assert page.complete_to == opening
        seen += page.candles
        assert not seen[-1].closed
    assert len({candle.close for candle in seen}) > 4, "it moves between the points too"
    seen.append(final)
    for before, after in pairwise(seen):
        assert before.open == after.open
        assert before.high <= after.high
        assert before.low >= after.low
        assert 0 < before.volume <= after.volume
        assert before.low <= before.close <= before.high
    if timeframe == MINUTE:
        assert seen[0].close == seen[0].open == seen[0].high == seen[0].low
        assert seen[-2].close == pytest.approx(final.close, rel=1e-4)
        assert seen[-2].volume == pytest.approx(final.volume, rel=1e-3)
        assert seen[50].volume == pytest.approx(final.volume * 50 * 617 / MINUTE_MS, rel=1e-2)


async def test_a_forming_hour_is_open_although_its_minutes_are_closed(time: FakeClock) -> None:
    minutes = (await page_of("THIN/USD", NOW - DAY_MS, NOW)).candles.timestamp
    quiet = next(m for m in minutes.tolist() if m + MINUTE_MS not in minutes and (m + MINUTE_MS) % HOUR_MS)
    time.now = quiet + MINUTE_MS + 1
    assert not len((await page_of("THIN/USD", quiet + MINUTE_MS, time.now)).candles)
    (hour,) = (await page_of("THIN/USD", HOUR.floor(quiet), time.now, HOUR)).candles
    assert not hour.closed


async def test_the_thin_symbol_has_empty_minutes_and_whole_empty_hours() -> None:
    candles = await candles_of("THIN/USD", NEW_YEAR_2024, NEW_YEAR_2024 + 30 * DAY_MS)
    traded = np.bincount((candles.timestamp - NEW_YEAR_2024) // HOUR_MS, minlength=30 * 24)
    open_hours = traded[traded > 0]
    assert 0.1 < (traded == 0).mean() < 0.5
    assert 5 < open_hours.mean() < 10, "about one minute in eight"
    assert open_hours.max() < 40


@pytest.mark.parametrize("timeframe", NATIVE, ids=str)
@pytest.mark.parametrize(("symbol", "listed"), [("BTC/USD", LISTED), ("SOL/USD", YOUNGER)])
async def test_nothing_is_before_the_listing_and_that_is_proved(symbol: str, listed: int, timeframe: Timeframe) -> None:
    before = await page_of(symbol, 0, listed, timeframe)
    assert (len(before.candles), before.complete_from, before.complete_to) == (0, 0, listed)
    across = await page_of(symbol, 0, listed + 2 * DAY_MS, timeframe)
    assert across.candles.timestamp[0] == listed
    assert across.complete_from == 0


@pytest.mark.parametrize("timeframe", NATIVE, ids=str)
async def test_nothing_is_after_the_delisting_and_that_is_proved(timeframe: Timeframe) -> None:
    after = await page_of("OLD/USD", DELISTED, NOW, timeframe)
    assert (len(after.candles), after.complete_to) == (0, timeframe.floor(NOW))
    across = await page_of("OLD/USD", DELISTED - DAY_MS, DELISTED + 500 * DAY_MS, timeframe)
    assert timeframe.next(int(across.candles.timestamp[-1])) == DELISTED
    assert across.complete_to == DELISTED + 500 * DAY_MS
    assert across.candles.closed.all()


@pytest.mark.parametrize("timeframe", NATIVE, ids=str)
async def test_nothing_is_after_now_and_the_forming_candle_proves_nothing(timeframe: Timeframe) -> None:
    forming = timeframe.floor(NOW)
    page = await page_of("BTC/USD", forming - 3 * DAY_MS, NOW + 400 * DAY_MS, timeframe)
    assert page.candles.timestamp[-1] == forming
    assert page.candles.closed.tolist() == [True] * (len(page.candles) - 1) + [False]
    assert page.complete_to == forming
    future = await page_of("BTC/USD", NOW + DAY_MS, NOW + 2 * DAY_MS, timeframe)
    assert len(future.candles) == 0
    assert future.complete_to <= future.complete_from


async def test_a_candle_forms_from_its_first_instant_and_is_final_at_its_last(time: FakeClock) -> None:
    time.now = opening = MINUTE.floor(NOW)
    before, at = (await page_of("BTC/USD", opening - MINUTE_MS, opening + 1)).candles
    assert before.closed
    assert not at.closed
    assert at.open == at.close == before.close


@pytest.mark.parametrize(
    ("timeframe", "since", "largest"),
    [(MINUTE, NOW - 25 * DAY_MS, 10_000), (HOUR, NOW - 900 * DAY_MS, 6_666), (DAY, 0, 277)],
    ids=["1m", "1h", "1d"],
)
async def test_pages_follow_each_other_and_give_everything_once(timeframe: Timeframe, since: int, largest: int) -> None:
    until, start, pages = timeframe.floor(NOW), since, list[Page]()
    while start < until:
        pages.append(await page_of("BTC/USD", start, until, timeframe))
        assert pages[-1].complete_from == start
        start = pages[-1].complete_to
    assert len(pages) > 2
    assert {len(page.candles) for page in pages[:-1]} == {largest}
    assert all(page.complete_to % timeframe.nominal_ms == 0 for page in pages)
    stamps = np.concatenate([page.candles.timestamp for page in pages])
    np.testing.assert_array_equal(stamps, timeframe.edges(max(since, LISTED), until))


async def test_the_empty_stretches_of_a_thin_symbol_count_as_answered() -> None:
    page = await page_of("THIN/USD", NEW_YEAR_2024, NOW)
    assert page.complete_to == NEW_YEAR_2024 + 10_000 * MINUTE_MS
    assert 500 < len(page.candles) < 2_000


async def test_an_empty_range_is_answered_by_an_empty_page() -> None:
    for timeframe in NATIVE:
        assert len((await page_of("BTC/USD", NEW_YEAR_2024, NEW_YEAR_2024, timeframe)).candles) == 0
        assert len((await page_of("BTC/USD", NEW_YEAR_2024 + 1, NEW_YEAR_2024 + 2, timeframe)).candles) == 0


async def test_long_work_is_done_in_a_thread_and_short_work_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[bool]()

    def spy(*asked: object) -> Candles:
        threads.append(threading.current_thread() is not threading.main_thread())
        return Candles.empty()

    monkeypatch.setattr(demo, "_fold", spy)
    await page_of("BTC/USD", NOW - 1_000 * MINUTE_MS, NOW)
    await page_of("BTC/USD", NOW - 3_000 * MINUTE_MS, NOW)
    await page_of("BTC/USD", NOW - 10 * DAY_MS, NOW, DAY)
    assert threads == [False, True, True]


async def test_an_unknown_symbol_and_a_foreign_timeframe_are_refused() -> None:
    with pytest.raises(UnknownSymbol, match="DOGE/USD"):
        await page_of("DOGE/USD", NEW_YEAR_2024, NOW)
    with pytest.raises(Unsupported, match="5m"):
        await page_of("BTC/USD", NEW_YEAR_2024, NOW, Timeframe(5, "m"))
    with pytest.raises(UnknownSymbol):
        await anext(Synthetic().stream(instrument("DOGE/USD")))


async def watch(symbol: str, time: FakeClock, until: int, naps: dict[int, int] | None = None) -> list[Seen]:
    """Follow a symbol until that time; ``naps``: at so many seconds after the start sleep so many ms more, once."""
    naps, start, seen = dict(naps or {}), time.now, list[Seen]()

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        time.now += naps.pop((time.now - start) // 1000, 0)
        if time.now > until:
            raise TimeoutError

    with pytest.MonkeyPatch.context() as patch, suppress(TimeoutError):
        patch.setattr(asyncio, "sleep", sleep)
        async for batch in Synthetic().stream(instrument(symbol)):
            (candle,) = batch
            seen.append((time.now, candle))
    return seen


async def test_a_stream_moves_every_second_and_closes_every_minute_once(time: FakeClock) -> None:
    start = time.now
    seen = await watch("BTC/USD", time, start + 5 * MINUTE_MS)
    opening = MINUTE.floor(start)
    finals = [candle for _, candle in seen if candle.closed]
    assert [candle.timestamp for candle in finals] == [opening + i * MINUTE_MS for i in range(5)]
    assert finals == list((await page_of("BTC/USD", opening, opening + 5 * MINUTE_MS)).candles)
    forming = [(now, candle.timestamp) for now, candle in seen if not candle.closed]
    assert forming == [(now, MINUTE.floor(now)) for now in (start, *range(start + 778, start + 300_000, 1000))]
    for (_, before), (_, after) in pairwise(seen):
        assert after.timestamp == before.timestamp + MINUTE_MS * before.closed, "final first, then the next one"


async def test_a_stream_that_slept_gives_every_minute_it_slept_through(time: FakeClock) -> None:
    start = time.now
    opening, asleep = MINUTE.floor(start), 12_345 * MINUTE_MS
    seen = await watch("BTC/USD", time, start + asleep + 3 * MINUTE_MS, naps={90: asleep})
    stamps = [candle.timestamp for _, candle in seen if candle.closed]
    assert stamps == list(range(opening, opening + asleep + 3 * MINUTE_MS, MINUTE_MS))


async def test_a_clock_that_is_put_back_closes_no_minute_twice(time: FakeClock) -> None:
    start = time.now
    seen = await watch("BTC/USD", time, start + 4 * MINUTE_MS, naps={100: -2 * MINUTE_MS})
    stamps = [candle.timestamp for _, candle in seen if candle.closed]
    assert stamps == [MINUTE.floor(start) + i * MINUTE_MS for i in range(4)]


async def test_a_thin_stream_is_silent_while_nothing_is_traded(time: FakeClock) -> None:
    start = MINUTE.floor(time.now)
    end = start + 100 * MINUTE_MS
    seen = await watch("THIN/USD", time, end)
    traded = (await page_of("THIN/USD", start, end)).candles.timestamp.tolist()
    assert 0 < len(traded) < 40
    assert [candle.timestamp for _, candle in seen if candle.closed] == traded
    assert {candle.timestamp for _, candle in seen if not candle.closed} - {end} == set(traded)
