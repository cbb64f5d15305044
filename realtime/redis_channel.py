"""Redis publish and subscribe: a transport between the processes that share a Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from candlegraph.errors import Unavailable
from candlegraph.outage import Outage
from candlegraph.timings import Timings
from storage.redis import translating_errors

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisChannel:
    """One channel. An outage of Redis loses messages, and those can be read from the store."""

    def __init__(
        self, url: str, channel: str, on_message: Callable[[bytes], None], timings: Timings | None = None
    ) -> None:
        """Open no connection yet. ``channel`` separates the clusters that share a Redis."""
        # Imported here: a start without Redis saves 75 ms.
        from redis.asyncio import Redis  # noqa: PLC0415

        self._timings = timings or Timings()
        self._redis: Redis = Redis.from_url(
            url, socket_connect_timeout=self._timings.redis_channel_timeout_s, health_check_interval=10
        )
        self.outage = Outage("receiving live messages over Redis")
        self._sending = Outage("sending live messages over Redis")
        self._channel = channel
        self._on_message = on_message

    async def send(self, payloads: Sequence[str]) -> bool:
        """Publish each payload; False if that failed."""
        with self._sending.recording(), translating_errors():
            async with (
                asyncio.timeout(self._timings.redis_channel_timeout_s),
                self._redis.pipeline(transaction=False) as pipe,
            ):
                for payload in payloads:
                    pipe.publish(self._channel, payload)
                await pipe.execute()
        return self._sending.reason is None

    async def listen(self) -> None:
        """Receive until cancelled; reopen a connection that ends."""
        while True:
            with self.outage.recording(), translating_errors():
                await self._listen_once()
            await asyncio.sleep(self._timings.redis_channel_retry_s)

    async def _listen_once(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            self.outage.end()
            while True:
                # The timeout lets the client run its health check, which detects a dead connection.
                message = await pubsub.get_message(timeout=5)
                if message:
                    self._on_message(message["data"])

    async def close(self) -> None:
        """Close the connections."""
        with suppress(Unavailable), translating_errors():
            await self._redis.aclose()
