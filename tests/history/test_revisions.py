"""Files that change, served through the history: an answer is never of two versions of a file."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from candlegraph.answer import Answer, CandleRequest, Wait
from candlegraph.errors import CandlegraphError, ProviderUnavailable, UnknownSymbol
from candlegraph.series import Instrument, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from history.orchestrator import History
from providers.files import readings
from providers.files.provider import Files
from providers.guard.guard import Guard
from storage.batches import CandleWrite, Superseded
from storage.database import Database
from tests.fakes.clocks import set_clock
from tests.fakes.upstream import FakeProviders
from tests.waiting import HANG_S

START = 1_709_564_400_000
MINUTE_MS = 60_000
HEADER = "timestamp,open,high,low,close,volume\n"


@pytest.fixture(autouse=True)
def _lists_are_read_at_once(database: Database) -> None:
    database.timings = replace(database.timings, unknown_symbol_ttl_s=0.0)


def row(minute: int, price: float = 100) -> str:
    return f"{START + minute * MINUTE_MS},{price},{price + 1.5},{price - 0.5},{price + 1},{100 + minute}\n"


def table(minutes: Iterable[int], price: float = 100) -> str:
    return HEADER + "".join(row(minute, price) for minute in minutes)


class Folder:
    """A folder whose files are written at the time of a clock that stands still."""

    def __init__(self, root: Path, now: int = START + 86_400_000) -> None:
        self.root, self.now = root, now

    def write(self, name: str, content: str | bytes, *, settles: bool = True) -> Path:
        path = self.root / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, ns=(self.now * 1_000_000, self.now * 1_000_000))
        self.now += 3_000 if settles else 100
        return path

    def append(self, name: str, text: str, *, settles: bool = True) -> None:
        self.write(name, (self.root / name).read_bytes() + text.encode(), settles=settles)


class Server:
    """One process: a history of its own over the database and the folder."""

    def __init__(self, database: Database, folder: Folder) -> None:
        self.files = Files(str(folder.root), "")
        self.guard = Guard(self.files)
        self.history = History.create(database, FakeProviders([self.guard]))

    async def start(self) -> Server:
        await self.guard.start()
        return self

    async def close(self) -> None:
        await self.history.listings.close()
        await self.history.fetcher.close()
        await self.history.revisions.close()
        await self.guard.close()

    async def answer(self, symbol: str = "X", timeframe: str = "1m", since: int = 0) -> Answer | BaseException:
        series = Series(Instrument("files", "files", symbol), Timeframe.parse(timeframe))
        return (await self.history.answer([CandleRequest(series, 500, since=START + since * MINUTE_MS)]))[0]

    async def closes(self, symbol: str = "X", timeframe: str = "1m", since: int = 0) -> dict[int, float]:
        """By its minute each candle's close."""
        answer = await self.answer(symbol, timeframe, since)
        assert isinstance(answer, Answer), answer
        candles = answer.candles
        return {
            (t - START) // MINUTE_MS: c for t, c in zip(candles.timestamp.tolist(), candles.close.tolist(), strict=True)
        }

    async def reason(self) -> str:
        return await self.guard.inspect() or ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    folder = Folder(tmp_path)
    set_clock(monkeypatch, lambda: folder.now)
    return folder


@pytest.fixture
async def servers(database: Database, folder: Folder) -> AsyncIterator[list[Server]]:
    """Two processes over one database and folder, not started."""
    made = [Server(database, folder), Server(database, folder)]
    yield made
    for server in made:
        await server.close()


async def corrections(database: Database) -> list[tuple[int, float | None, float | None]]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            """select (extract(epoch from "timestamp") * 1000)::int8 as t, old_close, new_close
               from corrections where timeframe = '1m' order by t, id"""
        )
    return [((r["t"] - START) // MINUTE_MS, r["old_close"], r["new_close"]) for r in rows]


def same(minutes: Iterable[int], price: float) -> dict[int, float]:
    return dict.fromkeys(minutes, price + 1)


async def test_a_replaced_file_is_served_as_a_whole(database: Database, folder: Folder, servers: list[Server]) -> None:
    """As after a split: the old prices are gone, what changed and what is gone are corrections, and hours are made anew."""
    server = await servers[0].start()
    folder.write("X_1m.csv", table(range(-60, 120)))
    assert await server.closes() == same(range(120), 100)
    assert (await server.closes(timeframe="1h"))[0] == 101
    folder.write("X_1m.csv", table([*range(-60, 3), *range(5, 125)], 50))
    assert await server.closes() == same([0, 1, 2, *range(5, 125)], 50)
    assert (await server.closes(timeframe="1h"))[0] == 51
    logged = await corrections(database)
    assert [entry for entry in logged if entry[0] in {2, 3, 4, 5}] == [
        (2, 101, 51), (3, 101, None), (4, 101, None), (5, 101, 51)
    ]  # fmt: skip


async def test_a_file_that_is_appended_each_second_is_served_line_by_line(
    database: Database, folder: Folder, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await servers[0].start()
    folder.write("X_1m.csv", table(range(5)))
    assert await server.closes() == same(range(5), 100)
    for minute in range(5, 12):
        folder.append("X_1m.csv", row(minute)[:9], settles=False)
        assert await server.closes() == same(range(minute), 100)
        folder.append("X_1m.csv", row(minute)[9:], settles=False)
        folder.now += 800
        assert await server.closes() == same(range(minute + 1), 100)
    assert await corrections(database) == []
    assert await server.reason() == ""


async def test_only_what_grew_is_read(folder: Folder, servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = await servers[0].start()
    folder.write("X_1m.csv", table(range(1_000)))
    await server.closes()
    sizes: list[int] = []
    read = readings.read_table
    monkeypatch.setattr(
        readings, "read_table", lambda path, *rest: (sizes.append(path.stat().st_size), read(path, *rest))[1]
    )
    folder.append("X_1m.csv", row(1_000))
    assert await server.closes(since=990) == same(range(990, 1_001), 100)
    assert sizes
    assert max(sizes) < 9_000 < (folder.root / "X_1m.csv").stat().st_size


async def test_a_file_that_is_being_rewritten_is_served_as_it_was(folder: Folder, servers: list[Server]) -> None:
    """Not before it has stood still: half a file of other values is no file."""
    server = await servers[0].start()
    folder.write("X_1m.csv", table(range(6)))
    assert await server.closes() == same(range(6), 100)
    for count in (0, 3, 9):
        folder.write("X_1m.csv", table(range(count), 50), settles=False)
        assert await server.closes() == same(range(6), 100)
        assert "being written" in await server.reason()
    folder.now += 2_000
    assert await server.closes() == same(range(9), 50)
    assert await server.reason() == ""


HALF = gzip.compress(table(range(8), 50).encode())[:-9]


@pytest.mark.parametrize(
    ("name", "half", "reason"),
    [
        ("X_1m.csv", table(range(7), 50)[:-14], "fewer than 6 fields"),
        ("X_1m.csv.gz", HALF, "cut short"),
        ("X_1m.parquet", b"PAR1 and so on", "no Parquet file that can be read"),
        ("X_1m.csv", "", "it is empty"),
        ("X_1m.csv", "<html><body>Just a moment...</body></html>", "no table of candles"),
        ("X_1m.csv", table(range(4)), "cut short"),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_file_that_lost_its_end_is_served_as_it_was(
    name: str, half: str | bytes, reason: str, folder: Folder, servers: list[Server], *, restarted: bool
) -> None:
    server = await servers[0].start()
    whole = folder.root / name
    text = table(range(6)).encode()
    folder.write(name, gzip.compress(text) if name.endswith(".gz") else text)
    if name.endswith(".parquet"):
        pl.read_csv(text).write_parquet(whole)
        folder.write(name, whole.read_bytes())
    assert await server.closes() == same(range(6), 100)
    folder.write(name, half)
    server = await servers[1].start() if restarted else server
    assert await server.closes() == same(range(6), 100)
    assert reason in await server.reason()


async def test_a_file_cut_short_on_purpose_is_removed_for_a_moment(folder: Folder, servers: list[Server]) -> None:
    server = await servers[0].start()
    path = folder.write("X_1m.csv", table(range(6)))
    await server.closes()
    path.unlink()
    await server.closes()
    folder.now += 2_000
    assert await server.closes() == {}
    folder.write("X_1m.csv", table(range(4)))
    folder.now += 5_000  # the folder is not looked through more often
    assert await server.closes() == same(range(4), 100)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_file_that_is_gone_is_withdrawn(
    database: Database, folder: Folder, servers: list[Server], *, restarted: bool
) -> None:
    """Once it was missed for two seconds: to replace a file some remove it first."""
    server = await servers[0].start()
    path = folder.write("X_1m.csv", table(range(3)))
    folder.write("Y_1m.csv", table(range(3)))
    assert await server.closes() == await server.closes("Y") == same(range(3), 100)
    path.unlink()
    server = await servers[1].start() if restarted else server
    assert await server.closes() == same(range(3), 100)
    folder.now += 2_000
    assert isinstance(await server.answer(), UnknownSymbol)
    assert await server.closes("Y") == same(range(3), 100)
    assert await corrections(database) == [(0, 101, None), (1, 101, None), (2, 101, None)]


async def test_what_was_replaced_while_the_server_was_down_is_seen_after_the_start(
    database: Database, folder: Folder, servers: list[Server]
) -> None:
    folder.write("X_1m.csv", table(range(6)))
    await (await servers[0].start()).closes()
    await servers[0].close()
    folder.write("X_1m.csv", table(range(5), 50))
    assert await (await servers[1].start()).closes() == same(range(5), 50)
    assert len(await corrections(database)) == 6


async def test_what_only_grew_while_the_server_was_down_corrects_nothing(
    database: Database, folder: Folder, servers: list[Server]
) -> None:
    folder.write("X_1m.csv", table(range(6)))
    await (await servers[0].start()).closes()
    await servers[0].close()
    folder.append("X_1m.csv", row(6))
    assert await (await servers[1].start()).closes() == same(range(7), 100)
    folder.write("X_1m.csv", table(range(7)))  # touched, and otherwise as it was
    assert await servers[1].closes() == same(range(7), 100)
    assert await corrections(database) == []


async def test_two_processes_serve_one_version_and_one_of_them_reads_it_anew(
    database: Database, folder: Folder, servers: list[Server]
) -> None:
    one, two = [await server.start() for server in servers]
    folder.write("X_1m.csv", table(range(6)))
    assert await one.closes() == await two.closes() == same(range(6), 100)
    folder.append("X_1m.csv", row(6))
    assert await two.closes() == await one.closes() == same(range(7), 100)
    folder.write("X_1m.csv", table(range(9), 50))
    answers = await asyncio.gather(*(server.closes() for server in [one, two] * 3))
    assert answers == [same(range(9), 50)] * 6
    assert len(await corrections(database)) == 7


async def test_a_page_of_an_older_version_is_not_stored(folder: Folder, servers: list[Server]) -> None:
    """One process fetched it, and meanwhile another one replaced the series."""
    one, two = [await server.start() for server in servers]
    folder.write("X_1m.csv", table(range(6)))
    await one.closes()
    stale = await one.files.fetch(Instrument("files", "files", "X"), Timeframe(1, "m"), Span(START, folder.now))
    folder.write("X_1m.csv", table(range(9), 50))
    assert await two.closes() == same(range(9), 50)
    record = (await two.history.listings.find([Instrument("files", "files", "X")]))[0]
    assert not isinstance(record, CandlegraphError)
    covered = Spans([Span(stale.complete_from, stale.complete_to)])
    with pytest.raises(Superseded):
        await two.history.store.write(
            [CandleWrite(record.id, Timeframe(1, "m"), stale.candles, covered, revision=stale.revision)]
        )
    assert await two.closes() == same(range(9), 50)


async def test_the_newest_candles_are_those_at_the_end_of_a_file(folder: Folder, servers: list[Server]) -> None:
    """However long ago that is: nothing newer in a file does not mean that nothing older is."""
    server = await servers[0].start()
    folder.now += 5 * 365 * 86_400_000
    folder.write("X_1m.csv", table(range(1_000)))
    for _ in range(2):
        series = Series(Instrument("files", "files", "X"), Timeframe(1, "m"))
        answer = (await server.history.answer([CandleRequest(series, 2)]))[0]
        assert isinstance(answer, Answer)
        assert ((answer.candles.timestamp - START) // MINUTE_MS).tolist() == [998, 999]
        assert await server.closes(since=990) == same(range(990, 1_000), 100)


@pytest.mark.parametrize("wait", list(Wait))
async def test_a_question_waits_no_longer_for_a_revision_than_for_its_candles(
    folder: Folder, servers: list[Server], monkeypatch: pytest.MonkeyPatch, database: Database, wait: Wait
) -> None:
    server = await servers[0].start()
    folder.write("X_1m.csv", table(range(6)))
    await server.closes()
    asked = []

    async def hangs(*rest: object) -> None:
        asked.append(rest)
        await asyncio.Event().wait()

    monkeypatch.setattr(server.guard, "revision", hangs)
    database.timings = replace(database.timings, query_deadline_s=0.05)
    series = Series(Instrument("files", "files", "X"), Timeframe(1, "m"))
    ask = CandleRequest(series, 5, since=START, until=START + 5 * MINUTE_MS, wait=wait)
    async with asyncio.timeout(HANG_S):
        for _ in range(3):
            answer = (await server.history.answer([ask]))[0]
            assert isinstance(answer, Answer)
            assert len(answer.candles) == 5
    assert len(asked) == 1, "those that ask share one"


async def test_a_revision_that_is_not_known_is_logged_once_until_it_is(
    folder: Folder, servers: list[Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = await servers[0].start()
    folder.write("X_1m.csv", table(range(6)))
    await server.closes()

    async def fails(*_: object) -> None:
        raise ProviderUnavailable("It is away.")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(server.guard, "revision", fails)
            for _ in range(3):
                await server.closes()
        await server.closes()
    logged = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert logged == ["the revision of X (files/files) 1m is not known: It is away."] * 2
