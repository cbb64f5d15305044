"""What an older version stored of a provider with a known fault is put right once, after the upgrade of its database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest

from candlegraph.candle import Candles
from candlegraph.clock import MINUTE_MS
from candlegraph.errors import ProviderUnavailable, Unavailable
from candlegraph.provider import Capabilities, LiveMode, Taint, TaintKind
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from history import upgrade as upgrade_module
from history.upgrade import COVERAGE, Upgrade
from history.volume_upgrade import VOLUMES
from storage.aggregates.layout import AggregateLayout
from storage.database import Database
from storage.migration import migrate as migrate_module
from storage.migration.migrate import migrate, migrations
from storage.migration.upgrade import Step, open_tasks, task_tallies
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import minutes, raising
from tests.history.test_upgrade import NOW, Old
from tests.history.world import T0, rows_of
from tests.timings import PATIENT

HOLES = [*range(10, 20), 35]
TRUTH = minutes(T0, 300)
STORED = minutes(T0, 300, holes=HOLES)  # an older version took these minutes for quiet ones
WHOLE = Span(T0, T0 + 300 * MINUTE_MS)
CLAIMED_TOO_MUCH = Taint("coverage-1", TaintKind.COVERAGE, "pages claimed too much", "^THIN$")
IN_CONTRACTS = Taint("volume-1", TaintKind.VOLUME, "volumes in contracts", ":")


@pytest.fixture
async def old(new_database: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Old]:
    before = [migration for migration in migrations() if migration.number < 15]
    opened = Database(await new_database(), timings=replace(PATIENT, unknown_symbol_ttl_s=0.0))
    await opened.open()
    with monkeypatch.context() as patch:
        patch.setattr(migrate_module, "migrations", lambda: before)
        await migrate(opened, AggregateLayout.TABLES)
    set_clock(monkeypatch, lambda: NOW)
    made = Old(opened)
    made.upstream.capabilities = Capabilities((MINUTE,), LiveMode.POLL, max_rows_per_call=50, settle_ms=0)
    try:
        yield made
    finally:
        await opened.close()


def scaled(candles: Candles, times: float) -> Candles:
    return replace(candles, volume=candles.volume * times)


def rows_at(candles: Candles, first: int, last: int) -> list[tuple[float, ...]]:
    return rows_of(candles.between(Span(T0 + first * MINUTE_MS, T0 + last * MINUTE_MS)))


async def test_coverage_without_a_candle_is_taken_back_once_and_asked_for_again(
    old: Old, caplog: pytest.LogCaptureFixture
) -> None:
    old.upstream.truth = {"THIN": TRUTH, "OTHER": TRUTH}
    for symbol in old.upstream.truth:
        await old.stores(symbol, STORED, WHOLE, source="a")
    await old.upgrade()
    old.upstream.taints = [CLAIMED_TOO_MUCH]
    with caplog.at_level(logging.WARNING):
        assert await Upgrade(old.history).work() == 0
    assert "1 series of an older version are checked: pages claimed too much" in caplog.text
    assert "coverage: 2" in caplog.text
    lost = Spans([Span(T0 + 10 * MINUTE_MS, T0 + 20 * MINUTE_MS), Span(T0 + 35 * MINUTE_MS, T0 + 36 * MINUTE_MS)])
    assert await old.covered("THIN") == Spans([WHOLE]) - lost
    assert await old.covered("OTHER") == Spans([WHOLE])
    assert await old.rows("THIN") == rows_of(STORED), "no stored candle leaves"
    assert await old.reasons("THIN") == [(COVERAGE, 0)]
    assert old.upstream.calls == [], "nothing was requested yet"
    await Upgrade(old.history).work()
    assert len(await old.reasons("THIN")) == 1
    assert await old.wrong() == 0


async def test_volumes_that_come_again_are_corrected_and_the_others_become_0(old: Old) -> None:
    """The exchange has the newest 200 of 300 minutes; the prices of the others stay, and so do imported candles."""
    reach = 200
    old.upstream.truth = {"A:B": TRUTH[-reach:], "A": TRUTH}
    for symbol in old.upstream.truth:
        await old.stores(symbol, scaled(TRUTH, 1000), WHOLE, source="a")
    await old.stores("A:I", scaled(TRUTH[:9], 1000))
    await old.upgrade()
    old.upstream.taints = [IN_CONTRACTS]
    assert await Upgrade(old.history).work() == 0
    lost = replace(TRUTH[: 300 - reach], volume=np.zeros(300 - reach))
    assert await old.rows("A:B") == rows_of(lost) + rows_of(TRUTH[-reach:])
    assert await old.rows("A") == rows_of(scaled(TRUTH, 1000)), "a spot pair"
    assert await old.rows("A:I") == rows_of(scaled(TRUTH[:9], 1000)), "an import"
    assert sum(count for reason, count in await old.reasons("A:B") if reason == VOLUMES) == 300
    assert (await old.database.fetch("select count(*) from corrections"))[0]["count"] == 300
    assert await old.covered("A:B") == Spans([WHOLE])
    assert await old.wrong() == 0


async def test_a_killed_process_leaves_the_rest_to_the_next_which_goes_on_where_it_was(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.upstream.truth = {"A:B": TRUTH, "THIN": TRUTH}
    await old.stores("THIN", STORED, WHOLE, source="a")
    await old.stores("A:B", scaled(TRUTH, 1000), WHOLE, source="a")
    await old.upgrade()
    old.upstream.taints = [CLAIMED_TOO_MUCH, IN_CONTRACTS]
    advance, count = upgrade_module.advance_task, 0

    async def dies(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise Unavailable("killed")
        await advance(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(upgrade_module, "advance_task", dies)
        with pytest.raises(Unavailable):
            await Upgrade(old.history).work()
    (task,) = await open_tasks(old.database, Step.COVERAGE, Step.VOLUME)
    assert task.reached == T0 + 100 * MINUTE_MS
    monkeypatch.setattr(upgrade_module, "LEASE", "another one")  # that of the dead runs out by itself
    calls = len(old.upstream.calls)
    other = Old(old.database, old.upstream)
    await asyncio.gather(Upgrade(old.history).work(), Upgrade(other.history).work())
    asked = [call.span.since for call in old.upstream.calls[calls:]]
    assert asked == [T0 + minute * MINUTE_MS for minute in (100, 150, 200, 250)], "by one of the two, and no page twice"
    assert await old.rows("A:B") == rows_of(TRUTH)
    assert await old.reasons("THIN") == [(COVERAGE, 0)]
    assert (await old.database.fetch("select count(*) from corrections"))[0]["count"] == 300
    assert all(tally.done == tally.tasks for tally in await task_tallies(old.database))
    calls = len(old.upstream.calls)
    assert await Upgrade(old.history).work() == 0
    assert len(old.upstream.calls) == calls, "once"


async def test_a_provider_that_is_away_is_asked_later(old: Old) -> None:
    old.upstream.truth = {"A:B": TRUTH}
    await old.stores("A:B", scaled(TRUTH, 1000), WHOLE, source="a")
    await old.upgrade()
    old.upstream.taints = [IN_CONTRACTS]
    old.upstream.faults = [raising(ProviderUnavailable("away"))]
    assert await Upgrade(old.history).work() == 1
    assert await old.rows("A:B") == rows_of(scaled(TRUTH, 1000))
    assert await Upgrade(old.history).work() == 0
    assert await old.rows("A:B") == rows_of(TRUTH)


async def test_what_is_stored_after_the_fault_is_known_is_no_older_version_s(old: Old) -> None:
    old.upstream.taints = [CLAIMED_TOO_MUCH, IN_CONTRACTS]
    await old.upgrade()
    await Upgrade(old.history).work()
    old.upstream.truth = {"THIN": STORED, "A:B": TRUTH}
    await old.stores("THIN", STORED, WHOLE, source="a")
    await old.stores("A:B", TRUTH, WHOLE, source="a")
    assert await Upgrade(old.history).work() == 0
    assert await old.covered("THIN") == Spans([WHOLE])
    assert old.upstream.calls == []
