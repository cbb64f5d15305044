"""The Redis or Valkey that several processes share. It may be absent or die at any moment; callers do not wait for it then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from candlegraph.errors import ConfigurationError, Unavailable
from candlegraph.outage import Outage
from candlegraph.supervision import Supervisor
from candlegraph.timings import Timings

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

_TASK = "Redis probe"
_PROBE = ("SET", "candlegraph:probe", "1", "EX", 10)  # a write, because a full Redis still answers a PING


@contextmanager
def translating_errors() -> Iterator[None]:
    """Raise Unavailable, with the client's error as its cause, if Redis does not answer or refuses."""
    # Imported here: a start without Redis saves 75 ms.
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        yield
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        raise Unavailable(f"Redis does not answer ({type(error).__name__}).") from error
    except RuntimeError as error:
        # uvloop raises this for a socket that has just been closed, and redis-py passes it on.
        if "handler is closed" not in str(error):
            raise
        raise Unavailable("Redis does not answer (the connection was closed).") from error


class Redis:
    """Sends commands while Redis answers. After a failure it sends none until a probe in the background succeeds."""

    def __init__(
        self, url: str | None = None, supervisor: Supervisor | None = None, timings: Timings | None = None
    ) -> None:
        """Open no connection yet; ``supervisor`` runs the probe. ConfigurationError if the URL is not one of Redis."""
        self.timings = timings or Timings()
        self._client: Client | None = None
        self._supervisor = supervisor or Supervisor()
        self._outage = Outage("sharing through Redis")
        self._full: tuple[type[Exception], ...] = ()
        self._away: str | None = None
        self._refuses: str | None = None
        self._failed = asyncio.Event()  # set while the probe has to find out whether Redis is back
        if url:
            self._client = self._connect(url)

    def _connect(self, url: str) -> Client:
        # Imported here: a start without Redis saves 75 ms.
        from redis.asyncio import Redis as Client  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import OutOfMemoryError  # noqa: PLC0415

        self._full = (OutOfMemoryError,)
        try:
            timeout = self.timings.redis_timeout_s
            return Client.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:
            raise ConfigurationError("REDIS_URL is not an address such as redis://host:6379/0.") from None

    @property
    def reads(self) -> bool:
        """Whether Redis is configured, and answered the last command."""
        return self._client is not None and self._away is None

    @property
    def writes(self) -> bool:
        """Whether it also accepts writes."""
        return self.reads and self._refuses is None

    @property
    def problem(self) -> str | None:
        """The current problem; None if there is none, or Redis is not configured."""
        return self._away or self._refuses

    async def close(self) -> None:
        """Close the connections."""
        await self._supervisor.stop(_TASK)
        if self._client:
            with suppress(Unavailable), translating_errors():
                await self._client.aclose()

    async def ask(self, *command: object) -> Any:
        """Send a command; None without Redis, or if it does not answer within a quarter of a second."""
        return await self._send(*command) if self.reads else None

    async def check(self) -> str | None:
        """Probe Redis, unless its state is known; return the problem."""
        await self.ask("PING")
        return self.problem

    async def _send(self, *command: object) -> Any:
        assert self._client is not None  # noqa: S101 - the callers have checked
        try:
            with translating_errors():
                async with asyncio.timeout(self.timings.redis_timeout_s):
                    return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except Unavailable as error:
            if isinstance(error.__cause__, self._full):
                self._lost("Redis has no memory left", away=False)
            else:
                self._lost(error.message.removesuffix("."), away=True)
        return None

    async def _drop(self) -> None:
        assert self._client is not None  # noqa: S101 - a command was sent
        with suppress(Unavailable), translating_errors():
            async with asyncio.timeout(self.timings.redis_timeout_s):
                await self._client.connection_pool.disconnect(inuse_connections=False)

    def _lost(self, problem: str, *, away: bool) -> None:
        self._outage.begin(f"{problem}: each process works alone.")
        self._away, self._refuses = (problem, None) if away else (None, problem)
        self._failed.set()
        if _TASK not in self._supervisor.names:
            self._supervisor.start(_TASK, self._probe)

    async def _probe(self) -> None:
        while True:
            await self._failed.wait()
            await asyncio.sleep(self.timings.redis_probe_interval_s)
            # If one connection has failed, the others of the pool are dead too.
            await self._drop()
            if await self._send(*_PROBE):
                self._away = self._refuses = None
                self._failed.clear()
                self._outage.end()
