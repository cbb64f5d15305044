"""The machine below the API, wired once a process: the database, the providers, and the way from one to the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from asyncpg import PostgresError

from candlegraph.errors import ConfigurationError, Overloaded, Unavailable
from providers.registry import Registry
from realtime.cluster import Cluster
from resolvers.accounts import Accounts
from resolvers.context import Services
from resolvers.tokens import Tokens
from server.keys import kept_key
from server.settings import Settings
from storage.backfill import Backfills
from storage.cache import Cache
from storage.candles import CandleStore, read_tables
from storage.continuous import Continuous
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.history import History
from storage.layout import Aggregates, layout_of
from storage.levels import read_levels
from storage.limits import Limiter
from storage.migrate import migrate
from storage.redis import Redis
from storage.refresher import Refresher
from storage.shelf import Shelf
from storage.tracking import Tracking
from storage.users import Users
from storage.workers import Workers

log = logging.getLogger(__name__)

REVIVE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs."""

    settings: Settings
    database: Database
    registry: Registry
    store: CandleStore
    services: Services
    redis: Redis


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The database, embedded or given, open and up to date."""
    async with AsyncExitStack() as stack:
        postgres = None
        if settings.db_connection_string:
            dsn = settings.db_connection_string.get_secret_value()
        else:
            postgres = EmbeddedPostgres(settings.data_dir, settings.postgres_bin)
            stack.push_async_callback(asyncio.to_thread, postgres.stop)
            dsn = await _start(postgres)
        listen = settings.db_listen_connection_string
        opened = Database(dsn, listen_dsn=listen.get_secret_value() if listen else None)
        stack.push_async_callback(opened.close)
        try:
            await opened.open()
        except Unavailable as error:
            if not settings.db_connection_string:
                raise
            raise ConfigurationError(f"DB_CONNECTION_STRING: no database answers there{_reason(error)}.") from error
        for migration in await migrate(opened, settings.aggregates):
            log.info("applied migration %04d %s", migration.number, migration.name)
        if postgres:
            reviving = asyncio.create_task(_revive(postgres, opened))
            stack.push_async_callback(_cancelled, reviving)
        yield opened


def _reason(error: Unavailable) -> str:
    """What a server, or the pooler before it, gave as its reason; it holds no secret."""
    return f" ({error.__cause__})" if isinstance(error.__cause__, PostgresError) else ""


async def _revive(postgres: EmbeddedPostgres, opened: Database) -> None:
    """Start the embedded PostgreSQL again where it died under us; until then the API says UNAVAILABLE."""
    while True:
        await asyncio.sleep(REVIVE_EVERY_S)
        try:
            async with opened.connection() as connection:
                await connection.fetchval("select 1")
        except Unavailable:
            log.warning("the embedded PostgreSQL does not answer: starting it")
            try:
                await _start(postgres)
            except (ConfigurationError, Unavailable) as error:
                log.warning("it could not be started: %s", error.message)
        except Overloaded:
            continue  # all connections are at work: it lives


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _start(postgres: EmbeddedPostgres) -> str:
    starting = asyncio.create_task(asyncio.to_thread(postgres.start))
    try:
        return (await asyncio.shield(starting)).dsn
    finally:
        # A thread cannot be cancelled: whoever gave up waits, or would stop what is not there yet.
        await asyncio.wait([starting])


@asynccontextmanager
async def machine(settings: Settings, *, serving: bool = False) -> AsyncIterator[Machine]:
    """Everything, started; stopped in reverse order on the way out.

    While ``serving`` it leads, tells its listeners and works on backfills; a command of the CLI does none of it.
    """
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    redis = Redis(redis_url)
    limiter = Limiter(redis)
    registry = Registry(settings.environ(), quota=limiter)
    async with database(settings) as opened, AsyncExitStack() as stack:
        stack.push_async_callback(redis.close)
        stack.push_async_callback(registry.close)
        levels, kind = await read_levels(opened), await layout_of(opened)
        reading = Continuous(levels) if kind is Aggregates.CONTINUOUS else read_tables
        cache = await stack.enter_async_context(_cache(settings, opened, redis))
        history = History.over(opened, registry, levels, reading, cache)
        stack.push_async_callback(history.instruments.close)
        stack.push_async_callback(history.collector.close)
        cluster = Cluster(history, redis_url=redis_url, shards=settings.feed_shards)
        backfills = Backfills(history)
        tracking = Tracking(backfills)
        loops = [history.store.changes.watch()]
        if serving:
            workers = Workers(backfills, workers=settings.backfill_workers)
            loops += [cluster.run(), workers.work(), tracking.keep()]
            if kind is Aggregates.CONTINUOUS or settings.retention_days is not None:
                loops.append(Refresher(opened, kind, settings.retention_days).run())
        for loop in loops:
            stack.push_async_callback(_cancelled, asyncio.create_task(loop))
        tokens = Tokens(partial(_keys, settings))
        accounts = Accounts(Users(opened), tokens, limiter, require_auth=settings.require_auth)
        stack.push_async_callback(accounts.close)
        services = Services(
            history,
            history.instruments,
            registry,
            cluster.hub,
            backfills,
            tracking,
            settings.default_chart_points,
            settings.max_chart_points,
            accounts,
        )
        yield Machine(settings, opened, registry, history.store, services, redis)


@asynccontextmanager
async def _cache(settings: Settings, opened: Database, redis: Redis) -> AsyncIterator[Cache | None]:
    """The cache of candles; none where it could keep nothing."""
    capacity = settings.cache_mb * 1_048_576
    if not settings.redis_url:
        yield Cache(capacity) if capacity else None
        return
    shelf = Shelf(redis, (await opened.read("database_name"))[0]["name"])
    try:
        yield Cache(capacity, shelf)
    finally:
        await shelf.close()


def _keys(settings: Settings) -> list[bytes]:
    """The keys of access tokens, the one that signs first."""
    if settings.secret_key is None:
        return [kept_key(settings.data_dir)]
    return [key.get_secret_value().encode() for key in (settings.secret_key, settings.secret_key_previous) if key]
