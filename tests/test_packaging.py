"""What is built holds everything that runs, and no name of ours is anybody else's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distributions, entry_points
from pathlib import Path

import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_SHIPPED = (
    "tests",
    "clients",
    "benchmarks",
    "docs",
    "examples",
    "web",
    ".*",
)  # the folders that are for whoever develops it
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist in it."""
    return _build(ROOT, tmp_path_factory.mktemp("dist"))


def _build(root: Path, folder: Path) -> Path:
    build = f"import hatchling.build as b; b.build_wheel({str(folder)!r}); b.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=root, check=True, capture_output=True, timeout=HANG_S)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def _ours() -> set[str]:
    """Every file that git would keep in a folder that is shipped, as the wheel names it; no list of packages is read."""
    left_out = [f":(exclude,glob){folder}/**" for folder in NOT_SHIPPED]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*/*", "candlegraph_pytest.py", *left_out],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def test_the_wheel_holds_every_file_of_our_packages(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert _ours() - names == set()
    assert {"storage/queries.sql", "migrations/0001_candles.sql", "candlegraph/py.typed"} <= names
    assert {"candlegraph_pytest.py", "candlegraph/testing/installed.py"} <= names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith(("tests/", "web/", "docs/", "examples/"))
    ]


@pytest.mark.parametrize("forgotten", ["history", "migrations"])
def test_a_forgotten_package_is_found(tmp_path: Path, forgotten: str) -> None:
    for name in PACKAGES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace(f', "{forgotten}"', "", 2)
    (tmp_path / "pyproject.toml").write_text(text.replace(f', "/{forgotten}"', ""), encoding="utf-8")
    built = _build(tmp_path, tmp_path / "dist")
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    ours = {name for name in _ours() if name.startswith(f"{forgotten}/")}
    assert ours
    assert _ours() - set(zipfile.ZipFile(wheel).namelist()) == ours
    assert ours <= _ours() - names


def test_the_wheel_holds_the_page(wheel: zipfile.ZipFile) -> None:
    assert (ROOT / "server" / "web" / "graphiql.html").is_file(), "The page is not built: run `make install`."
    built_page = {f"server/web/{path.name}" for path in (ROOT / "server" / "web").iterdir()}
    assert built_page - set(wheel.namelist()) == set()
    assert "server/web/third-party.txt" in wheel.namelist()


def test_the_wheel_names_its_command_and_its_providers(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    assert "candlegraph = server.cli.main:main" in text
    assert "[candlegraph.providers]" in text
    assert "[pytest11]\ncandlegraph = candlegraph_pytest" in text


def test_every_package_of_ours_is_in_the_wheel_and_checked() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert set(PACKAGES) == folders | {"candlegraph_pytest.py"}
    assert set(PROJECT["tool"]["mypy"]["packages"]) | {"migrations"} == folders
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) | {"migrations"} == folders


def test_the_wheel_runs_from_where_it_is_put(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Without the checkout: the schema, the statements and the migrations are read from the wheel's own files."""
    wheel.extractall(tmp_path)  # noqa: S202 - we have built it
    code = (
        "import server.cli.main, storage.database as d, storage.migration.migrate as m, schema.build as b;"
        f"assert d.__file__.startswith({str(tmp_path)!r}), d.__file__; assert m.migrations() and d.SQL;"
        "print(b.build_schema().as_str())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "type Query" in result.stdout


def test_the_sdist_can_build_the_wheel_again(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert _ours() - names == set()
    kept = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "schema.graphql", "requirements.lock"}
    assert kept - names == set()
    assert {"server/web/graphiql.html", "web/package-lock.json", "tests/conftest.py"} - names == set()
    assert {"docs/providers.md", "examples/candlegraph-acme/pyproject.toml"} - names == set()
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name]


def test_no_other_distribution_claims_our_names() -> None:
    claimed: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        for file in distribution.files or ():
            top = file.parts[0].removesuffix(".py")
            if name != "candlegraph" and {top, f"{top}.py"} & set(PACKAGES):
                claimed[top] = name
    assert claimed == {}


def test_every_dependency_is_bounded_and_locked() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for requirement in PROJECT["project"]["dependencies"]:
        name = requirement.partition(">=")[0].strip()
        assert f"\n{name.lower()}==" in f"\n{lock.lower()}", name
        assert "<" in requirement or name == "tzdata", requirement


def test_the_installed_providers_are_those_of_the_project() -> None:
    ours = PROJECT["project"]["entry-points"]["candlegraph.providers"]
    installed = {point.name: point.value for point in entry_points(group="candlegraph.providers")}
    assert ours.items() <= installed.items(), "Run `make install` again: the entry points have changed."
