"""Every kind of paging, and the biggest exchanges: a candle that exists is there, or is not vouched for."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from aiohttp import web

from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from tests.fakes.exchange_lab.cases import T0, TIMEFRAMES, Case, Shape, make_case, missing, vouched_away, walk, wrong
from tests.fakes.exchange_lab.paging import Edge, Paging, Window
from tests.fakes.exchange_lab.sampling import CARRIERS, lab_time, run_cases
from tests.fakes.exchange_lab.server import LabExchange
from tests.fakes.exchange_lab.wire import NOT_BIG, WIRES

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

DAY, HOUR = Timeframe(1, "d"), Timeframe(1, "h")
WITHOUT_HISTORY = {"kraken", "phemex", "gemini", "p2b"}  # the newest rows alone can be had, of p2b in thin markets
WITHOUT_AN_END = {"whitebit", "lbank"}  # newest first, their older rows cannot be had


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_no_candle_is_vouched_away_whatever_the_kind_of_paging(carrier: str) -> None:
    tally = await run_cases(carrier, 36, seed=7)
    assert (tally.vouched_away, tally.wrong, tally.failures) == (0, 0, [])
    assert tally.most_calls <= 40
    if carrier not in WITHOUT_HISTORY | WITHOUT_AN_END:
        assert tally.missing == 0


@pytest.mark.parametrize("exchange_id", sorted(WIRES.keys() - NOT_BIG))
async def test_each_of_the_biggest_exchanges_is_equal_to_what_it_has_or_says_what_it_lacks(exchange_id: str) -> None:
    async with LabExchange(exchange_id) as lab:
        with lab_time(lab):
            for timeframe in TIMEFRAMES[: 1 + 2 * (exchange_id in {"okx", "upbit"})]:
                for shape in Shape:
                    case = make_case(random.Random(f"{timeframe} {shape}"), timeframe, shape, 700)
                    lab.there, lab.timeframe, lab.now = list(case.there), timeframe, case.now
                    outcome = await walk(lab.provider, lab.instrument, case)
                    assert not vouched_away(outcome, case)
                    assert not wrong(outcome)
                    assert outcome.calls <= 12
                    if exchange_id not in WITHOUT_HISTORY:
                        assert not missing(outcome, case), (timeframe, shape)


async def ask_all(lab: LabExchange, case: Case) -> tuple[int, int, int]:
    """The candles that are missing, those vouched away, and the calls."""
    lab.there, lab.timeframe, lab.now = list(case.there), case.timeframe, case.now
    with lab_time(lab):
        outcome = await walk(lab.provider, lab.instrument, case)
    return len(missing(outcome, case)), len(vouched_away(outcome, case)), outcome.calls


def minutes_case(first: int, last: int, there: range, now: int = 6_000) -> Case:
    stamps = tuple(T0 + minute * MINUTE_MS for minute in there)
    return Case(MINUTE, stamps, Span(T0 + first * MINUTE_MS, T0 + last * MINUTE_MS), T0 + now * MINUTE_MS)


async def test_an_exchange_that_holds_fewer_rows_than_ccxt_declares_is_asked_for_windows_of_that_size() -> None:
    async with LabExchange("okx", Paging(Edge.EXCLUSIVE, Edge.EXCLUSIVE, keeps_newest=True, cap=100)) as lab:
        assert await ask_all(lab, minutes_case(0, 1_440, range(6_000))) == (0, 0, 16)
        assert lab.provider.capabilities.max_rows_per_call == 98


async def test_rows_that_are_counted_reach_further_back_in_a_thin_market() -> None:
    """Hyperliquid keeps five thousand candles: of one minute in ten they are fifty thousand minutes."""
    async with LabExchange("hyperliquid") as lab:
        thin = minutes_case(1_000, 4_000, range(0, 30_000, 10), now=30_000)
        assert (await ask_all(lab, thin))[:2] == (0, 0)
        assert lab.provider.capabilities.max_lookback_candles == 5_000
        assert lab.provider.capabilities.reach_ms(MINUTE) is None
        await lab.provider.close()
        lab.provider = await lab.make_provider()
        lost, away, _ = await ask_all(lab, minutes_case(0, 12_000, range(30_000), now=30_000))
        assert (lost, away) == (12_000, 0)


async def test_a_window_that_counts_its_end_inclusively_is_not_taken_for_oldest_first() -> None:
    """A full page that ends at the end of the window was cut at its old side."""
    paging = Paging(Edge.INCLUSIVE, Edge.INCLUSIVE, keeps_newest=True, descending=True, cap=200, window=True)
    async with LabExchange("whitebit", paging) as lab:
        for first, last in ((485, 564), (622, 1_049)):
            assert (await ask_all(lab, minutes_case(first, last, range(-200, 1_039), now=1_342)))[1] == 0


async def test_an_exchange_that_sends_newest_first_is_walked_back() -> None:
    for exchange_id in ("hitbtc", "dydx", "bithumb", "extended", "p2b"):
        async with LabExchange(exchange_id) as lab:
            assert (await ask_all(lab, minutes_case(0, 1_440, range(6_000))))[:2] == (0, 0), exchange_id


async def test_minutes_older_than_the_newest_page_are_read_from_the_history_of_an_exchange() -> None:
    class Weex(LabExchange):
        """A thousand newest rows, and a hundred of any span from another endpoint."""

        def rows_of(self, window: Window, request: web.Request) -> list[int]:
            cap = 100 if "history" in request.path.lower() else 1_000
            return replace(self.paging, cap=cap).rows(self.there, window, self.timeframe)

    async with Weex("weex") as lab:
        assert await ask_all(lab, minutes_case(4_800, 6_000, range(6_000))) == (0, 0, 4)
        assert (await ask_all(lab, minutes_case(0, 700, range(0, 6_000, 7))))[:2] == (0, 0)


async def test_where_an_exchange_takes_certain_numbers_of_rows_one_of_them_is_sent() -> None:
    class Phemex(LabExchange):
        """Refuses any other number."""

        def rows_of(self, window: Window, request: web.Request) -> list[int]:
            assert window.count in {5, 10, 50, 100, 500, 1_000}
            return super().rows_of(window, request)

    async with Phemex("phemex") as lab:
        for first in (5_000, 5_400, 5_930, 5_998):
            lost, away, calls = await ask_all(lab, minutes_case(first, 6_000, range(6_000)))
            assert (lost, away, calls) == (0, 0, 1)


@pytest.mark.parametrize("exchange_id", ["coinbase", "bybit", "upbit", "dydx"])
async def test_where_history_begins_is_found_by_a_few_calls(exchange_id: str) -> None:
    class Traded(LabExchange):
        """Traded from a day in the middle of the year 2025 on, a minute in the middle of an hour."""

        def rows_of(self, window: Window, request: web.Request) -> list[int]:
            asked = next(each for each in (DAY, HOUR, MINUTE) if names[each] in str(request.rel_url) + self.sent)
            return self.paging.rows(traded[asked], window, asked)

    first, now = T0 + 500 * DAY_MS + 7 * HOUR_MS + 5 * MINUTE_MS, T0 + 900 * DAY_MS
    traded = {each: range(each.floor(first), now + 1, each.nominal_ms)[:20_000] for each in (DAY, HOUR, MINUTE)}
    names = {
        "coinbase": {DAY: "ONE_DAY", HOUR: "ONE_HOUR", MINUTE: "ONE_MINUTE"},
        "bybit": {DAY: "interval=D", HOUR: "interval=60", MINUTE: "interval=1&"},
        "upbit": {DAY: "days", HOUR: "minutes/60", MINUTE: "minutes/1?"},
        "dydx": {DAY: "1DAY", HOUR: "1HOUR", MINUTE: "1MIN"},
    }[exchange_id]
    async with Traded(exchange_id) as lab:
        lab.now = now
        with lab_time(lab):
            assert await lab.provider.first_available(lab.instrument) == first
        assert lab.calls <= 14


async def test_days_that_open_elsewhere_are_folded_from_hours() -> None:
    class Singapore(LabExchange):
        """Days open at 16:00 UTC."""

        def rows_of(self, window: Window, request: web.Request) -> list[int]:
            days = request.query["interval"] == "D"
            step, offset = (DAY, 16 * HOUR_MS) if days else (HOUR, 0)
            there = [step.shift(T0, i) + offset for i in range(30 if days else 720)]
            return self.paging.rows(there, window, step)

    async with Singapore("bybit") as lab:
        lab.now = T0 + 60 * DAY_MS
        with lab_time(lab):
            page = await lab.provider.fetch(lab.instrument, DAY, Span(T0, T0 + 30 * DAY_MS))
        assert page.candles.timestamp.tolist() == [T0 + day * DAY_MS for day in range(30)]
        assert (page.complete_from, page.complete_to) == (T0, T0 + 30 * DAY_MS)
        assert not page.candles.problems(DAY, Span(T0, T0 + 30 * DAY_MS))
        assert DAY not in lab.provider.capabilities.timeframes
