"""The ccxt provider: ccxt's unmodified classes against local servers that speak the exchanges' wire formats."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.errors import (
    ConfigurationError,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import LiveMode, Page, Provider
from candlegraph.resample import fold
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from providers.ccxt.exchange import native_timeframes
from providers.ccxt.observations import Observations, SeriesKey
from providers.ccxt.pages import PageRequest, page_of
from providers.ccxt.provider import Ccxt, create
from providers.ccxt.sent import SentWindow
from providers.ccxt.traits import Answers, ExchangeTraits, traits_of
from tests.fakes.binance import FakeBinance
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import HTML, T0, FakeExchange, Fault, random_candles
from tests.fakes.kraken import FakeKraken
from tests.timings import PATIENT_CCXT
from tests.waiting import HANG_S, eventually

# From Python 3.12.7 on aiohttp warns of an argument that ccxt gives its connector.
pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

MINUTES = 5_000
NOW = T0 + MINUTES * MINUTE_MS + 20_000
DELISTED_AT = T0 + 2_000 * MINUTE_MS
LISTED_AT = T0 + 1_500 * MINUTE_MS
KLINES = "/api/v3/klines"
HOUR, DAY = Timeframe(1, "h"), Timeframe(1, "d")
TRUTH = random_candles(T0, MINUTES + 1)
GAPPY = random_candles(T0, MINUTES, seed=2, keep=0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where symbols are kept from test to test: listing them takes a second."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
async def binance_server() -> AsyncIterator[FakeBinance]:
    async with FakeBinance() as fake:
        fake.add("BTC", "USDT", TRUTH)
        fake.add("GAP", "USDT", GAPPY)
        fake.add("NEW", "USDT", random_candles(LISTED_AT, 3_000, seed=3))
        fake.add("OLD", "USDT", random_candles(T0, 2_000, seed=4), trading=False)
        fake.add_swap("BTC", "USDT", random_candles(T0, 1_000, seed=5))
        fake.now = NOW
        yield fake


@pytest.fixture(scope="module")
async def binance_started(binance_server: FakeBinance) -> AsyncIterator[Ccxt]:
    options = binance_server.ccxt_options("spot", "linear")["binance"]
    provider = Ccxt("binance", {**options, "apiKey": "SECRET-API-KEY"}, timings=PATIENT_CCXT)
    await provider.start()
    await provider.listings()
    yield provider
    await provider.close()


@pytest.fixture(scope="module")
async def kraken_server() -> AsyncIterator[FakeKraken]:
    async with FakeKraken() as fake:
        fake.add("BTC", "USD", TRUTH)
        fake.add("GAP", "USD", GAPPY)
        fake.now = NOW
        yield fake


@pytest.fixture(scope="module")
async def kraken_started(kraken_server: FakeKraken) -> AsyncIterator[Ccxt]:
    provider = Ccxt("kraken", kraken_server.ccxt_options()["kraken"], timings=PATIENT_CCXT)
    await provider.start()
    await provider.listings()
    yield provider
    await provider.close()


@pytest.fixture(autouse=True)
def exchange_time(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, lambda: NOW)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real, hosts = socket.getaddrinfo, set()

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        hosts.add(host)
        if host != "127.0.0.1":
            raise socket.gaierror(f"a test asked for {host}")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    assert hosts <= {"127.0.0.1"}


def fresh(fake: FakeExchange) -> Iterator[None]:
    fake.reset()
    yield
    fake.reset()


@pytest.fixture
def fake(binance_server: FakeBinance) -> Iterator[FakeBinance]:
    for _ in fresh(binance_server):
        yield binance_server


@pytest.fixture
def binance(fake: FakeBinance, binance_started: Ccxt) -> Ccxt:
    return binance_started


@pytest.fixture
def kraken_fake(kraken_server: FakeKraken) -> Iterator[FakeKraken]:
    for _ in fresh(kraken_server):
        yield kraken_server


@pytest.fixture
def kraken(kraken_fake: FakeKraken, kraken_started: Ccxt) -> Ccxt:
    return kraken_started


def minutes(first: int, last: int) -> Span:
    """The span from one minute of the truth to another."""
    return Span(T0 + first * MINUTE_MS, T0 + last * MINUTE_MS)


async def ask(provider: Provider, span: Span, symbol: str = "BTC/USDT", timeframe: Timeframe = MINUTE) -> Page:
    return await provider.fetch(Instrument("crypto", provider.id, symbol), timeframe, span)


async def page_through(provider: Provider, span: Span, symbol: str = "BTC/USDT") -> tuple[Candles, int]:
    """All candles of the span and the number of pages, paged as the core pages."""
    pages: list[Candles] = []
    since = span.since
    while since < span.until:
        page = await ask(provider, Span(since, span.until), symbol)
        assert page.complete_from == since < page.complete_to, page
        pages.append(page.candles)
        since = page.complete_to
    return concat(pages), len(pages)


def same(candles: Candles, truth: Candles) -> bool:
    return all(np.array_equal(*pair) for pair in zip(candles.columns[:6], truth.columns[:6], strict=True))


# What is asked and what it proves


async def test_three_thousand_minutes_are_paged_in_three_calls_and_equal_the_truth(
    binance: Ccxt, fake: FakeBinance
) -> None:
    candles, pages = await page_through(binance, minutes(0, 3_000))
    assert same(candles, TRUTH[:3_000])
    assert (pages, fake.calls) == (3, {KLINES: 3})


async def test_an_old_short_span_is_one_small_call_that_settles_it(binance: Ccxt, fake: FakeBinance) -> None:
    page = await ask(binance, minutes(100, 110))
    assert same(page.candles, TRUTH[100:110])
    assert Span(page.complete_from, page.complete_to) == minutes(100, 110)
    assert fake.requests[0][1]["limit"] == "11"  # one more than there can be: the page is not full


async def test_the_forming_candle_comes_along_and_is_not_vouched_for(binance: Ccxt) -> None:
    page = await ask(binance, minutes(MINUTES - 5, MINUTES + 60))
    assert len(page.candles) == 6
    assert page.candles.volume[-1] < TRUTH.volume[-1]
    assert page.complete_to == T0 + MINUTES * MINUTE_MS


async def test_a_gappy_symbol_is_paged_by_its_last_timestamp(binance: Ccxt, fake: FakeBinance) -> None:
    page = await ask(binance, minutes(0, 4_000), "GAP/USDT")
    assert len(page.candles) == 1_000
    assert page.complete_to == page.candles.timestamp[-1] + MINUTE_MS > T0 + 1_200 * MINUTE_MS
    candles, _ = await page_through(binance, minutes(0, 4_000), "GAP/USDT")
    assert same(candles, GAPPY.between(minutes(0, 4_000)))
    assert fake.calls[KLINES] <= 6


async def test_before_the_listing_nothing_is_a_proved_fact(binance: Ccxt, fake: FakeBinance) -> None:
    page = await ask(binance, minutes(0, 2_000), "NEW/USDT")
    assert page.complete_from == T0
    assert page.candles.timestamp[0] == LISTED_AT
    page = await ask(binance, minutes(0, 1_000), "NEW/USDT")
    assert (len(page.candles), page.complete_to) == (0, T0 + 1_000 * MINUTE_MS)
    assert fake.calls[KLINES] == 2


async def test_after_a_delisting_an_empty_answer_settles_the_rest(binance: Ccxt, fake: FakeBinance) -> None:
    candles, pages = await page_through(binance, minutes(1_500, MINUTES), "OLD/USDT")
    assert candles.timestamp[-1] == DELISTED_AT - MINUTE_MS
    assert pages == 2


async def test_a_genuine_empty_list_is_an_empty_page(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(empty=True))
    page = await ask(binance, minutes(0, 100))
    assert (len(page.candles), page.complete_from, page.complete_to) == (0, T0, T0 + 100 * MINUTE_MS)


async def test_nothing_is_proved_of_the_future(binance: Ccxt) -> None:
    page = await ask(binance, minutes(MINUTES + 10, MINUTES + 20))
    assert len(page.candles) == 0
    assert page.complete_to <= page.complete_from


async def test_an_empty_span_costs_no_call(binance: Ccxt, fake: FakeBinance) -> None:
    assert len((await ask(binance, Span(T0, T0))).candles) == 0
    assert not fake.calls


async def test_shuffled_rows_come_back_sorted(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(shuffle=True))
    page = await ask(binance, minutes(0, 500))
    assert same(page.candles, TRUTH[:500])


async def test_duplicated_rows_count_once_and_prove_only_up_to_the_last(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(duplicate=True))
    page = await ask(binance, minutes(0, 2_000))
    assert same(page.candles, TRUTH[:500])
    assert page.complete_to == T0 + 500 * MINUTE_MS
    candles, _ = await page_through(binance, minutes(0, 2_000))
    assert same(candles, TRUTH[:2_000])


async def test_lost_rows_never_settle_more_than_the_window_of_the_call(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(drop=0.5))
    page = await ask(binance, minutes(0, 4_000))
    assert 300 < len(page.candles) < 700
    assert page.complete_to == T0 + 1_000 * MINUTE_MS


async def test_rows_from_before_the_range_are_dropped_but_fill_the_page(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(before=3))
    page = await ask(binance, minutes(1_000, 4_000))
    assert same(page.candles, TRUTH[1_000:2_000])
    assert page.complete_to == T0 + 2_000 * MINUTE_MS


async def test_corrupt_rows_are_left_to_the_core_to_refuse(binance: Ccxt, fake: FakeBinance) -> None:
    for corruption in ("high below low", "negative volume", "null"):
        fake.fail(Fault(corrupt=corruption))
        page = await ask(binance, minutes(0, 10))
        assert list(page.candles.problems(MINUTE, minutes(0, 10))) == [0], corruption


@pytest.mark.parametrize("name", ["5m", "1h", "4h", "1d"])
async def test_native_timeframes_are_those_our_own_fold_makes(binance: Ccxt, name: str) -> None:
    timeframe = Timeframe.parse(name)
    page = await ask(binance, Span(T0, T0 + 3 * DAY_MS), timeframe=timeframe)
    ours = fold(TRUTH[: 3 * 1_440], timeframe)[: len(page.candles)]
    assert len(page.candles) > 2
    assert np.array_equal(page.candles.timestamp, ours.timestamp)
    assert np.array_equal(page.candles.close, ours.close)
    assert np.allclose(page.candles.volume, ours.volume)


async def test_a_month_is_asked_for_by_ccxts_name(binance: Ccxt, fake: FakeBinance) -> None:
    page = await ask(binance, Span(T0, T0 + 31 * DAY_MS), timeframe=Timeframe(1, "mon"))
    assert fake.requests[0][1]["interval"] == "1M"
    assert page.candles.timestamp.tolist() == [T0]
    assert page.complete_to == T0  # it is still forming


async def test_a_swap_differs_from_the_spot_pair(binance: Ccxt, fake: FakeBinance) -> None:
    page = await ask(binance, minutes(0, 2_000), "BTC/USDT:USDT")
    assert (len(page.candles), page.complete_to) == (500, T0 + 500 * MINUTE_MS)
    assert fake.calls == {"/fapi/v1/klines": 1}


# Answers that are none


@pytest.mark.parametrize(
    "fault",
    [
        Fault(truncate=True),
        Fault(abort=True),
        HTML,
        Fault(body=b""),
        Fault(body=b"{}"),
        Fault(body=b"null"),
        Fault(body=b'["maintenance"]'),
        Fault(body=b"[[null,null,null,null,null,null]]"),
        Fault(status=503, body=b'{"code":-1008,"msg":"Server is currently overloaded."}'),
        Fault(status=500, body=b'{"code":-1000,"msg":"An unknown error occurred."}'),
        Fault(status=502, body=b"<html>Bad Gateway</html>", headers={"Content-Type": "text/html"}),
        Fault(status=500, body=b'{"code":-2015,"msg":"Invalid API-key."}'),
        Fault(status=403, body=b"<html>Request blocked</html>", headers={"Content-Type": "text/html"}),
        Fault(status=400, body=b"{}"),
    ],
    ids=lambda fault: f"{fault.status or ''} {fault.body or fault!r}"[:40],
)
async def test_what_cannot_be_read_is_unavailable_and_never_an_empty_page(
    binance: Ccxt, fake: FakeBinance, fault: Fault
) -> None:
    fake.fail(fault)
    with pytest.raises(ProviderUnavailable) as raised:
        await ask(binance, minutes(0, 100))
    assert raised.value.message.startswith("Binance ")
    assert len(raised.value.message) < 120
    assert len((await ask(binance, minutes(0, 100))).candles) == 100  # the next call is fine again


@pytest.mark.parametrize("status", [429, 418])
@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("1.5", 1.5), ("-3", None), ("soon", None), ("999999999", 259_200.0)]
)
async def test_a_rate_limit_says_how_long_to_wait(
    binance: Ccxt, fake: FakeBinance, status: int, header: str, seconds: float | None
) -> None:
    fake.fail(Fault(status=status, body=b'{"code":-1003,"msg":"Way too much."}', headers={"Retry-After": header}))
    with pytest.raises(RateLimited) as raised:
        await ask(binance, minutes(0, 10))
    assert raised.value.retry_after == seconds


async def test_a_rate_limit_until_a_date_is_counted_from_our_clock(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(status=429, headers={"Retry-After": "Sat, 04 Jan 2025 11:21:20 GMT"}))
    with pytest.raises(RateLimited) as raised:
        await ask(binance, minutes(0, 10))
    assert raised.value.retry_after == 60.0


async def test_concurrent_calls_keep_their_own_retry_after(binance: Ccxt, fake: FakeBinance) -> None:
    for wait in (1, 2, 3, 4):
        fake.fail(Fault(status=429, headers={"Retry-After": str(wait)}, delay_s=0.2 / wait))
    results = await asyncio.gather(*(ask(binance, minutes(0, 10)) for _ in range(4)), return_exceptions=True)
    assert sorted(result.retry_after or 0 for result in results if isinstance(result, RateLimited)) == [1, 2, 3, 4]


async def test_a_closed_region_is_a_refusal(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(status=451, body=b'{"code":0,"msg":"Service unavailable from a restricted location."}'))
    with pytest.raises(ProviderRefused, match="region"):
        await ask(binance, minutes(0, 10))


async def test_a_refused_key_is_a_refusal(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(status=401, body=b'{"code":-2014,"msg":"API-key format invalid."}'))
    with pytest.raises(ProviderRefused, match="API key"):
        await ask(binance, minutes(0, 10))


async def test_a_symbol_that_only_the_exchange_knows_to_be_gone_is_unknown(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(status=400, body=b'{"code":-1121,"msg":"Invalid symbol."}'))
    with pytest.raises(UnknownSymbol):
        await ask(binance, minutes(0, 10))


@pytest.mark.parametrize("symbol", ["NO/SUCH", "BTCUSDT", "", "__class__", "BTC-241227-50000-C", "X" * 10_000])
async def test_an_unknown_symbol_is_refused_without_a_request(binance: Ccxt, fake: FakeBinance, symbol: str) -> None:
    with pytest.raises(UnknownSymbol) as raised:
        await ask(binance, minutes(0, 10), symbol)
    assert not fake.calls
    assert len(raised.value.message) < 120


@pytest.mark.parametrize("name", ["7m", "2d", "3mon", "1y"])
async def test_an_unknown_timeframe_is_refused_without_a_request(binance: Ccxt, fake: FakeBinance, name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        await ask(binance, minutes(0, 10), timeframe=Timeframe.parse(name))
    assert not fake.calls


@pytest.mark.usefixtures("listed_here")
async def test_an_exchange_that_hangs_is_given_up_by_itself(fake: FakeBinance) -> None:
    provider = Ccxt("binance", {**fake.ccxt_options()["binance"], "timeout": 300}, timings=PATIENT_CCXT)
    await provider.start()
    assert provider.capabilities.deadline_s == 0.3
    await ask(provider, minutes(0, 10))
    fake.fail(Fault(hang=True), times=3)
    results = await asyncio.gather(*(ask(provider, minutes(0, 10)) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ProviderUnavailable) and "in time" in result.message for result in results)
    assert len((await ask(provider, minutes(0, 10))).candles) == 10
    await provider.close()


async def test_a_cancelled_call_disturbs_no_other(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(hang=True), times=6)
    asked = fake.calls.total()
    tasks = [asyncio.create_task(ask(binance, minutes(0, 10))) for _ in range(6)]
    await eventually(lambda: fake.calls.total() == asked + 6)
    for task in tasks:
        task.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
    fake.reset()
    assert len((await ask(binance, minutes(0, 10))).candles) == 10


# Kraken: the newest 720 rows, whatever is asked


async def test_the_newest_rows_prove_nothing_older(kraken: Ccxt, kraken_fake: FakeKraken) -> None:
    page = await ask(kraken, minutes(0, MINUTES), "BTC/USD")
    first = T0 + (MINUTES - 719) * MINUTE_MS
    assert page.candles.timestamp[0] == page.complete_from == first
    assert same(page.candles, TRUTH[MINUTES - 719 : MINUTES])
    assert page.complete_to == T0 + MINUTES * MINUTE_MS
    assert kraken_fake.calls == {"/0/public/OHLC": 1}


async def test_an_old_range_gets_no_candle_and_no_proof_from_the_newest_rows(kraken: Ccxt) -> None:
    page = await ask(kraken, minutes(0, 1_000), "BTC/USD")
    assert len(page.candles) == 0
    assert page.complete_to <= page.complete_from


async def test_an_empty_answer_of_the_newest_rows_proves_nothing(kraken: Ccxt, kraken_fake: FakeKraken) -> None:
    kraken_fake.fail(Fault(empty=True))
    page = await ask(kraken, minutes(MINUTES - 100, MINUTES), "BTC/USD")
    assert page.complete_to <= page.complete_from


async def test_a_recent_range_is_settled_by_the_newest_rows(kraken: Ccxt) -> None:
    page = await ask(kraken, minutes(MINUTES - 300, MINUTES - 200), "BTC/USD")
    assert same(page.candles, TRUTH[MINUTES - 300 : MINUTES - 200])
    assert Span(page.complete_from, page.complete_to) == minutes(MINUTES - 300, MINUTES - 200)


async def test_filler_minutes_are_passed_on(kraken: Ccxt) -> None:
    page = await ask(kraken, minutes(MINUTES - 300, MINUTES), "GAP/USD")
    assert len(page.candles) == 300
    assert (page.candles.volume == 0).sum() == 300 - len(GAPPY.between(minutes(MINUTES - 300, MINUTES)))


@pytest.mark.parametrize("body", [b'{"error":[],"result":{}}', b'{"error":[],"result":{"last":0}}'])
async def test_an_answer_without_its_list_of_rows_is_no_empty_page(
    kraken: Ccxt, kraken_fake: FakeKraken, body: bytes
) -> None:
    kraken_fake.fail(Fault(body=body))
    with pytest.raises(ProviderUnavailable, match="could not be read"):
        await ask(kraken, minutes(MINUTES - 100, MINUTES), "BTC/USD")


async def test_a_rate_limit_in_a_body_with_status_200_is_one(kraken: Ccxt, kraken_fake: FakeKraken) -> None:
    kraken_fake.fail(Fault(body=b'{"error":["EAPI:Rate limit exceeded"]}'))
    with pytest.raises(RateLimited):
        await ask(kraken, minutes(MINUTES - 100, MINUTES), "BTC/USD")


async def test_hours_of_kraken_reach_as_many_rows_back(kraken: Ccxt) -> None:
    page = await ask(kraken, Span(T0, T0 + 2 * DAY_MS), "BTC/USD", HOUR)
    assert np.array_equal(page.candles.timestamp, fold(TRUTH[: 2 * 1_440], HOUR).timestamp)
    assert page.complete_from == T0


# What an answer proves, by what the exchange is known to do


WINDOW = SentWindow(T0, T0 + 300 * MINUTE_MS)
START, END = SentWindow(T0, None, 300), SentWindow(None, T0 + 300 * MINUTE_MS, 300)
UNKNOWN, FROM_START, NEWEST = (
    ExchangeTraits(answers=answers, rows_per_call=250)
    for answers in (Answers.UNKNOWN, Answers.FROM_START, Answers.NEWEST)
)
KEY = SeriesKey("spot", "BTC/USDT", MINUTE)


def rows_at(stamps: range) -> Candles:
    return Candles.from_rows([[T0 + minute * MINUTE_MS, 1, 1, 1, 1, 1] for minute in stamps])


def settled(
    stamps: range, sent: SentWindow, traits: ExchangeTraits = UNKNOWN, seen: Observations | None = None
) -> tuple[int, int]:
    """The minutes, from and to, that rows at these minutes settle of the 4,000 asked for."""
    asked = PageRequest(MINUTE, minutes(1, 4_000), sent, traits, KEY)
    page = page_of(rows_at(stamps), len(stamps), asked, seen or Observations(traits.rows_per_call))
    return (page.complete_from - T0) // MINUTE_MS, (page.complete_to - T0) // MINUTE_MS


@pytest.mark.parametrize(
    ("stamps", "sent", "traits", "expected", "why"),
    [
        (range(0), SentWindow(), UNKNOWN, (1, 1), "nothing was sent"),
        (range(0), WINDOW, UNKNOWN, (1, 300), "nothing between start and end"),
        (range(0), START, UNKNOWN, (1, 100), "how far it searched is unknown: a hundred buckets are assumed"),
        (range(0), END, UNKNOWN, (1, 300), "nothing before the end"),
        (range(0), START, FROM_START, (1, 4_000), "nothing from the start on"),
        (range(0), WINDOW, NEWEST, (1, 1), "no row that is kept says nothing of older ones"),
        (range(7, 200), WINDOW, UNKNOWN, (1, 300), "all of the window that was sent"),
        (range(7, 200), WINDOW, FROM_START, (1, 300), "no more than what was sent"),
        (range(7, 200), START, UNKNOWN, (7, 200), "no end was sent, and older rows may have been dropped"),
        (range(7, 20), START, UNKNOWN, (7, 100), "no end was sent: a hundred buckets are assumed"),
        (range(7, 200), START, FROM_START, (1, 300), "short, and not believed beyond the count"),
        (range(7, 200), END, UNKNOWN, (1, 300), "there are no older rows"),
        (range(7, 200), SentWindow(None, None, 300), UNKNOWN, (7, 200), "nothing was sent"),
        (range(7, 257), WINDOW, UNKNOWN, (7, 257), "full: cut at either side"),
        (range(7, 257), START, FROM_START, (1, 257), "full: cut at its end"),
        (range(50, 300), END, UNKNOWN, (50, 300), "full: the newest before the end"),
        (range(7, 57), SentWindow(T0, T0 + 300 * MINUTE_MS, 50), UNKNOWN, (7, 57), "full, however small"),
        (range(-50, 100), END, UNKNOWN, (1, 300), "older rows before the end: the rest of it is empty"),
        (range(-400, -150), END, UNKNOWN, (1, 300), "full, and quiet all the same"),
        (range(-400, -200), WINDOW, UNKNOWN, (1, 300), "rows from before come along"),
        (range(290, 301), WINDOW, UNKNOWN, (1, 301), "the end was meant inclusively"),
        (range(3_000, 3_050), WINDOW, UNKNOWN, (3_000, 3_050), "it kept to no window"),
        (range(100, 150), WINDOW, NEWEST, (100, 4_000), "all there is from its first row to now"),
    ],
    ids=str,
)
def test_a_page_settles_no_more_than_was_sent(
    stamps: range, sent: SentWindow, traits: ExchangeTraits, expected: tuple[int, int], why: str
) -> None:
    assert settled(stamps, sent, traits) == expected, why


def test_a_page_as_long_as_the_longest_before_it_may_be_cut() -> None:
    seen = Observations(None)
    assert settled(range(20, 120), WINDOW, seen=seen) == (20, 120)  # the rows of an answer are unknown
    assert settled(range(20, 119), WINDOW, seen=seen) == (1, 300)
    assert settled(range(20, 120), WINDOW, seen=seen) == (20, 120)
    assert seen.cap(KEY) == 100


def test_an_older_row_in_an_earlier_answer_proves_the_head_of_a_page_without_an_end() -> None:
    seen = Observations(250)
    settled(range(-100, -90), START, seen=seen)
    assert settled(range(7, 200), START, seen=seen) == (1, 200)


def test_a_page_before_known_rows_was_cut_at_its_end() -> None:
    seen = Observations(250)
    settled(range(-100, -90), START, seen=seen)
    assert settled(range(7, 257), START, seen=seen) == (7, 257)
    settled(range(1_000, 1_010), SentWindow(T0 + 900 * MINUTE_MS, None, 300), seen=seen)
    assert settled(range(7, 257), START, seen=seen) == (7, 257)  # the newest of three hundred buckets, perhaps
    thin = range(7, 507, 2)
    assert settled(thin, START, seen=seen) == (1, 506)  # no window, and a newer row did not come
    assert settled(range(7, 257), START, seen=seen) == (1, 257)


def test_nothing_is_proved_of_what_lies_behind_the_lookback() -> None:
    for lookback, expected in ((4_900, (100, 300)), (1_000, (4_000, 300))):
        assert settled(range(0), WINDOW, ExchangeTraits(lookback=lookback)) == expected
    rows_alone = ExchangeTraits(lookback=1_000, lookback_counts_quiet=False, rows_per_call=250)
    assert settled(range(200, 210), WINDOW, rows_alone) == (200, 300)
    assert settled(range(0), WINDOW, rows_alone) == (4_000, 300)


# Symbols


@pytest.mark.usefixtures("listed_here")
async def test_listings_hold_spot_and_swaps_and_those_delisted(binance: Ccxt, fake: FakeBinance) -> None:
    listings = {listing.symbol: listing for listing in await binance.listings()}
    assert set(listings) == {"BTC/USDT", "GAP/USDT", "NEW/USDT", "OLD/USDT", "BTC/USDT:USDT"}
    assert not listings["OLD/USDT"].active
    spot, swap = listings["BTC/USDT"], listings["BTC/USDT:USDT"]
    assert (spot.name, spot.base, spot.quote, spot.active, spot.first_available) == (
        "BTCUSDT",
        "BTC",
        "USDT",
        True,
        None,
    )
    assert swap.first_available == T0
    assert fake.calls == {"/api/v3/exchangeInfo": 1, "/fapi/v1/exchangeInfo": 1}


@pytest.mark.usefixtures("listed_here")
async def test_symbols_are_loaded_once_for_all_who_ask_first(fake: FakeBinance) -> None:
    provider = Ccxt("binance", fake.ccxt_options()["binance"], timings=PATIENT_CCXT)
    await provider.start()
    assert not fake.calls
    await asyncio.gather(*(ask(provider, minutes(0, 10)) for _ in range(5)))
    assert fake.calls == {"/api/v3/exchangeInfo": 1, KLINES: 5}
    await provider.close()


@pytest.mark.usefixtures("listed_here")
async def test_symbols_that_cannot_be_loaded_are_no_empty_list_and_the_next_try_works(fake: FakeBinance) -> None:
    provider = Ccxt("binance", fake.ccxt_options()["binance"], timings=PATIENT_CCXT)
    await provider.start()
    faults = {"could not be read": (HTML,), "no symbols": (Fault(body=b"{}"),)}
    for reason, fault in [(reason, fault) for reason, faults in faults.items() for fault in faults]:
        fake.fail(fault, path="markets")
        with pytest.raises(ProviderUnavailable, match=reason):
            await provider.listings()
    fake.fail(Fault(status=429, headers={"Retry-After": "9"}), path="markets")
    with pytest.raises(RateLimited) as raised:
        await ask(provider, minutes(0, 10))
    assert raised.value.retry_after == 9
    assert len((await ask(provider, minutes(0, 10))).candles) == 10
    await provider.close()


async def test_a_failed_reload_keeps_the_symbols_there_are(binance: Ccxt, fake: FakeBinance) -> None:
    fake.fail(Fault(status=503), path="markets")
    with pytest.raises(ProviderUnavailable):
        await binance.listings()
    assert len((await ask(binance, minutes(0, 10))).candles) == 10


async def test_close_does_not_wait_for_an_exchange_that_hangs(fake: FakeBinance) -> None:
    provider = Ccxt("binance", {**fake.ccxt_options()["binance"], "timeout": 10_000 * HANG_S}, timings=PATIENT_CCXT)
    await provider.start()
    fake.fail(Fault(hang=True), path="markets")
    asked = fake.calls.total()
    loading = asyncio.create_task(provider.listings())
    await eventually(lambda: fake.calls.total() > asked)
    await asyncio.wait_for(provider.close(), HANG_S)
    with pytest.raises(ProviderUnavailable):
        await loading


# Start, close, capabilities


async def test_capabilities_are_known_before_the_start_and_the_exchanges_own_after_it(
    binance: Ccxt, kraken: Ccxt
) -> None:
    before = Ccxt("binance").capabilities
    assert [str(timeframe) for timeframe in before.timeframes] == ["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
    assert (before.max_rows_per_call, before.live, before.has_volume) == (1_000, LiveMode.STREAM, True)
    assert before.budget is None
    after = binance.capabilities
    names = ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "1w", "1mon"]
    assert [str(timeframe) for timeframe in after.timeframes] == names  # no seconds, no 3d
    assert (after.max_rows_per_call, after.settle_ms, after.max_lookback_candles) == (1_000, 5_000, None)
    assert [str(timeframe) for timeframe in kraken.capabilities.timeframes] == [
        "1m",
        "5m",
        "15m",
        "30m",
        "1h",
        "4h",
        "1d",
    ]
    assert kraken.capabilities.reach_ms(Timeframe(1, "h")) == 719 * 60 * MINUTE_MS  # and the forming one
    assert (kraken.capabilities.max_rows_per_call, kraken.capabilities.settle_ms) == (720, 30_000)


def test_weeks_and_long_hours_are_believed_of_binance_alone() -> None:
    names = ["1s", "1m", "7m", "4h", "6h", "1d", "3d", "7d", "1w", "1M", "1y"]
    assert {str(t) for t in native_timeframes(traits_of("binance"), names)} == {"1m", "4h", "6h", "1d", "1w", "1mon"}
    assert {str(t) for t in native_timeframes(traits_of("okx"), names)} == {"1m", "4h", "1d"}
    assert {str(t) for t in native_timeframes(traits_of("htx"), names)} == {"1m", "4h"}


@pytest.mark.usefixtures("listed_here")
async def test_a_provider_can_be_closed_unstarted_and_twice_and_then_answers_no_more(fake: FakeBinance) -> None:
    provider = Ccxt("binance", fake.ccxt_options()["binance"], timings=PATIENT_CCXT)
    assert isinstance(provider, Provider)
    await provider.close()
    with pytest.raises(ProviderUnavailable, match="not been started"):
        await ask(provider, minutes(0, 10))
    await provider.start()
    await ask(provider, minutes(0, 10))
    await provider.close()
    await provider.close()
    with pytest.raises(ProviderError):
        await provider.listings()


async def test_an_exchange_without_candles_cannot_be_started() -> None:
    (provider,) = create({"CCXT_EXCHANGES": "bitflyer"})
    with pytest.raises(ConfigurationError, match=r"^CCXT_EXCHANGES: bitflyer publishes no candles"):
        await provider.start()
    await provider.close()


# ``import providers.ccxt.provider`` in a fresh interpreter, then ``start``; in which threads ccxt is imported.
COLD_START = """
import asyncio, sys, threading
import providers.ccxt.provider
list(providers.ccxt.provider.create({}))
assert not [name for name in sys.modules if name.split(".")[0] == "ccxt"], "ccxt was imported"
importers = set()
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ccxt":
            importers.add(threading.current_thread())
sys.meta_path.insert(0, Watch())
async def main():
    provider = providers.ccxt.provider.Ccxt("binance")
    await provider.start()
    await provider.close()
    print(len(importers), threading.main_thread() in importers)
asyncio.run(main())
"""


def test_ccxt_is_imported_at_the_start_and_beside_the_loop() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COLD_START], capture_output=True, text=True, check=False, timeout=HANG_S
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["1", "False"]


# Settings


def test_three_exchanges_are_the_default() -> None:
    assert [(p.market.id, p.id) for p in create({})] == [
        ("crypto", "binance"),
        ("crypto", "kraken"),
        ("crypto", "coinbase"),
    ]


def test_a_blank_list_of_exchanges_means_none() -> None:
    assert list(create({"CCXT_EXCHANGES": " , "})) == []


def test_spaces_and_repeats_in_the_list_do_no_harm() -> None:
    assert [p.id for p in create({"CCXT_EXCHANGES": " okx ,bybit, okx"})] == ["okx", "bybit"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("binanc", "binance"),
        ("Kraken", "kraken"),
        ("../binance", "binance"),
        ("base", "btse"),
        ("__init__", "ids"),
        ("q" * 99, "ids"),
    ],
)
def test_an_unknown_exchange_is_named_with_what_is_near(name: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CCXT_EXCHANGES: ") as raised:
        create({"CCXT_EXCHANGES": f"kraken,{name}"})
    assert near in raised.value.message
    assert len(raised.value.message.splitlines()) == 1
    assert len(raised.value.message) < 200


@pytest.mark.parametrize(
    "text",
    [
        '{"binance": {"apiKey": "S3CRET"}',
        '["S3CRET"]',
        '{"binance": "S3CRET"}',
        '{"S3CRET": {}}',
        '{"apiKey": {"S3CRET": 1}}',
        "S3CRET",
        "/no/such/S3CRET",
        "S3CRET\0",
        "[" * 100_000 + "S3CRET",
    ],
    ids=lambda text: text[:20],
)
def test_wrong_options_are_named_in_one_line_without_their_content(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CCXT_OPTIONS: ") as raised:
        create({"CCXT_OPTIONS": text})
    assert len(raised.value.message.splitlines()) == 1
    assert "S3CRET" not in raised.value.message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


async def test_options_reach_the_constructor_untouched_also_from_a_file(tmp_path: Path, fake: FakeBinance) -> None:
    options = fake.ccxt_options()
    options["binance"] |= {"rateLimit": 7, "headers": {"X-Test": "1"}, "enableRateLimit": True}
    (file := tmp_path / "options.json").write_text(json.dumps(options), "utf-8")
    for text in (json.dumps(options), str(file)):
        (provider,) = create({"CCXT_EXCHANGES": "binance", "CCXT_OPTIONS": text})
        assert isinstance(provider, Ccxt)
        await provider.start()
        exchange = provider._exchange
        assert (exchange.rateLimit, exchange.headers) == (7, {"X-Test": "1"})  # type: ignore[union-attr]
        await provider.close()


@pytest.mark.parametrize(
    "options", [{"urls": "S3CRET"}, {"fetch": "S3CRET"}, {"rateLimit": "S3CRET"}, {"options": "S3CRET"}]
)
@pytest.mark.usefixtures("listed_here")
async def test_options_ccxt_cannot_take_fail_without_showing_them(
    fake: FakeBinance, options: dict[str, object]
) -> None:
    provider = Ccxt("binance", {**fake.ccxt_options()["binance"], **options}, timings=PATIENT_CCXT)

    async def run() -> None:
        await provider.start()  # some do no harm before the first request
        await provider.listings()

    with pytest.raises((ConfigurationError, ProviderError)) as raised:
        await run()
    assert "S3CRET" not in "".join(traceback.format_exception(raised.value))
    await provider.close()


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(truncate=True), Fault(abort=True), Fault(status=429), Fault(status=403)]
)
async def test_no_secret_shows_in_errors_tracebacks_or_reprs(fake: FakeBinance, folder: Path, fault: Fault) -> None:
    secrets = {"apiKey": "S3CRET-KEY", "secret": "S3CRET-SECRET", "headers": {"X-Token": "S3CRET-TOKEN"}}
    options: Any = fake.ccxt_options()["binance"]
    options["urls"]["api"]["public"] = f"http://user:S3CRET-PASSWORD@127.0.0.1:{fake.port}/api/v3"
    provider = Ccxt("binance", {**options, **secrets}, folder=folder, timings=PATIENT_CCXT)
    await provider.start()
    await ask(provider, minutes(0, 10))
    fake.fail(fault)
    with pytest.raises(ProviderError) as raised:
        await ask(provider, minutes(0, 10))
    seen = "".join(traceback.format_exception(raised.value)) + repr(provider) + repr(raised.value)
    assert "S3CRET" not in seen
    assert "startTime" not in seen  # nor any other part of a URL's query
    await provider.close()
