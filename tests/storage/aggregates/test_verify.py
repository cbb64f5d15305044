"""`verify` finds every bucket that differs from its minutes, from any cause, and repairs it."""

from __future__ import annotations

import asyncio

import pytest

from candlegraph.candle import concat
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from storage.aggregates import verify
from storage.aggregates.verify import Tally, Verification, instruments_matching, totals
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.change_feed import Change, ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from storage.relations import ALL_AGGREGATES, BASE_RELATION
from tests.fakes.upstream import minutes
from tests.history.world import DAY_MS, HOUR_MS, T0

FAULTS = {  # foreign changes of a relation, and the faults to find
    "delete from {} where bucketed_time = (select min(bucketed_time) from {})": Tally("", missing=1),
    "update {} set high = high + 1 where bucketed_time = (select max(bucketed_time) from {})": Tally("", different=1),
    "update {} set volume = volume * (1 + 1e-8) where bucketed_time = (select max(bucketed_time) from {})": Tally("", different=1),
    "update {} set volume = 'nan' where bucketed_time = (select max(bucketed_time) from {})": Tally("", different=1),
    "insert into {} select instrument_id, bucketed_time - interval '1461 days 1 minute', 1, 1, 1, 1, 1 from {} limit 1": Tally("", extra=1),
}  # fmt: skip


@pytest.fixture
def store(database: Database) -> CandleStore:
    return CandleStore(database, ChangeFeed(database))


async def filled(store: CandleStore, symbol: str = "A") -> int:
    """An instrument with some minutes in two years."""
    one = (await Instruments(store.database).get_or_create(Instrument("m", "p", symbol), "UTC")).id
    table = concat([minutes(T0, 3000, holes=range(400, 900)), minutes(T0 + 400 * DAY_MS, 500, seed=1)])
    await store.write([CandleWrite(one, MINUTE, table, Spans([Span(T0, T0 + 401 * DAY_MS)]))])
    return one


async def found(store: CandleStore, one: int, **options: object) -> dict[str, Tally]:
    """What is wrong, by relation."""
    checked = totals(
        ALL_AGGREGATES, [tally async for tally in Verification(store, ALL_AGGREGATES, **options).check(one)]
    )  # type: ignore[arg-type]
    return {tally.relation: tally for tally in checked if tally.wrong}


async def execute(store: CandleStore, statement: str) -> None:
    async with store.database.connection() as connection:
        await connection.execute(statement)


async def test_what_is_right_is_counted_and_nothing_is_found(
    store: CandleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await filled(store)
    for length in (verify.MAX_PIECE_MS, 45 * 60_000):
        monkeypatch.setattr(verify, "MAX_PIECE_MS", length)
        span = Span(T0, T0 + 4 * DAY_MS) if length < DAY_MS else verify.ALWAYS
        checked = totals(
            ALL_AGGREGATES, [tally async for tally in Verification(store, ALL_AGGREGATES, span).check(one)]
        )
        assert not any(tally.wrong for tally in checked)
        by_name = {tally.relation: tally.checked for tally in checked}
        assert by_name[BASE_RELATION] == (2500 if length < DAY_MS else 3000)
        assert by_name["ohlcv_1d"] == (3 if length < DAY_MS else 4)
        assert min(by_name.values()) >= 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("relation", ["ohlcv_5min", "ohlcv_1w", "ohlcv_1y"])
async def test_a_fault_is_found_in_its_relation_alone_and_repaired(
    store: CandleStore, relation: str, fault: str
) -> None:
    one, other = await filled(store), await filled(store, "B")
    await execute(store, fault.format(relation, relation))
    wrong = await found(store, one) | await found(store, other)
    expected = FAULTS[fault]
    assert wrong.keys() == {relation}
    tally = wrong[relation]
    assert (tally.missing, tally.extra, tally.different) == (expected.missing, expected.extra, expected.different)
    before = (await store.read_coverage([one]))[0]
    notified: list[Change] = []
    store.change_feed.subscribe(lambda changes: notified.extend(changes or ()))
    assert await found(store, one, repair=True) | await found(store, other, repair=True) == {}
    assert await found(store, one) | await found(store, other) == {}
    after = (await store.read_coverage([one]))[0]
    assert after.spans == before.spans
    assert {change.instrument_id for change in notified} <= {one, other}
    assert len(notified) >= 1
    assert any(after.revision > before.revision for change in notified) or {c.instrument_id for c in notified} == {
        other
    }


async def test_a_volume_in_its_last_digits_is_no_difference(store: CandleStore) -> None:
    one = await filled(store)
    await execute(store, "update ohlcv_1h set volume = volume * (1 + 1e-12)")
    assert await found(store, one) == {}


async def test_minutes_that_were_changed_behind_our_back_show_in_every_aggregate(store: CandleStore) -> None:
    one = await filled(store)
    await execute(
        store, 'update ohlcv_data set low = low - 5000 where "timestamp" = (select min("timestamp") from ohlcv_data)'
    )
    wrong = await found(store, one)
    assert wrong.keys() == set(ALL_AGGREGATES.values())
    assert all((tally.different, tally.missing, tally.extra) == (1, 0, 0) for tally in wrong.values())
    assert await found(store, one, span=Span(T0 + 400 * DAY_MS, T0 + 500 * DAY_MS)) == {}
    await execute(store, "delete from ohlcv_data")
    assert {tally.extra for tally in (await found(store, one)).values()} != {0}
    assert await found(store, one, repair=True) == {}
    async with store.database.connection() as connection:
        assert [
            await connection.fetchval(f"select count(*) from {relation}") for relation in ALL_AGGREGATES.values()
        ] == [0] * 9


async def test_candles_that_nothing_covers_or_that_open_off_the_minute_are_found(store: CandleStore) -> None:
    one = await filled(store)
    await execute(
        store, "update coverage set covered = covered - tstzmultirange(tstzrange('2024-03-08', '2024-03-08 00:10'))"
    )
    await execute(
        store,
        'update ohlcv_data set "timestamp" = "timestamp" + interval \'5 s\' where "timestamp" = \'2024-03-08 00:20Z\'',
    )
    assert (await found(store, one))[BASE_RELATION] == Tally(BASE_RELATION, 3000, extra=10, different=1)


async def test_aggregates_of_an_instrument_that_does_not_exist_are_found(store: CandleStore) -> None:
    await filled(store)
    assert not any(tally.wrong for tally in await Verification(store, ALL_AGGREGATES).orphans())
    await execute(store, "insert into ohlcv_4h select 77, bucketed_time, 1, 1, 1, 1, 1 from ohlcv_4h")
    wrong = {
        tally.relation: tally.extra for tally in await Verification(store, ALL_AGGREGATES).orphans() if tally.wrong
    }
    assert wrong == {"ohlcv_4h": 1}


async def test_writers_do_not_disturb_it(store: CandleStore) -> None:
    one = await filled(store)
    writing = True

    async def write() -> None:
        turn = 0
        while writing:
            turn += 1
            table = minutes(T0 + turn % 5 * HOUR_MS, 300, seed=turn)
            span = Span(int(table.timestamp[0]), int(table.timestamp[-1]) + 60_000)
            await store.write([CandleWrite(one, MINUTE, table[:: 1 + turn % 3], Spans([span]), replaces=True)])

    task = asyncio.create_task(write())
    try:
        for _ in range(4):
            assert await found(store, one, repair=True) == {}
            assert await found(store, one) == {}
    finally:
        writing = False
        await task


async def test_instruments_are_chosen_by_name_and_pattern(store: CandleStore) -> None:
    instruments = Instruments(store.database)
    for market, provider, symbol in (
        ("m", "p", "A/B"),
        ("m", "p", "A_B"),
        ("m", "q", "A/B"),
        ("n", "p", "AxB"),
        ("n", "p", "%"),
    ):
        await instruments.get_or_create(Instrument(market, provider, symbol), "UTC")

    await execute(store, "insert into coverage (instrument_id, timeframe) select id, '1m' from instruments")
    await instruments.get_or_create(Instrument("m", "p", "A?"), "UTC")  # nothing is stored of it

    async def chosen(*name: str | None) -> list[str]:
        return [
            f"{one.market} {one.provider} {one.symbol}" for _, one in await instruments_matching(store.database, *name)
        ]

    assert len(await chosen(None, None, None)) == 5
    assert await chosen("m", "q", None) == ["m q A/B"]
    assert await chosen("m", "p", "A*") == ["m p A/B", "m p A_B"]
    assert await chosen("m", "p", "A_?") == ["m p A_B"]
    assert await chosen("n", "p", "%") == ["n p %"]
    assert await chosen("n", "p", "?x?") == ["n p AxB"]
