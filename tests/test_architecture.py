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


MAX_LINES = {"schema": 400, "server": 400}  # of a file; 320 on the floors below


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the floors, to do wrong in."""
    for folder in FLOORS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "web"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


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
    copied: Path, file: str, line: str, contract: str
) -> None:
    _append(copied / file, line)
    result = _lint(copied)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout


def _sources(root: Path) -> dict[str, Path]:
    """Every module below ``root``, by its dotted name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for floor in FLOORS
        for path in sorted((root / floor).rglob("*.py"))
    }


def _imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of ours that a file imports, inside functions and for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= names if names <= modules else names | {module}
    return found & modules


def _circles(root: Path) -> list[str]:
    """The first circle that each module is found to be in."""
    files = _sources(root)
    graph = {name: _imports(path, set(files)) for name, path in files.items()}
    done: set[str] = set()
    circles: list[str] = []

    def walk(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circles.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for below in sorted(graph[name]):
                walk(below, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())
    return circles


def _long_files(root: Path) -> dict[str, int]:
    """The files that have more lines than their floor allows."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _sources(root).values()}
    names = {path.relative_to(root): count for path, count in lines.items()}
    return {path.as_posix(): count for path, count in names.items() if count > MAX_LINES.get(path.parts[0], 320)}


def _long_functions(root: Path) -> dict[str, int]:
    """The functions of more than 40 lines, decorators not counted."""
    return {
        f"{name}.{node.name}": lines
        for name, path in _sources(root).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > 40
    }


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in {"__init__.py", "__pycache__"})


def test_no_imports_go_in_a_circle() -> None:
    assert _circles(ROOT) == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param("import storage.candles", id="import"),
        pytest.param("from storage.candles import CandleStore", id="from"),
        pytest.param("from storage import candles, SQL", id="a module among names"),
        pytest.param("def later() -> None:\n    import storage.candles", id="within a function"),
        pytest.param("if TYPE_CHECKING:\n    from storage.candles import CandleStore", id="for type checkers"),
    ],
)
def test_a_circle_is_found(copied: Path, wrong: str) -> None:
    _append(copied / "storage" / "batches.py", wrong)
    assert any("storage.batches" in circle and "storage.candles" in circle for circle in _circles(copied))


def test_no_file_outgrows_its_noun() -> None:
    """A page of 200 lines is the aim."""
    assert _long_files(ROOT) == {}


@pytest.mark.parametrize(("floor", "most"), [("history", 320), ("resolvers", 320), ("schema", 400), ("server", 400)])
def test_a_long_file_is_found(copied: Path, floor: str, most: int) -> None:
    long = copied / floor / "long.py"
    long.write_text("pass\n" * most, encoding="utf-8")
    assert _long_files(copied) == {}
    _append(long, "pass")
    assert _long_files(copied) == {f"{floor}/long.py": most + 2}


def test_no_function_outgrows_its_verb() -> None:
    assert _long_functions(ROOT) == {}


def test_a_long_function_is_found(copied: Path) -> None:
    _append(copied / "server" / "serve.py", "async def short() -> None:\n" + "    pass\n" * 39)
    assert _long_functions(copied) == {}
    _append(copied / "server" / "serve.py", "class A:\n    async def long(self) -> None:\n" + "        pass\n" * 40)
    assert _long_functions(copied) == {"server.serve.long": 41}


def test_the_storage_is_seen_at_a_glance(copied: Path) -> None:
    assert len(_entries(ROOT / "storage")) <= 30
    before = len(_entries(copied / "storage"))
    (copied / "storage" / "more").mkdir()
    (copied / "storage" / "more.sql").touch()
    assert len(_entries(copied / "storage")) == before + 2


def test_no_page_is_called_after_what_it_is_not() -> None:
    vague = {"utils", "helpers", "common", "core", "manager", "service", "handler"}
    assert not [path for floor in FLOORS for path in (ROOT / floor).rglob("*") if path.stem in vague]
