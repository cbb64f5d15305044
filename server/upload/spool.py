"""The spool: a file for the body of each upload, which exists until the answer, and is deleted after a crash.

Each file is locked for as long as a process uses it, so a start deletes only those whose process was killed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SUFFIX = re.compile(r"(\.[a-z0-9]{1,8}){1,2}$")
_PARQUET = b"PAR1"


@dataclass(slots=True)
class SpoolFile:
    """One file. ``fd`` is open for writing and holds the lock; a child that inherits it keeps the lock too."""

    path: Path
    fd: int
    size: int = 0

    def write(self, data: bytes) -> None:
        """Append to it. OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]
        self.size += len(data)

    def finish(self, name: str, modified_ms: int | None) -> None:
        """Give it the suffix that the importer expects, by the client's ``name`` and the first bytes, and the client's time."""
        suffix = _SUFFIX.search(name.lower())
        kind = suffix[0] if suffix else ""
        with self.path.open("rb") as file:
            if file.read(4) == _PARQUET:
                kind = ".parquet"
        if modified_ms is not None:
            with suppress(OSError, OverflowError):
                os.utime(self.path, (modified_ms / 1000, modified_ms / 1000))
        self.path = self.path.rename(self.path.with_name(self.path.name + kind))


class Spool:
    """A directory with the files of the uploads under way, closed to other users."""

    def __init__(self, directory: Path) -> None:
        """Use ``directory``; the first upload creates it."""
        self.directory = directory

    @contextmanager
    def file(self) -> Iterator[SpoolFile]:
        """An empty file of mode 0600, deleted at the end. OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"upload-{secrets.token_hex(16)}"
        with _locked(self.directory):  # or a starting process could delete it before its lock
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = SpoolFile(path, fd)
        try:
            yield found
        finally:
            found.path.unlink(missing_ok=True)
            os.close(fd)

    def sweep(self) -> None:
        """Delete the files that no process uses."""
        if not self.directory.is_dir():
            return
        with suppress(OSError), _locked(self.directory):
            for path in self.directory.glob("upload-*"):
                with suppress(OSError):
                    _delete_unused(path)


def _delete_unused(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(fd)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
