"""Pages on their way into the store: flushed on exit, given up on cancellation, and their errors reach the fetcher."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable, Unavailable
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from history.page_writer import PageWriter
from storage.batches import CandleWrite, FetchLogRow
from storage.candles import CandleStore


class Store:
    """Keeps how many pages each transaction had; it is busy until a test frees it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.stored: list[int] = []
        self.free = asyncio.Event()
        self.away = False

    async def write(self, writes: Sequence[CandleWrite], fetches: Sequence[FetchLogRow]) -> None:
        self.begun.append(len(fetches))
        await self.free.wait()
        if self.away:
            raise Unavailable
        self.stored.append(len(fetches))


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def arrivals(store: Store) -> PageWriter:
    return PageWriter(cast("CandleStore", store), None)


async def add(arrivals: PageWriter, pages: int = 1) -> None:
    for n in range(pages):
        span = Span(n * MINUTE_MS, (n + 1) * MINUTE_MS)
        arrivals.add(CandleWrite(1, MINUTE, Candles.empty(), Spans([span])), FetchLogRow(1, MINUTE, span, 0, "ok", 1))
        for _ in range(5):
            await asyncio.sleep(0)


async def test_pages_that_arrive_while_one_is_stored_share_the_next_transaction(
    store: Store, arrivals: PageWriter
) -> None:
    async with arrivals.flush_on_exit():
        await add(arrivals, 5)
        assert store.begun == [1]
        store.free.set()
    assert store.stored == [1, 4]


async def test_what_came_before_an_error_is_stored(store: Store, arrivals: PageWriter) -> None:

    async def fetch() -> None:
        async with arrivals.flush_on_exit():
            await add(arrivals, 3)
            store.free.set()
            raise ProviderUnavailable

    with pytest.raises(ProviderUnavailable):
        await fetch()
    assert store.stored == [1, 2]


async def test_an_error_of_storing_ends_the_fetching_and_is_raised(store: Store, arrivals: PageWriter) -> None:
    store.away = True
    store.free.set()
    added: list[int] = []

    async def fetch() -> None:
        async with arrivals.flush_on_exit():
            for n in range(9):
                await add(arrivals)
                added.append(n)

    with pytest.raises(Unavailable):
        await fetch()
    assert added == [0]


async def test_an_error_of_storing_the_last_page_is_raised_on_exit(store: Store, arrivals: PageWriter) -> None:
    store.away = True

    async def fetch() -> None:
        async with arrivals.flush_on_exit():
            await add(arrivals)
            store.free.set()

    with pytest.raises(Unavailable):
        await fetch()


@pytest.mark.parametrize("leaving", [True, False])
async def test_a_fetch_that_is_cancelled_gives_up_what_is_not_stored(
    store: Store, arrivals: PageWriter, *, leaving: bool
) -> None:
    """While it fetches, and while it waits on its way out."""

    async def fetch() -> None:
        async with arrivals.flush_on_exit():
            await add(arrivals, 3)
            if not leaving:
                await asyncio.Event().wait()

    task = asyncio.create_task(fetch())
    for _ in range(30):
        await asyncio.sleep(0)
    assert store.begun == [1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.free.set()
    await asyncio.sleep(0)
    assert (store.begun, store.stored) == ([1], [])
