"""The recipes of docs/clients.md: what the page shows is what runs, over a network that is cut, and in caches that merge by id."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.recipes import CORRECTED, EXAMPLES, NODE, Report, lay_out, measure
from tests.server.running import ROOT, run, serving
from tests.waiting import HANG_S

CUT = 5
SETTLES = (0, 30_000)
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^`examples/clients/([\w.-]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CACHES = ["apollo", "urql", "relay"]


@pytest.fixture(scope="module")
async def reports(
    new_database: Callable[..., Any], migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Report]:
    """What all recipes came to by how late a minute settles (ms); both servers run at once, for the recipes mostly wait."""
    async with asyncio.TaskGroup() as group:
        running = {
            settle_ms: group.create_task(
                measure(str(await new_database(migrated_template)), tmp_path_factory.mktemp("recipes"), CUT, settle_ms)
            )
            for settle_ms in SETTLES
        }
    return {settle_ms: task.result() for settle_ms, task in running.items()}


@pytest.fixture(params=SETTLES, ids=["settles at once", "settles late"])
def report(request: pytest.FixtureRequest, reports: dict[int, Report]) -> Report:
    """What all recipes came to; where a minute settles late, the next candle is shown before it closes."""
    return reports[request.param]


@pytest.fixture(scope="module")
async def caches(
    new_database: Callable[..., Any], migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the caches hold of a server where two providers have one short name."""
    dsn = str(await new_database(migrated_template))
    return await asyncio.to_thread(_in_caches, dsn, tmp_path_factory.mktemp("caches"))


def _in_caches(dsn: str, folder: Path) -> dict[str, Any]:
    file = folder / "mine.csv"
    file.write_text("timestamp,open,high,low,close,volume\n1714521600000,1,3,1,2,7\n", encoding="utf-8")
    where = {"DB_CONNECTION_STRING": dsn, "DATA_DIR": str(folder / "data")}
    series = ["--market", "mine", "--provider", "synthetic", "--symbol", "BTC/USD", "--timeframe", "1m"]
    imported = run("import", str(file), *series, **where)
    assert imported.returncode == 0, imported.stderr
    with serving(folder / "log", **where) as server:
        command = ["node", "caches.mjs", server.url, str(ROOT / "schema.graphql")]
        node = subprocess.run(command, cwd=lay_out(folder), capture_output=True, text=True, timeout=HANG_S, check=False)
    assert node.returncode == 0, node.stderr
    return json.loads(node.stdout)


def test_the_page_shows_every_file_as_it_is() -> None:
    files = {file.name: file.read_text(encoding="utf-8") for file in EXAMPLES.iterdir() if file.is_file()}
    assert files == SHOWN


@pytest.mark.parametrize("recipe", [*NODE, "gql"])
def test_no_candle_is_missing_or_comes_twice_when_the_network_is_cut(report: Report, recipe: str) -> None:
    [count] = [count for count in report.counts if count.recipe == recipe]
    assert (count.missing, count.twice, count.different) == (0, 0, 0)
    assert count.candles > CUT
    assert count.corrections > 0 or recipe not in CORRECTED


def test_no_recipe_throws_or_warns(report: Report) -> None:
    assert report.faults == []
    assert report.cuts == 1


def test_columns_are_a_frame_with_a_time_zone(report: Report) -> None:
    assert report.frame["rows"] == 24
    assert report.frame["zone"] == "UTC"
    assert report.frame["columns"] == ["open", "high", "low", "close", "volume", "closed"]


@pytest.mark.parametrize("client", CACHES)
def test_two_providers_of_one_short_name_stay_two(caches: dict[str, Any], client: str) -> None:
    providers = caches[client]["providers"]
    assert providers["demo"] == [["demo/synthetic", "synthetic", "demo", "STREAM"]]
    assert providers["mine"] == [["mine/synthetic", "synthetic", "mine", "NONE"]]


@pytest.mark.parametrize("client", ["apollo", "urql"])
def test_two_components_with_different_selections_ask_twice(caches: dict[str, Any], client: str) -> None:
    assert caches[client]["requests"] == 2


def test_no_cache_warns(caches: dict[str, Any]) -> None:
    assert caches["warnings"] == []
    assert caches["urql"].get("error") is None


def test_every_type_without_an_id_has_a_key_in_graphcache(caches: dict[str, Any]) -> None:
    assert caches["keys"] == caches["embedded"]
