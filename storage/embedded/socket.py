"""The private unix socket of a cluster's server: its path, its listener, and the files that a dead server leaves."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

from candlegraph.errors import ConfigurationError
from storage.embedded.os_user import OsUser

PORT, USER, DATABASE = 5432, "candlegraph", "postgres"
_SOCKETS = Path("/tmp")  # noqa: S108  # short, since a socket's path has at most 107 bytes, and independent of TMPDIR


def socket_dir(cluster: Path, uid: int) -> Path:
    """The directory of the socket of ``cluster``."""
    found = cluster.stat()
    # By inode: every path to a cluster gives the same name, and a new cluster at the path of a deleted one another.
    name = hashlib.sha256(f"{found.st_dev}:{found.st_ino}:{uid}".encode()).hexdigest()[:16]
    return _SOCKETS / f"candlegraph-{name}"


def running_clusters() -> list[Path]:
    """The clusters with a running server on this machine that our user may see; the newest first."""
    found = []
    for lock in sorted(_SOCKETS.glob(f"candlegraph-*/.s.PGSQL.{PORT}.lock"), key=_changed_at, reverse=True):
        with suppress(OSError, ValueError):
            pid = int(lock.read_text(encoding="ascii").partition("\n")[0])
            found.append(Path(f"/proc/{pid}/cwd").readlink())  # a postmaster works in its cluster
    return found


def _changed_at(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def claim_socket_dir(cluster: Path, account: OsUser) -> Path:
    """Create the directory if there is none; ConfigurationError if it belongs to another user or is open to others."""
    path = socket_dir(cluster, account.uid)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    # If it has our own uid, a start as root was killed before the chown below.
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid in {account.uid, os.geteuid()}
    if not ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigurationError(
            f"DATA_DIR {cluster.parent}: remove {path}, which is not a private directory of uid {account.uid}"
        )
    os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return path


def clear_remains(cluster: Path, sockets: Path) -> None:
    """Remove the lock files of a dead server; call it while ``server.lock`` proves that it is dead.

    PostgreSQL only checks whether the pid in them is alive, which is also true for a zombie or a new process with that pid.
    """
    pid_file = cluster / "postmaster.pid"
    if pid := _recorded_pid(cluster):
        if not Path("/proc/self/cwd").exists():
            return  # macOS: PostgreSQL's own check and the retries suffice
        # A user may have started a server by hand, without our lock. The working directory of a postmaster is its cluster.
        with suppress(OSError):
            if Path(f"/proc/{pid}/cwd").samefile(cluster):
                return
    for path in (pid_file, sockets / f".s.PGSQL.{PORT}", sockets / f".s.PGSQL.{PORT}.lock"):
        path.unlink(missing_ok=True)


def _recorded_pid(cluster: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((cluster / "postmaster.pid").read_text().partition("\n")[0])
    return None


def find_listener(cluster: Path, sockets: Path) -> tuple[int, bool] | None:
    """The listener of ``cluster``: its pid, and whether it accepts sessions yet; None if there is none.

    A live pid proves nothing, so this sends the first message of PostgreSQL's protocol, as ``pg_isready`` does:
    https://www.postgresql.org/docs/current/protocol-flow.html
    """
    parameters = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    ready_for_query, cannot_connect_now = b"Z\0\0\0\5I", b"\0C57P03\0"
    answer, pid = b"", _recorded_pid(cluster)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(sockets / f".s.PGSQL.{PORT}"))
        if sys.platform == "linux":
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", peer)[0] != pid:
                return None
        connection.sendall(struct.pack("!ii", len(parameters) + 8, 3 << 16) + parameters)
        while not answer.endswith(ready_for_query) and (chunk := connection.recv(4096)):
            answer += chunk
        connection.sendall(b"X\0\0\0\4")  # without it, the server would log a lost connection
    # Any other refusal, such as too many clients, comes from a running server.
    return (pid, cannot_connect_now not in answer) if pid and answer else None
