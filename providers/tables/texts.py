"""The text of a table in blocks of whole lines: UTF-8, each line ended by a line feed, whatever the file has.

UTF-16 and Latin-1 are decoded, CR and CRLF become LF, and a JSON array of arrays becomes lines of its rows.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from candlegraph.errors import InvalidCandles
from providers.tables.containers import Stream

_BLOCK_BYTES = 8 << 20
_HEAD_BYTES = 65_536
_JSON_ROWS = re.compile(rb"\[\s*\[")


@dataclass(frozen=True, slots=True)
class Text:
    """A text: its blocks of whole lines; and whether it is JSON, of ``arrays`` or of ``records``."""

    blocks: Iterator[bytes]
    json: str | None = None


def text_of(source: Stream) -> Text:
    """The text of a stream. InvalidCandles if it is binary; errors of the stream, also from the blocks."""
    head = _read(source, _HEAD_BYTES)
    chunks = _chunks(head, source)
    marks = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    wide = next((name for mark, name in marks.items() if head.startswith(mark)), None) or _wide_without_mark(head)
    if wide is None and b"\0" in head:
        raise InvalidCandles("it is no text: it has zero bytes. CSV, JSON, Parquet, Feather and Arrow files are read")
    chunks = _decoded(chunks, wide) if wide else _without_mark(chunks)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in {b"[", b"{"}:
        return Text(_as_utf8(_whole_lines(_line_feeds(chunks))))
    if _JSON_ROWS.search(head):
        return Text(_as_utf8(_whole_lines(_json_lines(chunks))), "arrays")
    return Text(chunks, "records")


def _read(source: Stream, size: int) -> bytes:
    found = b""
    while len(found) < size and (more := source.read(size - len(found))):
        found += more
    return found


def _chunks(head: bytes, source: Stream) -> Iterator[bytes]:
    yield head
    while chunk := source.read(_BLOCK_BYTES):
        yield chunk


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: every second byte of ASCII text is zero."""
    start = head[:400]
    for name, zeros, texts in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        if zeros and not any(zeros) and all(texts):
            return name
    return None


def _decoded(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for chunk in chunks:
        yield decoder.decode(chunk).removeprefix("\ufeff").encode()
    yield decoder.decode(b"", final=True).encode()


def _without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(chunks).removeprefix(codecs.BOM_UTF8)
    yield from chunks


def _line_feeds(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn CRLF and CR into LF, also where CR and LF are in two chunks."""
    held = b""
    for chunk in chunks:
        text = held + chunk
        held = text[-1:] if text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)]
        yield text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text
    yield b"\n" if held else b""


def _json_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The first array of arrays in a JSON text as lines; a row of it is a line, and what is around it is dropped."""
    begun, held = False, b""
    for chunk in chunks:
        text = held + chunk
        if not begun:
            found = _JSON_ROWS.search(text)
            text, begun = text[found.end() if found else 0 :], True
        plain = text.translate(None, b' \t\r\n"')
        end = plain.find(b"]]")
        plain = plain if end < 0 else plain[:end] + b"]"
        # A bracket at the end may be the first of two.
        held = b"" if end >= 0 else plain[plain.rfind(b"]") if b"]" in plain[-2:] else len(plain) :]
        plain = plain[: len(plain) - len(held)]
        yield plain.replace(b"],[", b"\n").replace(b"]", b"\n").replace(b"[", b"")
        if end >= 0:
            return
    raise InvalidCandles("the JSON array is cut short: its closing brackets are missing")


def _whole_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks of whole lines; a last line without an end stays with the lines above it, to be compared with them."""
    held, rest = b"", b""
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut and held:
            yield held
        whole = memoryview(chunk)[:cut]  # a slice would be another copy of the block
        held, rest = (b"".join([rest, whole]), chunk[cut:]) if cut else (held, rest + chunk)
        if len(rest) > _BLOCK_BYTES:
            raise InvalidCandles("it is no table: one of its lines is longer than any row")
    if held or rest:
        yield held + rest


def _as_utf8(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Decode a text that is not UTF-8 as Latin-1: only names and remarks are not ASCII, and no number depends on them."""
    is_latin = False
    for block in blocks:
        if not block.isascii():
            try:
                _ = is_latin or block.decode()
            except UnicodeDecodeError:
                is_latin = True
        yield block.decode("latin-1").encode() if is_latin else block
