"""The commands: what they print goes to stdout, what is wrong is one line on stderr, and the exit code says which."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schema.build import build_schema
from storage.embedded.socket import running_clusters
from tests.server.running import run, serving

FROM, UNTIL = "2024-05-01T00:00:00Z", "2024-05-01T00:05:00Z"
HEADER = ["timestamp", "time", "open", "high", "low", "close", "volume", "closed"]


@pytest.fixture(scope="module")
async def cli(
    new_database: Callable[..., object], migrated_template: str
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command over a database of its own."""
    dsn = str(await new_database(migrated_template))

    def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, **{"DB_CONNECTION_STRING": dsn, **variables})

    return command


Command = Callable[..., subprocess.CompletedProcess[str]]


def is_one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """An error is one line on stderr."""
    assert result.returncode == code, result.stdout + result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("candlegraph: ")
    assert all(word in line for word in words), line


def test_the_schema_is_printed_without_a_database() -> None:
    result = run("schema", DB_CONNECTION_STRING="postgresql://nobody@127.0.0.1:1/none")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == build_schema().as_str() + "\n"


def test_help_and_version_need_nothing() -> None:
    assert "serve" in run("--help").stdout
    assert run("--version").stdout.startswith("candlegraph, version ")
    assert run("nonsense").returncode == 2


def test_the_providers_are_listed(cli: Command) -> None:
    result = cli("providers")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == [
        "market",
        "provider",
        "state",
        "version",
        "live",
        "calls",
        "timeframes",
        "description",
        "last",
        "error",
    ]
    assert ["demo", "synthetic", "READY", "1", "STREAM", "0"] in [line[:6] for line in lines]
    fewer = cli("providers", PROVIDERS_DISABLED="demo.synthetic, crypto.kraken").stdout
    assert "binance" in fewer
    assert not any(name in fewer for name in ("synthetic", "kraken"))


def test_files_that_cannot_be_served_are_listed_with_the_reason(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "A.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "B.csv").write_text("nothing")
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert cli("providers", FILES_DIR=str(tmp_path)).stdout.splitlines()[-2:] == [
        "files/files: A.zip: the zip file is damaged",
        (
            "files/files: B.csv: it is no table of candles: it begins with 'nothing'. A table has rows of a time and four "
            "prices, separated by a comma, semicolon, tab or |"
        ),
    ]


def test_disabling_an_unknown_provider_is_one_line(cli: Command) -> None:
    is_one_line(cli("providers", PROVIDERS_DISABLED="crypto.krakn"), 2, "PROVIDERS_DISABLED", "crypto.kraken")


def test_candles_in_three_formats_are_the_same(cli: Command) -> None:
    ask = ("candles", "demo", "synthetic", "BTC/USD", "--since", FROM, "--until", UNTIL, "--format")
    as_csv, as_json, as_table = (cli(*ask, style) for style in ("csv", "json", "table"))
    assert [one.returncode for one in (as_csv, as_json, as_table)] == [0, 0, 0]
    assert as_csv.stderr == as_json.stderr == as_table.stderr == ""
    names, *rows = csv.reader(io.StringIO(as_csv.stdout))
    assert names == HEADER
    objects = json.loads(as_json.stdout)
    assert [list(map(str, one.values())) for one in objects] == rows
    assert [one["time"] for one in objects] == [f"2024-05-01T00:0{i}:00Z" for i in range(5)]
    assert all(one["closed"] is True for one in objects)
    lines = as_table.stdout.splitlines()
    assert lines[0].split() == HEADER[1:]
    assert [line.split() for line in lines[1:]] == [row[1:] for row in rows]


def test_milliseconds_and_iso_are_one_instant(cli: Command) -> None:
    ask = ("candles", "demo", "synthetic", "BTC/USD", "--timeframe", "5min", "--format", "json", "--since")
    assert cli(*ask, FROM, "--limit", "1").stdout == cli(*ask, "1714521600000", "--limit", "1").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demo", "synthetic", "NOPE"), ["no symbol 'NOPE'"]),
        (("demo", "synthetic", "BTC/USD", "--since", "1714521600"), ["looks like seconds"]),
        (("demo", "synthetic", "BTC/USD", "--since", "9" * 5000), ["milliseconds"]),
        (("demo", "synthetic", "BTC/USD", "--since", UNTIL, "--until", FROM), ["swap them"]),
    ],
)
def test_a_wrong_request_is_one_line(cli: Command, arguments: tuple[str, ...], words: list[str]) -> None:
    is_one_line(cli("candles", *arguments), 1, *words)


async def test_migrate_brings_an_empty_database_up_to_date_and_may_be_repeated(
    new_database: Callable[..., object],
) -> None:
    dsn = str(await new_database())
    for _ in range(2):
        result = run("migrate", DB_CONNECTION_STRING=dsn)
        assert result.returncode == 0, result.stderr
        assert result.stdout == "The database is up to date.\n"


def test_a_missing_file_is_one_line(cli: Command, tmp_path: Path) -> None:
    result = cli("import", str(tmp_path / "none.csv"), "--market", "m", "--provider", "p", "--symbol", "s")
    is_one_line(result, 1, "none.csv")


@pytest.mark.parametrize(
    "arguments",
    [
        ("user", "add", "ada"),
        ("candles", "demo", "synthetic", "BTC/USD"),
        ("coverage", "log"),
        ("backfill", "--list"),
        ("migrate",),
    ],
)
def test_a_command_makes_no_second_database_beside_the_servers(
    served: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The server has its own DATA_DIR, which is not set in another terminal."""
    mistaken = tmp_path / "mistaken"
    is_one_line(run(*arguments, DATA_DIR=str(mistaken)), 2, f"DATA_DIR: {mistaken} holds no database", "`serve`")
    assert not mistaken.exists()
    assert served in [cluster.parent for cluster in running_clusters()]


def test_a_command_finds_the_servers_database(served: Path) -> None:
    assert run("user", "list", DATA_DIR=str(served)).returncode == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The DATA_DIR of a server that runs."""
    data = tmp_path_factory.mktemp("served") / "data"
    with serving(data.with_name("log"), DATA_DIR=str(data)):
        yield data
