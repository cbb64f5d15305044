"""A feed and what it holds upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

import pytest

from candlegraph import LiveMode
from candlegraph.candle import Candles
from realtime.feed import Feed
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import FakeProviders
from tests.realtime.world import START, Client, Exchange, Process, eventually


class Flagged(Exchange):
    """Counts the streams that are open."""

    open = 0

    async def _stream(self) -> AsyncGenerator[Candles, None]:
        self.open += 1
        try:
            async for candles in super()._stream():
                yield candles
        finally:
            self.open -= 1


@pytest.fixture
async def processes(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Process]]:
    """Two processes over one database and one exchange; the first leads."""
    set_clock(monkeypatch, lambda: START)
    exchange = Flagged(LiveMode.STREAM)
    started = [await Process.start(database_dsn, exchange) for _ in range(2)]
    yield started
    for process in started:
        await process.stop()


async def test_an_error_while_a_stream_is_read_closes_it_at_once(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = processes[0].exchange
    assert isinstance(exchange, Flagged)
    client = Client(processes[0].hub, since=START - 600_000)
    await client.caught_up.wait()
    await eventually(lambda: exchange.open == 1)
    move, fail, failing, open_then = Feed._update_forming, Feed._fail, [True], []

    async def broken(self: Feed) -> None:
        if failing:
            failing.clear()
            raise RuntimeError("a mistake of ours")
        await move(self)

    def failed(self: Feed, error: BaseExceptionGroup) -> None:
        open_then.append(exchange.open)
        fail(self, error)

    monkeypatch.setattr(Feed, "_fail", failed)
    monkeypatch.setattr(Feed, "_update_forming", broken)
    await eventually(lambda: bool(open_then) and exchange.streams > 1)
    assert open_then == [0]
    await eventually(lambda: exchange.open == 1)
    await client.leave()
    await processes[0].stop()
    await processes[1].stop()
    assert exchange.open == 0


async def test_a_provider_that_could_not_be_warmed_up_is_tried_again(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    for process in processes:
        process.database.timings = replace(process.database.timings, warm_up_retry_s=0.0)
    ready: list[bool] = []

    class Counting(FakeProviders):
        async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> object:  # type: ignore[override]
            ready.append(not self.down)
            return await super().get(market, provider, timeout_s=timeout_s)

    lineups = [Counting([process.exchange], down=True) for process in processes]
    client = Client(processes[0].hub, since=START - 600_000)
    await client.caught_up.wait()
    leading = next(process for process in processes if process.feeds)
    at = 1 - processes.index(leading)
    object.__setattr__(processes[at].history, "providers", lineups[at])
    processes[at].cluster.leader._warming.clear()
    await eventually(lambda: ready.count(False) >= 3)
    lineups[at].down = False
    await eventually(lambda: True in ready)
    assert ready.count(False) >= 3
    assert True in ready
    await client.leave()
