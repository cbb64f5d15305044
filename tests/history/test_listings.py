"""Symbols are listed once and stored, and found again while no upstream answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from candlegraph.backfill import SymbolSelection
from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput, CandlegraphError, NotFound, ProviderUnavailable
from candlegraph.provider import Listing
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.upstream import Providers
from history import listings as listings_module
from history.listings import Listings
from storage import instruments as instruments_module
from storage.database import Database
from storage.instruments import Instruments
from tests.fakes.upstream import FakeProviders, FakeUpstream
from tests.waiting import HANG_S, eventually

NAMES = ("AB", "BTC/USD", "a_c", "abc", "x%y", "x\\y", "Ünï/€")


def upstream(*symbols: str) -> FakeUpstream:
    return FakeUpstream({symbol: Candles.empty() for symbol in symbols or NAMES})


def of(symbol: str, market: str = "fake", provider: str = "upstream") -> Instrument:
    return Instrument(market, provider, symbol)


def over(database: Database, providers: Providers) -> Listings:
    return Listings(Instruments(database), providers)


async def found(listings: Listings, *symbols: str) -> Sequence[InstrumentRecord | CandlegraphError]:
    return await listings.find([of(symbol) for symbol in symbols])


async def names(listings: Listings, text: str | None = None, **more: Any) -> list[str]:
    question = {"text": text, "inactive": False, "after": None, "first": 100} | more
    records, count = await listings.search("fake", "upstream", **question)
    assert count >= len(records)
    return [record.instrument.symbol for record in records]


async def test_a_listing_is_kept_and_a_restart_makes_no_call(database: Database) -> None:
    source = upstream()
    source.listed = {
        "AB": Listing(
            "",
            "Alpha Beta",
            "A",
            "B",
            "America/New_York",
            first_available=1_500_000_000_123,
            ended_at=1_600_000_000_000,
        )
    }
    lineup = FakeProviders([source])
    first = (await found(over(database, lineup), "AB"))[0]
    lineup.down = True
    again = (await found(over(database, lineup), "AB"))[0]
    assert isinstance(first, InstrumentRecord)
    assert first == again == InstrumentRecord(
        first.id, of("AB"), "Alpha Beta", "A", "B", "America/New_York", active=True, listed=True,
        first_available=1_500_000_000_123, ended_at=1_600_000_000_000,
    )  # fmt: skip
    assert source.listing_calls == 1


async def test_what_is_not_listed_any_more_becomes_inactive_and_keeps_what_is_known(database: Database) -> None:
    source = upstream("A", "B")
    source.listed = {"B": Listing("", first_available=1_500_000_000_000)}
    before = (await found(over(database, FakeProviders([source])), "B"))[0]
    await Instruments(database).get_or_create(of("C"), "UTC")
    source = upstream("A")
    listings = over(database, FakeProviders([source]))
    database.timings = replace(database.timings, listing_ttl_s=0.0)
    await names(listings)
    await read(listings)
    assert await names(listings) == ["A", "C"], "a list does not remove imported symbols"
    assert await names(listings, inactive=True) == ["A", "B", "C"]
    after = (await found(listings, "B"))[0]
    assert isinstance(before, InstrumentRecord)
    assert after == replace(before, active=False)
    source.truth["B"] = Candles.empty()
    await read(listings)
    await names(listings)
    await read(listings)
    assert await names(listings) == ["A", "B", "C"]
    assert (await found(listings, "B"))[0] == before, "a first candle once known is not forgotten"
    await listings.close()


async def test_a_fresh_list_in_the_store_spares_a_restart_the_question(database: Database) -> None:
    source = upstream("A", "B")
    lineup = FakeProviders([source])
    await names(over(database, lineup))
    lineup.down = True
    again = over(database, lineup)
    assert await names(again) == ["A", "B"]
    assert isinstance((await found(again, "C"))[0], NotFound)
    assert source.listing_calls == 1


async def test_an_old_list_answers_at_once_and_is_read_again_behind(database: Database) -> None:
    source = upstream("A")
    await names(over(database, FakeProviders([source])))
    await age(database, 2 * database.timings.listing_ttl_s)
    source.truth["B"] = Candles.empty()
    release = asyncio.Event()

    async def hang() -> None:
        await release.wait()

    source.listing_fault = hang
    for ask in (names, lambda one: found(one, "A")):  # a search, and a question about candles
        listings = over(database, FakeProviders([source]))
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*(ask(listings) for _ in range(5)))  # type: ignore[operator]
        assert await names(listings) == ["A"]
        await listings.close()
    assert source.listing_calls == 3, "once, and once by either of those that were closed"
    release.set()
    listings = over(database, FakeProviders([source]))
    await names(listings)
    await read(listings)
    assert await names(listings) == ["A", "B"]
    await names(over(database, FakeProviders([source])))
    assert source.listing_calls == 4


async def test_a_list_that_could_not_be_read_again_takes_nothing_away(database: Database) -> None:
    source = upstream("A")
    await names(over(database, FakeProviders([source])))
    await age(database, 2 * database.timings.listing_ttl_s)

    async def fail() -> None:
        raise ProviderUnavailable("down")

    source.listing_fault = fail
    listings = over(database, FakeProviders([source]))
    for _ in range(5):
        assert await names(listings) == ["A"]
        await read(listings)
    assert source.listing_calls == 2
    assert isinstance((await found(listings, "B"))[0], ProviderUnavailable), "it may have been listed since"


async def test_processes_that_read_a_list_at_the_same_time_do_not_disturb_each_other(database: Database) -> None:
    """Some of them see a longer list than others, in another order."""
    symbols = [f"S{number}" for number in range(300)]

    async def process(turn: int) -> None:
        source = upstream(*(symbols if turn % 2 else symbols[100::-1]))
        listings = over(database, FakeProviders([source]))
        for _ in range(3):
            known = listings._lists.setdefault(("fake", "upstream"), listings_module._List())
            known.asked_at = known.failed_at = None
            await listings._read(("fake", "upstream"), known)
            assert known.error is None

    await asyncio.gather(*(process(turn) for turn in range(8)))
    assert {len(await names(over(database, FakeProviders([])), first=1000))} <= {101, 300}


async def test_a_list_that_was_asked_for_earlier_does_not_take_the_place_of_a_later_one(database: Database) -> None:
    slow, quick, release = upstream("OLD"), upstream("NEW"), asyncio.Event()

    async def hang() -> None:
        await release.wait()

    slow.listing_fault = hang
    one, other = over(database, FakeProviders([slow])), over(database, FakeProviders([quick]))
    asking = asyncio.create_task(names(one))
    await eventually(lambda: slow.listing_calls)
    assert await names(other) == ["NEW"]
    release.set()
    assert await asking == ["NEW"]


async def age(database: Database, seconds: float) -> None:
    """Have every list been read so long ago."""
    async with database.connection() as connection:
        await connection.execute("update listings set listed_at = now() - $1::float8 * interval '1 s'", seconds)


async def read(listings: Listings) -> None:
    """Wait for what is read behind."""
    await asyncio.gather(*(known.task for known in listings._lists.values() if known.task))


async def test_an_unknown_symbol_is_not_found_and_disturbs_no_other(database: Database) -> None:
    listings = over(database, FakeProviders([upstream()]))
    asked = [of("AB"), of("?"), of("AB", "mars"), of("AB", "fake", "absent"), of("abc"), of("A\0B"), of("\ud800")]
    answers = await listings.find(asked)
    assert [type(answer) for answer in answers] == [
        InstrumentRecord,
        NotFound,
        NotFound,
        NotFound,
        InstrumentRecord,
        NotFound,
        NotFound,
    ]
    assert "known are fake" in str(answers[2])
    assert "known are upstream" in str(answers[3])


async def test_finds_at_the_same_time_share_one_reading_of_the_list(database: Database) -> None:
    source = upstream()
    listings = over(database, FakeProviders([source]))
    answers = await asyncio.gather(*(found(listings, "AB", "nope") for _ in range(30)), names(listings))
    assert source.listing_calls == 1
    assert {type(answer[0]) for answer in answers[:-1]} == {InstrumentRecord}
    await found(listings, "nope")
    assert source.listing_calls == 1


async def test_an_asker_that_leaves_does_not_stop_the_reading(database: Database) -> None:
    source, release = upstream(), asyncio.Event()

    async def hang() -> None:
        await release.wait()

    source.listing_fault = hang
    listings = over(database, FakeProviders([source]))
    askers = [asyncio.create_task(found(listings, "AB")) for _ in range(2)]
    await eventually(lambda: source.listing_calls)
    askers[0].cancel()
    await asyncio.sleep(0)
    release.set()
    assert isinstance((await askers[1])[0], InstrumentRecord)
    assert source.listing_calls == 1


async def test_a_provider_that_fails_is_an_error_for_what_is_not_kept_only(database: Database) -> None:
    source = upstream()

    async def fail() -> None:
        raise ProviderUnavailable("down")

    source.listing_fault = fail
    listings = over(database, FakeProviders([source]))
    await listings._instruments.get_or_create(of("AB"), "UTC")
    kept, missing = await found(listings, "AB", "abc")
    assert isinstance(kept, InstrumentRecord)
    assert isinstance(missing, ProviderUnavailable)
    assert await names(listings) == ["AB"]
    await found(listings, "abc")
    assert source.listing_calls == 1, "a list that failed is not asked for again at once"
    database.timings = replace(database.timings, listing_retry_s=0.0)
    await found(listings, "abc")
    assert source.listing_calls == 2


async def test_a_search_with_nothing_kept_and_the_provider_down_is_its_error(database: Database) -> None:
    lineup = FakeProviders([upstream()], down=True)
    with pytest.raises(ProviderUnavailable):
        await names(over(database, lineup))
    with pytest.raises(NotFound):
        await over(database, lineup).search("fake", "?", text=None, inactive=False, after=None, first=5)


async def test_a_list_that_never_comes_is_waited_for_until_a_deadline_only(database: Database) -> None:
    database.timings = replace(database.timings, listing_deadline_s=0.05)
    source, release = upstream(), asyncio.Event()

    async def hang() -> None:
        await release.wait()

    source.listing_fault = hang
    listings = over(database, FakeProviders([source]))
    async with asyncio.timeout(HANG_S):
        assert isinstance((await found(listings, "AB"))[0], ProviderUnavailable)
    release.set()
    database.timings = replace(database.timings, listing_deadline_s=HANG_S)
    assert isinstance((await found(listings, "AB"))[0], InstrumentRecord)
    assert source.listing_calls == 1


async def test_a_symbol_that_is_listed_twice_is_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    source = upstream("A")

    async def twice() -> list[Listing]:
        return [Listing("A", "first"), Listing("A", "second")]

    monkeypatch.setattr(source, "listings", twice)
    record = (await found(over(database, FakeProviders([source])), "A"))[0]
    assert isinstance(record, InstrumentRecord)
    assert record.name == "second"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, sorted(NAMES)), ("", sorted(NAMES)), ("ab", ["AB", "abc"]), ("B", ["AB", "BTC/USD", "abc"]),
        ("%", ["x%y"]), ("_", ["a_c"]), ("\\", ["x\\y"]), ("x%y", ["x%y"]), ("a_c", ["a_c"]), ("Ünï/€", ["Ünï/€"]), ("ÜNÏ", ["Ünï/€"]),
        ("u\u0308n", ["Ünï/€"]), ("\n", []),
        ("\0", []), ("\ud800", []), ("%%", []), ("' or true --", []),
    ],
)  # fmt: skip
async def test_a_search_is_blind_to_case_and_takes_everything_else_literally(
    database: Database, text: str | None, expected: list[str]
) -> None:
    assert sorted(await names(over(database, FakeProviders([upstream()])), text)) == sorted(expected)


async def test_a_pattern_that_fits_too_much_is_refused_with_the_figure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = over(database, FakeProviders([upstream()]))
    monkeypatch.setattr("history.listings.MAX_SELECTED", 2)
    assert len(await listings.select(SymbolSelection("fake", "upstream", pattern="[aA][bB]*"))) == 2
    with pytest.raises(BadUserInput, match=f"One request selects at most 2 symbols; these are {len(NAMES)}"):
        await listings.select(SymbolSelection("fake", "upstream", pattern="*"))


async def test_pages_of_a_search_give_every_symbol_once(database: Database) -> None:
    listings = over(database, FakeProviders([upstream()]))
    pages: list[list[str]] = [[]]
    while len(page := await names(listings, after=pages[-1][-1] if pages[-1] else None, first=2)):
        pages.append(page)
    assert [len(page) for page in pages] == [0, 2, 2, 2, 1]
    assert sorted(name for page in pages for name in page) == sorted(NAMES)
    assert await names(listings, after="\0") == await names(listings, after="�")


async def test_an_import_keeps_the_zone_that_an_instrument_has(database: Database) -> None:
    listings = over(database, FakeProviders([]))
    first = await listings._instruments.get_or_create(of("A"), "Asia/Tokyo")
    assert (first.listed, first.timezone) == (False, "Asia/Tokyo")
    assert await listings._instruments.get_or_create(of("A"), "UTC") == first
    assert await listings._instruments.stored_providers() == [("fake", "upstream")]
    assert (await found(listings, "A"))[0] == first


async def test_what_was_imported_is_extended_once_its_provider_is_found_to_list_it(database: Database) -> None:
    """The import is answered at once from the store; the provider's list is read behind it."""
    source = upstream("BTC/USD")
    listings = over(database, FakeProviders([source]))
    await listings._instruments.get_or_create(of("BTC/USD"), "UTC")
    await listings._instruments.get_or_create(of("OWN/USD"), "UTC")
    first = await found(listings, "BTC/USD", "OWN/USD")
    assert [isinstance(record, InstrumentRecord) and record.listed for record in first] == [False, False]

    async def extended() -> bool:
        (record,) = await found(listings, "BTC/USD")
        return isinstance(record, InstrumentRecord) and record.listed

    await eventually(extended)
    records = await found(listings, "BTC/USD", "OWN/USD")
    assert [isinstance(record, InstrumentRecord) and record.listed for record in records] == [True, False]
    assert source.listing_calls == 1


async def test_at_the_limit_one_record_goes_and_not_all(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruments_module, "MAX_RECORDS", 3)
    listings = over(database, FakeProviders([upstream(*"ABCDEF")]))
    for symbol in "ABCDEF":
        await found(listings, symbol)
    read: list[list[str]] = []
    kept = Instruments.get_stored

    async def noted(self: Instruments, wanted: Sequence[Instrument]) -> dict[Instrument, InstrumentRecord]:
        read.append([instrument.symbol for instrument in wanted])
        return await kept(self, wanted)

    monkeypatch.setattr(Instruments, "get_stored", noted)
    await found(listings, *"FEDC")
    assert read == [["C"]]


async def test_an_error_is_over_once_another_process_has_read_the_list(database: Database) -> None:
    database.timings = replace(database.timings, listing_ttl_s=3_600.0, listing_retry_s=0.0)
    source, other = upstream(), upstream()

    async def fail() -> None:
        raise ProviderUnavailable("It is away.")

    source.listing_fault = fail
    listings = over(database, FakeProviders([source]))
    assert isinstance((await found(listings, "AB"))[0], ProviderUnavailable)
    assert isinstance((await found(over(database, FakeProviders([other])), "AB"))[0], InstrumentRecord)
    assert [record.instrument.symbol for record in await listings.select(SymbolSelection("fake", "upstream", ("AB",)))]
    assert isinstance((await found(listings, "no such"))[0], NotFound)
