"""A provider's clock goes on by monotonic time; the times that the upstream reports set it, and without them nothing newer is covered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate

import pytest

from candlegraph import clock
from candlegraph.candle import concat
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.provider import Capabilities, LiveMode, Page, Provider
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from providers.guard.guard import Guard
from tests.fakes.upstream import UNLIMITED, FakeUpstream, changing, minutes
from tests.fakes.virtual import EPOCH_MS, virtual

X = Instrument("fake", "upstream", "X")
RECENT = Span(EPOCH_MS - 100 * MINUTE_MS, EPOCH_MS)


class Silent:
    """A provider without ``server_time``, whose answers have the headers that it is given."""

    def __init__(self, *, live: LiveMode = LiveMode.POLL) -> None:
        self.capabilities = Capabilities((MINUTE,), live, settle_ms=5_000, budget=UNLIMITED)
        self.upstream = FakeUpstream({"X": minutes(RECENT.since, 200)})
        self.headers: Mapping[str, str] = {}
        self.saw = 0  # what time it was to the plugin

    def __getattr__(self, name: str) -> object:
        if name in {"server_time", "first_available", "stream"}:
            raise AttributeError(name)
        return getattr(self.upstream, name)

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        clock.note_date(self.headers)
        self.saw = clock.now_ms()
        return await self.upstream.fetch(instrument, timeframe, span)


class Ticking(Silent):
    """One that has it, and counts how often it is asked."""

    asked = 0
    skew_ms = 0

    async def server_time(self) -> int:
        self.asked += 1
        return clock.monotonic_ms() + self.skew_ms


def guarded(provider: object) -> Guard:
    assert isinstance(provider, Provider)
    return Guard(provider)


def date_of(ms: int) -> dict[str, str]:
    return {"Date": formatdate(ms / 1000, usegmt=True)}


@contextmanager
def wall_clock_off_by(ms: int) -> Iterator[None]:
    right = clock.wall_ms
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "wall_ms", lambda: right() + ms)
        yield


async def ask(guard: Guard, span: Span = RECENT) -> Page:
    return await guard.fetch(X, MINUTE, span)


@pytest.mark.parametrize("step_ms", [2 * HOUR_MS, -HOUR_MS])
@virtual
async def test_a_step_of_the_wall_clock_moves_nothing_and_has_the_time_asked_once(step_ms: int) -> None:
    provider = Ticking()
    guard = guarded(provider)
    await guard.start()
    with wall_clock_off_by(step_ms):
        for _ in range(5):
            await ask(guard)
            await asyncio.sleep(10)
            assert guard.now_ms() == provider.saw + 10_000 == clock.monotonic_ms()
        assert provider.asked == 2
    await ask(guard)
    await asyncio.sleep(1)
    assert provider.asked == 3, "it stepped back"
    await guard.close()


@virtual
async def test_without_a_server_time_the_date_of_an_answer_sets_the_clock() -> None:
    provider = Silent()
    guard = guarded(provider)
    await guard.start()
    there = EPOCH_MS - 90_000
    provider.headers = date_of(there)
    page = await ask(guard)
    assert provider.saw == there, "the call that brought it goes by it already"
    assert page.proved_until == there - 5_000
    with wall_clock_off_by(2 * HOUR_MS):
        await asyncio.sleep(0.5)
        await ask(guard)
        assert guard.now_ms() == there + 500, "within the second that a Date is exact to"
        provider.headers = date_of(there + 30_000)
        await ask(guard)
        assert guard.now_ms() == there + 30_000
        provider.headers = date_of(there + 10_000)
        await ask(guard)
        assert guard.now_ms() == there + 11_000, "never ahead of the reported time"
    await guard.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Date": "soon"},
        {**date_of(EPOCH_MS - 3 * HOUR_MS), "Age": "10800"},
        date_of(EPOCH_MS - 2 * DAY_MS),
    ],
    ids=["none", "nonsense", "from a cache", "days away"],
)
@virtual
async def test_an_unreadable_date_changes_nothing(headers: dict[str, str]) -> None:
    provider = Silent()
    guard = guarded(provider)
    provider.headers = headers
    await ask(guard)
    assert guard.now_ms() == clock.wall_ms()
    await guard.close()


@virtual
async def test_a_date_that_contradicts_the_server_time_has_it_asked_again_once_a_minute() -> None:
    provider = Ticking()
    guard = guarded(provider)
    await guard.start()
    provider.skew_ms = -20_000
    for _ in range(15):
        provider.headers = date_of(clock.monotonic_ms() + (0 if provider.asked > 1 else -20_000))
        await ask(guard)
        await asyncio.sleep(10)
    assert guard.now_ms() == clock.monotonic_ms() - 20_000, "server_time is believed, the Date is not"
    assert provider.asked == 3
    await guard.close()


@virtual
async def test_rows_prove_what_is_past_where_no_time_is_reported() -> None:
    provider = Silent()
    guard = guarded(provider)
    with wall_clock_off_by(2 * HOUR_MS):
        newest = EPOCH_MS - MINUTE_MS
        page = await ask(guard)
        assert page.proved_until == newest - 5_000, "the row has come this instant: what ended with it may change yet"
        await asyncio.sleep(6)
        assert (await ask(guard)).proved_until == newest
        await asyncio.sleep(600)
        assert (await ask(guard)).proved_until == newest, "nothing newer came"
        assert (await ask(guard, Span(RECENT.since, EPOCH_MS + MINUTE_MS))).proved_until == EPOCH_MS
    with wall_clock_off_by(-HOUR_MS):
        assert guard.now_ms() >= EPOCH_MS, "it is not earlier than its own rows"
    await guard.close()


@virtual
async def test_what_is_older_than_a_day_is_past_without_proof() -> None:
    guard = guarded(Silent())
    page = await ask(guard, Span(RECENT.since - 30 * DAY_MS, RECENT.since - 29 * DAY_MS))
    assert page.proved_until == clock.wall_ms() - DAY_MS
    await guard.close()


@virtual
async def test_where_nothing_moves_there_is_nothing_to_prove() -> None:
    guard = guarded(Silent(live=LiveMode.NONE))
    assert (await ask(guard)).proved_until is None
    await guard.close()


@pytest.mark.parametrize(
    ("ahead_ms", "rows"),
    [(20 * HOUR_MS, 2), (19 * HOUR_MS + 17, 2), (90 * MINUTE_MS, 1)],
    ids=["outside the span", "no opening of a bucket", "the one row ahead of our clock"],
)
@virtual
async def test_wrong_rows_of_the_future_move_no_clock(ahead_ms: int, rows: int) -> None:
    provider = Silent()
    provider.upstream.truth = {"X": minutes(RECENT.since, 100)}
    guard = guarded(provider)
    wrong = minutes(EPOCH_MS + ahead_ms - ahead_ms % MINUTE_MS, rows)
    wrong = replace(wrong, timestamp=wrong.timestamp + ahead_ms % MINUTE_MS)
    provider.upstream.always = changing(lambda page: replace(page, candles=concat([page.candles, wrong])))
    for _ in range(2):
        page = await ask(guard, Span(RECENT.since, EPOCH_MS + 20 * HOUR_MS))
        await asyncio.sleep(6)
        assert page.proved_until is not None
        assert page.proved_until <= EPOCH_MS - MINUTE_MS
    assert guard.now_ms() == clock.wall_ms()
    await guard.close()


@virtual
async def test_rows_of_files_move_no_clock() -> None:
    provider = Silent(live=LiveMode.NONE)
    guard = guarded(provider)
    ahead = minutes(EPOCH_MS + HOUR_MS, 10)
    provider.upstream.always = changing(lambda page: replace(page, candles=concat([page.candles, ahead])))
    await ask(guard, Span(RECENT.since, EPOCH_MS + 2 * HOUR_MS))
    assert guard.now_ms() == clock.wall_ms()
    await guard.close()
