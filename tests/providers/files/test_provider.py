"""The folder of files: found by their names, read as they are now, and vouching for no more than they hold."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlegraph import (
    MINUTE,
    ConfigurationError,
    Instrument,
    LiveMode,
    Page,
    Provider,
    ProviderRefused,
    ProviderUnavailable,
    Span,
    Timeframe,
    UnknownSymbol,
    Unsupported,
    Zone,
    clock,
    zone,
)
from providers.files import folder, readings, snapshots
from providers.files import provider as files_provider
from providers.files.pages import MAX_ROWS
from providers.files.provider import Files, create
from providers.tables.reader import Table, read_table
from tests.fakes.clocks import set_clock
from tests.waiting import HANG_S, eventually

START = 1_704_067_200_000  # 2024-01-01T00:00:00Z
LATER = 1_719_792_000_000  # 2024-07-01T00:00:00Z: what is written here has long been final
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
TABLE = " A table has rows of a time and four prices, separated by a comma, semicolon, tab or |"
HOUR, DAY = Timeframe(1, "h"), Timeframe(1, "d")
ALWAYS = Span(0, 9_999_999_999_999)
_seconds = itertools.count(10**9)


def write(path: Path, count: int, step_ms: int = MINUTE_MS, start: int = START, close: float = 2) -> Path:
    """A file of candles, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{start + n * step_ms},1,3,0.5,{close},10" for n in range(count)]
    text = "\n".join(["timestamp,open,high,low,close,volume", *lines, ""]).encode()
    if path.suffix in {".parquet", ".pq"}:
        pl.read_csv(text).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    written_at = next(_seconds) * 10**9  # each file long ago, and no two at the same time
    os.utime(path, ns=(written_at, written_at))
    return path


def long_ago(folder: Path) -> None:
    """Let all files of a folder stand still."""
    for path in folder.iterdir():
        if not path.is_symlink():
            os.utime(path, (0, 0))


async def started(folder: Path, **environ: str) -> Files:
    (provider,) = create({"FILES_DIR": str(folder), **environ})
    assert isinstance(provider, Files)
    await provider.start()
    return provider


def instrument(symbol: str) -> Instrument:
    return Instrument("files", "files", symbol)


async def symbols(provider: Provider) -> list[str]:
    return [listing.symbol for listing in await provider.listings()]


def times(page: Page) -> list[int]:
    return page.candles.timestamp.tolist()  # type: ignore[no-any-return]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []

    def noted(path: Path, timeframe: Timeframe | None, local: Zone) -> Table:
        if path.parent.name != tempfile.gettempdir().rpartition("/")[2]:  # not the head of one
            names.append(path.name)
        return read_table(path, timeframe, local)

    monkeypatch.setattr(readings, "read_table", noted)
    return names


@pytest.fixture(autouse=True)
def time_flies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a minute later, so that a missing file is looked for every time."""
    now = iter(range(LATER, LATER * 2, MINUTE_MS))
    set_clock(monkeypatch, lambda: next(now))


async def test_it_is_a_provider_of_files_that_never_move(tmp_path: Path) -> None:
    write(tmp_path / "A_1m.csv", 3)
    write(tmp_path / "B_1d.parquet", 3, 24 * HOUR_MS)
    provider = await started(tmp_path)
    assert isinstance(provider, Provider)
    assert (provider.market.id, provider.id, provider.version) == ("files", "files", "0.1.0")
    shown = provider.capabilities
    assert shown.timeframes == (MINUTE, DAY)
    assert (shown.live, shown.has_volume, shown.settle_ms, shown.max_rows_per_call) == (LiveMode.NONE, False, 0, 10_000)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "FILES_DIR is not set: name the folder that your CSV and Parquet files are in."),
        ({"FILES_DIR": "/no/such/folder"}, "FILES_DIR is '/no/such/folder', which is no folder that can be read."),
        ({"FILES_DIR": "/", "FILES_TIMEZONE": "Mars"}, "FILES_TIMEZONE: Unknown time zone 'Mars'"),
    ],
)
async def test_it_says_which_setting_is_wrong(environ: Mapping[str, str], message: str) -> None:
    (provider,) = create(environ)
    with pytest.raises(ConfigurationError) as caught:
        await provider.start()
    assert caught.value.message.startswith(message)
    await provider.close()


async def test_archives_and_the_file_names_of_exchanges_are_served(tmp_path: Path) -> None:
    rows = [f"{START + n * MINUTE_MS},{1 + n},{3 + n},0.5,{2 + n},10" for n in range(5)]
    with zipfile.ZipFile(tmp_path / "BTCUSDT-1m-2024-01.zip", "w") as archive:
        archive.writestr("BTCUSDT-1m-2024-01.csv", "\n".join(rows))
    write(tmp_path / "XBTUSD_60.csv", 3, HOUR_MS)
    write(tmp_path / "EURUSD_M1.tsv", 3)
    (tmp_path / "ETH_USDT-5m.json").write_text(
        f"[{','.join(f'[{START + n * 5 * MINUTE_MS},1,3,0.5,2,10]' for n in range(4))}]"
    )
    long_ago(tmp_path)
    provider = await started(tmp_path)
    assert await symbols(provider) == ["BTCUSDT", "ETH/USDT", "EURUSD", "XBTUSD"]
    assert provider.capabilities.timeframes == (MINUTE, Timeframe(5, "m"), HOUR)
    page = await provider.fetch(instrument("BTCUSDT"), MINUTE, ALWAYS)
    assert times(page) == [START + n * MINUTE_MS for n in range(5)]
    assert page.candles.close[0] == 2


async def test_symbols_are_the_names_of_tables_with_their_folders(tmp_path: Path) -> None:
    for name in (
        "ETH_BTC_1m.csv", "binance/BTCUSDT_1m.csv.gz", "binance/deep/X_1M.parquet", "PLAIN.csv", "A_2018.CSV",
    ):  # fmt: skip
        write(tmp_path / name, 3, 31 * 24 * HOUR_MS if "1M" in name else MINUTE_MS)
    for name in ("README.md", ".hidden_1m.csv", ".git/X_1m.csv", "sheet.xlsx", "_1m.txt", "broken.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("nothing")
    provider = await started(tmp_path)
    assert await symbols(provider) == ["A_2018", "ETH_BTC", "PLAIN", "binance/BTCUSDT", "binance/deep/X"]
    assert provider.capabilities.timeframes == (MINUTE, Timeframe(1, "mon"))


async def test_the_rows_show_the_timeframe_of_a_file_without_one_in_its_name(tmp_path: Path) -> None:
    write(tmp_path / "A.csv", 4, HOUR_MS)
    provider = await started(tmp_path)
    assert len((await provider.fetch(instrument("A"), HOUR, ALWAYS)).candles) == 4


async def test_one_symbol_may_have_a_file_of_each_timeframe(tmp_path: Path) -> None:
    write(tmp_path / "A_1m.csv", 3)
    write(tmp_path / "A.parquet", 5, HOUR_MS)
    provider = await started(tmp_path)
    assert await symbols(provider) == ["A"]
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 3
    assert len((await provider.fetch(instrument("A"), HOUR, ALWAYS)).candles) == 5
    with pytest.raises(Unsupported, match=r"no file of 1d candles of 'A', only of 1h, 1m"):
        await provider.fetch(instrument("A"), DAY, ALWAYS)


@settings(max_examples=60, deadline=None)
@given(since=st.integers(-30, 30), length=st.integers(0, 60), name=st.sampled_from(["A_1m.csv.gz", "A_1m.parquet"]))
async def test_a_page_vouches_from_the_first_row_to_the_end_of_the_last(
    since: int, length: int, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    write(folder / name, 20)
    provider = await started(folder)
    span = Span(START + since * MINUTE_MS + 1, START + (since + length) * MINUTE_MS + 1)
    page = await provider.fetch(instrument("A"), MINUTE, span)
    inside = span & Span(START, START + 20 * MINUTE_MS)
    expected = [t for t in range(START, START + 20 * MINUTE_MS, MINUTE_MS) if span.since <= t < span.until]
    assert times(page) == expected
    shown = (page.complete_from, page.complete_to)
    nothing = min(span.since, START + 20 * MINUTE_MS)  # the requested span is older, or newer than the last row
    assert shown == ((inside.since, inside.until) if inside else (nothing, nothing))


async def test_a_file_that_grows_vouches_for_no_row_that_is_still_forming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last row may be the bucket under way: it is shown, and asked for again once it is over."""
    write(tmp_path / "A_1m.csv", 5)
    provider = await started(tmp_path)
    set_clock(monkeypatch, lambda: START + 4 * MINUTE_MS + 30_000)
    page = await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    assert (len(page.candles), page.complete_to) == (5, START + 4 * MINUTE_MS)


async def test_the_last_day_ends_where_the_local_day_does(tmp_path: Path) -> None:
    text = "date,open,high,low,close\n2024-03-09,1,1,1,1\n2024-03-10,1,1,1,1\n"
    (tmp_path / "A_1d.csv").write_text(text)
    os.utime(tmp_path / "A_1d.csv", (0, 0))
    provider = await started(tmp_path, FILES_TIMEZONE="America/New_York")
    page = await provider.fetch(instrument("A"), DAY, ALWAYS)
    days = zone("America/New_York").open_of_day(page.candles.timestamp // (24 * HOUR_MS))
    assert times(page) == days.tolist()
    assert page.complete_to - times(page)[-1] == 23 * HOUR_MS
    assert [listing.timezone for listing in await provider.listings()] == ["America/New_York"]


async def test_a_long_answer_comes_in_pages_that_lose_and_repeat_nothing(tmp_path: Path) -> None:
    write(tmp_path / "A_1m.csv", 2 * MAX_ROWS + 5)
    provider = await started(tmp_path)
    found, since, sizes = [], 0, []
    while len((page := await provider.fetch(instrument("A"), MINUTE, Span(since, ALWAYS.until))).candles):
        found += times(page)
        sizes.append(len(page.candles))
        since = page.complete_to
    assert sizes == [MAX_ROWS, MAX_ROWS, 5]
    assert found == list(range(START, START + (2 * MAX_ROWS + 5) * MINUTE_MS, MINUTE_MS))


async def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "A_1m.csv", 3)
    provider = await started(tmp_path)
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 3
    write(path, 4, close=1.5)
    os.utime(path, ns=(1, 1))
    page = await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    assert page.candles.close.tolist() == [1.5] * 4
    assert page.complete_to == START + 4 * MINUTE_MS


async def test_a_file_that_did_not_change_is_read_once(tmp_path: Path, read: list[str]) -> None:
    write(tmp_path / "A.csv", 30)
    provider = await started(tmp_path)
    for _ in range(3):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
        await provider.listings()
    assert len(read) == 1


async def test_tables_are_let_go_when_they_take_too_much(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "CACHE_BYTES", 48 * 25)
    for name in "ABC":
        write(tmp_path / f"{name}_1m.csv", 100 if name == "C" else 10)
    provider = await started(tmp_path)
    for name in "ABABCCA":
        await provider.fetch(instrument(name), MINUTE, ALWAYS)
    assert [name[0] for name in read] == ["A", "B", "C", "A"]


async def test_a_new_file_is_found_without_a_restart(tmp_path: Path) -> None:
    provider = await started(tmp_path)
    assert provider.capabilities.timeframes == ()
    with pytest.raises(UnknownSymbol, match="There is no file of 'A'"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    write(tmp_path / "A_1m.csv", 3)
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 3


async def test_unknown_symbols_do_not_make_it_walk_the_folder_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, lambda: START)
    provider = await started(tmp_path)
    write(tmp_path / "A_1m.csv", 3)
    with pytest.raises(UnknownSymbol):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    set_clock(monkeypatch, lambda: START + 5_000)
    await provider.fetch(instrument("A"), MINUTE, ALWAYS)


async def test_a_file_that_is_gone_is_unavailable_until_it_is_missed(tmp_path: Path) -> None:
    path = write(tmp_path / "A_1m.csv", 3)
    provider = await started(tmp_path)
    path.unlink()
    with pytest.raises(ProviderRefused, match=r"^A_1m\.csv: No such file or directory$"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    assert await symbols(provider) == []
    with pytest.raises(UnknownSymbol):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)


@pytest.mark.parametrize("name", ["A_1m.csv", "A.csv"])
async def test_a_broken_file_is_unavailable_and_says_why(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 3)
    with path.open("a") as file:
        file.write(f"{START + 3 * MINUTE_MS},1,3,9,2,10\n")
    provider = await started(tmp_path)
    with pytest.raises(ProviderRefused, match=f"^{name}:5: low is above open, high or close "):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    write(path, 5)
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 5


async def test_a_file_that_came_to_hold_another_timeframe_is_not_mistaken(tmp_path: Path) -> None:
    path = write(tmp_path / "A.csv", 3)
    provider = await started(tmp_path)
    write(path, 3, HOUR_MS)
    with pytest.raises(ProviderUnavailable, match=r"A\.csv has changed: it holds 1h candles now"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    await provider.listings()
    assert len((await provider.fetch(instrument("A"), HOUR, ALWAYS)).candles) == 3


async def test_a_file_that_is_being_written_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "A_1m.csv", 3)
    provider = await started(tmp_path)
    monkeypatch.setattr(readings, "read_table", lambda *rest: (read_table(*rest), write(path, 9))[0])
    with pytest.raises(ProviderUnavailable, match=r"^A_1m\.csv: it is being written"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)


async def test_two_files_of_the_same_candles_are_not_chosen_between(tmp_path: Path) -> None:
    for name in ("A_1m.csv", "A_1m.parquet", "A.csv.gz", "A_1h.csv"):
        write(tmp_path / name, 3, HOUR_MS if "1h" in name else MINUTE_MS)
    provider = await started(tmp_path)
    with pytest.raises(ProviderRefused, match="hold 1m candles of 'A' both"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    assert len((await provider.fetch(instrument("A"), HOUR, ALWAYS)).candles) == 3


@pytest.mark.parametrize("symbol", ["../secret", "/etc/passwd", "in/../../secret", "", ".", "\0", "A_1m.csv"])
async def test_a_symbol_is_looked_up_and_never_a_path(tmp_path: Path, symbol: str) -> None:
    write(tmp_path / "secret_1m.csv", 3)
    write(tmp_path / "in/A_1m.csv", 3)
    provider = await started(tmp_path / "in")
    with pytest.raises(UnknownSymbol):
        await provider.fetch(instrument(symbol), MINUTE, ALWAYS)


async def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    secret = write(tmp_path / "out/secret_1m.csv", 3)
    inside = write(tmp_path / "in/A_1m.csv", 3)
    (tmp_path / "in/file_1m.csv").symlink_to(secret)
    (tmp_path / "in/folder").symlink_to(secret.parent)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/dangling_1m.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/alias_1m.csv").symlink_to(inside)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    provider = await started(tmp_path / "link")
    assert await symbols(provider) == ["A", "alias"]
    inside.unlink()
    inside.symlink_to(secret)
    with pytest.raises(ProviderRefused, match="leads out of FILES_DIR"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)


async def test_the_loop_goes_on_while_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "A_1m.csv", 3)
    provider = await started(tmp_path)
    begun, free = threading.Event(), threading.Event()
    monkeypatch.setattr(readings, "read_table", lambda *rest: (begun.set(), free.wait(HANG_S), read_table(*rest))[2])
    fetching = asyncio.create_task(provider.fetch(instrument("A"), MINUTE, ALWAYS))
    await eventually(begun.is_set)
    assert not fetching.done()
    free.set()
    assert len((await fetching).candles) == 3


async def test_many_readers_of_a_file_read_it_once(tmp_path: Path, read: list[str]) -> None:
    write(tmp_path / "A_1m.csv", 3)
    provider = await started(tmp_path)
    await asyncio.gather(*(provider.fetch(instrument("A"), MINUTE, ALWAYS) for _ in range(20)))
    assert len(read) == 1


async def test_a_folder_that_went_away_is_unavailable_and_not_empty(tmp_path: Path) -> None:
    write(tmp_path / "in/A_1m.csv", 3).unlink()
    provider = await started(tmp_path / "in")
    (tmp_path / "in").rmdir()
    with pytest.raises(ProviderUnavailable, match="FILES_DIR cannot be read"):
        await provider.listings()


async def test_a_new_file_is_read_once_it_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = write(tmp_path / "A_1m.csv", 3), LATER
    set_clock(monkeypatch, lambda: now)
    os.utime(path, ns=(now * 10**6, now * 10**6))
    provider = await started(tmp_path)
    now += 1_999
    with pytest.raises(ProviderUnavailable, match="it is being written"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    now += 1
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 3


@pytest.mark.parametrize(
    ("name", "step_ms", "shown"),
    [
        ("A_5y.csv", 24 * HOUR_MS, "1d"),
        ("A_30d.parquet", HOUR_MS, "1h"),
        ("A_1M.csv.gz", MINUTE_MS, "1m"),
        ("A_1m.tsv", HOUR_MS, "1h"),
        ("A_1m.txt", MINUTE_MS, "1m"),
        ("A_1m.pq", MINUTE_MS, "1m"),
        ("A_1m.csv", 7 * MINUTE_MS, "7m"),
    ],
)
async def test_rows_decide_where_the_name_says_another_timeframe(
    tmp_path: Path, name: str, step_ms: int, shown: str
) -> None:
    write(tmp_path / name, 40, step_ms)
    provider = await started(tmp_path)
    assert await symbols(provider) == ["A"]
    assert len((await provider.fetch(instrument("A"), Timeframe.parse(shown), ALWAYS)).candles) == 40
    assert await provider.inspect() is None


async def test_a_name_is_believed_where_some_rows_show_it(tmp_path: Path) -> None:
    """A symbol that seldom trades has few rows a minute apart."""
    lines = [f"{START + minute * MINUTE_MS},1,3,0.5,2,10" for minute in (0, 7, 14, 21, 22, 29, 36)]
    (tmp_path / "A_1m.csv").write_text("\n".join(["timestamp,open,high,low,close,volume", *lines, ""]))
    os.utime(tmp_path / "A_1m.csv", (0, 0))
    provider = await started(tmp_path)
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 7


async def test_every_file_that_cannot_be_served_is_listed_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "good_1m.csv", 3)
    write(tmp_path / "C.csv", 3)
    write(tmp_path / "C.parquet", 3)
    deep = write(tmp_path / "deep_1m.csv", 900)
    with deep.open("a") as file:
        file.write("1,2\n")
    for name in ("archive.zip", "sheet.xlsx", "broken.csv", "notes.txt", "cut_1m.parquet", "README.md"):
        (tmp_path / name).write_bytes(b"PAR1" if "cut" in name else b"nothing")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere")
    mixed = [START + n * 24 * HOUR_MS for n in range(9)] + [START + 9 * 24 * HOUR_MS + n * HOUR_MS for n in range(1, 9)]
    rows = "".join(f"{stamp},1,3,0.5,2,10\n" for stamp in mixed)
    (tmp_path / "mixed_5y.csv").write_text(f"timestamp,open,high,low,close,volume\n{rows}")
    long_ago(tmp_path)
    provider = await started(tmp_path)
    said = await provider.inspect()
    assert said is not None
    cut = "it is no Parquet file that can be read: parquet: File out of specification: A Parquet file must contain a header"
    assert said.splitlines() == [
        ("C.csv and C.parquet hold 1m candles of 'C' both: keep one of them, or join them by `candlegraph import`."),
        "archive.zip: it is no table of candles: it begins with 'nothing'." + TABLE,
        "broken.csv: it is no table of candles: it begins with 'nothing'." + TABLE,
        f"cut_1m.parquet: {cut} and footer with at least 12 bytes",
        "dangling.csv: it is a link to no file",
        "deep_1m.csv:902: it has fewer than 6 fields: '1,2'; --skip-bad-rows 1 leaves it out",
        (
            "mixed_5y.csv: it holds two timeframes: it begins with 9 rows that are 1d apart and more, the others are of 1h. Import "
            "the two in files of their own; if the symbol seldom trades, add --sparse (each row stands for itself) or --covers "
            "(the file is whole)"
        ),
        "notes.txt: it is no table of candles: it begins with 'nothing'." + TABLE,
        f"sheet.xlsx: {folder._KINDS}",
    ]
    assert len(caplog.records) == 10
    await provider.listings()
    assert await provider.inspect() == said
    assert len(caplog.records) == 10
    for number in range(4):
        (tmp_path / f"more{number}.zip").write_bytes(b"")
    assert (await provider.inspect() or "").endswith("\nand 3 more files that cannot be served")


async def test_every_query_of_a_duplicate_gets_the_reason(tmp_path: Path) -> None:
    for name in ("A.csv", "A.parquet"):
        write(tmp_path / name, 3)
    provider = await started(tmp_path)
    assert await symbols(provider) == ["A"]
    assert provider.capabilities.timeframes == (MINUTE,)
    with pytest.raises(ProviderRefused, match="hold 1m candles of 'A' both"):
        await provider.fetch(instrument("A"), MINUTE, ALWAYS)


async def test_a_file_may_begin_before_1970(tmp_path: Path) -> None:
    """The requested span is as old as a Timestamp can be."""
    write(tmp_path / "IBM_1d.csv", 20_000, 24 * HOUR_MS, start=-2_921 * 24 * HOUR_MS)
    provider = await started(tmp_path)
    assert provider.capabilities.earliest_ms == clock.OLDEST_MS
    page = await provider.fetch(instrument("IBM"), DAY, Span(-3 * 24 * HOUR_MS, 3 * 24 * HOUR_MS))
    assert times(page) == [day * 24 * HOUR_MS for day in range(-3, 3)]
    assert (page.complete_from, page.complete_to) == (-3 * 24 * HOUR_MS, 3 * 24 * HOUR_MS)


async def test_a_folder_within_that_cannot_be_read_is_named_and_the_rest_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are not gone: what is stored of them stays."""
    write(tmp_path / "A_1m.csv", 3)
    write(tmp_path / "in/B_1m.csv", 3)
    provider = await started(tmp_path)
    b = instrument("in/B")
    stored = await provider.revision(b, MINUTE, None)
    scan = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name in {"in", "lost+found"}:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    (tmp_path / "lost+found").mkdir()
    (tmp_path / "in/B_1m.csv").rename(tmp_path / "B_1m.csv.away")  # that nothing of it can be looked at
    monkeypatch.setattr(os, "scandir", scandir)
    assert await symbols(provider) == ["A", "in/B"]
    assert len((await provider.fetch(instrument("A"), MINUTE, ALWAYS)).candles) == 3
    assert await provider.inspect() == "in/: the folder cannot be read: Permission denied"
    assert [record.message for record in caplog.records] == [
        "FILES_DIR: in/ cannot be served: in/: the folder cannot be read: Permission denied"
    ]
    for _ in range(3):
        assert await provider.revision(b, MINUTE, stored) == stored
    with pytest.raises(ProviderRefused, match="in/: the folder cannot be read"):
        await provider.fetch(b, MINUTE, ALWAYS)


async def test_a_symbol_whose_one_file_breaks_stays_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "A.csv", 3)
    provider = await started(tmp_path)
    path.write_text("nothing")
    long_ago(tmp_path)
    provider._snapshots.clear()  # as after a restart: no good state is served
    assert await symbols(provider) == ["A"]
    with pytest.raises(ProviderRefused, match=r"A\.csv: it is no table"):
        await provider.fetch(instrument("A"), HOUR, ALWAYS)


async def test_a_question_about_a_file_that_is_gone_does_not_look_through_the_folder_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A_1m.csv", "B.csv"):
        write(tmp_path / name, 3)
    provider = await started(tmp_path)
    known = {name: await provider.revision(instrument(name), MINUTE, None) for name in "AB"}
    now = LATER
    set_clock(monkeypatch, lambda: now)
    (tmp_path / "A_1m.csv").unlink()
    (tmp_path / "B.csv").write_text("nothing")
    long_ago(tmp_path)
    provider._snapshots.clear()
    await provider.listings()
    scans: list[Path] = []
    monkeypatch.setattr(
        files_provider, "catalog", lambda root, *rest: (scans.append(root), folder.catalog(root, *rest))[1]
    )
    for _ in range(5):
        for name in "AB":
            assert await provider.revision(instrument(name), MINUTE, known[name]) == known[name]
    assert scans == []
    now += 2_000
    for _ in range(5):
        assert await provider.revision(instrument("A"), MINUTE, known["A"]) is None
    assert len(scans) == 1


async def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"A{number}.csv", 3)
        write(tmp_path / f"B{number}.csv", 3).write_text("nothing")
    long_ago(tmp_path)
    provider = await started(tmp_path)
    for number in range(5):
        await provider.fetch(instrument(f"A{number}"), MINUTE, ALWAYS)
    for number in range(5):
        for letter in "AB":
            (tmp_path / f"{letter}{number}.csv").unlink()
    await provider.listings()
    known = provider._snapshots
    assert not any([provider._held, known._seen, known._refused, known._lineages, known._continued])
    assert len(known._kept) == 5, "they may be replaced"
    for _ in range(3):
        await provider.revision(instrument("A0"), MINUTE, None)
    assert not known._kept


async def test_callers_that_leave_start_no_second_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "A_1m.csv", 3)
    write(tmp_path / "B_1m.csv", 3)
    provider = await started(tmp_path)
    free, running, most = threading.Event(), [0], [0]

    def slow(*rest: object) -> Table:
        running[0] += 1
        most[0] = max(most[0], running[0])
        free.wait(HANG_S)
        running[0] -= 1
        return read_table(*rest)  # type: ignore[arg-type]

    monkeypatch.setattr(readings, "read_table", slow)
    first = asyncio.create_task(provider.fetch(instrument("A"), MINUTE, ALWAYS))
    await eventually(lambda: running[0])
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(provider.fetch(instrument("B"), MINUTE, ALWAYS))
    await eventually(lambda: provider._reading._waiters or running[0] > 1)
    free.set()
    assert len((await second).candles) == 3
    assert most[0] == 1


async def test_a_file_that_comes_to_hold_a_second_timeframe_is_refused_as_after_a_restart(tmp_path: Path) -> None:
    path = write(tmp_path / "A_1m.csv", 300)
    provider = await started(tmp_path)
    await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    hour = START + 5 * HOUR_MS
    for number in range(12):
        with path.open("a") as file:
            file.write(f"{hour + number * HOUR_MS},1,3,0.5,2,10\n")
        os.utime(path, ns=(number, number))
        page = await provider.fetch(instrument("A"), MINUTE, ALWAYS)
    assert len(page.candles) < 312
    assert "A_1m.csv: it holds two timeframes" in str(await provider.inspect())
