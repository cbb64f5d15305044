"""Readiness: a background task checks the database and Redis, so that `/readyz` waits for neither."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from candlegraph.errors import CandlegraphError, Overloaded
from storage.database import Database
from storage.redis import Redis


@dataclass(frozen=True, slots=True)
class ReadinessState:
    """What the last check found, in sentences."""

    unavailable: str | None = None  # why the server cannot answer
    redis_problem: str | None = None


class Readiness:
    """Checks the database and Redis now and then."""

    def __init__(self, database: Database, redis: Redis) -> None:
        """Start ready: the server starts with a database."""
        self._database = database
        self._redis = redis
        self.state = ReadinessState()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.state = await self._check()
            await asyncio.sleep(self._database.timings.readiness_interval_s)

    async def _check(self) -> ReadinessState:
        try:
            async with self._database.connection() as connection:
                await connection.fetchval("select 1")
        except Overloaded:
            pass  # all connections are at work: it lives
        except CandlegraphError as error:
            return ReadinessState(error.message)
        problem = await self._redis.check()
        return ReadinessState(None, f"{problem}: each process works alone." if problem else None)
