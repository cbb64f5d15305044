"""`candlegraph export` into a file and into a folder that is kept up to date."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from candlegraph.errors import BadUserInput
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from history.export import ExportRequest, open_export
from history.orchestrator import History
from server.export.files import FileExport, encode_name
from storage.batches import CandleWrite
from storage.database import Database
from tests.fakes.upstream import FakeProviders
from tests.server.export.test_export import MINUTE_MS, T0, candles

YEAR_END = 1_735_689_600_000  # 2025-01-01
FIRST = YEAR_END - 500 * MINUTE_MS


@pytest.fixture
async def history(database: Database) -> AsyncIterator[History]:
    history = History.create(database, FakeProviders([]))
    yield history
    await history.close()


async def store(history: History, rows: Any, *covered: Span, symbol: str = "BTC/USDT") -> None:
    record = await history.instruments.get_or_create(Instrument("x", "imp", symbol), "UTC")
    spans = covered or (Span(int(rows.timestamp[0]), int(rows.timestamp[-1]) + MINUTE_MS),)
    await history.store.write([CandleWrite(record.id, MINUTE, rows, Spans(spans), "i")])


def stamps(folder: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


async def update(history: History, folder: Path, server: str = "one", timeframe: str = "1m") -> list[str]:
    """Update a folder; the names of the files that were written."""
    before = stamps(folder)
    exports = await open_export(history, ExportRequest("x", "imp", Timeframe.parse(timeframe), pattern="*"))
    await FileExport(history, server, "parquet", lambda *_: None).write_folder(exports, folder)
    return sorted(str(path.relative_to(folder)) for path, at in stamps(folder).items() if before.get(path) != at)


def read(folder: Path) -> list[tuple[Any, ...]]:
    files = sorted((folder / "x" / "imp" / "BTC%2FUSDT" / "1m").glob("*.parquet"))
    return [
        row for path in files for row in pl.read_parquet(path).with_columns(pl.col("timestamp").cast(pl.Int64)).rows()
    ]


async def test_a_folder_is_kept_up_to_date_by_what_changed(history: History, tmp_path: Path) -> None:
    rows = candles(2_000, FIRST)
    await store(history, rows[:1_000])
    at = "x/imp/BTC%2FUSDT/1m"
    assert await update(history, tmp_path) == [f"{at}/2024.parquet", f"{at}/2025.parquet"]
    assert read(tmp_path) == list(zip(*(column.tolist() for column in rows[:1_000].columns[:6]), strict=True))
    assert await update(history, tmp_path) == []
    await store(history, rows[1_000:])
    assert await update(history, tmp_path) == [f"{at}/2025.parquet"]
    raised = replace(rows[10:11], high=rows.high[10:11] + 1)
    await store(history, raised)
    assert await update(history, tmp_path) == [f"{at}/2024.parquet"]
    assert read(tmp_path)[10][2] == raised.high[0]
    assert len(read(tmp_path)) == 2_000
    about = json.loads((tmp_path / at / "candlegraph.json").read_text())
    assert (about["symbol"], about["complete"], about["since"]) == ("BTC/USDT", True, FIRST)


async def test_an_export_that_was_killed_is_made_up_for(history: History, tmp_path: Path) -> None:
    """The sidecar is written last: where it is old, the years are written again."""
    rows = candles(2_000, FIRST)
    await store(history, rows[:1_000])
    await update(history, tmp_path)
    at = tmp_path / "x" / "imp" / "BTC%2FUSDT" / "1m"
    old = (at / "candlegraph.json").read_bytes()
    await store(history, rows[1_000:])
    await update(history, tmp_path)
    (at / "candlegraph.json").write_bytes(old)
    (at / ".2025.parquet.part").write_bytes(b"half")
    assert await update(history, tmp_path) == ["x/imp/BTC%2FUSDT/1m/2025.parquet"]
    assert len(read(tmp_path)) == 2_000
    assert not list(at.glob("*.part"))


async def test_a_folder_of_another_server_or_of_something_else_is_left_alone(history: History, tmp_path: Path) -> None:
    await store(history, candles(100))
    await update(history, tmp_path)
    with pytest.raises(BadUserInput, match="another server"):
        await update(history, tmp_path, server="two")
    (tmp_path / "x" / "imp" / "BTC%2FUSDT" / "1m" / "candlegraph.json").write_text("[]")
    with pytest.raises(BadUserInput, match="no sidecar"):
        await update(history, tmp_path)


async def test_one_file_holds_all_symbols_and_its_sidecar_says_what_is_missing(
    history: History, tmp_path: Path
) -> None:
    rows = candles(200)
    hole = Span(T0 + 100 * MINUTE_MS, T0 + 110 * MINUTE_MS)
    await store(history, rows, Span(T0, hole.since), Span(hole.until, T0 + 200 * MINUTE_MS))
    await store(history, rows, symbol="B")
    exports = await open_export(history, ExportRequest("x", "imp", MINUTE, pattern="*"))
    count = await FileExport(history, "one", "csv", lambda *_: None).write_file(exports, tmp_path / "all.csv")
    frame = pl.read_csv(tmp_path / "all.csv")
    assert frame["symbol"].unique().sort().to_list() == ["B", "BTC/USDT"]
    assert count == len(frame)
    about = {one["symbol"]: one for one in json.loads((tmp_path / "all.csv.json").read_text())}
    assert about["BTC/USDT"]["gaps"][0]["since"] == hole.since
    assert about["B"]["complete"]


@pytest.mark.parametrize(
    ("name", "encoded"),
    [("BTC/USDT", "BTC%2FUSDT"), ("..", "%2E%2E"), (".", "%2E"), ("a b\\c", "a%20b%5Cc"), ("BRK.B", "BRK.B")],
)
def test_no_name_leaves_its_folder(name: str, encoded: str) -> None:
    assert encode_name(name) == encoded
