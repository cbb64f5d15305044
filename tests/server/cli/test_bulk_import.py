"""Many files are imported by one command: each as a whole or not at all, and again only what is missing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from candlegraph.errors import InvalidCandles
from server.cli.bulk_import import ImportFile, Into, import_many, sources_of
from server.cli.import_options import ImportOptions
from server.cli.importing import import_candles
from server.settings import Settings
from tests.server.cli.test_cli import Command
from tests.server.cli.test_importing import T0, here

__all__ = ["here"]  # a fixture
LAB = ("--market", "lab", "--provider", "bench")
MINUTE_MS = 60_000


def binance(count: int, start: int = T0, price: float = 100.0) -> str:
    """Rows as Binance Vision has them."""
    rows = []
    for n in range(count):
        stamp, first = start + n * MINUTE_MS, price + n
        rows.append(f"{stamp},{first},{first + 2},{first - 1},{first + 1},5,{stamp + 59_999},7,1,1,1,0\n")
    return "".join(rows)


def stored(here: Command, symbol: str) -> list[dict[str, float]]:
    result = here("candles", "lab", "bench", symbol, "--since", str(T0), "--limit", "500", "--format", "json")
    assert result.returncode == 0, result.stderr
    found: list[dict[str, float]] = json.loads(result.stdout)
    return found


def test_a_folder_is_imported_and_again_only_what_is_missing(here: Command, tmp_path: Path) -> None:
    folder = tmp_path / "candles"
    (folder / "deep").mkdir(parents=True)
    with zipfile.ZipFile(folder / "AAAUSDT-1m-2024-05.zip", "w") as archive:
        archive.writestr("AAAUSDT-1m-2024-05.csv", binance(20))
    (folder / "AAAUSDT-1m-2024-06.csv").write_text(binance(20, T0 + 20 * MINUTE_MS, 120))
    (folder / "deep" / "BBBUSDT-1m-2024-05.csv").write_text(binance(10))
    (folder / "deep" / "broken_1m.csv").write_text("nothing")
    (folder / "_SUCCESS").write_text("")
    first = here("import", str(folder), *LAB)
    assert first.returncode == 1
    assert first.stdout.splitlines()[-1] == "Imported 3 files: 50 candles of 2 symbols, 1 was refused."
    assert first.stderr.splitlines()[-1].startswith("candlegraph: broken_1m.csv: it is no table of candles")
    assert [row["timestamp"] for row in stored(here, "AAAUSDT")] == [T0 + n * MINUTE_MS for n in range(40)]
    assert len(stored(here, "BBBUSDT")) == 10
    (folder / "deep" / "broken_1m.csv").write_text(binance(7))
    again = here("import", str(folder), *LAB)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "Imported 1 file: 7 candles of 3 symbols, 3 were imported before."
    (folder / "deep" / "BBBUSDT-1m-2024-05.csv").write_text(binance(10, price=200))
    corrected = here("import", str(folder / "deep" / "B*.csv"), *LAB)
    assert corrected.stdout.splitlines()[-1] == "Imported 1 file: 10 candles of 1 symbol."
    assert stored(here, "BBBUSDT")[0]["open"] == 200


FLAT = "ticker,volume,open,close,high,low,window_start,transactions\n"


def flat_file(symbols: int, bad: bool = False) -> str:
    rows = [
        f"S{name},{n + 1},{100 + n},{101 + n},{102 + n},{99 - bad * (name == 1) * -900},{(T0 + n * MINUTE_MS) * 10**6},3\n"
        for n in range(4)
        for name in range(symbols)
    ]
    return FLAT + "".join(rows)


def test_the_symbols_of_a_column_are_imported_in_one_transaction(here: Command, tmp_path: Path) -> None:
    file = tmp_path / "2024-05-01.csv"
    file.write_text(flat_file(3))
    refused = here("import", str(file), *LAB, "--symbol", "X")
    assert refused.returncode == 1
    assert (
        "3 symbols, 'S0', 'S1', 'S2': take one of them with --only, or all with --symbol-from column" in refused.stderr
    )
    file.write_text(flat_file(3, bad=True))
    assert here("import", str(file), *LAB, "--symbol-from", "column").returncode == 1
    assert here("candles", "lab", "bench", "S0").returncode == 1
    file.write_text(flat_file(3))
    result = here("import", str(file), *LAB, "--symbol-from", "column")
    assert result.stdout.splitlines()[-1] == "Imported 1 file: 12 candles of 3 symbols.", result.stderr
    assert [row["volume"] for row in stored(here, "S2")] == [1, 2, 3, 4]


def test_a_dry_run_of_a_folder_stores_nothing(here: Command, tmp_path: Path) -> None:
    (tmp_path / "DRYUSDT-1m-2024-05.csv").write_text(binance(20))
    result = here("import", str(tmp_path / "*.csv"), *LAB, "--dry-run")
    assert result.stdout.splitlines()[-1] == "Would import 1 file: 20 candles of 1 symbol."
    assert "Columns: time column 1, open column 2" in result.stdout
    assert here("candles", "lab", "bench", "DRYUSDT").returncode == 1


def test_all_files_of_a_folder_may_be_of_one_symbol(here: Command, tmp_path: Path) -> None:
    folder = tmp_path / "spark"
    folder.mkdir()
    header = "timestamp,open,high,low,close,volume\n"
    for part in range(3):
        rows = [f"{T0 + (part * 5 + n) * MINUTE_MS},1,3,0.5,2,{part}\n" for n in range(5)]
        (folder / f"part-0000{part}-8f1e-c000.csv").write_text(header + "".join(rows))
    result = here("import", str(folder), *LAB, "--symbol", "ONE")
    assert result.stdout.splitlines()[-1] == "Imported 3 files: 15 candles of 1 symbol.", result.stderr
    assert len(stored(here, "ONE")) == 15


async def imported(dsn: str, paths: Sequence[Path], into: Into) -> tuple[list[str], list[str]]:
    """Import in this process; the lines on stdout, and the refusals."""
    lines: tuple[list[str], list[str]] = ([], [])
    settings = Settings.read(db_connection_string=SecretStr(dsn), redis_url=None)
    sources = sources_of([str(path) for path in paths])
    is_whole = await import_many(settings, sources, into, ImportOptions(), lambda line, no: lines[no].append(line))
    assert is_whole is not bool(lines[1])
    return lines


async def series_of(dsn: str) -> dict[tuple[str, str], list[float]]:
    """The closes of each stored symbol and timeframe."""
    connection = await asyncpg.connect(dsn)
    found = await connection.fetch(
        """select symbol, timeframe, array_agg(close order by "timestamp") as closes
           from ohlcv_data join instruments on instruments.id = instrument_id group by 1, 2"""
    )
    await connection.close()
    return {(row["symbol"], row["timeframe"]): row["closes"] for row in found}


def table_of(step_ms: int, close: float, count: int = 6) -> str:
    rows = [f"{T0 + n * step_ms},1,{close + 9},0.5,{close + n},3\n" for n in range(count)]
    return "timestamp,open,high,low,close,volume\n" + "".join(rows)


async def test_symbols_and_timeframes_of_names_are_not_mixed(database_dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    (folder / "aapl").mkdir(parents=True)
    (folder / "X_1m.csv").write_text(table_of(MINUTE_MS, 10))
    (folder / "X_1d.csv").write_text(table_of(1440 * MINUTE_MS, 20))
    (folder / "A_1d.csv").write_text(table_of(1440 * MINUTE_MS, 30))
    (folder / "A_5y.csv").write_text(table_of(1440 * MINUTE_MS, 40))
    lean = [f"{34_200_000 + n * MINUTE_MS},50000,90000,40000,{60_000 + 10_000 * n},1\n" for n in range(3)]
    (folder / "aapl" / "20240501_trade.csv").write_text("".join(lean))
    lines, refused = await imported(database_dsn, [folder], Into("lab", "bench"))
    assert refused == []
    assert lines[-1] == "Imported 5 files: 27 candles of 3 symbols."
    assert await series_of(database_dsn) == {
        ("X", "1m"): [10, 11, 12, 13, 14, 15],
        ("X", "1d"): [20, 21, 22, 23, 24, 25],
        ("A", "1d"): [40, 41, 42, 43, 44, 45],
        ("aapl", "1m"): [6, 7, 8],
    }


TICKERS = """Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume
Ticker,AAPL,MSFT,AAPL,MSFT,AAPL,MSFT,AAPL,MSFT,AAPL,MSFT
Date,,,,,,,,,,
"""


async def test_each_ticker_of_a_header_becomes_a_symbol(database_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "two.csv"
    rows = [f"2024-01-0{n},{n + 10},{n + 50},99,99,1,1,5,6,{n},{n + 2}\n" for n in range(2, 6)]
    file.write_text(TICKERS + "".join(rows[:3]) + rows[3].replace("99,99", "99,9"))
    lines, refused = await imported(database_dsn, [file], Into("lab", "bench", symbol_from="column"))
    assert "MSFT" not in lines[-1]
    assert "two.csv:7: " in refused[0]
    assert await series_of(database_dsn) == {}
    file.write_text(TICKERS + "".join(rows))
    lines, refused = await imported(database_dsn, [file], Into("lab", "bench", symbol_from="column"))
    assert (refused, lines[-1]) == ([], "Imported 1 file: 8 candles of 2 symbols.")
    assert await series_of(database_dsn) == {("AAPL", "1d"): [12, 13, 14, 15], ("MSFT", "1d"): [52, 53, 54, 55]}


async def test_a_row_that_names_no_symbol_is_refused(database_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    file.write_text(flat_file(2) + f",1,1,2,3,0,{(T0 + 9 * MINUTE_MS) * 10**6},3\n")
    _, refused = await imported(database_dsn, [file], Into("lab", "bench", symbol_from="column"))
    assert refused[0].startswith("some.csv:10: it names no symbol")
    assert await series_of(database_dsn) == {}


async def test_a_refused_file_has_at_most_ten_lines(database_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    header = "#\nunix,date,symbol,open,high,low,close,Volume X,Volume Y\n"
    bad = [f"{T0 + n * MINUTE_MS},x,A,2,1,{n},2,1,1\n{header[2:]}{T0 + n * MINUTE_MS},x,A,,,,,1,1\n" for n in range(40)]
    file.write_text(header + "".join(bad))
    settings = Settings.read(db_connection_string=SecretStr(database_dsn), redis_url=None)
    with pytest.raises(InvalidCandles) as caught:
        await import_candles(settings, file, ("lab", "bench", "MANY"))
    _, refused = await imported(database_dsn, [file], Into("lab", "bench"))
    for lines in (caught.value.message.splitlines(), refused):
        assert 7 <= len(lines) <= 10
        assert lines[0].startswith("many.csv:")
        assert "--skip-bad-rows" in lines[0]


async def test_without_a_volume_the_symbol_has_none_until_a_file_has_one(database_dsn: str, tmp_path: Path) -> None:
    settings = Settings.read(db_connection_string=SecretStr(database_dsn), redis_url=None)
    file, rows = tmp_path / "FX_1m.csv", [f"{T0 + n * MINUTE_MS},1,3,0.5,2" for n in range(5)]
    known = []
    for volume in ("-", "7", "-1"):
        file.write_text("\n".join(["time,open,high,low,close,volume", *(f"{row},{volume}" for row in rows), ""]))
        said = await import_candles(settings, file, ("lab", "bench", "FX"))
        assert ("Volume: unknown" in said) is (volume != "7")
        connection = await asyncpg.connect(database_dsn)
        known.append(await connection.fetchval("select has_volume from instruments where symbol = 'FX'"))
        await connection.close()
    assert known == [False, True, True]


@pytest.mark.parametrize(
    ("market", "name", "symbol"),
    [
        ("crypto", "BTCUSDT-1m-2024-01.csv", "BTC/USDT"),
        ("lab", "BTCUSDT-1m-2024-01.csv", "BTCUSDT"),
        ("crypto", "XBTUSD_60.csv", "BTC/USD"),
        ("crypto", "my own name.csv", "my own name"),
    ],
)
def test_names_of_files_become_the_symbols_of_their_market(market: str, name: str, symbol: str) -> None:
    assert Into(market, "binance").target(ImportFile(Path("folder", name))).symbol == symbol


def test_only_tables_of_a_folder_are_taken_and_each_member_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("X_1m.csv", "deep/Y_1m.csv", "__MACOSX/X_1m.csv", "read me.md"):
            archive.writestr(name, "x")
    for name in ("b.csv.xz", ".hidden.csv", "picture.png", "c.pq"):
        (tmp_path / name).write_text("x")
    assert [source.name for source in sources_of([str(tmp_path)])] == [
        "a.zip/X_1m.csv",
        "a.zip/deep/Y_1m.csv",
        "b.csv.xz",
        "c.pq",
    ]
