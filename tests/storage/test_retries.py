"""Spans that were fetched in vain are fetched again later, with growing pauses."""

from __future__ import annotations

import pytest

from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from storage.rechecks import MAX_RETRY_MS, Retries, Retry, backoff_ms, schedule

NOW = 1_709_856_000_000


def spans(*pairs: tuple[int, int]) -> Spans:
    return Spans(Span(*pair) for pair in pairs)


def due(minutes: int) -> int:
    return NOW + minutes * MINUTE_MS


def test_each_try_in_vain_makes_the_next_one_later_up_to_a_week() -> None:
    waits = [backoff_ms(tries) for tries in range(1, 60)]
    assert waits[:4] == [minutes * MINUTE_MS for minutes in (10, 40, 160, 640)]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_RETRY_MS == 7 * DAY_MS


@pytest.mark.parametrize(
    ("known", "failed", "after"),
    [
        pytest.param([], [(0, 9)], [Retry(1, due(10), spans((0, 9)))], id="the first try"),
        pytest.param(
            [Retry(1, NOW, spans((0, 9)))],
            [(0, 9)],
            [Retry(2, due(40), spans((0, 9)))],
            id="the second, when it was due",
        ),
        pytest.param(
            [Retry(1, NOW + 1, spans((0, 9)))], [(0, 9)], [Retry(1, NOW + 1, spans((0, 9)))], id="before it was due"
        ),
        pytest.param(
            [Retry(3, NOW - 1, spans((0, 9)))],
            [(4, 12)],
            [Retry(1, due(10), spans((9, 12))), Retry(3, NOW - 1, spans((0, 4))), Retry(4, due(640), spans((4, 9)))],
            id="a part of it, and something new",
        ),
    ],
)
def test_the_retries_after_a_fetch_in_vain(
    known: list[Retry], failed: list[tuple[int, int]], after: list[Retry]
) -> None:
    assert schedule(known, spans(*failed), NOW) == after


async def test_retries_are_read_with_the_ledger_and_kept_until_they_are_due(database: Database) -> None:
    store = CandleStore(database, ChangeFeed(database))
    record = await Instruments(store.database).get_or_create(Instrument("m", "p", "RETRIED"), "UTC")
    retries = Retries(store.database)
    failed = spans((NOW - 90 * MINUTE_MS, NOW - 60 * MINUTE_MS))
    await retries.add(record.id, MINUTE, failed, NOW)
    for now, later in ((NOW, failed), (due(9), failed), (due(11), Spans())):
        assert (await store.read_coverage([record.id]))[0].postponed(MINUTE, now) == later
    await retries.add(record.id, MINUTE, failed, due(11))
    assert (await store.read_coverage([record.id]))[0].postponed(MINUTE, due(50)) == failed
    assert not (await store.read_coverage([record.id]))[0].postponed(MINUTE, due(70))
