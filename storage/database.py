"""PostgreSQL, as the rest of this floor sees it: a pool, named statements, and two kinds of failure."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import asyncpg

from candlegraph.errors import ConfigurationError, Overloaded, Unavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

ACQUIRE_TIMEOUT_S = 2.0
_CROWDED_S = 0.05
STATEMENT_TIMEOUT_MS = 60_000

# The server is away or going away. Anything else that PostgreSQL says is a bug of ours and must be seen as one.
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.SerializationError,  # the horizon was moved under a write: the next try leaves out what lies behind it
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised when the server is killed in the middle of a transaction
    OSError,
    TimeoutError,
)
_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


def named_statements(file: str) -> dict[str, str]:
    """The statements of a file of this folder, by the names in it."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (body.strip().rstrip(";") for body in parts[1::2]), strict=True))


SQL = named_statements("queries.sql")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except asyncpg.ClientConfigurationError:  # one of the errors below by its class, but not by its meaning
        raise
    except _AWAY as error:
        raise Unavailable(retry_after=1) from error
    except RuntimeError as error:
        if "handler is closed" not in str(error):  # what uvloop says of a connection that has just ended
            raise
        raise Unavailable(retry_after=1) from error


async def while_connected(connection: Any, work: Coroutine[Any, Any, object]) -> None:
    """Do ``work`` on a connection, and no longer than that lives: a COPY waits for a dead server to read on."""
    task, ended = asyncio.ensure_future(work), asyncio.Event()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # given up, it may still fail

    def end(_: object) -> None:
        ended.set()

    connection.add_termination_listener(end)
    watching = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost in the middle of a COPY")
        task.result()
    finally:
        for one in (task, watching):
            one.cancel()
        await asyncio.wait({task, watching}, timeout=1)
        if not connection.is_closed():
            connection.remove_termination_listener(end)


async def _leave_as_it_is(_: object) -> None:
    """Spare the round trip that resets a session: no statement of ours outlives its transaction in it."""


@overload
def to_ms(instant: datetime) -> int: ...


@overload
def to_ms(instant: None) -> None: ...


def to_ms(instant: datetime | None) -> int | None:
    """An instant of PostgreSQL's in milliseconds since the epoch, UTC."""
    return None if instant is None else round(instant.timestamp() * 1000)


class Database:
    """A pool of connections to one PostgreSQL, 14 or newer. Raises Unavailable while the server is away."""

    def __init__(self, dsn: str, *, max_connections: int = 10) -> None:
        """Remember where it is; nothing is opened yet."""
        self._dsn = dsn
        self._max_connections = max_connections
        self._pool: asyncpg.Pool | None = None

    def aside(self) -> Database:
        """The same database by one connection of its own, for what must not wait behind everything else."""
        return Database(self._dsn, max_connections=1)

    async def open(self) -> None:
        """Connect. ConfigurationError where the database refuses us, Unavailable where there is none."""
        try:
            with _translated():
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=1,
                    max_size=self._max_connections,
                    timeout=10,
                    reset=_leave_as_it_is,
                    command_timeout=STATEMENT_TIMEOUT_MS / 1000 + 5,
                    server_settings={
                        "application_name": "candlegraph",
                        "timezone": "UTC",
                        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                        # What a process had locked when it froze, or vanished, is free again then.
                        "idle_in_transaction_session_timeout": str(STATEMENT_TIMEOUT_MS),
                        "jit": "off",  # planning an expression tree costs more than our short statements
                    },
                )
        except _REFUSED as error:
            raise ConfigurationError(
                f"DB_CONNECTION_STRING: the database refuses it ({type(error).__name__})."
            ) from error
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise ConfigurationError("DB_CONNECTION_STRING is not an address of a PostgreSQL database.") from error

    async def close(self) -> None:
        """Give every connection back; running statements get five seconds."""
        if self._pool:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Borrow an asyncpg connection. Overloaded where all are busy for two seconds."""
        assert self._pool is not None, "open() comes first"  # noqa: S101
        with _translated():
            connection = await self._acquire(self._pool)
            try:
                yield connection
            finally:
                await self._pool.release(connection, timeout=ACQUIRE_TIMEOUT_S)

    @staticmethod
    async def _acquire(pool: asyncpg.Pool) -> Any:
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                while True:
                    try:
                        return await pool.acquire()
                    except asyncpg.TooManyConnectionsError:
                        # The pool wanted to grow and may not: one that it has will soon be free.
                        await asyncio.sleep(_CROWDED_S)
        except TimeoutError:
            raise Overloaded(retry_after=1) from None

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Any]:
        """Open a connection outside of the pool, for somebody who keeps it."""
        with _translated():
            connection = await asyncpg.connect(
                self._dsn, timeout=10, server_settings={"application_name": "candlegraph"}
            )
            try:
                yield connection
            finally:
                await connection.close(timeout=2)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Borrow a connection for one READ COMMITTED transaction."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """Borrow a connection whose statements all see the same moment, and only read."""
        async with self.connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """Open a connection outside the pool, for statements that may take hours; its session locks end with it."""
        with _translated():
            opened = await asyncpg.connect(
                self._dsn,
                timeout=10,
                server_settings={"application_name": "candlegraph", "timezone": "UTC", "statement_timeout": "0"},
            )
            try:
                yield opened
            finally:
                with suppress(TimeoutError):  # it terminates itself then
                    await opened.close(timeout=5)

    async def read(self, name: str, *arguments: object) -> Sequence[Any]:
        """Run a named statement that only reads; once more where the connection turns out to be dead."""
        return await self.fetch(SQL[name], *arguments)

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """As `read`, for a statement that a caller put together."""
        try:
            async with self.connection() as connection:
                return await connection.fetch(statement, *arguments)  # type: ignore[no-any-return]
        except Unavailable as error:
            if isinstance(error.__cause__, asyncpg.QueryCanceledError):
                raise  # it would take as long again
            if self._pool:
                await self._pool.expire_connections()  # what ended one may have ended all of them
            async with self.connection() as connection:
                return await connection.fetch(statement, *arguments)  # type: ignore[no-any-return]
