"""Imports run only downwards, in no circle; the test that says so is shown to bite."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[1]
FLOORS = ("candlegraph", "storage", "history", "providers", "realtime", "resolvers", "schema", "server")


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def test_imports_run_only_downwards() -> None:
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("storage/candles.py", "import resolvers.context", "Imports run only downwards"),
        ("storage/database.py", "import providers.registry", "Imports run only downwards"),
        ("history/plan.py", "import realtime.feed", "Imports run only downwards"),
        ("history/fetcher.py", "import asyncpg", "History knows no driver, no web framework and no provider"),
        ("history/query.py", "import providers.demo", "History knows no driver, no web framework and no provider"),
        ("storage/candles.py", "import history.plan", "Imports run only downwards"),
        ("candlegraph/span.py", "import asyncpg", "The nouns need numpy and the standard library only"),
        ("candlegraph/clock.py", "import pytest", "Only the conformance suite needs pytest"),
        ("providers/demo.py", "import candlegraph.testing.subject", "Nothing that runs needs the conformance suite"),
        ("resolvers/candles.py", "import asyncpg", "Each library stays on its floor: resolvers and schema"),
    ],
)
def test_an_import_upwards_or_of_another_floors_library_is_caught(
    tmp_path: Path, file: str, line: str, contract: str
) -> None:
    for folder in FLOORS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "web"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as wrong:
        wrong.write(f"\n{line}\n")
    result = _lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout


def _imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of ours that a file imports, inside functions and for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & modules) or {node.module}
    return found & modules


def test_no_imports_go_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*.py")
    }
    graph = {name: _imports(path, set(files)) for name, path in files.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for below in graph[name]:
                walk(below, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_no_file_outgrows_its_noun() -> None:
    """A page of 200 lines is the aim; beyond 700 nobody reads it as one thing any more."""
    long = {
        path.relative_to(ROOT).as_posix(): count
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 700
    }
    assert long == {}


def test_no_page_is_called_after_what_it_is_not() -> None:
    vague = {"utils", "helpers", "common", "core", "manager", "service", "handler"}
    assert not [path for floor in FLOORS for path in (ROOT / floor).rglob("*") if path.stem in vague]
