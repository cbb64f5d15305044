"""PostgreSQL from a wheel, on a private unix socket, shared by every process that uses one data directory.

This uses only the wheel's binaries: the wheel's own launcher adds a system user and opens all parent directories to the world.
Locks by `flock` record the users, because the kernel drops them however a process ends:

    start.lock     exclusive, during a start or stop of the server
    users.lock     shared, held by each user of the server; a user that gets it exclusively is the last and stops the server
    server.lock    exclusive, held by PostgreSQL and all its children, which inherit it; free if none of them is left
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from candlegraph.errors import ConfigurationError, Unavailable
from candlegraph.timings import Timings
from storage.embedded.access import peer_rules
from storage.embedded.binaries import find_binaries
from storage.embedded.os_user import OsUser, os_user_of
from storage.embedded.socket import (
    DATABASE,
    PORT,
    USER,
    claim_socket_dir,
    clear_remains,
    find_listener,
    running_clusters,
    socket_dir,
)

if sys.platform != "win32":
    import fcntl

_LOG_BYTES = 10 * 1024 * 1024
_INITDB = ("--encoding=UTF8", "--locale=C", "--auth=trust", f"--username={USER}", "--no-instructions")
_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "max_connections": "100",
    "shared_buffers": "128MB",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "cluster_name": USER,
}
# Problems with the data directory itself, in PostgreSQL's own words.
_DIRECTORY_FAULTS = re.compile(
    "No space left on device|Check free disk space|Disk quota exceeded|Read-only file system|Permission denied"
    "|has wrong ownership|has invalid permissions"
)


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running PostgreSQL."""

    socket_dir: Path
    pid: int
    port: int = PORT
    user: str = USER
    database: str = DATABASE

    @property
    def dsn(self) -> str:
        """The address in asyncpg's form."""
        return f"postgresql://{self.user}@/{self.database}?host={quote(str(self.socket_dir))}&port={self.port}"


class EmbeddedPostgres:
    """One user of the PostgreSQL in ``data_dir``; ``binaries`` is the setting POSTGRES_BIN."""

    def __init__(self, data_dir: Path, binaries: Path | None = None, timings: Timings | None = None) -> None:
        self.timings = timings or Timings()
        self._data_dir = data_dir.absolute()
        self._explicit = binaries and binaries.absolute()
        self._cluster = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._users: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def require_cluster(self) -> None:
        """Raise ConfigurationError if there is no database yet; it names the directories of running servers."""
        if (self._cluster / "PG_VERSION").exists():
            return
        others = [f"DATA_DIR={cluster.parent}" for cluster in running_clusters()[:3]]
        hint = f"; a server runs with {' or '.join(others)}" if others else ""
        raise ConfigurationError(
            f"DATA_DIR: {self._data_dir} holds no database, and only `serve` and `import` create one{hint}."
        )

    def start(self) -> PostgresServer:
        """Start the server, or join the running one. It blocks for up to a second, or longer after a crash.

        Raises ConfigurationError if a setting must be changed, and Unavailable if PostgreSQL does not start.
        """
        if sys.platform == "win32":
            raise ConfigurationError("DB_CONNECTION_STRING must be set: no PostgreSQL is embedded on Windows")
        with self._naming_the_setting():
            if not self._data_dir.exists():
                self._data_dir.parent.mkdir(parents=True, exist_ok=True)
                self._data_dir.mkdir(mode=0o700, exist_ok=True)
            with self._locked("start.lock", self.timings.postgres_lock_timeout_s):
                server = self._join_or_launch()
                if self._users is None:
                    self._users = self._open("users.lock")
                    fcntl.flock(self._users, fcntl.LOCK_SH)
                return server

    def stop(self) -> None:
        """Leave; the last user stops PostgreSQL and waits until all its processes are gone."""
        users, self._users = self._users, None
        if users is None:
            return
        try:
            with self._naming_the_setting(), self._locked("start.lock", self.timings.postgres_lock_timeout_s):
                if _try_lock(users):
                    self._halt()
        finally:
            os.close(users)

    def _join_or_launch(self) -> PostgresServer:
        account = os_user_of(self._cluster)
        if not self._cluster_exists():
            self._create_cluster(account)
        sockets = claim_socket_dir(self._cluster, account)
        deadline = time.monotonic() + self.timings.postgres_retry_timeout_s
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

    def _launch(self, account: OsUser, sockets: Path) -> PostgresServer:
        programs = find_binaries(self._explicit, self._cluster, account)
        options = [f"-c{key}={value}" for key, value in _SETTINGS.items()]
        if int((self._cluster / "PG_VERSION").read_text(encoding="ascii")) >= 18:
            # I/O workers die with the postmaster: a process that waits for one would then wait for ever, and hold our lock.
            options.append("-cio_method=sync")
        with self._locked("server.lock", 0) as lock, peer_rules(self._data_dir, account) as (rules, files):
            clear_remains(self._cluster, sockets)
            options += [f"-cunix_socket_directories={sockets}", *rules]
            process = self._run(account, [str(programs / "postgres"), *options], self._cluster, (lock, *files))
        # The thread reaps the process when it ends: to the next postmaster, the pid of a zombie would look alive.
        threading.Thread(target=process.wait, name="postgres-reaper", daemon=True).start()
        self._process = process
        deadline = time.monotonic() + self.timings.postgres_start_timeout_s
        while process.poll() is None and time.monotonic() < deadline:
            if server := self._running(sockets):
                return server
            time.sleep(0.01)
        # Do not end a longer crash recovery: a later start finds its result.
        raise self._failure("PostgreSQL did not start")

    def _halt(self) -> None:
        sockets = socket_dir(self._cluster, self._cluster.stat().st_uid)
        if answer := find_listener(self._cluster, sockets):
            with suppress(ProcessLookupError):
                os.kill(answer[0], signal.SIGINT)  # a "fast" shutdown; pg_ctl could not enter every data directory
        with self._locked("server.lock", self.timings.postgres_lock_timeout_s):
            shutil.rmtree(sockets, ignore_errors=True)
        if self._process is not None:
            self._process.wait(self.timings.postgres_lock_timeout_s)

    def _running(self, sockets: Path) -> PostgresServer | None:
        answer = find_listener(self._cluster, sockets)
        return PostgresServer(sockets, answer[0]) if answer and answer[1] else None

    def _cluster_exists(self) -> bool:
        if (self._cluster / "PG_VERSION").exists():
            return True
        if self._cluster.exists() and any(self._cluster.iterdir()):
            raise ConfigurationError(f"DATA_DIR {self._data_dir}: postgres/ in it holds files but no cluster")
        return False

    def _create_cluster(self, account: OsUser) -> None:
        programs = find_binaries(self._explicit, self._cluster, account)
        fresh = self._data_dir / "postgres.new"
        # An initdb whose parent was killed may still write there: it holds the lock as well.
        with self._locked("server.lock", self.timings.postgres_retry_timeout_s) as lock:
            if fresh.exists():
                shutil.rmtree(fresh)
            fresh.mkdir(mode=0o700)
            os.chown(fresh, account.uid, account.gid, follow_symlinks=False)
            if self._run(account, [str(programs / "initdb"), *_INITDB], fresh, (lock,)).wait() != 0:
                raise self._failure("initdb failed")
            fresh.rename(self._cluster)
            parent = os.open(self._data_dir, os.O_RDONLY)
            os.fsync(parent)  # otherwise a power cut may undo the rename, and the next start would delete the data
            os.close(parent)

    def _run(self, account: OsUser, command: list[str], cluster: Path, fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_name("postgres.log.1"))
        log = self._open("postgres.log", os.O_APPEND)
        self._log_start = os.fstat(log).st_size
        directory = os.open(cluster, os.O_RDONLY | os.O_NOFOLLOW)
        # Through an open directory PostgreSQL needs no right to enter DATA_DIR's parents, such as a /root of mode 0700.
        # Its working directory would not do: PostgreSQL before 16 leaves that and returns to it by name.
        through = Path(f"/proc/self/fd/{directory}")
        where = through if account.dropped and through.exists() else cluster
        try:
            return account.popen([*command, "-D", str(where)], log, (directory, *fds))
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

    def _open(self, name: str, flags: int = 0) -> int:
        # As root, never follow a link that the owner of DATA_DIR may have placed there.
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
