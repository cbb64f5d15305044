"""Trading days from end to end: each day of a stock is one candle, whatever range, transport or moment it is asked by."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

import numpy as np
import pytest

from candlegraph import MINUTE, BadUserInput, Candles, Instrument, Listing, Series, Timeframe, fold, zone
from candlegraph.answer import Answer, CandleRequest, Fill
from candlegraph.candle import concat
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.errors import NotFound
from candlegraph.event import Event, EventKind
from candlegraph.provider import Provider, UnconfiguredProvider
from candlegraph.supervision import Supervisor
from candlegraph.trading_calendar import SessionFilter, installed
from history.export import ExportRequest, open_export, read_pages
from history.latest import LatestRequest, latest_candles
from history.orchestrator import History
from providers.alpaca.provider import create
from providers.registry import Registry
from realtime.cluster import Cluster
from realtime.hub import Hub
from storage.cache.memory import CandleCache
from storage.database import Database
from tests.fakes.alpaca import FakeAlpaca, new_york
from tests.fakes.clocks import set_clock
from tests.fakes.exchange import random_candles
from tests.providers.test_registry import Point
from tests.waiting import eventually

RANGES = int(os.environ.get("TRADING_DAY_RANGES", "150"))  # 10,000 by hand
NEW_YORK = zone("America/New_York")
APPLE = Instrument("stocks", "alpaca", "AAPL")
DAYS = ["2024-06-27", "2024-06-28", "2024-07-01", "2024-07-02", "2024-07-03", "2024-07-05", "2024-07-08", "2024-07-09"]
EARLY = "2024-07-03"  # it closes at 13:00, and the day after is a holiday
DAY, HOUR = Timeframe(1, "d"), Timeframe(1, "h")


def traded() -> Candles:
    """The minutes of each day from the opening of the pre-market to the end of the post-market, some without a trade."""
    return concat(
        [
            random_candles(new_york(f"{day} 04:00"), (13 if day == EARLY else 16) * 60, seed=n + 1, keep=0.9)
            for n, day in enumerate(DAYS)
        ]
    )


@dataclass
class World:
    """Everything below the API, wired as the server does."""

    exchange: FakeAlpaca
    history: History
    hub: Hub
    vouches: bool = True

    async def ask(self, timeframe: str, **more: object) -> Answer:
        request = CandleRequest(Series(APPLE, Timeframe.parse(timeframe)), more.pop("limit", 5_000), **more)  # type: ignore[arg-type]
        answer = (await self.history.answer([request]))[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def regular(self) -> Candles:
        """The minutes of the regular sessions."""
        return self.exchange._regular(self.exchange.truth("AAPL"))

    def truth(self, timeframe: str) -> Candles:
        """The final candles of regular sessions, by the calendar's buckets; days are those of the source."""
        buckets, wanted = installed()["XNYS"].regular, Timeframe.parse(timeframe)
        if not wanted.width_ms and self.vouches:
            days = fold(self.regular, DAY, buckets)
            return fold(replace(days, volume=days.volume + self.exchange.auction_volume), wanted, buckets)
        return fold(self.regular, wanted, buckets)

    @property
    def calls(self) -> list[str]:
        """The timeframes of the calls for bars."""
        return [query["timeframe"] for path, query in self.exchange.requests if path == "/v2/stocks/bars"]


Build = Callable[..., Awaitable[World]]


@pytest.fixture
async def build(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Build]:
    database.timings = replace(
        database.timings,
        feed_max_backoff_s=0.02,
        forming_ttl_s=0.0,
        feed_stream_poll_interval_s=0.02,
        feed_spread_s=0.0,
    )
    async with FakeAlpaca() as exchange, AsyncExitStack() as stack:
        set_clock(monkeypatch, lambda: exchange.now)

        async def make(now: str, *, vouches: bool = True) -> World:
            exchange.lists("AAPL", traded())
            exchange.early_closes, exchange.holidays = {EARLY}, {"2024-07-04"}
            exchange.now = new_york(now)

            def factory(_: object) -> list[Provider | UnconfiguredProvider]:
                found = list(create(exchange.environ()))
                for one in found:
                    one.capabilities = replace(one.capabilities, regular_days=vouches)  # type: ignore[union-attr]
                return found

            registry = Registry({}, [Point("stocks.alpaca", factory)])
            stack.push_async_callback(registry.close)
            history = History.create(database, registry, cache=CandleCache(1 << 24))
            stack.push_async_callback(history.fetcher.close)
            cluster, supervisor = Cluster(history), Supervisor()
            stack.push_async_callback(cluster.close)
            stack.push_async_callback(supervisor.close)
            history.start(supervisor)
            cluster.start(supervisor)
            await history.listings.find([APPLE])
            exchange.auction_volume = 1e6
            return World(exchange, history, cluster.hub, vouches)

        yield make


def rows(candles: Candles) -> dict[int, list[float]]:
    columns = zip(*(column.tolist() for column in candles.columns[1:5]), strict=True)
    return dict(zip(candles.timestamp.tolist(), map(list, columns), strict=True))


def check(found: Candles, expected: Candles) -> None:
    """Each final candle is the expected one: prices to the bit, volumes but for the order of the sum."""
    final = found[found.closed]
    volumes = dict(zip(expected.timestamp.tolist(), expected.volume.tolist(), strict=True))
    assert rows(final).items() <= rows(expected).items()
    assert final.volume.tolist() == pytest.approx([volumes[stamp] for stamp in final.timestamp.tolist()], rel=1e-9)


@pytest.mark.parametrize("vouches", [True, False])
async def test_each_day_is_the_same_in_every_range_and_transport(build: Build, vouches: bool) -> None:
    world = await build("2024-07-08 12:00", vouches=vouches)
    draw, first, last = random.Random(7), new_york("2024-06-27 00:00"), new_york("2024-07-08 12:00")
    expected = {text: world.truth(text) for text in ("1d", "2d", "1w", "1mon", "1h", "30m", "7m")}
    for _ in range(RANGES):
        since, until = sorted(draw.randrange(first, last) for _ in range(2))
        text = draw.choice(list(expected))
        session = SessionFilter.ALL if text[-1] in "dwn" and draw.random() < 0.5 else SessionFilter.REGULAR
        zone_ = None if text[-1] in "dwn" else draw.choice([None, zone("Asia/Tokyo")])
        kind = draw.randrange(4)
        if kind == 0:
            found = (await world.ask(text, since=since, until=until, session=session, zone=zone_)).candles
        elif kind == 1:
            found = (
                await world.ask(text, limit=draw.randrange(1, 9), until=until, session=session, zone=zone_)
            ).candles
        elif kind == 2:
            request = ExportRequest(
                "stocks", "alpaca", Timeframe.parse(text), ("AAPL",), None, since, until, session=session
            )
            try:
                exports = await open_export(world.history, request)
            except NotFound:  # nothing of it is stored yet
                continue
            found = concat([page for one in exports async for page in read_pages(world.history, one)])
        else:
            calendar = installed()["XNYS"]
            newest = LatestRequest(
                "stocks", "alpaca", Timeframe.parse(text), calendar.regular, ["AAPL"], calendar=calendar
            )
            found = (await latest_candles(world.history, newest)).candles.candles
        check(found, expected[text])
    assert vouches == ("1Day" in world.calls)


@pytest.mark.parametrize("vouches", [True, False])
async def test_days_are_made_of_regular_sessions_and_holidays_are_none(build: Build, vouches: bool) -> None:
    world = await build("2024-07-08 18:00", vouches=vouches)
    since = new_york("2024-06-27 00:00")
    days = await world.ask("1d", since=since)
    assert [str(day)[:10] for day in NEW_YORK.local(days.candles.timestamp).astype("datetime64[ms]")] == DAYS[:7]
    assert days.complete
    assert days.candles.closed.all(), "the day is over at its close"
    check(days.candles, world.truth("1d"))
    filled = await world.ask("1d", since=since, fill=Fill.PREVIOUS)
    assert filled.candles.timestamp.tolist() == days.candles.timestamp.tolist(), "a holiday is no day without a trade"
    before = len(world.calls)
    await world.ask("1d", since=since)
    assert len(world.calls) == before, "while the exchange is closed, nothing is fetched"


async def test_the_forming_day_is_open_until_its_close(build: Build) -> None:
    world = await build("2024-07-08 12:00")
    assert not (await world.ask("1d", limit=1)).candles.closed[0]
    world.exchange.now = new_york("2024-07-08 16:00") + 30_000
    assert not (await world.ask("1d", limit=1)).candles.closed[0]
    world.exchange.now += 30_000
    (day,) = (await world.ask("1d", limit=1)).candles
    assert day.closed
    week = (await world.ask("1w", limit=2)).candles
    assert week.closed.tolist() == [True, False]


@pytest.mark.parametrize("vouches", [True, False])
async def test_a_live_day_forms_from_open_to_close_and_is_final_as_it_is_asked_for(build: Build, vouches: bool) -> None:
    world = await build("2024-07-08 09:20", vouches=vouches)
    step = int(os.environ.get("LIVE_DAY_STEP_MINUTES", "30"))
    events: list[Event] = []
    async with aclosing(world.hub.subscribe(Series(APPLE, DAY), new_york("2024-07-05 00:00"), None)) as stream:

        async def listen() -> None:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - they are read meanwhile

        listening = asyncio.create_task(listen())
        await eventually(lambda: any(event.caught_up for event in events))
        now, close = new_york("2024-07-08 09:20"), new_york("2024-07-08 16:00")
        while now < close + 2 * MINUTE_MS:
            now = min(now + step * MINUTE_MS, close + 2 * MINUTE_MS)
            world.exchange.now = now
            (topic,) = world.hub.topics
            await eventually(lambda: topic.edge >= MINUTE.floor(now - 45_000))  # noqa: B023
        await eventually(lambda: any(event.kind is EventKind.CLOSE for event in events))
        listening.cancel()
        await asyncio.wait([listening])
    assert [event.kind for event in events if event.kind is EventKind.CLOSE] == [EventKind.CLOSE]
    (closed,) = (event.candles for event in events if event.kind is EventKind.CLOSE)
    check(closed, world.truth("1d"))
    updates = [event.candles for event in events if event.kind is EventKind.UPDATE]
    assert updates
    assert all(float(one.open[0]) == float(closed.open[0]) for one in updates), "no pre-market trade is in it"
    assert rows(closed) == rows((await world.ask("1d", limit=1)).candles)


async def test_a_followed_stock_asks_nothing_from_fridays_end_to_mondays_pre_market(build: Build) -> None:
    world = await build("2024-06-28 19:50")
    async with aclosing(world.hub.subscribe(Series(APPLE, MINUTE), None, None)) as stream:

        async def listen() -> None:
            async for _ in stream:
                pass

        listening = asyncio.create_task(listen())
        await eventually(lambda: bool(world.hub.topics) and next(iter(world.hub.topics)).ready)
        (topic,) = world.hub.topics
        world.exchange.now = new_york("2024-06-28 20:02")
        await eventually(lambda: topic.edge >= new_york("2024-06-28 20:01"))
        before = len(world.calls)
        assert before
        while world.exchange.now < new_york("2024-06-30 21:00"):
            world.exchange.now += 6 * HOUR_MS
            await eventually(lambda: topic.edge >= MINUTE.floor(world.exchange.now - 45_000))
        assert len(world.calls) == before
        world.exchange.now = new_york("2024-07-01 04:05")
        await eventually(lambda: len(world.calls) > before)
        listening.cancel()
        await asyncio.wait([listening])
    assert (await world.ask("1m", since=new_york("2024-06-29 00:00"), until=new_york("2024-07-01 03:00"))).complete
    record = (await world.history.instruments.get_stored([APPLE]))[APPLE]
    (coverage,) = await world.history.store.read_coverage([record.id])
    assert len(list(coverage.spans[MINUTE])) == 1, "no fragment for each night"


async def test_followers_of_days_start_again_when_their_symbol_gets_a_calendar(
    build: Build, database: Database
) -> None:
    world = await build("2024-07-08 12:00")
    database.timings = replace(database.timings, follow_renewal_interval_s=0.05, hub_interval_s=0.05)
    instruments = world.history.instruments
    async with database.connection() as connection:
        await connection.execute("update instruments set calendar = null, native_days = null")
    await instruments.note_beginning((await instruments.get_stored([APPLE]))[APPLE], new_york("2024-06-27 04:00"))
    kinds: list[EventKind] = []
    async with aclosing(world.hub.subscribe(Series(APPLE, DAY), None, None)) as stream:

        async def listen() -> None:
            async for event in stream:
                kinds.append(event.kind)  # noqa: PERF401 - they are read meanwhile

        listening = asyncio.create_task(listen())
        await eventually(lambda: bool(kinds))
        listing = Listing("AAPL", calendar="XNYS")
        await instruments.store_list("stocks", "alpaca", [listing], "America/New_York", 0.0, native_days=True)
        await eventually(lambda: EventKind.RESYNC in kinds)
        await asyncio.wait([listening])
    assert (await world.ask("1d", limit=1)).zone.hours is not None


async def test_hours_of_regular_sessions_say_where_they_end(build: Build) -> None:
    world = await build("2024-07-08 12:10")
    answer = await world.ask("1h", since=new_york("2024-07-03 00:00"), session=SessionFilter.REGULAR)
    local = NEW_YORK.local(answer.candles.timestamp).astype("datetime64[ms]").astype(str)
    assert [text[5:16] for text in local[:5]] == [
        "07-03T09:30", "07-03T10:30", "07-03T11:30", "07-03T12:30", "07-05T09:30"
    ]  # fmt: skip
    check(answer.candles, world.truth("1h"))
    assert not answer.candles.closed[-1]
    assert answer.complete
    extended = await world.ask("1h", since=new_york("2024-07-03 00:00"), session=SessionFilter.EXTENDED)
    everything = await world.ask("1h", since=new_york("2024-07-03 00:00"))
    assert rows(extended.candles) == rows(everything.candles)
    with pytest.raises(BadUserInput):
        await world.ask("1d", session=SessionFilter.EXTENDED)
    with pytest.raises(BadUserInput):
        await world.ask("1d", zone=zone("UTC"))


async def test_a_week_that_is_asked_for_after_its_days_needs_no_further_call(build: Build) -> None:
    world = await build("2024-07-09 18:00")
    await world.ask("1d", since=new_york("2024-06-24 00:00"))
    before = len(world.calls)
    weeks = await world.ask("1w", since=new_york("2024-06-24 00:00"))
    check(weeks.candles, world.truth("1w"))
    assert len(world.calls) == before
    assert np.diff(weeks.candles.timestamp).tolist() == [7 * DAY_MS] * 2
