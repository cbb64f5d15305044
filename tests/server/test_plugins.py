"""A third-party provider: built, installed, found, checked and queried, in processes that have only the installed packages."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from candlegraph import Timeframe, fold
from tests.server.running import environment, serving
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "candlegraph-acme"

_BROKEN = "import a_library_that_nobody_installed"
_TWIN = """
from candlegraph import Market
from providers.demo import Synthetic

class Twin(Synthetic):
    market, id = Market("twin", "Twin", "Two plugins bring it."), "twin"

def create(environ):
    return [Twin()]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which Candlegraph and the example are installed from their wheels, without a network."""
    folder = tmp_path_factory.mktemp("plugins")
    for source in (ROOT, EXAMPLE):
        build = f"import hatchling.build as b; b.build_wheel({str(folder)!r})"
        subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=HANG_S)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wheels = map(str, folder.glob("*.whl"))
    options = ["--no-index", "--no-deps", "--no-compile", "--target", str(folder / "site")]
    subprocess.run([*pip, *options, *wheels], check=True, capture_output=True, timeout=HANG_S)
    return folder / "site"


@pytest.fixture
async def exchange() -> AsyncIterator[Any]:
    """Acme's exchange, as the example's tests make it."""
    spec = importlib.util.spec_from_file_location("acme_exchange", EXAMPLE / "tests" / "acme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    async with module.AcmeExchange() as running:
        yield running


async def run_pytest(site: Path, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run pytest in ``folder`` with the packages installed in ``site``; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pytest", "-p", "no:cacheprovider", *arguments),
        cwd=folder,
        env=environment(PYTHONPATH=str(site), **variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), HANG_S)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_example_proves_itself_as_its_author_runs_it(site: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "checkout", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "candlegraph_acme.py").unlink()  # the installed one is meant
    code, said = await run_pytest(site, folder)
    assert code == 0, said
    assert "acme.acme: the rules of docs/providers.md" in said
    assert "paging reaches the end                   kept" in said


async def test_an_installed_provider_is_proved_from_anywhere(site: Path, tmp_path: Path, exchange: Any) -> None:
    code, said = await run_pytest(site, tmp_path, "--provider=acme.acme", ACME_URL=exchange.url)
    assert code == 0, said
    assert "since is inclusive                       kept" in said
    assert exchange.calls > 20


async def test_a_broken_rule_is_reported_with_its_text_and_its_page(site: Path, tmp_path: Path, exchange: Any) -> None:
    (tmp_path / "loses.py").write_text(
        "from candlegraph_acme import *\nfrom dataclasses import replace\n"
        "class Loses(Acme):\n    id = 'loses'\n    async def fetch(self, instrument, timeframe, span):\n"
        "        page = await super().fetch(instrument, timeframe, span)\n"
        "        return replace(page, candles=page.candles[page.candles.timestamp > span.since])\n"
        "def create(environ):\n    return [Loses(environ['ACME_URL'])]\n"
    )
    install(tmp_path, "loses", "acme.loses", "loses:create")
    path = f"{tmp_path}:{site}"
    code, said = await run_pytest(path, tmp_path, "--provider=acme.loses", ACME_URL=exchange.url)
    assert code == 1, said
    assert "A candle that opens at `since` belongs to the answer" in said
    assert "The rule is written in docs/providers.md, What a page holds." in said
    assert "since is inclusive                       broken" in said
    assert "paging reaches the end                   not tried, rests on:" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--provider=acme.acme"], "--provider=acme.acme: Set ACME_URL."),
        (["--provider=acme.other"], "no installed plugin brings it. Of this market there are acme.acme"),
        (["--provider=acme.acme", "--provider-span=yesterday"], "write two instants"),
    ],
)
async def test_what_cannot_be_tried_is_refused_in_one_line(
    site: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code, said = await run_pytest(site, tmp_path, *arguments, ACME_URL="x" if "span" in arguments[-1] else "")
    assert code != 0
    assert expected in said


async def test_a_pytest_that_is_not_asked_for_it_imports_nothing_of_ours(site: Path, tmp_path: Path) -> None:
    """The tests of another project do not import numpy because Candlegraph is installed."""
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_other():\n    assert 'candlegraph_pytest' in sys.modules\n"
        "    assert not {'candlegraph', 'numpy'} & set(sys.modules)\n"
    )
    code, said = await run_pytest(site, tmp_path)
    assert code == 0, said
    assert "1 passed" in said
    assert "docs/providers.md" not in said


def install(folder: Path, name: str, point: str, target: str) -> None:
    """Let a distribution of that name be found in ``folder``, with one entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[candlegraph.providers]\n{point} = {target}\n")


async def ask(url: str, document: str) -> Any:
    async with (
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(HANG_S)) as http,
        http.post("/graphql", json={"query": document}) as response,
    ):
        answer = await response.json()
    assert "errors" not in answer, answer
    return answer["data"]


async def test_an_installed_provider_is_served_and_a_broken_one_affects_no_other(
    site: Path, tmp_path: Path, exchange: Any, new_database: Callable[..., Any], migrated_template: str
) -> None:
    """Found by its entry point in a server process; a plugin that cannot be imported, and two that are one, are FAILED."""
    for name, text in (("broken", _BROKEN), ("twin", _TWIN)):
        (tmp_path / f"{name}_plugin.py").write_text(text)
    install(tmp_path, "broken", "broken.broken", "broken_plugin:create")
    install(tmp_path, "twin_a", "twin.a", "twin_plugin:create")
    install(tmp_path, "twin_b", "twin.b", "twin_plugin:create")
    variables = {
        "PYTHONPATH": f"{tmp_path}:{site}",
        "DB_CONNECTION_STRING": str(await new_database(migrated_template)),
        "DATA_DIR": "/nonexistent",
        "ACME_URL": exchange.url,
    }
    with serving(tmp_path / "log", **variables) as server:
        data = await ask(
            server.url,
            """{
              acme: providers(market: "acme") { id state name version timeframes }
              broken: providers(market: "broken") { id state stateReason }
              twin: providers(market: "twin") { id state stateReason }
              symbols(market: "acme", provider: "acme") { nodes { symbol name } }
              hours: candles(market: "acme", provider: "acme", symbol: "ROCKET/USD", timeframe: "1h", limit: 3) {
                complete nodes { timestamp open high low close volume }
              }
              demo: candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", limit: 2) { nodes { close } }
            }""",
        )
    (acme,) = data["acme"]
    assert (acme["id"], acme["state"], acme["version"]) == ("acme/acme", "READY", "0.1.0")
    assert acme["timeframes"] == ["1m", "1h", "1d"]
    assert data["symbols"]["nodes"] == [{"symbol": "ROCKET/USD", "name": "Rocket skates"}]
    expected = [
        (c.timestamp, c.open, c.high, c.low, c.close, c.volume) for c in fold(exchange.truth, Timeframe(1, "h"))[-3:]
    ]
    assert data["hours"]["complete"] is True
    assert [tuple(node.values()) for node in data["hours"]["nodes"]][:-1] == expected[:-1]
    assert len(data["demo"]["nodes"]) == 2
    (broken,) = data["broken"]
    assert broken["state"] == "FAILED"
    assert "a_library_that_nobody_installed" in broken["stateReason"]
    assert [(twin["id"], twin["state"]) for twin in data["twin"]] == [("twin/twin", "FAILED")]
