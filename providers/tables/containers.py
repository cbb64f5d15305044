"""Containers: what packs a table (gzip, bzip2, xz, zstd, zip), known by its first bytes and unpacked piece by piece.

Every stream is counted while it is unpacked, and refused when it unpacks to more than a table of candles does (size.py).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from candlegraph.errors import InvalidCandles
from providers.tables.size import UnpackedSize

_XZ_MEMORY_BYTES = 100 << 20  # the largest preset, xz -9, needs 65 MB
_MAX_MEMBERS = 10_000
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}


class Stream(Protocol):
    """The bytes of a table, in order."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


def container_of(path: Path) -> str | None:
    """The container of a file by its first bytes: a key of the messages below; None if it is not packed. OSError."""
    with path.open("rb") as file:
        return _container(file.read(6))


def _container(head: bytes) -> str | None:
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def members_of(path: Path) -> list[str]:
    """The names of the files in a zip archive, without folders and hidden ones. InvalidCandles, OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InvalidCandles(f"the zip file is damaged: {error}") from None
    if len(infos) > _MAX_MEMBERS:
        raise InvalidCandles(f"the zip file holds more than {_MAX_MEMBERS:,} files: split it")
    names = [info.filename for info in infos if not info.is_dir()]
    return [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]


@contextmanager
def unpacked(path: Path, member: str | None = None) -> Iterator[Stream]:
    """The unpacked bytes of a file, or of one ``member`` of a zip archive.

    InvalidCandles if it is damaged, too large, or an archive of several files; OSError.
    """
    size = UnpackedSize(path.stat().st_size)
    with path.open("rb") as file, _translated(kind := _container(file.read(6))):
        file.seek(0)
        if kind == "zip":
            with zipfile.ZipFile(file) as archive, archive.open(_only_member(path, member)) as opened:
                yield _Counted(cast(Stream, opened), size, kind)
        else:
            yield _Counted(_OPENERS[kind](file) if kind else file, size, kind)


def _only_member(path: Path, member: str | None) -> str:
    names = members_of(path)
    if member is not None:
        return member
    if len(names) != 1:
        shown = ", ".join(names[:3]) + " ..." * (len(names) > 3)
        more = f"holds {len(names)} files ({shown}): `candlegraph import` reads each of them" if names else "is empty"
        raise InvalidCandles(f"the zip file {more}")
    return names[0]


@contextmanager
def _translated(kind: str | None) -> Iterator[None]:
    """Turn each library's own errors into InvalidCandles."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InvalidCandles(_reason(kind, error)) from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile: an unknown method, or a password
        raise InvalidCandles(f"the zip file cannot be read: {error}") from None
    except OSError as error:
        if kind is None or error.errno is not None:
            raise
        raise InvalidCandles(_reason(kind, error)) from None


def _reason(kind: str | None, error: Exception) -> str:
    if "Memory usage limit" in str(error):
        return f"the xz file needs more than {_XZ_MEMORY_BYTES >> 20} MB to unpack: pack it with a smaller preset"
    cut = isinstance(error, EOFError) or "runcated" in str(error) or "end-of-stream" in str(error)
    return f"the {kind} file is {'cut short' if cut else 'damaged'}"


class _Counted:
    """A stream that counts what it hands out."""

    def __init__(self, source: Stream, size: UnpackedSize, kind: str | None) -> None:
        self._source, self._size, self._kind = source, size, kind

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes. InvalidCandles if they are too many by now, or damaged."""
        with _translated(self._kind):
            found = self._source.read(size)
        self._size.add(len(found))
        return found


class _Xz:
    """An xz file with a bound on the memory that its header may ask for, which `lzma.LZMAFile` lacks."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; an xz file may consist of several streams."""
        while True:
            packed = b""
            if self._decoder.eof:
                packed = (self._decoder.unused_data or self._file.read(1 << 16)).lstrip(b"\0")
                if not packed:
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)
            elif self._decoder.needs_input and not (packed := self._file.read(1 << 16)):
                raise EOFError
            if found := self._decoder.decompress(packed, size):
                return found


def _zstd(file: IO[bytes]) -> Stream:
    import pyarrow as pa  # noqa: PLC0415 - lazily: most files are not zstd

    return cast(Stream, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


_OPENERS: dict[str, Callable[[IO[bytes]], Stream]] = {
    "gzip": lambda file: cast(Stream, gzip.GzipFile(fileobj=file)),
    "bzip2": lambda file: cast(Stream, bz2.BZ2File(file)),
    "xz": _Xz,
    "zstd": _zstd,
}
