"""The Redis or Valkey that several processes share: it may be absent, or die at any moment, and nobody waits for it then."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from candlegraph.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

log = logging.getLogger(__name__)

TIMEOUT_S = 0.25
PROBE_EVERY_S = 1.0
_PROBE = ("SET", "candlegraph:probe", "1", "EX", 10)  # a write: one that is full still answers a PING


class Redis:
    """Sends commands while it answers. Once it does not, it is left alone until a probe behind the scenes gets through."""

    def __init__(self, url: str | None = None) -> None:
        """Connect to nothing yet. ConfigurationError where the URL is none of Redis."""
        self._client: Client | None = None
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError)
        self._full: tuple[type[Exception], ...] = ()
        self._away: str | None = None
        self._refuses: str | None = None
        self._probing: asyncio.Task[None] | None = None
        if url:
            self._client = self._connect(url)

    def _connect(self, url: str) -> Client:
        # Imported by who uses it: it costs a start 75 ms.
        from redis.asyncio import Redis as Client  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import OutOfMemoryError, RedisError  # noqa: PLC0415

        self._failures, self._full = (RedisError, *self._failures), (OutOfMemoryError,)
        try:
            return Client.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:
            raise ConfigurationError("REDIS_URL is no address such as redis://host:6379/0.") from None

    @property
    def reads(self) -> bool:
        """Whether there is one, and it answered last time."""
        return self._client is not None and self._away is None

    @property
    def writes(self) -> bool:
        """Whether it takes something new, too."""
        return self.reads and self._refuses is None

    @property
    def problem(self) -> str | None:
        """What is wrong with it; None where all is well, or there is none."""
        return self._away or self._refuses

    async def close(self) -> None:
        """Give the connections back."""
        if self._probing:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        if self._client:
            await self._client.aclose()

    async def ask(self, *command: object) -> Any:
        """Its answer; None where there is none, or it does not answer within a quarter of a second."""
        return await self._send(*command) if self.reads else None

    async def check(self) -> str | None:
        """Ask whether it is there, unless that is known; what is wrong with it."""
        await self.ask("PING")
        return self.problem

    async def _send(self, *command: object) -> Any:
        assert self._client is not None  # noqa: S101 - the callers looked
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except self._full:
            self._lost("Redis has no memory left", away=False)
        except self._failures as error:
            self._lost(f"Redis does not answer ({type(error).__name__})", away=True)
        return None

    async def _drop(self) -> None:
        assert self._client is not None  # noqa: S101 - something was sent
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._client.connection_pool.disconnect(inuse_connections=False)
        except self._failures as error:
            log.debug("a dead connection could not be closed: %s", type(error).__name__)

    def _lost(self, problem: str, *, away: bool) -> None:
        if problem not in {self._away, self._refuses}:
            log.warning("%s: each process goes on alone", problem)
        self._away, self._refuses = (problem, None) if away else (None, problem)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            # Connections that lie in the pool are as dead as the one that failed.
            await self._drop()
            if await self._send(*_PROBE):
                self._away = self._refuses = None
                log.warning("Redis answers again")
                return
