"""The unpacked size of an Arrow file, from its metadata: the library would unpack a whole column before it has a length.

The layout is that of https://arrow.apache.org/docs/format/Columnar.html: a compressed buffer begins with its unpacked length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_DICTIONARIES, _BATCHES = 2, 3  # fields of the footer; those of the tables below are beside their names
_MAX_METADATA_BYTES = 16 << 20


def unpacked_bytes(path: Path) -> int:
    """The bytes that the buffers of an Arrow file unpack to; ValueError if its metadata is damaged. OSError."""
    with path.open("rb") as file:
        try:
            return sum(_batch_bytes(file, *block) for block in _blocks(file))
        except (struct.error, IndexError) as error:
            raise ValueError(str(error)) from None


def _blocks(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The place of each batch, and the length of its metadata."""
    end = file.seek(-10, 2)  # the length of the footer, and the magic number
    (length,) = struct.unpack_from("<i", file.read(4))
    footer = _read(file, end - length, length)
    root = struct.unpack_from("<I", footer)[0]
    for field in (_DICTIONARIES, _BATCHES):
        start, count = _vector(footer, root, field)
        for at in range(start, start + 24 * count, 24):  # offset, length of the metadata, length of the body
            yield struct.unpack_from("<qi", footer, at)


def _batch_bytes(file: IO[bytes], offset: int, length: int) -> int:
    metadata = _read(file, offset, length)
    metadata = metadata[8:] if metadata[:4] == b"\xff" * 4 else metadata[4:]
    message = struct.unpack_from("<I", metadata)[0]
    batch = _table(metadata, message, 2)  # Message.header
    if metadata[_field(metadata, message, 1)] == 2:  # Message.header_type: a dictionary, whose data is a batch
        batch = _table(metadata, batch, 1)
    start, count = _vector(metadata, batch, 2)  # RecordBatch.buffers
    is_packed, total = bool(_field(metadata, batch, 3)), 0  # RecordBatch.compression
    for at in range(start, start + 16 * count, 16):
        place, size = struct.unpack_from("<qq", metadata, at)
        unpacked = (
            struct.unpack_from("<q", _read(file, offset + length + place, 8))[0] if is_packed and size >= 8 else -1
        )
        total += size if unpacked < 0 else unpacked
    return total


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    if not 0 <= length <= _MAX_METADATA_BYTES or offset < 0:
        raise ValueError("its metadata is damaged")
    file.seek(offset)
    return file.read(length)


def _field(data: bytes, table: int, number: int) -> int:
    """The place of a field of a flatbuffer's table, 0 if it has none."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    at = 4 + 2 * number
    found = struct.unpack_from("<H", data, fields + at)[0] if at < struct.unpack_from("<H", data, fields)[0] else 0
    return table + found if found else 0


def _table(data: bytes, table: int, number: int) -> int:
    at = _field(data, table, number)
    return int(at + struct.unpack_from("<I", data, at)[0])


def _vector(data: bytes, table: int, number: int) -> tuple[int, int]:
    """The place of the first item, and the number of items."""
    if not _field(data, table, number):
        return 0, 0
    at = _table(data, table, number)
    return at + 4, struct.unpack_from("<I", data, at)[0]
