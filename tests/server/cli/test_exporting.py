"""`candlegraph export`: what it writes, what it says on the way, and how it refuses."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.server.cli.test_cli import is_one_line
from tests.server.running import COMMAND, environment, run
from tests.waiting import HANG_S

T0 = 1_735_689_600_000 - 100 * 60_000  # a hundred minutes before 2025
MINUTE_MS = 60_000
Row = tuple[float, ...]


def minutes(count: int, since: int = T0, price: float = 100.0) -> list[Row]:
    """Candles of a minute each."""
    prices = [price + n % 7 for n in range(count)]
    return [(since + n * MINUTE_MS, at, at + 1, at - 1, at + 0.5, 2.5) for n, at in enumerate(prices)]


HOLED = minutes(1_000) + minutes(1_000, T0 + 2_000 * MINUTE_MS)


@pytest.fixture(scope="module")
async def setting(new_database: Callable[..., object], migrated_template: str) -> dict[str, str]:
    """The database of all commands."""
    return {"DB_CONNECTION_STRING": str(await new_database(migrated_template))}


Export = Callable[..., subprocess.CompletedProcess[str]]
Store = Callable[[dict[str, list[Row]]], None]


@pytest.fixture(scope="module")
def store(setting: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Import rows of several symbols."""

    def store(rows: dict[str, list[Row]]) -> None:
        folder, imports = tmp_path_factory.mktemp("rows"), []
        for number, symbol in enumerate(rows):
            with (file := folder / f"{number}.csv").open("w", newline="") as opened:
                csv.writer(opened).writerows([["timestamp", "open", "high", "low", "close", "volume"], *rows[symbol]])
            name = ["--market", "lab", "--provider", "bench", "--symbol", symbol, "--timeframe", "1m"]
            imports.append([str(file), *name, "--sparse"])
        done = subprocess.run(
            [sys.executable, "-m", "tests.clients.imports"],
            env=environment(**setting),
            input=json.dumps(imports),
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return store


@pytest.fixture(scope="module")
def export(setting: dict[str, str], store: Store) -> Export:
    """Run the command over a database with some symbols."""
    rows = minutes(200)
    store({"FILE": HOLED, "A/1": rows, "A/2": rows[:50], "LONG": minutes(5_000)})
    return lambda pattern, target, *options: run("export", "lab", "bench", pattern, str(target), *options, **setting)


def wrote(result: subprocess.CompletedProcess[str]) -> str:
    """What a command that went well has printed."""
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl"])
def test_a_file_holds_the_candles_and_its_sidecar_what_is_missing(export: Export, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"file.{kind}"
    result = export("FILE", target)
    assert wrote(result) == f"Wrote 2,000 candles of 1 series into 1 files of {target}."
    assert result.stderr.startswith("FILE: missing 2025-01-01T15:00:00Z .. 2025-01-02T07:40:00Z NOT_FETCHED: ")
    readers = {"parquet": pl.read_parquet, "arrow": pl.read_ipc_stream, "csv": pl.read_csv, "jsonl": pl.read_ndjson}
    frame = readers[kind](target)  # type: ignore[operator]
    assert frame.with_columns(pl.col("timestamp").cast(pl.Int64)).rows() == HOLED
    about = json.loads((tmp_path / f"file.{kind}.json").read_text())
    assert (about["symbol"], about["complete"], about["gapCount"], about["since"]) == ("FILE", False, 1, T0)
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_is_brought_up_to_date_by_what_changed(export: Export, store: Store, tmp_path: Path) -> None:
    target = ("A/*", tmp_path / "out", "--folder", "--format", "csv")
    assert wrote(export(*target)) == f"Wrote 250 candles of 2 series into 3 files of {tmp_path / 'out'}."
    years = tmp_path / "out" / "lab" / "bench" / "A%2F1" / "1m"
    assert sorted(path.name for path in years.iterdir()) == ["2024.csv", "2025.csv", "candlegraph.json"]
    assert wrote(export(*target)).startswith("Wrote 0 candles of 2 series into 0 files")
    store({"A/1": minutes(1, T0 + 3 * MINUTE_MS, price=500.0), "A/2": minutes(200)[50:60]})
    assert wrote(export(*target)).startswith("Wrote 160 candles of 2 series into 2 files")
    assert pl.read_csv(years / "2024.csv")["open"][3] == 500.0
    about = json.loads((years / "candlegraph.json").read_text())
    assert about["revision"] != "0"
    (years / "candlegraph.json").write_text(json.dumps(about | {"serverId": "another"}))
    is_one_line(export(*target), 1, "another server", "choose another folder")


def test_a_bar_shows_the_progress_on_a_terminal(setting: dict[str, str], export: Export, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "export", "lab", "bench", "A/1", str(tmp_path / "bar.csv")]
    done = subprocess.run(
        command, env=environment(**setting, TERM="xterm"), stderr=theirs, stdout=subprocess.DEVNULL, check=False
    )
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "exporting A/1" in shown
    assert "100%" in shown


@pytest.mark.parametrize(
    ("pattern", "target", "options", "words"),
    [
        ("NOPE*", "out.csv", (), ("Nothing is stored", "NOPE*")),
        ("A/1", "out.csv", ("--since", "2025-01-02T00:00Z", "--until", "2025-01-01T00:00Z"), ("swap them",)),
        ("A/1", "out.csv", ("--timezone", "Mars/Olympus"), ("Mars/Olympus",)),
        ("A/1", "rows.csv/out.csv", (), ("cannot be written",)),
    ],
    ids=["no symbol", "swapped", "no zone", "no folder"],
)
def test_what_cannot_be_exported_is_one_line(
    export: Export, tmp_path: Path, pattern: str, target: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "rows.csv").touch()
    is_one_line(export(pattern, tmp_path / target, *options), 1, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_target_without_a_format_is_a_mistake_of_usage(export: Export, tmp_path: Path) -> None:
    result = export("*", tmp_path / "out.xlsx")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error: Name the --format" in result.stderr


def test_ctrl_c_leaves_no_file(setting: dict[str, str], export: Export, tmp_path: Path) -> None:
    """The file is written into a pipe that is not read on, so that it is certain to be half-way."""
    target, part = tmp_path / "long.csv", tmp_path / ".long.csv.part"
    os.mkfifo(part)
    command = [*COMMAND, "export", "lab", "bench", "LONG", str(target)]
    process = subprocess.Popen(command, env=environment(**setting))
    with part.open("rb", buffering=0) as reader:
        assert reader.read(9) == b"timestamp"
        process.send_signal(signal.SIGINT)
    assert process.wait(HANG_S) == 130
    assert list(tmp_path.iterdir()) == []
