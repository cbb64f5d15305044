"""Classifies errors of asyncpg: the server is away, it refuses writes, or the error is a bug of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

# The server is away or going away. Any other error of PostgreSQL is a bug of ours and must look like one.
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.SerializationError,  # the horizon moved during a write: the next attempt leaves out the candles before it
)
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError,)
EXHAUSTED = (asyncpg.DiskFullError, asyncpg.OutOfMemoryError, asyncpg.PostgresIOError)  # of space, memory or disk
# The driver's own errors: a lost connection, or a wrong use of one.
_OF_THE_CLIENT = (asyncpg.InterfaceError, asyncpg.InternalClientError)
_RUNTIME = {"asyncio", "uvloop", "ssl", "socket"}


def takes_no_writes(error: BaseException) -> str | None:
    """A sentence for the caller if the server answers but cannot store, because it is read-only or out of space; else None."""
    if isinstance(error, _READ_ONLY):
        return "The database is read-only at the moment: try again later."
    if isinstance(error, EXHAUSTED) or type(error) is asyncpg.InsufficientResourcesError:
        return "The database has run out of disk space or memory: try again later."
    return None


def is_away(error: BaseException, connection: Any = None) -> bool:
    """Whether an error that ended the use of ``connection`` (None: there was none yet) means that the server is away.

    A timeout, a socket's error and "another operation is in progress" mean it only if the driver raised them, and the last
    two only if the connection is lost too. Raised by code that has borrowed a connection, they are bugs.
    """
    if isinstance(error, asyncpg.ClientConfigurationError):  # a subclass of InterfaceError, but about a wrong address
        return False
    if isinstance(error, _AWAY):
        return True
    if isinstance(error, _OF_THE_CLIENT):
        return connection is None or is_lost(connection)
    closed_by_uvloop = isinstance(error, RuntimeError) and "handler is closed" in str(error)
    if isinstance(error, OSError) or closed_by_uvloop:
        return connection is None or _raised_by_driver(error.__traceback__)
    return False


def is_lost(connection: Any) -> bool:
    """Whether a connection has ended; a borrowed one has then left its pool, and so its proxy raises."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


def _raised_by_driver(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame, apart from those of the event loop, is asyncpg's."""
    packages = [name for name in _packages(traceback) if name not in _RUNTIME]
    return bool(packages) and packages[-1] == "asyncpg"


def _packages(traceback: TracebackType | None) -> Iterator[str]:
    while traceback:
        yield str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        traceback = traceback.tb_next
