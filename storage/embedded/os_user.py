"""The OS user of PostgreSQL: PostgreSQL refuses uid 0, so root starts it as another user."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from candlegraph.errors import ConfigurationError

if sys.platform != "win32":
    import pwd

# Pass on nothing else: PG* variables would redirect the server, and processes of another uid must not get our secrets.
# A fixed TZ saves initdb its search for the zone; PostgreSQL on macOS does not start without a valid LC_ALL.
ENVIRONMENT = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if key in os.environ}
ENVIRONMENT |= {"LC_ALL": "C", "TZ": "UTC"}
SHARED_USERS = ("nobody",)  # users of other programs as well
_OWN_USER = "candlegraph"  # used if an administrator has created it


@dataclass(frozen=True, slots=True)
class OsUser:
    """The user that PostgreSQL runs as; ``dropped`` if that is not our own, because PostgreSQL refuses uid 0."""

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
                env=ENVIRONMENT,
                pass_fds=fds,
                umask=0o077,
                start_new_session=True,
                user=self.uid if self.dropped else None,
                group=self.gid if self.dropped else None,
                extra_groups=[] if self.dropped else None,
            )
        except OSError as error:
            # The container has no CAP_SETUID, or the user namespace does not map the uid.
            if self.dropped and error.errno in {errno.EPERM, errno.EINVAL}:
                raise ConfigurationError(
                    f"DB_CONNECTION_STRING must be set, or the server started by a user other than root: "
                    f"PostgreSQL refuses root, and root may not become uid {self.uid} here"
                ) from error
            raise


def os_user_of(cluster: Path) -> OsUser:
    """The user to run PostgreSQL as: this process's own, unless it is root. ConfigurationError.

    For root it is the owner of the cluster or of the data directory. If that is root too, it is ``candlegraph`` if that user
    exists, else ``nobody``.
    """
    me, data_dir = os.geteuid(), cluster.parent
    found = cluster.stat() if cluster.exists() else None
    if me and found and found.st_uid != me:
        raise ConfigurationError(f"DATA_DIR {data_dir}: {cluster.name}/ in it belongs to uid {found.st_uid}")
    if me:
        return OsUser(me, os.getegid(), dropped=False)
    if found and found.st_uid:
        return OsUser(found.st_uid, found.st_gid, dropped=True)
    with suppress(KeyError):  # initdb refuses a uid without a name, such as that of a container's host
        if owner := data_dir.stat().st_uid:
            return OsUser(owner, pwd.getpwuid(owner).pw_gid, dropped=True)
    for name in (_OWN_USER, *SHARED_USERS):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return OsUser(user.pw_uid, user.pw_gid, dropped=True)
    raise ConfigurationError(f"DATA_DIR {data_dir} must belong to a user other than root, for PostgreSQL")
