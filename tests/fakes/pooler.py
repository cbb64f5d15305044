"""A connection pooler as PgBouncer 1.18 in transaction mode and its default configuration, behind PostgreSQL's protocol.

A client gets a server's session with the first message of a transaction and gives it back when the server is idle again;
the next transaction gets the session that was idle longest. Whatever a session holds (prepared statements, settings,
LISTEN, temporary tables) is therefore elsewhere the next time. Startup parameters beyond its list are refused.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_TRACKED = {"client_encoding", "datestyle", "timezone", "standard_conforming_strings", "application_name"}
_SSL, _GSS, _CANCEL = 80_877_103, 80_877_104, 80_877_102
_PROTOCOL = 196_608
_ANSWERED_BY_READY = b"QSF"  # simple query, sync, function call


@dataclass
class _Session:
    """A connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: dict[str, str] = field(default_factory=dict)
    key: bytes = b""
    pending: int = 0  # messages that ReadyForQuery is still to answer
    transaction: bytes = b"I"  # idle, open or failed

    @property
    def idle(self) -> bool:
        return not self.pending and self.transaction == b"I"


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    return kind, await reader.readexactly(length - 4)


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def _texts(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


class Pooler:
    """Clients reach the PostgreSQL at ``dsn`` at ``pooler.dsn``; ``status`` stands in for what the server reports of itself."""

    def __init__(self, dsn: str, *, sessions: int = 3, status: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._user, self._database = parts.username or "postgres", parts.path.removeprefix("/")
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._overrides = dict(status or {})
        self._status: dict[str, str] = {}  # what clients hear of the server
        self._wanted = sessions
        self._free: asyncio.Queue[_Session] = asyncio.Queue()
        self._active: dict[bytes, _Session] = {}  # by the key its client was given
        self._writers: set[asyncio.StreamWriter] = set()
        self._numbers = itertools.count(1_000_000)
        self.handovers = 0  # how often a client was given a session

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on a free port; the address of the database there."""
        for _ in range(self._wanted):
            self._free.put_nowait(await self._connect())
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"postgresql://{self._user}@127.0.0.1:{server.sockets[0].getsockname()[1]}/{self._database}?sslmode=disable"
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _connect(self) -> _Session:
        session = _Session(*await asyncio.open_unix_connection(self._socket))
        self._writers.add(session.writer)
        body = struct.pack(">I", _PROTOCOL) + _texts("user", self._user, "database", self._database) + b"\0"
        session.writer.write(struct.pack(">I", len(body) + 4) + body)
        while True:
            kind, body = await _message(session.reader)
            if kind == b"S":
                name, value = body.split(b"\0")[:2]
                session.status[name.decode()] = value.decode()
            elif kind == b"K":
                session.key = body
            elif kind == b"E":
                raise ConnectionError(body)
            elif kind == b"Z":
                self._status = {**session.status, **self._overrides}
                return session

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, OSError):
            if (settings := await self._greeted(reader, writer)) is not None:
                await _Client(self, reader, writer, settings).run()
        writer.close()
        self._writers.discard(writer)

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str] | None:
        while True:
            length, code = struct.unpack(">II", await reader.readexactly(8))
            body = await reader.readexactly(length - 8)
            if code not in {_SSL, _GSS}:
                break
            writer.write(b"N")
        if code == _CANCEL:
            await self._cancel(body)
            return None
        words = body.decode().split("\0")
        given = {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=False) if name}
        for name in given.keys() - _TRACKED - {"user", "database"}:
            text = _texts("SFATAL", "C08P01", f"Munsupported startup parameter: {name}")
            writer.write(_packed(b"E", text + b"\0"))
            await writer.drain()
            return None
        return {name: value for name, value in given.items() if name in _TRACKED}

    async def _cancel(self, key: bytes) -> None:
        if session := self._active.get(key):
            _, writer = await asyncio.open_unix_connection(self._socket)
            writer.write(struct.pack(">II", 8 + len(session.key), _CANCEL) + session.key)
            await writer.drain()
            writer.close()

    async def acquire(self, settings: Mapping[str, str]) -> _Session:
        """The session that was idle longest, with the client's own settings."""
        session = await self._free.get()
        self.handovers += 1
        changes = [f"set {name} = '{value.strip(chr(39))}'" for name, value in settings.items()]
        if changes:
            session.writer.write(_packed(b"Q", _texts("; ".join(changes))))
            while (await _message(session.reader))[0] != b"Z":
                pass
        return session

    def release(self, session: _Session) -> None:
        """Take a session back."""
        self._free.put_nowait(session)

    async def replace(self, session: _Session) -> None:
        """End a session whose client left within a transaction, and so the transaction."""
        session.writer.close()
        self._free.put_nowait(await self._connect())

    def welcome(self, key: bytes) -> bytes:
        """What a client hears before its first statement."""
        said = b"".join(_packed(b"S", _texts(name, value)) for name, value in self._status.items())
        return _packed(b"R", struct.pack(">I", 0)) + said + _packed(b"K", key) + _packed(b"Z", b"I")

    def new_key(self) -> bytes:
        """A key of the pooler's own: its number is that of no process of the server."""
        return struct.pack(">II", next(self._numbers), 4711)

    def lend(self, key: bytes, session: _Session | None) -> None:
        """Note whose statement a cancel request with ``key`` is to end."""
        if session:
            self._active[key] = session
        else:
            self._active.pop(key, None)


class _Client:
    """A connection of a client, and the session that it has within a transaction."""

    def __init__(
        self, pooler: Pooler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: Mapping[str, str]
    ) -> None:
        self._pooler = pooler
        self._reader = reader
        self._writer = writer
        self._settings = settings
        self._key = pooler.new_key()
        self._session: _Session | None = None
        self._answering: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Pass messages on until the client leaves."""
        self._writer.write(self._pooler.welcome(self._key))
        try:
            while True:
                kind, body = await _message(self._reader)
                if kind == b"X":
                    return
                session = await self._borrowed()
                session.pending += kind in _ANSWERED_BY_READY
                session.writer.write(_packed(kind, body))
                await session.writer.drain()
        finally:
            if self._answering:
                self._answering.cancel()
                await asyncio.wait([self._answering])
            if self._session:
                await self._pooler.replace(self._session)

    async def _borrowed(self) -> _Session:
        if self._session is None:
            self._session = await self._pooler.acquire(self._settings)
            self._pooler.lend(self._key, self._session)
            self._answering = asyncio.create_task(self._answer(self._session))
        return self._session

    async def _answer(self, session: _Session) -> None:
        """Pass the answers on; after the last one of a transaction the session is free."""
        while True:
            try:
                kind, body = await _message(session.reader)
            except (asyncio.IncompleteReadError, OSError):
                self._writer.transport.abort()
                return
            if kind == b"Z":
                session.pending -= 1
                session.transaction = body
                if session.idle:
                    self._session = None
                    self._pooler.lend(self._key, None)
                    self._pooler.release(session)
            self._writer.write(_packed(kind, body))
            if self._session is not session:
                return
