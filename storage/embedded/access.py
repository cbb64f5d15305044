"""Access to a PostgreSQL that root started as another user: for root, and for that user unless other programs share it.

The folder of the socket is closed to other users, but other programs may run as ``nobody`` too. So PostgreSQL gets the user
of each connection from the kernel (https://www.postgresql.org/docs/current/auth-peer.html). The files with these rules belong
to root.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from storage.embedded.os_user import SHARED_USERS, OsUser
from storage.embedded.socket import USER

if sys.platform != "win32":
    import pwd

log = logging.getLogger(__name__)

_FILES = {"hba_file": "postgres.hba", "ident_file": "postgres.ident"}


@contextmanager
def peer_rules(data_dir: Path, account: OsUser) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Yield the options of a server, and the files that it inherits; nothing if it runs as our own user.

    The server reads the files through their descriptors, because ``account`` may have no right to enter ``data_dir``.
    """
    if account.dropped and data_dir.stat().st_mode & 0o011 and _is_shared(account):
        log.warning(
            "DATA_DIR %s may be entered by every user: other processes of uid %d can read the files of the database; "
            "`chmod 700` keeps them out",
            data_dir,
            account.uid,
        )
    options, fds = list[str](), list[int]()
    with ExitStack() as stack:
        for option, name in _FILES.items() if account.dropped else ():
            path = data_dir / name
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            stack.callback(os.close, fd)
            os.fchown(fd, os.geteuid(), -1)
            os.fchmod(fd, 0o644)
            os.truncate(fd, 0)
            os.write(fd, _rules(option, account).encode())
            through = Path(f"/proc/self/fd/{fd}")
            options.append(f"-c{option}={through if through.exists() else path}")
            fds.append(fd)
        yield options, tuple(fds)


def _rules(option: str, account: OsUser) -> str:
    if option == "hba_file":
        return "".join(f"local {databases} all peer map={USER}\n" for databases in ("all", "replication"))
    names = [pwd.getpwuid(os.geteuid()).pw_name]
    with suppress(KeyError):
        names += [] if _is_shared(account) else [pwd.getpwuid(account.uid).pw_name]
    # From PostgreSQL 16 on, `all` admits these users as any role; in older ones it names a role that does not exist.
    return "".join(f'{USER} "{name}" {role}\n' for name in names for role in (USER, "all"))


def _is_shared(account: OsUser) -> bool:
    with suppress(KeyError):
        return pwd.getpwuid(account.uid).pw_name in SHARED_USERS
    return False
