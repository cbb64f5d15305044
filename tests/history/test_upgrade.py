"""What an older version claimed of imported series is checked once, after the upgrade of its database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable, Unavailable
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from history import upgrade as upgrade_module
from history.orchestrator import History
from history.upgrade import Upgrade
from storage.aggregates.layout import AggregateLayout
from storage.aggregates.verify import Verification, instruments_matching
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.migration import migrate as migrate_module
from storage.migration.migrate import migrate, migrations
from storage.migration.upgrade import AHEAD, task_tallies, withdraw_ahead
from storage.relations import ALL_AGGREGATES
from storage.withdrawals import newest_withdrawals
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import FakeProviders, FakeUpstream, minutes, raising
from tests.history.world import DAY_MS, HOUR_MS, T0, rows_of
from tests.timings import PATIENT

NOW = T0 + 90 * DAY_MS
TABLE = "coverage_withdrawals"


@dataclass
class Old:
    """A database as the version before made it, and a provider that lists some of its symbols."""

    database: Database
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Wire a history over it."""
        self.history = History.create(self.database, FakeProviders([self.upstream]))

    async def stores(self, symbol: str, rows: Candles, *spans: Span, source: str = "i") -> None:
        """Store candles; a symbol that the provider has is listed."""
        async with self.database.connection() as connection:  # what the version before knew of an instrument
            self.ids[symbol] = await connection.fetchval(
                "insert into instruments (market, provider, symbol, folded, listed) values ('fake', 'upstream', $1, $1, $2) "
                "on conflict (market, provider, symbol) do update set folded = $1 returning id",
                symbol,
                symbol in self.upstream.truth,
            )
        hull = Span(int(rows.timestamp[0]), int(rows.timestamp[-1]) + MINUTE_MS)
        await self.history.store.write([CandleWrite(self.ids[symbol], MINUTE, rows, Spans(spans or [hull]), source)])

    async def upgrade(self) -> None:
        """Start a new version: migrate, and do what is to be done before anything is served.

        One connection has to do: where each task held one and asked for another, several servers would wait for each other.
        """
        await migrate(self.database, AggregateLayout.TABLES)
        narrow = self.database.dedicated_pool()
        narrow.timings = replace(narrow.timings, acquire_timeout_s=2.0)
        await narrow.open()
        try:
            await withdraw_ahead(CandleStore(narrow, ChangeFeed(narrow)))
        finally:
            await narrow.close()

    async def rows(self, symbol: str) -> list[tuple[float, ...]]:
        return rows_of(await self.history.store.read_minutes(self.ids[symbol], Span(T0, NOW)))

    async def covered(self, symbol: str) -> Spans:
        return (await self.history.store.read_coverage([self.ids[symbol]]))[0].spans.get(MINUTE, Spans())

    async def state(self, symbol: str) -> list[Any]:
        """Everything that is stored of a symbol."""
        found = []
        for relation in ("ohlcv_data", "ohlcv_1h", "ohlcv_1d", "coverage", "corrections"):
            rows = await self.database.fetch(
                f"select * from {relation} where instrument_id = $1 order by 1, 2, 3",
                self.ids[symbol],
            )
            # Without the columns that later migrations add, which are empty here.
            found.append([tuple(v for k, v in row.items() if not k.startswith("source_")) for row in rows])
        return found

    async def reasons(self, symbol: str) -> list[tuple[str, int]]:
        rows = await newest_withdrawals(self.database, None, None, symbol, 99)
        return [(row.reason, row.candles) for row in reversed(rows)]

    async def wrong(self) -> int:
        found = await instruments_matching(self.database, None, None, None)
        check = Verification(self.history.store, ALL_AGGREGATES)
        return sum([tally.wrong for one, _ in found async for tally in check.check(one)])


@pytest.fixture
async def old(new_database: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Old]:
    before = [migration for migration in migrations() if migration.number < 12]
    opened = Database(await new_database(), timings=replace(PATIENT, unknown_symbol_ttl_s=0.0))
    await opened.open()
    with monkeypatch.context() as patch:
        patch.setattr(migrate_module, "migrations", lambda: before)
        await migrate(opened, AggregateLayout.TABLES)
    set_clock(monkeypatch, lambda: NOW)
    try:
        yield Old(opened)
    finally:
        await opened.close()


def forming_last(truth: Candles) -> Candles:
    """The rows with a last one that was cut short."""
    last = truth[-1:]
    return concat([truth[:-1], replace(last, close=last.open, high=last.open, low=last.open, volume=last.volume / 8)])


def flat(rows: Candles, *positions: int) -> Candles:
    """The rows, some of them without a trade."""
    table = [column.copy() for column in rows.columns[:6]]
    for position in positions:
        for column in table[2:5]:
            column[position] = table[1][position]
        table[5][position] = 0
    return Candles.of(*table)


async def test_a_database_with_each_fault_is_put_right(old: Old) -> None:
    truth = minutes(T0, 300)
    old.upstream.truth = {"LAST": truth, "GONE": truth[:200], "HOLE": truth}
    await old.stores("LAST", forming_last(truth))
    await old.stores("GONE", truth)
    late = T0 + 60 * DAY_MS
    await old.stores("HOLE", concat([truth, minutes(late, 300, seed=1)]))
    await old.stores("FILL", flat(truth, 7, 8, 150))
    await old.upgrade()
    await Upgrade(old.history).work()
    assert await old.rows("LAST") == rows_of(truth)
    assert await old.rows("GONE") == rows_of(truth)
    assert await old.covered("GONE") == Spans([Span(T0, T0 + 300 * MINUTE_MS)])
    assert await old.covered("HOLE") == Spans([Span(T0, T0 + 300 * MINUTE_MS), Span(late, late + 300 * MINUTE_MS)])
    assert await old.rows("FILL") == rows_of(truth[np.setdiff1d(np.arange(300), [7, 8, 150])])
    assert await old.covered("FILL") == Spans([Span(T0, T0 + 300 * MINUTE_MS)])
    assert await old.reasons("LAST") == [(upgrade_module.LAST_CANDLE, 1)]
    assert await old.reasons("GONE") == [(upgrade_module.LAST_CANDLE, 0)]
    assert (await old.reasons("HOLE"))[0] == (upgrade_module.HOLES, 0)
    assert await old.reasons("FILL") == [(upgrade_module.FILLERS, 3)]
    corrections = await old.database.fetch("select count(*) from corrections")
    assert corrections[0]["count"] == 1 + 3
    assert all(tally.done == tally.tasks for tally in await task_tallies(old.database))
    assert await old.wrong() == 0


async def test_coverage_ahead_of_the_upgrade_and_its_candles_are_withdrawn(old: Old) -> None:
    now = MINUTE.floor((await old.database.fetch("select (extract(epoch from now()) * 1000)::int8 as now"))[0]["now"])
    past, future = minutes(now - HOUR_MS, 60), minutes(now + HOUR_MS, 5)
    await old.stores("A", concat([past, future]), Span(now - HOUR_MS, now + 2 * HOUR_MS), source="a")
    await old.upgrade()
    (span,) = await old.covered("A")
    assert span.since == now - HOUR_MS
    assert now <= span.until <= now + 10 * MINUTE_MS
    rows = await old.history.store.read_minutes(old.ids["A"], Span(now - HOUR_MS, now + DAY_MS))
    assert rows_of(rows) == rows_of(past)
    assert await old.reasons("A") == [(AHEAD, 5)]
    assert await old.wrong() == 0
    before = await old.state("A")
    await old.upgrade()
    assert await old.state("A") == before


async def test_a_database_without_a_fault_stays_as_it_was(old: Old) -> None:
    quiet = flat(minutes(T0, 100), *range(100))  # an index: no volume at all
    old.upstream.truth = {"API": minutes(T0, 100)}
    await old.stores("API", minutes(T0, 100), Span(T0, T0 + 3 * DAY_MS), source="a")
    await old.stores("INDEX", quiet)
    await old.stores("NIGHTS", concat([minutes(T0 + day * DAY_MS, 60) for day in range(5)]))
    before = [await old.state(symbol) for symbol in old.ids]
    await old.upgrade()
    assert await Upgrade(old.history).work() == 0
    assert [await old.state(symbol) for symbol in old.ids] == before
    assert await newest_withdrawals(old.database, None, None, None, 9) == []
    assert await Upgrade(old.history).work() == 0
    assert old.upstream.calls == []


async def test_a_new_database_has_nothing_to_check(database: Database) -> None:
    assert await task_tallies(database) == []


async def test_a_process_that_dies_leaves_the_rest_to_the_next_one(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = concat([minutes(T0, 300), minutes(T0 + 60 * DAY_MS, 300, seed=1)])
    await old.stores("A", flat(rows, 3, 4))
    await old.upgrade()

    async def dies(*_: object) -> None:
        raise Unavailable("killed")

    with monkeypatch.context() as patch:
        patch.setattr(upgrade_module, "close_task", dies)
        with pytest.raises(Unavailable):
            await Upgrade(old.history).work()
    monkeypatch.setattr(upgrade_module, "LEASE", "another one")  # that of the dead runs out by itself
    assert await Upgrade(old.history).work() == 0
    assert await old.reasons("A") == [(upgrade_module.HOLES, 0), (upgrade_module.FILLERS, 2)]


async def test_of_two_processes_one_does_the_tasks(old: Old) -> None:
    old.upstream.truth = {"A": minutes(T0, 300)}
    await old.stores("A", forming_last(minutes(T0, 300)))
    await old.upgrade()
    other = Old(old.database, old.upstream)
    await asyncio.gather(Upgrade(old.history).work(), Upgrade(other.history).work())
    assert await old.reasons("A") == [(upgrade_module.LAST_CANDLE, 1)]
    assert len(old.upstream.calls) == 1


async def test_a_provider_that_is_away_is_asked_later(old: Old) -> None:
    truth = minutes(T0, 300)
    old.upstream.truth = {"A": truth}
    await old.stores("A", forming_last(truth))
    await old.upgrade()
    old.upstream.faults = [raising(ProviderUnavailable("away"))]
    assert await Upgrade(old.history).work() == 1
    assert await old.rows("A") != rows_of(truth)
    assert await Upgrade(old.history).work() == 0
    assert await old.rows("A") == rows_of(truth)


async def test_a_step_that_is_cancelled_between_its_parts_is_noted(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is stopped meanwhile withdraws nothing that no row of `coverage_withdrawals` speaks of."""
    await old.stores("FILL", flat(minutes(T0, 300), 7, 8, 150))
    old.upstream.capabilities = replace(old.upstream.capabilities, has_volume=True)
    old.upstream.truth = {"FILL": minutes(T0, 300)}
    await old.upgrade()
    noted, working = upgrade_module.note, list[asyncio.Task[int]]()

    async def note_late(*rest: Any) -> None:
        if rest[3] == upgrade_module.FILLERS:
            working[0].cancel()
            await asyncio.sleep(0)
        await noted(*rest)

    monkeypatch.setattr(upgrade_module, "note", note_late)
    working.append(asyncio.create_task(Upgrade(old.history).work()))
    with pytest.raises(asyncio.CancelledError):
        await working[0]
    assert await old.reasons("FILL") == [(upgrade_module.FILLERS, 3)]
    await old.history.fetcher.close()
