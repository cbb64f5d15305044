"""Alpaca's REST: the real client against a local server that speaks its format. Each test is a fact or a fault of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import numpy as np
import orjson
import pytest

from candlegraph import (
    MINUTE,
    Candles,
    Instrument,
    LiveMode,
    Page,
    Provider,
    Span,
    Timeframe,
    UnconfiguredProvider,
    fold,
    zone,
)
from candlegraph.clock import HOUR_MS, MINUTE_MS
from candlegraph.errors import (
    ConfigurationError,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)
from candlegraph.provider import API_VERSION, SupportsFirstAvailable, SupportsServerTime, SupportsStreaming
from candlegraph.upstream import ProviderState
from providers.alpaca import provider as alpaca_module
from providers.alpaca import rest as alpaca_rest
from providers.alpaca.provider import Alpaca, create
from providers.registry import Registry
from server.settings import Settings
from tests.fakes.alpaca import KEY, SECRET, FakeAlpaca, new_york, session_candles
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import HTML, Fault
from tests.providers.test_registry import Point

NEW_YORK = zone("America/New_York")
DAY, HOUR = Timeframe(1, "d"), Timeframe(1, "h")
FIRST = "2024-03-07"  # a Thursday; on the Sunday after it the clock goes forward
SINCE = new_york("2024-03-07 09:30")
TRUTH = session_candles(FIRST, 4)
NOW = new_york("2024-03-12 18:00")  # Tuesday, after the close


@pytest.fixture
async def exchange(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAlpaca]:
    async with FakeAlpaca() as fake:
        fake.lists("AAPL", TRUTH)
        fake.now = NOW
        set_clock(monkeypatch, lambda: fake.now)
        yield fake


Start = Callable[..., object]


@pytest.fixture
async def start(exchange: FakeAlpaca) -> AsyncIterator[Start]:
    started: list[Alpaca] = []

    async def make(feeds: str = "iex", **environ: str) -> Alpaca:
        (provider,) = create(exchange.environ(ALPACA_FEEDS=feeds, **environ))
        assert isinstance(provider, Alpaca)
        await provider.start()
        started.append(provider)
        return provider

    yield make
    for provider in started:
        await provider.close()


@pytest.fixture
async def alpaca(start: Start) -> Alpaca:
    return await start()


def apple(provider: Alpaca) -> Instrument:
    return Instrument("stocks", provider.id, "AAPL")


async def read(provider: Alpaca, since: int, until: int, timeframe: Timeframe = MINUTE) -> Page:
    return await provider.fetch(apple(provider), timeframe, Span(since, until))


async def read_all(provider: Alpaca, since: int, until: int, timeframe: Timeframe = MINUTE) -> tuple[Candles, int]:
    """Page as the core does; the candles and how many pages that took."""
    found, pages = Candles.empty(), 0
    while since < until:
        page = await read(provider, since, until, timeframe)
        assert page.complete_from == since
        assert page.complete_to > since
        inside = page.candles.between(Span(since, page.complete_to))
        found, since, pages = found.merge(inside), page.complete_to, pages + 1
    return found, pages


def assert_same(found: Candles, truth: Candles) -> None:
    for ours, theirs in zip(found.columns[:6], truth.columns[:6], strict=True):
        assert ours.tolist() == theirs.tolist()


def bar_calls(exchange: FakeAlpaca) -> list[dict[str, str]]:
    return [query for path, query in exchange.requests if path == "/v2/stocks/bars"]


def test_it_implements_streaming_first_available_and_server_time(exchange: FakeAlpaca) -> None:
    (provider,) = create(exchange.environ())
    assert isinstance(provider, Provider)
    assert isinstance(provider, SupportsStreaming)
    assert isinstance(provider, SupportsFirstAvailable)
    assert isinstance(provider, SupportsServerTime)
    assert provider.api_version == API_VERSION
    assert (provider.market.id, provider.market.timezone, provider.id) == ("stocks", "America/New_York", "alpaca")
    traits = provider.capabilities
    assert [str(timeframe) for timeframe in traits.timeframes] == ["1m", "5m", "15m", "30m", "1h", "1d"]
    assert (traits.live, traits.settle_ms, traits.max_rows_per_call) == (LiveMode.STREAM, 45_000, 10_000)
    assert traits.budget is not None
    assert (traits.budget.weight, traits.budget.per_s) == (200, 60)


async def test_minutes_are_what_was_traded_and_the_page_settles_the_whole_question(
    exchange: FakeAlpaca, alpaca: Alpaca
) -> None:
    page = await read(alpaca, SINCE, SINCE + 390 * MINUTE_MS)
    truth = exchange.truth("AAPL")
    assert_same(page.candles, truth.between(Span(SINCE, SINCE + 390 * MINUTE_MS)))
    assert len(page.candles) < 390  # minutes without a trade have no bar
    assert (page.complete_from, page.complete_to) == (SINCE, SINCE + 390 * MINUTE_MS)
    (query,) = bar_calls(exchange)
    assert (query["feed"], query["adjustment"], query["sort"], query["limit"]) == ("iex", "raw", "asc", "10000")


@pytest.mark.parametrize("rows", [1, 2, 100, 389, 390, 10_000])
async def test_only_the_token_says_whether_there_is_more(exchange: FakeAlpaca, alpaca: Alpaca, rows: int) -> None:
    """A page may be short and have a successor, or be full and have none: nothing is lost, nothing read twice."""
    until = SINCE + 400 * MINUTE_MS if rows > 2 else SINCE + 12 * MINUTE_MS
    truth = exchange.truth("AAPL").between(Span(SINCE, until))
    exchange.page_rows = rows
    found, pages = await read_all(alpaca, SINCE, until)
    assert_same(found, truth)
    assert pages == max(1, -(-len(truth) // rows))


async def test_a_page_that_is_full_by_chance_needs_no_other(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    until = SINCE + 60 * MINUTE_MS
    exchange.page_rows = len(exchange.truth("AAPL").between(Span(SINCE, until)))
    page = await read(alpaca, SINCE, until)
    assert page.complete_to == until


async def test_an_empty_page_with_a_token_is_followed_and_not_believed(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.empty_pages = 2
    page = await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)
    assert_same(page.candles, exchange.truth("AAPL").between(Span(SINCE, SINCE + 60 * MINUTE_MS)))
    exchange.empty_pages = 1_000
    with pytest.raises(ProviderUnavailable, match="empty page"):
        await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)


async def test_their_inclusive_end_is_our_exclusive_one(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    stamps = exchange.truth("AAPL").timestamp
    page = await read(alpaca, int(stamps[3]), int(stamps[9]))
    assert page.candles.timestamp.tolist() == stamps[3:9].tolist()


async def test_nothing_is_proved_of_the_minute_under_way(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.now = int(TRUTH.timestamp[100]) + 20_000
    page = await read(alpaca, SINCE, exchange.now + HOUR_MS)
    assert page.complete_to == MINUTE.floor(exchange.now)
    assert_same(page.candles, exchange.minutes("AAPL"))


async def test_a_day_opens_at_midnight_in_new_york_whatever_the_clocks_do(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    """05:00Z before the Sunday of the change, 04:00Z after it; today's day is there and not vouched for."""
    since, until = new_york("2024-03-07 00:00"), new_york("2024-03-13 00:00")
    page = await read(alpaca, since, until, DAY)
    hours = [stamp // HOUR_MS % 24 for stamp in page.candles.timestamp.tolist()]
    assert hours == [5, 5, 4, 4]
    assert_same(page.candles, fold(exchange.minutes("AAPL"), DAY, NEW_YORK))
    assert not page.candles.problems(DAY, Span(since, until), NEW_YORK)
    assert page.complete_to == new_york("2024-03-12 00:00")


@pytest.mark.parametrize("change", ["2024-03-07", "2023-11-02"])
async def test_every_native_timeframe_opens_where_ours_does_in_the_weeks_of_a_change_of_clocks(
    exchange: FakeAlpaca, alpaca: Alpaca, change: str
) -> None:
    exchange.lists("AAPL", session_candles(change, 4))
    since = new_york(f"{change} 00:00")
    exchange.now = since + 7 * 24 * HOUR_MS
    for timeframe in alpaca.capabilities.timeframes:
        exchange.page_rows = 5 if timeframe == DAY else 50
        found, _ = await read_all(alpaca, since, timeframe.floor(exchange.now, NEW_YORK), timeframe)
        assert_same(found, fold(exchange.truth("AAPL"), timeframe, NEW_YORK))


async def test_a_timeframe_that_is_not_certain_to_fit_is_not_asked_for(alpaca: Alpaca, exchange: FakeAlpaca) -> None:
    for name in ("4h", "1w", "1mon", "7m"):
        with pytest.raises(Unsupported):
            await read(alpaca, SINCE, NOW, Timeframe.parse(name))
    assert not exchange.requests


async def test_a_span_without_a_trade_is_proved_empty(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    night = Span(new_york("2024-03-07 16:00"), new_york("2024-03-08 09:30"))
    page = await alpaca.fetch(apple(alpaca), MINUTE, night)
    assert (len(page.candles), page.complete_from, page.complete_to) == (0, night.since, night.until)


async def test_rows_that_come_twice_are_one(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.fail(Fault(duplicate=True))
    page = await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)
    assert_same(page.candles, exchange.truth("AAPL").between(Span(SINCE, SINCE + 60 * MINUTE_MS)))


# What goes wrong

FAULTS: dict[str, tuple[Fault, type[ProviderError]]] = {
    "half a JSON": (Fault(truncate=True), ProviderUnavailable),
    "a connection cut": (Fault(abort=True), ProviderUnavailable),
    "HTML with 200": (HTML, ProviderUnavailable),
    "an empty body": (Fault(body=b""), ProviderUnavailable),
    "another object": (Fault(body=b'{"message": "hello"}'), ProviderUnavailable),
    "no token": (Fault(body=b'{"bars": {}}'), ProviderUnavailable),
    "another symbol": (Fault(body=b'{"bars": {"MSFT": []}, "next_page_token": null}'), ProviderUnavailable),
    "no list": (Fault(body=b'{"bars": {"AAPL": {"t": 1}}, "next_page_token": null}'), ProviderUnavailable),
    "no time": (Fault(body=b'{"bars": {"AAPL": [{"o": 1}]}, "next_page_token": null}'), ProviderUnavailable),
    "no instant": (
        Fault(
            body=b'{"bars": {"AAPL": [{"t": "Z", "o": 1, "h": 1, "l": 1, "c": 1, "v": 1}]}, "next_page_token": null}'
        ),
        ProviderUnavailable,
    ),
    "local time": (
        Fault(body=b'{"bars": {"AAPL": [{"t": "2024-03-07T09:30:00-05:00"}]}, "next_page_token": null}'),
        ProviderUnavailable,
    ),
    "500": (Fault(status=500), ProviderUnavailable),
    "503": (Fault(status=503), ProviderUnavailable),
    "404": (Fault(status=404), ProviderUnavailable),
    "a redirect": (Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}), ProviderUnavailable),
    "429": (Fault(status=429), RateLimited),
    "401": (Fault(status=401), ProviderRefused),
    "403": (Fault(status=403, body=b'{"message": "forbidden."}'), ProviderRefused),
    "400": (Fault(status=400, body=b'{"message": "invalid start"}'), Unsupported),
    "an odd symbol": (Fault(status=400, body=b'{"message": "invalid symbol: $"}'), UnknownSymbol),
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.values(), ids=FAULTS.keys())
async def test_what_cannot_be_read_is_a_coded_error_and_never_an_empty_page(
    exchange: FakeAlpaca, alpaca: Alpaca, fault: Fault, kind: type[ProviderError]
) -> None:
    exchange.fail(fault)
    with pytest.raises(kind) as caught:
        await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)
    assert type(caught.value) is kind
    assert len((await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)).candles)


async def test_a_redirect_is_not_followed_for_it_would_carry_the_keys_away(
    exchange: FakeAlpaca, alpaca: Alpaca
) -> None:
    exchange.fail(Fault(status=307, headers={"Location": "/v2/elsewhere"}))
    with pytest.raises(ProviderUnavailable, match="307"):
        await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)


async def test_a_body_without_an_end_is_given_up(
    exchange: FakeAlpaca, alpaca: Alpaca, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alpaca_rest, "MAX_BODY", 10_000)
    with pytest.raises(ProviderUnavailable, match="could not be read"):
        await read(alpaca, SINCE, SINCE + 390 * MINUTE_MS)


async def test_an_answer_that_does_not_come_is_given_up_at_the_deadline(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    alpaca.capabilities = replace(alpaca.capabilities, deadline_s=0.05)
    exchange.fail(Fault(hang=True))
    with pytest.raises(ProviderUnavailable, match="in time"):
        await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"X-Ratelimit-Reset": str(NOW // 1000 + 42)}, 42),
        ({"X-Ratelimit-Reset": str(NOW // 1000 - 5)}, 0),
        ({"X-Ratelimit-Reset": str(NOW)}, 3_600),  # milliseconds, by mistake
        ({"Retry-After": "7"}, 7),
        ({"X-Ratelimit-Reset": "soon"}, None),
        ({}, None),
    ],
)
async def test_too_many_calls_say_when_the_limit_is_lifted(
    exchange: FakeAlpaca, alpaca: Alpaca, headers: dict[str, str], wait: float | None
) -> None:
    exchange.fail(Fault(status=429, headers=headers))
    with pytest.raises(RateLimited) as caught:
        await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)
    assert caught.value.retry_after == wait


async def test_rows_that_are_no_candles_are_handed_on_to_be_refused(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    """Values are the core's to check: here they are neither repaired nor dropped."""
    bar = {"t": "2024-03-07T14:30:00.000000000Z", "o": 1, "h": 0.5, "l": None, "c": 1, "v": 3}
    exchange.fail(Fault(body=orjson.dumps({"bars": {"AAPL": [bar]}, "next_page_token": None})))
    page = await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)
    assert page.candles.timestamp.tolist() == [SINCE]
    assert np.isnan(page.candles.low[0])
    assert page.candles.problems(MINUTE, Span(SINCE, SINCE + HOUR_MS))


async def test_it_has_to_be_started_and_can_be_closed_twice(exchange: FakeAlpaca) -> None:
    (provider,) = create(exchange.environ())
    with pytest.raises(ProviderUnavailable, match="started"):
        await read(provider, SINCE, NOW)
    await provider.start()
    await provider.close()
    await provider.close()


# Feeds and plans


async def test_feed_and_adjustment_are_part_of_the_identity(exchange: FakeAlpaca) -> None:
    providers = list(create(exchange.environ(ALPACA_FEEDS=" iex, sip ,sip:split,iex:raw,iex:split,sip:spin-off,otc")))
    names = {"alpaca", "alpaca-sip", "alpaca-sip-split", "alpaca-iex-split", "alpaca-sip-spin-off", "alpaca-otc"}
    assert {provider.id for provider in providers} == names
    assert len(providers) == len(names)
    shares = {provider.capabilities.budget.weight for provider in providers}
    assert shares == {200 / len(providers)}  # they spend from the same account
    key = exchange.environ()["ALPACA_API_KEY"]
    assert {provider.capabilities.budget.credential for provider in providers} == {key}
    assert not any(key in repr(provider.capabilities) for provider in providers)
    assert {provider.capabilities.live for provider in providers if "otc" in provider.id} == {LiveMode.POLL}


async def test_each_feed_and_adjustment_has_its_own_candles(exchange: FakeAlpaca, start: Start) -> None:
    for feeds, feed, adjustment in (("iex", "iex", "raw"), ("sip", "sip", "raw"), ("sip:split", "sip", "split")):
        page = await read(await start(feeds), SINCE, SINCE + 60 * MINUTE_MS)
        assert_same(page.candles, exchange.truth("AAPL", feed, adjustment).between(Span(SINCE, SINCE + HOUR_MS)))


async def test_the_free_plan_keeps_back_15_minutes_of_sip_and_answers_what_is_older(
    exchange: FakeAlpaca, start: Start
) -> None:
    """Found out once, then remembered: the recent part is not requested again, and is no error."""
    exchange.now = SINCE + 100 * MINUTE_MS + 20_000
    sip = await start("sip")
    assert sip.capabilities.delay_ms == 0
    page = await read(sip, SINCE, exchange.now)
    assert page.complete_to == SINCE + 84 * MINUTE_MS
    truth = exchange.truth("AAPL", "sip")
    kept = page.candles.between(Span(page.complete_from, page.complete_to))
    assert_same(kept, truth.between(Span(SINCE, page.complete_to)))
    assert sip.capabilities.delay_ms == alpaca_module.DELAY_MS
    assert len(bar_calls(exchange)) == 2

    again = await read(sip, SINCE, exchange.now)
    assert again.complete_to == page.complete_to
    assert len(bar_calls(exchange)) == 3
    recent = await read(sip, exchange.now - 5 * MINUTE_MS, exchange.now)
    assert recent.complete_to == recent.complete_from
    assert len(bar_calls(exchange)) == 3


async def test_a_paid_plan_has_the_newest_minute_of_sip(exchange: FakeAlpaca, start: Start) -> None:
    exchange.free_plan = False
    exchange.now = int(TRUTH.timestamp[100]) + MINUTE_MS
    sip = await start("sip")
    page = await read(sip, SINCE, exchange.now)
    assert page.complete_to == exchange.now
    assert sip.capabilities.delay_ms == 0


async def test_several_questions_at_once_find_the_delay_out_together(exchange: FakeAlpaca, start: Start) -> None:
    exchange.now = SINCE + 100 * MINUTE_MS
    sip = await start("sip")
    pages = await asyncio.gather(*(read(sip, SINCE + n * MINUTE_MS, exchange.now) for n in range(8)))
    assert {page.complete_to for page in pages} == {SINCE + 84 * MINUTE_MS}


async def test_a_plan_without_the_feed_differs_from_bad_keys(
    exchange: FakeAlpaca, alpaca: Alpaca, start: Start
) -> None:
    exchange.fail(Fault(status=403, body=b'{"message": "subscription does not permit querying OTC data"}'))
    with pytest.raises(ProviderRefused, match="plan"):
        await read(alpaca, SINCE, NOW)
    with pytest.raises(ProviderRefused, match="ALPACA_API_SECRET"):
        await read(await start(ALPACA_API_SECRET="another"), SINCE, NOW)
    with pytest.raises(ProviderRefused, match="ALPACA_TRADING_URL"):
        await (await start(ALPACA_API_SECRET="another")).listings()


# The list of symbols, the calendar, the clock, the first candle


async def test_the_list_holds_every_us_equity_inactive_ones_too(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    exchange.lists("BRK.B", TRUTH)
    exchange.lists("TWTR", TRUTH, trading=False)
    found = {listing.symbol: listing for listing in await alpaca.listings()}
    assert {symbol: listing.active for symbol, listing in found.items()} == {"AAPL": True, "BRK.B": True, "TWTR": False}
    assert (found["AAPL"].name, found["AAPL"].quote) == ("AAPL Inc. Common Stock", "USD")
    assert ("/v2/assets", {"asset_class": "us_equity"}) in exchange.requests


async def test_a_symbol_that_was_given_to_another_company_is_the_active_one(
    exchange: FakeAlpaca, alpaca: Alpaca
) -> None:
    old = {"symbol": "META", "name": "Old", "status": "inactive"}
    new = {"symbol": "META", "name": "New", "status": "active"}
    for assets in ([old, new], [new, old]):
        exchange.fail(Fault(body=b" " + orjson.dumps(assets) + b"\n"), path="assets")
        assert [(listing.name, listing.active) for listing in await alpaca.listings()] == [("New", True)]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"[", b"[{}]", b'[{"symbol": 1}]', b'[{"symbol": "A"}', b'[{"symbol": "A"}] x', b'[{"symbol": "A"},]', b"\xff", b"[[[["],
)  # fmt: skip
async def test_a_list_that_cannot_be_read_is_an_error_and_delists_nothing(
    exchange: FakeAlpaca, alpaca: Alpaca, body: bytes
) -> None:
    exchange.fail(Fault(body=body), path="assets")
    with pytest.raises(ProviderUnavailable):
        await alpaca.listings()


async def test_reading_a_long_list_blocks_no_other_task(exchange: FakeAlpaca, alpaca: Alpaca) -> None:
    """A parser that takes it in one go would hold every thread up; here others run in between."""
    assets = [{"symbol": f"S{n}", "name": "x" * 300, "status": "active"} for n in range(20_000)]
    exchange.fail(Fault(body=orjson.dumps(assets)), path="assets")
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    assert len(await alpaca.listings()) == 20_000
    turning.cancel()
    assert turns > 10


async def test_it_reports_the_time_and_the_beginning_of_a_symbol(
    exchange: FakeAlpaca, alpaca: Alpaca, start: Start
) -> None:
    exchange.now += 123
    assert await alpaca.server_time() == exchange.now
    assert await alpaca.first_available(apple(alpaca)) == TRUTH.timestamp[0]
    assert bar_calls(exchange)[-1]["limit"] == "1"
    assert await alpaca.first_available(Instrument("stocks", "alpaca", "NONE")) is None
    exchange.now = SINCE + 60 * MINUTE_MS  # nothing recent is requested from the free plan
    assert await (await start("sip")).first_available(apple(alpaca)) == TRUTH.timestamp[0]


# Settings


async def test_without_keys_it_is_listed_with_the_reason_and_nothing_else_is_disturbed() -> None:
    for environ, lacking in (
        ({}, "ALPACA_API_KEY and ALPACA_API_SECRET"),
        ({"ALPACA_API_KEY": KEY}, "ALPACA_API_SECRET"),
        ({"ALPACA_API_SECRET": " ", "ALPACA_API_KEY": KEY}, "ALPACA_API_SECRET"),
    ):
        (lack,) = create(environ)
        assert isinstance(lack, UnconfiguredProvider)
        assert lacking in lack.reason
    registry = Registry({"ALPACA_FEEDS": "iex,sip"}, [Point("stocks.alpaca", create)])
    shown = {status.id: status for status in registry.statuses()}
    assert {status.state for status in shown.values()} == {ProviderState.NOT_CONFIGURED}
    assert shown["alpaca-sip"].name == "Alpaca (SIP)"
    assert "ALPACA_API_KEY" in str(shown["alpaca"].reason)
    with pytest.raises(ProviderError, match="ALPACA_API_KEY"):
        await registry.get("stocks", "alpaca")
    await registry.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALPACA_FEEDS", "iex,nasdaq"),
        ("ALPACA_FEEDS", "sip:adjusted"),
        ("ALPACA_DATA_URL", "data.alpaca.markets"),
        ("ALPACA_DATA_URL", f"https://{KEY}@data.alpaca.markets"),
        ("ALPACA_TRADING_URL", "ftp://x"),
        ("ALPACA_STREAM_URL", "https://stream.data.alpaca.markets"),
        ("ALPACA_API_KEY", f"{SECRET}\nX-Other: header"),
    ],
)
def test_a_wrong_setting_is_named_and_not_shown(exchange: FakeAlpaca, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        create({**exchange.environ(), name: value})
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_defaults_of_the_settings_are_the_provider_s() -> None:
    fields = Settings.model_fields
    for name in ("FEEDS", "DATA_URL", "TRADING_URL", "STREAM_URL"):
        default = getattr(alpaca_module, "DEFAULT_FEEDS" if name == "FEEDS" else name)
        assert fields[f"alpaca_{name.lower()}"].default == default


async def test_no_key_is_shown_by_an_error_a_log_or_a_repr(
    exchange: FakeAlpaca, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, also in the causes that a traceback would print."""
    caplog.set_level(logging.DEBUG)
    alpaca = await start()
    seen = [repr(alpaca), repr(vars(alpaca)), repr(alpaca._account), str(alpaca.capabilities)]
    for fault, _ in FAULTS.values():
        exchange.fail(fault)
        with pytest.raises(ProviderError) as caught:
            await read(alpaca, SINCE, SINCE + 60 * MINUTE_MS)
        error: BaseException | None = caught.value
        while error is not None:
            seen.append(repr(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    seen.append(caplog.text)
    assert not [text for text in seen if KEY in text or SECRET in text]
