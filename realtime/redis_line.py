"""Redis's publish and subscribe: a line between the processes that share a Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

RETRY_S = 1.0
TIMEOUT_S = 1.0


class RedisLine:
    """One channel; a Redis that is away loses messages and nothing else."""

    def __init__(self, url: str, channel: str, hear: Callable[[bytes], None]) -> None:
        """Connect to nothing yet. ``channel`` tells the clusters of one Redis apart."""
        # Imported by who uses it: it costs a start 75 ms.
        from redis.asyncio import Redis  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        self._redis: Redis = Redis.from_url(url, socket_connect_timeout=TIMEOUT_S, health_check_interval=10)
        self._failures = (RedisError, OSError, TimeoutError)
        self._channel = channel
        self._hear = hear

    async def send(self, payloads: Sequence[str]) -> bool:
        """Publish each payload; False where that failed."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for payload in payloads:
                        pipe.publish(self._channel, payload)
                    await pipe.execute()
        except self._failures as error:
            log.debug("live messages could not be sent: %s", type(error).__name__)
            return False
        return True

    async def listen(self) -> None:
        """Hear until cancelled; a connection that ends is opened again."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    while True:
                        # The timeout lets the client see, by its health check, that a silent connection is dead.
                        message = await pubsub.get_message(timeout=5)
                        if message:
                            self._hear(message["data"])
            except self._failures as error:
                log.debug("live messages cannot be heard: %s", type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()
