"""PostgreSQL for the rest of this package: a pool, named statements, and two kinds of failure."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, overload

import asyncpg

from candlegraph.errors import ConfigurationError, Overloaded, Unavailable
from candlegraph.outage import Outage
from candlegraph.timings import Timings
from storage.driver import EXHAUSTED, is_away, is_lost, takes_no_writes

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

WRITES_RESUME_S = 10.0  # after this long without a refused write, the database counts as writable again
_CROWDED_S = 0.05

_OF_ONE_STATEMENT = (asyncpg.QueryCanceledError, asyncpg.SerializationError, TimeoutError)  # the next one may succeed
_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


def named_statements(package: str) -> dict[str, str]:
    """The statements of a package's ``queries.sql``, by the names in it."""
    text = files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (body.strip().rstrip(";") for body in parts[1::2]), strict=True))


SQL = named_statements("storage")


async def while_connected(connection: Any, work: Coroutine[Any, Any, object]) -> None:
    """Do ``work`` until the connection ends: a COPY would wait for a dead server for ever."""
    task, ended = asyncio.ensure_future(work), asyncio.Event()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a cancelled task may still fail

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
        if not is_lost(connection):
            connection.remove_termination_listener(end)


def driver_reason(error: Unavailable) -> str:
    """The reason given by the server or the pooler in front of it, in brackets; it has no secret."""
    return f" ({error.__cause__})" if isinstance(error.__cause__, asyncpg.PostgresError) else ""


async def _leave_as_it_is(_: object) -> None:
    """Do not reset a session, which saves a round trip: our statements change nothing in it."""


@overload
def to_ms(instant: datetime) -> int: ...


@overload
def to_ms(instant: None) -> None: ...


def to_ms(instant: datetime | None) -> int | None:
    """Convert an instant from PostgreSQL into milliseconds since the epoch, UTC."""
    return None if instant is None else round(instant.timestamp() * 1000)


class _Outages:
    """The outages of a database in the log: one entry for all pools and loops that notice it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.connecting = Outage("connecting to the database", clock=clock)
        self._writing = Outage("writing to the database", clock=clock)
        self._clock = clock
        self._refused_at = float("-inf")

    def refuse_writes(self, reason: str) -> None:
        self._refused_at = self._clock()
        self._writing.begin(reason)

    def end(self) -> None:
        """Note a success. It may have been a read, so writes count as possible only after a while without a refused one."""
        self.connecting.end()
        if self._clock() - self._refused_at >= WRITES_RESUME_S:
            self._writing.end()


class Database:
    """A pool of connections to one PostgreSQL, 14 or newer. Raises Unavailable while the server is away or refuses writes.

    No state of a session outlives its transaction. So a pooler such as PgBouncer may stand in between and give each
    transaction another session. A session starts only with the parameters that PgBouncer accepts by default.
    """

    def __init__(
        self, dsn: str, *, max_connections: int = 10, listen_dsn: str | None = None, timings: Timings | None = None
    ) -> None:
        """Open no connection yet. ``listen_dsn`` is the address of the same database without a pooler."""
        self.timings = timings or Timings()
        self.dsn = dsn
        self._listen_dsn = listen_dsn
        self._max_connections = max_connections
        self._pool: asyncpg.Pool | None = None
        self._behind_pooler: bool | None = None  # None until the first connection
        self._outages = _Outages()

    @property
    def can_listen(self) -> bool:
        """Whether `listening` receives notifications; through a pooler they would be lost."""
        return self._listen_dsn is not None or not self._behind_pooler

    def dedicated_pool(self) -> Database:
        """The same database through one connection of its own, for work that must not wait for a connection."""
        beside = Database(self.dsn, max_connections=1, listen_dsn=self._listen_dsn, timings=self.timings)
        beside._behind_pooler, beside._outages = self._behind_pooler, self._outages
        return beside

    async def open(self) -> None:
        """Connect. ConfigurationError if the database refuses us, Unavailable if it does not answer."""
        try:
            with self._translated():
                if self._behind_pooler is None:
                    self._behind_pooler = await self._detect_pooler()
                self._pool = await asyncpg.create_pool(
                    self.dsn,
                    min_size=1,
                    max_size=self._max_connections,
                    reset=_leave_as_it_is,
                    command_timeout=self.timings.statement_timeout_s + 5,  # in a transaction the server's applies
                    **self._options(),
                )
        except _REFUSED as error:
            raise ConfigurationError(
                f"DB_CONNECTION_STRING: the database refuses it ({type(error).__name__})."
            ) from error
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise ConfigurationError("DB_CONNECTION_STRING is not an address of a PostgreSQL database.") from error

    async def close(self) -> None:
        """Close every connection; running statements get five seconds."""
        if self._pool:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Borrow an asyncpg connection. Overloaded if all are busy for two seconds."""
        assert self._pool is not None, "open() comes first"  # noqa: S101
        with self._translated():
            connection = await self._acquire(self._pool)
        try:
            with self._translated(connection):
                yield connection
        finally:
            with self._translated():
                await self._pool.release(connection, timeout=self.timings.acquire_timeout_s)
        self._outages.end()

    async def _acquire(self, pool: asyncpg.Pool) -> Any:
        try:
            async with asyncio.timeout(self.timings.acquire_timeout_s):
                while True:
                    try:
                        return await pool.acquire()
                    except asyncpg.TooManyConnectionsError:
                        # The server has no connection left for the pool to grow: one of the pool's will be free soon.
                        await asyncio.sleep(_CROWDED_S)
        except TimeoutError:
            raise Overloaded(retry_after=1) from None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        """Open a connection outside the pool, for statements that may take hours."""
        with self._translated():
            connection = await asyncpg.connect(self.dsn, **self._options())
        async with self._closing(connection):
            yield connection

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Any]:
        """Open a connection that receives notifications, past the pooler; see `can_listen`."""
        with self._translated():
            connection = await asyncpg.connect(
                self._listen_dsn or self.dsn,
                timeout=self.timings.connect_timeout_s,
                server_settings={"application_name": "candlegraph"},
            )
        async with self._closing(connection):
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Borrow a connection for one READ COMMITTED transaction."""
        async with self.connection() as connection, begun(connection, self.timings):
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """Borrow a connection whose statements only read, and all see one snapshot."""
        async with (
            self.connection() as connection,
            begun(connection, self.timings, "isolation level repeatable read read only"),
        ):
            yield connection

    async def read(self, name: str, *arguments: object) -> Sequence[Any]:
        """Run a named statement that only reads; repeat it once if the connection turns out to be dead."""
        return await self.fetch(SQL[name], *arguments)

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """As `read`, for the text of a statement."""
        try:
            async with self.connection() as connection:
                return await connection.fetch(statement, *arguments)  # type: ignore[no-any-return]
        except Unavailable as error:
            if isinstance(error.__cause__, (asyncpg.QueryCanceledError, TimeoutError, *EXHAUSTED)):
                raise  # a second attempt would take as long or run out of space too
            if self._pool:
                await self._pool.expire_connections()  # a failure that ended one has perhaps ended all
            async with self.connection() as connection:
                return await connection.fetch(statement, *arguments)  # type: ignore[no-any-return]

    async def _detect_pooler(self) -> bool:
        """Whether there is a pooler: then the process id of the greeting is not that of the process that answers."""
        connection = await asyncpg.connect(self.dsn, timeout=self.timings.connect_timeout_s, statement_cache_size=0)
        async with self._closing(connection):
            return bool(connection.get_server_pid() != await connection.fetchval("select pg_backend_pid()"))

    def _options(self) -> dict[str, Any]:
        settings = {"application_name": "candlegraph", "timezone": "UTC"}
        if self._behind_pooler:  # a statement prepared in one session might be run in another
            return {"timeout": self.timings.connect_timeout_s, "server_settings": settings, "statement_cache_size": 0}
        # Compiling an expression takes longer than our short statements. PgBouncer rejects this parameter.
        return {"timeout": self.timings.connect_timeout_s, "server_settings": {**settings, "jit": "off"}}

    @asynccontextmanager
    async def _closing(self, connection: Any) -> AsyncIterator[None]:
        try:
            with self._translated(connection):
                yield
        finally:
            with self._translated(), suppress(TimeoutError):  # asyncpg then terminates the connection
                await connection.close(timeout=self.timings.close_timeout_s)

    @contextmanager
    def _translated(self, connection: Any = None) -> Iterator[None]:
        """Translate the driver's errors into Unavailable, and log the outage; not for the first connection, which `open` reports."""
        try:
            yield
        except Exception as error:
            if sentence := takes_no_writes(error):
                self._outages.refuse_writes(str(error))
                refused = Unavailable(sentence, retry_after=5)
                refused.logged = True
                raise refused from error
            if is_away(error, connection):
                away = Unavailable(retry_after=1)
                if self._pool and (connection is None or not isinstance(error, _OF_ONE_STATEMENT)):
                    self._outages.connecting.begin(str(error) or type(error).__name__)
                    away.logged = True
                raise away from error
            raise


@asynccontextmanager
async def begun(
    connection: Any,
    timings: Timings,
    mode: str = "",
    *,
    timeout_ms: int | None = None,
    lock_timeout_ms: int | None = None,
) -> AsyncIterator[None]:
    """Run the body in a transaction; the round trip that begins it sets its time-outs (0: none), and they end with it."""
    usual_ms = round(timings.statement_timeout_s * 1000)
    limits = {
        "statement_timeout": usual_ms if timeout_ms is None else timeout_ms,
        # Releases the locks of a process that froze or vanished.
        "idle_in_transaction_session_timeout": usual_ms,
        **({} if lock_timeout_ms is None else {"lock_timeout": lock_timeout_ms}),
        "jit": "off",
    }
    try:
        await connection.execute(f"begin {mode};" + ";".join(f"set local {k} = {v}" for k, v in limits.items()))
        yield
    except BaseException:
        if not is_lost(connection):
            await _rolled_back(connection)
        raise
    await connection.execute("commit")


async def _rolled_back(connection: Any) -> None:
    try:
        await connection.execute("rollback")
    except BaseException as error:
        connection.terminate()  # then the server rolls back
        if not isinstance(error, Exception):
            raise
