"""The runtime below the API, wired once a process: the database, the providers, and everything between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from candlegraph.errors import ConfigurationError, Overloaded, Unavailable
from candlegraph.outage import Outage
from candlegraph.supervision import Supervisor
from candlegraph.timings import Timings
from history.backfill.jobs import BackfillJobs
from history.backfill.tracking import Tracking
from history.backfill.workers import BackfillWorkers
from history.fetch_limits import FetchLimits
from history.free_space import FreeSpace, is_readable
from history.orchestrator import History
from history.upgrade import Upgrade
from providers.registry import Registry
from realtime.cluster import Cluster
from realtime.topic_limits import TopicLimits
from resolvers.accounts.accounts import Accounts
from resolvers.accounts.tokens import Tokens
from resolvers.context import Services
from resolvers.cost_budget import CostBudget, CostLimits
from server.readiness import Readiness
from server.settings import Settings
from server.signing_key import load_or_create_key
from storage.aggregates.continuous import ContinuousReader
from storage.aggregates.layout import AggregateLayout, stored_layout
from storage.aggregates.refresh import AggregateRefresher
from storage.cache.memory import CandleCache
from storage.cache.shared import SharedCache
from storage.calendars import Calendars
from storage.candles import CandleStore, ReadFunction, read_tables
from storage.change_feed import ChangeFeed
from storage.database import Database, driver_reason
from storage.embedded.postgres import EmbeddedPostgres
from storage.migration.migrate import migrate
from storage.migration.upgrade import withdraw_ahead
from storage.rate_limits import RateLimiter
from storage.redis import Redis
from storage.relations import Aggregates, read_aggregates
from storage.users import UserStore

log = logging.getLogger(__name__)

_CALENDARS = 17  # the migration that brought trading calendars


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs."""

    settings: Settings
    database: Database
    registry: Registry
    store: CandleStore
    services: Services
    redis: Redis
    supervisor: Supervisor
    readiness: Readiness


@asynccontextmanager
async def database(
    settings: Settings, supervisor: Supervisor | None = None, timings: Timings | None = None, *, create: bool = False
) -> AsyncIterator[Database]:
    """The database, embedded or external, open and up to date; ``supervisor`` keeps an embedded one alive.

    ConfigurationError if there is no embedded one and none may be created: DATA_DIR is probably wrong.
    """
    supervisor, timings = supervisor or Supervisor(), timings or Timings()
    async with AsyncExitStack() as stack:
        postgres = None
        if settings.db_connection_string:
            dsn = settings.db_connection_string.get_secret_value()
        else:
            postgres = EmbeddedPostgres(settings.data_dir, settings.postgres_bin, timings)
            if not create:
                postgres.require_cluster()
            stack.push_async_callback(asyncio.to_thread, postgres.stop)
            dsn = await _start(postgres)
        listen = settings.db_listen_connection_string
        opened = Database(dsn, listen_dsn=listen.get_secret_value() if listen else None, timings=timings)
        stack.push_async_callback(opened.close)
        try:
            await opened.open()
        except Unavailable as error:
            if not settings.db_connection_string:
                raise
            raise ConfigurationError(
                f"DB_CONNECTION_STRING: no database answers there{driver_reason(error)}."
            ) from error
        await _upgrade(opened, settings.aggregates)
        if postgres:
            outage = Outage("the embedded PostgreSQL")
            supervisor.start("embedded PostgreSQL", partial(_revive, postgres, opened, outage), outage)
            stack.push_async_callback(supervisor.close)  # before the database stops: it would be started again
        yield opened


async def _upgrade(opened: Database, aggregates: AggregateLayout) -> None:
    """Bring a database up to date, before its first query."""
    applied = await migrate(opened, aggregates)
    for migration in applied:
        log.info("applied migration %04d %s", migration.number, migration.name)
    for row in await Calendars(opened).ensure_all():
        if any(migration.number == _CALENDARS for migration in applied):
            log.warning(
                "%d instruments have the trading calendar %s now, %d of them with their provider's days; the earlier days of %d "
                "series were withdrawn", row["instruments"], row["calendar"], row["native"], row["withdrawn"],
            )  # fmt: skip
    if ahead := await withdraw_ahead(CandleStore(opened, ChangeFeed(opened))):
        log.warning("withdrew the coverage of %d series beyond the time of the upgrade", ahead)


async def _revive(postgres: EmbeddedPostgres, opened: Database, outage: Outage) -> None:
    """Start the embedded PostgreSQL again after its death; until then the API answers UNAVAILABLE."""
    while True:
        await asyncio.sleep(opened.timings.postgres_revival_interval_s)
        with outage.recording():
            try:
                async with opened.connection() as connection:
                    await connection.fetchval("select 1")
            except Overloaded:
                pass  # all connections are at work: it lives
            except Unavailable:
                outage.begin("It does not answer: restarting it.")
                await _start(postgres)


async def _start(postgres: EmbeddedPostgres) -> str:
    starting = asyncio.create_task(asyncio.to_thread(postgres.start))
    try:
        return (await asyncio.shield(starting)).dsn
    finally:
        # A thread cannot be cancelled: a cancelled start waits here, or it would stop a server that does not exist yet.
        await asyncio.wait([starting])


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    serving: bool = False,
    create: bool = False,
    supervisor: Supervisor | None = None,
    timings: Timings | None = None,
) -> AsyncIterator[Runtime]:
    """Everything, started; stopped in reverse order on the way out. Endless tasks run under ``supervisor``.

    While ``serving`` it leads, serves subscribers and works on backfills; a command of the CLI does none of it.
    It creates a database where there is none while ``serving``, or with ``create``.
    """
    supervisor, timings = supervisor or Supervisor(), timings or Timings()
    redis = Redis(_redis_url(settings), supervisor, timings)
    limiter = RateLimiter(redis)
    registry = Registry(settings.environ(), quota=limiter)
    async with database(settings, supervisor, timings, create=create or serving) as opened, AsyncExitStack() as stack:
        stack.push_async_callback(redis.close)
        stack.push_async_callback(registry.close)
        name = (await opened.read("database_name"))[0]["name"]
        levels, kind = await read_aggregates(opened), await stored_layout(opened)
        cache = await stack.enter_async_context(_cache(settings, name, redis))
        history = History.create(opened, registry, levels, _reads(levels, kind), cache)
        await _watch_disk(settings, history, supervisor, logging.INFO if serving else logging.DEBUG)
        stack.push_async_callback(history.close)
        cluster = _cluster(settings, history, name)
        tracking = Tracking(backfills := BackfillJobs(history))
        accounts = _accounts(settings, opened, limiter, timings)
        workers, readiness = BackfillWorkers(backfills, workers=settings.backfill_workers), Readiness(opened, redis)
        for close in (workers.close, cluster.close, supervisor.close):
            stack.push_async_callback(close)
        history.start(supervisor)
        supervisor.start("accounts", accounts.revocations.run, accounts.revocations.outage)
        if serving:
            supervisor.start("readiness", readiness.run)
            _serve(supervisor, history, workers, cluster, tracking)
            _refresh(supervisor, opened, kind, settings.retention_days)
        services = _services(settings, limiter, history, cluster, backfills, tracking, accounts)
        yield Runtime(settings, opened, registry, history.store, services, redis, supervisor, readiness)


def _redis_url(settings: Settings) -> str | None:
    return settings.redis_url.get_secret_value() if settings.redis_url else None


def _cluster(settings: Settings, history: History, database_name: str) -> Cluster:
    """The live side; other processes are reached through Redis where that is configured."""
    url = _redis_url(settings)
    topics = TopicLimits(settings.max_topics, settings.max_topics_per_address)
    redis_at = (url, database_name) if url else None
    return Cluster(history, redis=redis_at, shards=settings.feed_shards, limits=topics)


def _accounts(settings: Settings, opened: Database, limiter: RateLimiter, timings: Timings) -> Accounts:
    tokens = Tokens(partial(_keys, settings))
    return Accounts(UserStore(opened), tokens, limiter, require_auth=settings.require_auth, timings=timings)


def _services(
    settings: Settings,
    limiter: RateLimiter,
    history: History,
    cluster: Cluster,
    backfills: BackfillJobs,
    tracking: Tracking,
    accounts: Accounts,
) -> Services:
    """The services of the resolvers, with the limits of ``settings``."""
    return Services(
        history,
        history.providers,
        cluster.hub,
        backfills,
        tracking,
        settings.default_chart_points,
        settings.max_chart_points,
        accounts,
        CostBudget(CostLimits(settings.max_cost_in_flight, settings.max_cost_in_flight_per_address)),
        settings.introspection,
        FetchLimits(limiter, settings.fetch_rows_per_hour, settings.fetch_rows_per_hour_signed_in),
    )


def _serve(
    supervisor: Supervisor, history: History, workers: BackfillWorkers, cluster: Cluster, tracking: Tracking
) -> None:
    """Start what only a server does: backfills, the live side, tracked series and the steps that follow an upgrade."""
    workers.start(supervisor)
    cluster.start(supervisor)
    supervisor.start("tracked series", tracking.run, tracking.outage)
    upgrade = Upgrade(history)
    supervisor.start("upgrade checks", upgrade.run, upgrade.outage)


async def _watch_disk(settings: Settings, history: History, supervisor: Supervisor, level: int) -> None:
    """Stop fetching while the disk of the database is nearly full, where its free space can be read."""
    directory = settings.data_dir
    if settings.db_connection_string:
        rows = await history.store.database.read("data_directory")
        directory = Path(rows[0]["directory"] if rows else "")
        if not is_readable(directory):
            if settings.min_free_disk_mb:
                log.log(
                    level, "MIN_FREE_DISK_MB has no effect: the free space of this database cannot be read from here."
                )
            return
    space = history.fetcher.free_space = FreeSpace(directory, settings.min_free_disk_mb, history.timings)
    if settings.min_free_disk_mb:
        await asyncio.to_thread(space.check)
        supervisor.start("free disk space", space.run, space.outage)


def _reads(levels: Aggregates, kind: AggregateLayout) -> ReadFunction:
    return ContinuousReader(levels) if kind is AggregateLayout.CONTINUOUS else read_tables


def _refresh(supervisor: Supervisor, opened: Database, kind: AggregateLayout, retention_days: int | None) -> None:
    if kind is AggregateLayout.CONTINUOUS or retention_days is not None:
        refresher = AggregateRefresher(opened, kind, retention_days)
        supervisor.start("aggregates", refresher.run, refresher.outage)


@asynccontextmanager
async def _cache(settings: Settings, database_name: str, redis: Redis) -> AsyncIterator[CandleCache | None]:
    """The cache of candles; None if it could keep nothing."""
    capacity = settings.cache_mb * 1_048_576
    if not settings.redis_url:
        yield CandleCache(capacity) if capacity else None
        return
    shelf = SharedCache(redis, database_name)
    try:
        yield CandleCache(capacity, shelf)
    finally:
        await shelf.close()


def _keys(settings: Settings) -> list[bytes]:
    """The keys of access tokens, the one that signs first."""
    if settings.secret_key is None:
        return [load_or_create_key(settings.data_dir)]
    return [key.get_secret_value().encode() for key in (settings.secret_key, settings.secret_key_previous) if key]
