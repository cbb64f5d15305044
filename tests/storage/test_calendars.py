"""Trading calendars in the database: computed once, renewed, and gained by instruments that have candles already."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from candlegraph import BadUserInput, Listing
from candlegraph.series import Instrument
from candlegraph.trading_calendar import installed
from storage.calendars import Calendars
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from storage.migration import migrate as migrate_module
from storage.migration.migrate import migrate, migrations
from tests.timings import PATIENT
from tests.waiting import HANG_S

# What the version before calendars has stored: stocks with minutes, with days, with both and with nothing, and a coin.
BEFORE = """
insert into instruments (market, provider, symbol, folded, timezone, listed)
select case when s = 'BTC/USDT' then 'crypto' else 'stocks' end, case when s = 'BTC/USDT' then 'binance' else 'alpaca' end, s, s,
       'America/New_York', true from unnest(array['MINUTES', 'DAYS', 'BOTH', 'NONE', 'BTC/USDT']) s;
insert into ohlcv_data (instrument_id, timeframe, "timestamp", open, high, low, close, volume)
select i.id, tf, '2024-07-02 04:00+00', 1, 1, 1, 1, 1 from instruments i, unnest(array['1m', '1d']) tf
where (i.symbol in ('MINUTES', 'BOTH', 'BTC/USDT') and tf = '1m') or (i.symbol in ('DAYS', 'BOTH') and tf = '1d');
insert into coverage (instrument_id, timeframe, covered)
select d.instrument_id, d.timeframe, '{[2024-07-02 04:00+00,2024-07-03 04:00+00)}' from ohlcv_data d;
"""


async def test_stocks_of_an_older_version_get_their_calendar_and_the_source_of_their_days(
    new_database: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days that are stored stay; where there are minutes, the change log has the earlier days as withdrawn."""
    database = Database(await new_database(), timings=PATIENT)
    await database.open()
    try:
        older = [migration for migration in migrations() if migration.number < 17]
        monkeypatch.setattr(migrate_module, "migrations", lambda: older)
        await migrate(database)
        async with database.connection() as connection:
            await connection.execute(BEFORE)
        monkeypatch.undo()
        await migrate(database)
        await migrate(database)
        rows = await database.fetch("select symbol, calendar, native_days from instruments order by id")
        assert [tuple(row) for row in rows] == [
            ("MINUTES", "XNYS", False), ("DAYS", "XNYS", True), ("BOTH", "XNYS", True), ("NONE", "XNYS", True),
            ("BTC/USDT", None, None),
        ]  # fmt: skip
        (counts,) = await Calendars(database).ensure_all()
        assert tuple(counts) == ("XNYS", 4, 3, 2)
        instruments, store = Instruments(database), CandleStore(database, ChangeFeed(database))
        names = [Instrument("stocks", "alpaca", symbol) for symbol in ("MINUTES", "DAYS", "BOTH")]
        records = await instruments.get_stored(names)
        coverages = await store.read_coverage([records[name].id for name in names])
        assert [coverage.revision for coverage in coverages] == [2, 1, 2], "no cache key of before is used any more"
        withdrawn = [any(mark.withdrawal for mark in one.revisions.marks.values()) for one in coverages]
        assert withdrawn == [True, False, True]
    finally:
        await database.close()


async def test_a_calendar_is_decided_once_and_an_unknown_one_counts_as_none(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    instruments = Instruments(database)

    async def listed(calendar: str | None, *, native: bool) -> tuple[str | None, bool | None]:
        listing = Listing("AAPL", calendar=calendar)
        await instruments.store_list("stocks", "some", [listing], "America/New_York", 0.0, native_days=native)
        found = (await instruments.get_stored([Instrument("stocks", "some", "AAPL")])).popitem()[1]
        return found.calendar, found.native_days

    assert await listed("NOWHERE", native=True) == (None, None)
    assert "no trading calendar 'NOWHERE'" in caplog.text
    assert await listed(None, native=True) == (None, None)
    assert await listed("XNYS", native=False) == ("XNYS", False)
    assert await listed("XNYS", native=True) == ("XNYS", False)
    assert await listed(None, native=True) == ("XNYS", False)


async def test_a_stored_symbol_is_given_a_calendar_once(database: Database) -> None:
    instruments, name = Instruments(database), Instrument("x", "imp", "VOD")
    await instruments.get_or_create(name, "Europe/London")
    with pytest.raises(BadUserInput, match="NOWHERE"):
        await instruments.give_calendar("x", "imp", ["VOD"], "NOWHERE")
    with pytest.raises(BadUserInput, match="another time zone"):
        await instruments.give_calendar("x", "imp", ["VOD"], "XNYS")
    assert await instruments.give_calendar("x", "imp", ["VOD", "UNKNOWN"], "XLON") == 1
    assert await instruments.give_calendar("x", "imp", ["VOD"], "XLON") == 0
    record = (await instruments.get_cached([name]))[name]
    assert (record.calendar, record.native_days) == ("XLON", False)


async def test_an_old_calendar_is_computed_again_and_others_install_it(database: Database) -> None:
    ours, theirs = Calendars(database), Calendars(database)
    for calendars in (ours, theirs):
        assert await calendars.ensure({"XNYS", None}) == {"XNYS"}
    before = installed()["XNYS"]
    async with database.connection() as connection:
        await connection.execute("update calendars set computed_at = now() - interval '40 days', early = array[true]")
    await ours.renew()
    await theirs.renew()
    assert installed()["XNYS"].sessions is not None
    assert len(installed()["XNYS"].early) == len(before.early)
    rows = await database.fetch("select computed_at > now() - interval '1 hour' as fresh from calendars")
    assert [row["fresh"] for row in rows] == [True]
    assert not await database.read("calendars_due", database.timings.calendar_max_age_s)


def test_a_server_needs_no_pandas() -> None:
    program = "import sys, server.wiring, server.serve, providers.alpaca.provider; print([m for m in sys.modules if m in ('pandas', 'exchange_calendars')])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert ran.stdout.strip() == "[]"
