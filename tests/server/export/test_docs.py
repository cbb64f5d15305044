"""The examples of docs/export.md run as they are written, but for the address, the folder and the program."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.server.running import COMMAND, ROOT, Running, environment, serving
from tests.waiting import HANG_S

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
EXPORT = "/export/candles.csv?market=demo&provider=synthetic&symbol=BTC/USD&timeframe=1m"
UNTIL = 1_704_240_000_000  # 2024-01-03
QUERY = """{ candles(market: "demo", provider: "synthetic", symbol: "%s", since: "2024-01-01T00:00Z",
  until: "2024-01-03T00:00Z", limit: 5000) { complete nodes { timestamp } } }"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
async def setting(new_database: Callable[..., object], migrated_template: str) -> dict[str, str]:
    """The database of the server and of the commands."""
    return {"DB_CONNECTION_STRING": str(await new_database(migrated_template))}


@pytest.fixture(scope="module")
def server(setting: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that has stored two days of two symbols."""
    with serving(tmp_path_factory.mktemp("server") / "log", **setting) as running:
        for symbol in ("BTC/USD", "ETH/USD"):
            body = json.dumps({"query": QUERY % symbol}).encode()
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(f"{running.url}/graphql", body, headers)  # noqa: S310 - our own server
            with urllib.request.urlopen(request) as response:  # noqa: S310
                assert json.load(response)["data"]["candles"]["complete"]
        yield running


def execute(block: str, server: Running, folder: Path, **setting: str) -> subprocess.CompletedProcess[str]:
    """Run a block of shell."""
    script = block.replace("http://127.0.0.1:8000", server.url)
    script = re.sub(r"^candlegraph ", " ".join(map(shlex.quote, COMMAND)) + " ", script, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment(**setting),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, (block, done.stderr)
    return done


def whole(server: Running) -> tuple[bytes, Any]:
    with urllib.request.urlopen(server.url + EXPORT) as response:  # noqa: S310
        return response.read(), response.headers


def test_there_is_nothing_but_what_is_run_here() -> None:
    assert [len(blocks(language)) for language in ("sh", "python")] == [3, 1]
    assert PAGE.count("```") == 2 * 4


def test_the_python_example_reads_an_export(server: Running) -> None:
    [block] = blocks("python")
    with contextlib.redirect_stdout(printed := io.StringIO()):
        exec(block.replace("http://127.0.0.1:8000", server.url), {})  # noqa: S102 - our own page
    assert "shape: (2_880, 6)" in printed.getvalue()


def test_curl_downloads_a_file_and_many_series(server: Running, tmp_path: Path) -> None:
    execute(blocks("sh")[0], server, tmp_path)
    assert len(pl.read_parquet(tmp_path / "btc.parquet")) == 2_880
    hours = pl.read_csv(tmp_path / "hours.csv")
    assert hours["symbol"].value_counts(sort=True).rows() == [("BTC/USD", 48), ("ETH/USD", 48)]


def test_curl_resumes_a_file_that_was_cut_off(server: Running, tmp_path: Path) -> None:
    content, headers = whole(server)
    (tmp_path / "part.csv").write_bytes(content[: len(content) * 2 // 3 + 5])
    (tmp_path / "head").write_text(f"HTTP/1.1 200 OK\r\n{headers}", newline="")
    execute(blocks("sh")[1], server, tmp_path)
    assert (tmp_path / "btc.csv").read_bytes() == content


def test_the_command_line_writes_a_file_and_a_folder(server: Running, setting: dict[str, str], tmp_path: Path) -> None:
    done = execute(blocks("sh")[2], server, tmp_path, **setting)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Wrote 2,880 candles of 1 series into")
    assert lines[1].startswith("Wrote 5,760 candles of 2 series into 2 files of candles")
    assert len(pl.read_parquet(tmp_path / "btc.parquet")) == 2_880
    about = json.loads((tmp_path / "btc.parquet.json").read_text())
    assert [gap["since"] for gap in about["gaps"]] == [UNTIL]  # up to now
    assert "BTC/USD: missing 2024-01-03T00:00:00Z .. " in done.stderr
    years = tmp_path / "candles" / "demo" / "synthetic" / "BTC%2FUSD" / "1m"
    assert sorted(path.name for path in years.iterdir()) == ["2024.parquet", "candlegraph.json"]
