"""The recipes of docs/clients.md over a network that is cut: `python -m tests.clients.recipes --cut 75` prints the counts."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from candlegraph.clock import MINUTE_MS
from tests.clients.cut import cable_to
from tests.server.cluster import FAST
from tests.server.running import ROOT, environment, run, serving
from tests.waiting import HANG_S, eventually

BEGIN = 1_714_521_600_000  # 2024-05-01
SERIES = 'market: "demo", provider: "synthetic", symbol: "{symbol}", timeframe: "1m"'
HERE, EXAMPLES = Path(__file__).parent, ROOT / "examples" / "clients"
NODE = ["graphql-ws", "eventsource", "watchlist BTC/USD", "watchlist ETH/USD", "apollo", "urql", "chart"]
CORRECTED = [name for name in [*NODE, "gql"] if name != "watchlist ETH/USD"]
CORRECTION = 2.0  # the close of the candle that is imported
BEFORE, AFTER = 3, 3  # closed candles that each recipe has before the cut and after it


@dataclass
class Recipes:
    """What the recipes of one process have said so far."""

    process: asyncio.subprocess.Process
    newest: dict[str, int] = field(default_factory=dict)
    corrected: dict[str, dict[int, float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    async def read(self) -> None:
        """Read all lines, until the process ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            match json.loads(line):
                case {"recipe": recipe, "timestamp": timestamp}:
                    self.newest[recipe] = timestamp
                case {"recipe": recipe, "corrected": timestamp, "close": close}:
                    self.corrected.setdefault(recipe, {})[timestamp] = close
                case {"fault": fault}:
                    self.faults.append(fault)
                case end:
                    self.end = end


@dataclass(frozen=True, slots=True)
class Count:
    """What one recipe held in the end, against what the server has stored."""

    recipe: str
    candles: int
    missing: int
    twice: int
    different: int
    corrections: int


@dataclass(frozen=True, slots=True)
class Report:
    """What all recipes came to."""

    counts: list[Count]
    faults: list[str]
    frame: dict[str, Any]
    cuts: int
    cut_s: float


async def measure(dsn: str | None, folder: Path, cut: int, settle_ms: int = 0) -> Report:
    """Run all recipes against a server of their own; the network is cut until ``cut`` candles have closed.

    A minute settles ``settle_ms`` after its end.
    """
    clock = {
        "FAST_BEGAN_AT": str(time.time()),
        "FAST_INSTANT": str(BEGIN),
        "FAST_SETTLE_MS": str(settle_ms),
    }
    where = {"DB_CONNECTION_STRING": dsn} if dsn else {}
    async with AsyncExitStack() as stack:
        server = serving(folder / "log", command=FAST, DATA_DIR=str(folder / "data"), **where, **clock)
        url = (await asyncio.to_thread(server.__enter__)).url
        stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
        http = await stack.enter_async_context(aiohttp.ClientSession(url))
        cable = await stack.enter_async_context(cable_to(urlsplit(url).port or 0))
        since = await _newest(http)
        all_recipes = [
            await stack.enter_async_context(_running(command, folder, f"http://127.0.0.1:{cable.port}", since))
            for command in (["node", "--conditions", "development", "--import", "./window.mjs", "recipes.mjs"], _PYTHON)
        ]
        await _reach(all_recipes, since + BEFORE * MINUTE_MS)
        await _reach(all_recipes, missed := await _newest(http))
        began, newest = time.monotonic(), await _newest(http)
        await cable.cut()
        await _correct(folder, missed, dsn)
        await eventually(lambda: _has(http, newest + cut * MINUTE_MS))
        await cable.mend()
        cut_s, newest = time.monotonic() - began, await _newest(http)
        await _reach(all_recipes, newest + MINUTE_MS)
        corrected = newest - MINUTE_MS
        await _correct(folder, corrected, dsn)
        await _have_corrected(all_recipes, corrected)
        await _have_corrected(all_recipes, missed)
        await _reach(all_recipes, await _newest(http) + AFTER * MINUTE_MS)
        return await _report(all_recipes, http, since, cable.cuts, cut_s)


async def _report(
    all_recipes: list[Recipes], http: aiohttp.ClientSession, since: int, cuts: int, cut_s: float
) -> Report:
    """End the recipes, and compare what they hold with what is stored."""
    for recipes in all_recipes:
        assert recipes.process.stdin is not None
        recipes.process.stdin.close()
        await asyncio.wait_for(recipes.process.wait(), HANG_S)
        await eventually(lambda said=recipes: said.end)
    truth = {symbol: await _stored(http, symbol, since - 60 * MINUTE_MS) for symbol in ("BTC/USD", "ETH/USD")}
    finals = {name: got for recipes in all_recipes for name, got in recipes.end["finals"].items()}
    corrections = {name: len(times) for recipes in all_recipes for name, times in recipes.corrected.items()}
    return Report(
        [
            _count(name, got, truth["ETH/USD" if "ETH" in name else "BTC/USD"], corrections)
            for name, got in finals.items()
        ],
        [fault for recipes in all_recipes for fault in recipes.faults],
        all_recipes[1].end["frame"],
        cuts,
        cut_s,
    )


_PYTHON = [sys.executable, "-S", "recipes_gql.py"]  # its packages are not the server's: gql needs an older graphql-core


def lay_out(folder: Path) -> Path:
    """Put the recipes into a folder of their own beside their packages, as a user does; the programs of the tests too."""
    place = folder / "recipes"
    if not place.exists():
        shutil.copytree(EXAMPLES, place)
        for file in ("recipes.mjs", "window.mjs", "caches.mjs", "recipes_gql.py"):
            shutil.copy(HERE / file, place)
        (place / "node_modules").symlink_to(HERE / "node_modules")
    return place


@asynccontextmanager
async def _running(command: list[str], folder: Path, url: str, since: int) -> AsyncIterator[Recipes]:
    """Run recipes until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        url,
        str(since),
        cwd=lay_out(folder),
        env={**environment(), "PYTHONPATH": str(Path(sys.prefix) / "gql")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    recipes = Recipes(process)
    reading = asyncio.create_task(recipes.read())
    try:
        yield recipes
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def _reach(all_recipes: list[Recipes], timestamp: int) -> None:
    """Wait until every recipe has a closed candle as new as that."""

    def reached() -> bool:
        newest = {name: at for recipes in all_recipes for name, at in recipes.newest.items()}
        faults = [fault for recipes in all_recipes for fault in recipes.faults]
        assert not faults, "\n".join(faults)
        assert all(recipes.process.returncode is None for recipes in all_recipes)
        return all(newest.get(name, 0) >= timestamp for name in [*NODE, "gql"])

    try:
        await eventually(reached)
    except TimeoutError:
        raise AssertionError({name: at - timestamp for one in all_recipes for name, at in one.newest.items()}) from None


async def _have_corrected(all_recipes: list[Recipes], timestamp: int) -> None:
    """Wait until every recipe has the correction."""

    def lacking() -> set[str]:
        return set(CORRECTED) - {
            name for one in all_recipes for name, at in one.corrected.items() if at.get(timestamp) == CORRECTION
        }

    try:
        await eventually(lambda: not lacking())
    except TimeoutError:
        raise AssertionError(lacking(), [one.corrected for one in all_recipes]) from None


async def _ask(http: aiohttp.ClientSession, symbol: str, arguments: str) -> list[dict[str, Any]]:
    query = f"{{ candles({SERIES.format(symbol=symbol)}, {arguments}) {{ nodes {{ timestamp close closed }} }} }}"
    async with http.post("/graphql", json={"query": query}) as response:
        answer = await response.json()
        return answer["data"]["candles"]["nodes"]


async def _newest(http: aiohttp.ClientSession) -> int:
    """The newest closed candle."""
    return max(candle["timestamp"] for candle in await _ask(http, "BTC/USD", "limit: 5") if candle["closed"])


async def _has(http: aiohttp.ClientSession, timestamp: int) -> bool:
    return await _newest(http) >= timestamp


async def _stored(http: aiohttp.ClientSession, symbol: str, since: int) -> dict[int, float]:
    candles = await _ask(http, symbol, f"since: {since}, limit: 5000")
    return {candle["timestamp"]: candle["close"] for candle in candles if candle["closed"]}


async def _correct(folder: Path, timestamp: int, dsn: str | None) -> None:
    """Import another candle in place of a closed one."""
    file = folder / "correction.csv"
    file.write_text(f"timestamp,open,high,low,close,volume\n{timestamp},1,3,1,{CORRECTION},7\n", encoding="utf-8")
    arguments = [
        "import",
        str(file),
        "--market",
        "demo",
        "--provider",
        "synthetic",
        "--symbol",
        "BTC/USD",
        "--timeframe",
        "1m",
    ]
    where = {"DB_CONNECTION_STRING": dsn} if dsn else {}
    done = await asyncio.to_thread(lambda: run(*arguments, DATA_DIR=str(folder / "data"), **where))
    assert done.returncode == 0, done.stderr


def _count(name: str, got: list[tuple[int, float]], truth: dict[int, float], corrections: dict[str, int]) -> Count:
    times = [timestamp for timestamp, _ in got]
    expected = {timestamp for timestamp in truth if times[0] <= timestamp <= times[-1]}
    different = sum(truth.get(timestamp) != close for timestamp, close in got)
    twice = len(times) - len(set(times)) + (times != sorted(times))
    return Count(name, len(got), len(expected - set(times)), twice, different, corrections.get(name, 0))


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cut", type=int, default=75, help="how many candles close during the cut, one each second")
    parser.add_argument(
        "--settle", type=int, default=0, help="how many seconds after its end a candle may still change"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            measure(os.environ.get("DB_CONNECTION_STRING"), Path(folder), options.cut, 1_000 * options.settle)
        )
    lines = [*report.counts, report.frame, f"{report.cuts} cut of {report.cut_s:.1f} s", *report.faults]
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
