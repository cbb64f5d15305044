"""How long everything takes, waits and lasts: one value, made by the wiring and handed down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """Every interval, time-out and time to live of one process, in seconds."""

    # storage, the database
    connect_timeout_s: float = 10.0  # how long opening a connection may take
    close_timeout_s: float = 2.0  # how long closing one may take
    acquire_timeout_s: float = 2.0  # how long a caller waits for a free connection of the pool
    statement_timeout_s: float = 60.0  # how long one statement may run
    record_ttl_s: float = 30.0  # how long a process keeps an instrument's record
    recheck_pause_s: float = 30.0  # how long an instrument is not rechecked after a question about it
    change_poll_interval_s: float = 0.25  # how often the writes of other processes are read
    change_freshness_s: float = 2.0  # how old the last such read may be for caches to be believed
    change_retention_s: float = 600.0  # how long a row of `changes` stays
    claim_ttl_s: float = 10.0  # how long the claim of a dead process blocks a fetch
    claim_renewal_interval_s: float = 3.0  # how often claims are renewed
    claim_poll_interval_s: float = 0.25  # how often a claim of another process is checked again
    lease_ttl_s: float = 3.0  # how long after its holder's death a lease is free
    follow_ttl_s: float = 15.0  # how long a process that stopped renewing still counts as a follower
    topic_ttl_s: float = 86_400.0  # how long a topic nobody counted can be resumed
    notify_retry_s: float = 1.0  # how soon a lost LISTEN connection is opened again
    refresh_interval_s: float = 10.0  # between two rounds of the refresher
    refresh_max_backoff_s: float = 300.0  # between two rounds, where one after the other fails

    # storage, the embedded PostgreSQL
    postgres_start_timeout_s: float = 30.0  # how long one start may take
    postgres_retry_timeout_s: float = 15.0  # how long a failed start is tried again
    postgres_lock_timeout_s: float = 60.0  # how long another process may hold the lock of a start or a stop

    # storage, Redis
    redis_timeout_s: float = 0.25  # how long one command may take
    redis_probe_interval_s: float = 1.0  # how often a Redis that failed is tried again

    # history
    query_deadline_s: float = 10.0  # how long a query waits for its providers
    forming_ttl_s: float = 2.0  # how long forming candles serve further queries
    listing_ttl_s: float = 3_600.0  # how old a symbol list may be before it is read again
    listing_retry_s: float = 30.0  # how soon a list that could not be read is tried again
    listing_timeout_s: float = 60.0  # how long the read of a list may take
    listing_deadline_s: float = 10.0  # how long a caller waits for a list; the read goes on
    unknown_symbol_ttl_s: float = 60.0  # how old a list may be that lacks a symbol somebody asks for
    backfill_poll_interval_s: float = 1.0  # how often workers look for work
    backfill_follow_interval_s: float = 0.5  # how often a follower reads the state of a job
    backfill_claim_ttl_s: float = 10.0  # how long the claim of a dead worker blocks a part
    backfill_renewal_interval_s: float = 2.5  # how often workers renew their claims
    backfill_max_backoff_s: float = 300.0  # before the next try of a part that failed
    tracking_poll_interval_s: float = 1.0  # how often a process looks for tracked series that are due
    tracking_interval_s: float = 30.0  # how often each tracked series is checked
