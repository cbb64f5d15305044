"""Every interval, time-out and time to live: one value, created by the wiring and passed down."""

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
    recheck_pause_s: float = 30.0  # the least time between two rechecks of an instrument
    change_poll_interval_s: float = 0.25  # how often the writes of other processes are read
    change_freshness_s: float = 2.0  # how old the last such read may be before caches count as stale
    change_retention_s: float = 600.0  # how long a row of `changes` stays
    claim_ttl_s: float = 10.0  # how long the claim of a dead process blocks a fetch
    claim_renewal_interval_s: float = 3.0  # how often claims are renewed
    claim_poll_interval_s: float = 0.25  # how often a claim of another process is checked again
    lease_ttl_s: float = 3.0  # how long after its holder's death a lease is free
    follow_ttl_s: float = 15.0  # how long a process that stopped renewing still counts as a follower
    topic_resumption_s: float = 86_400.0  # how long a topic without a leader can be resumed
    notify_retry_s: float = 1.0  # how soon a lost LISTEN connection is opened again
    refresh_interval_s: float = 10.0  # between two rounds of the refresher
    refresh_max_backoff_s: float = 300.0  # between two rounds, where one after the other fails

    # storage, the embedded PostgreSQL
    postgres_start_timeout_s: float = 30.0  # how long one start may take
    postgres_retry_timeout_s: float = 15.0  # how long a failed start is tried again
    postgres_revival_interval_s: float = 2.0  # how often a server checks its embedded PostgreSQL
    postgres_lock_timeout_s: float = 60.0  # how long another process may hold the lock of a start or a stop

    # storage, trading calendars
    calendar_timeout_s: float = 60.0  # how long the computation of one may take
    calendar_max_age_s: float = 30 * 86_400.0  # how old one may be before it is computed again
    calendar_check_interval_s: float = 3_600.0  # how often a process looks for newer ones

    # storage, the disk
    free_space_interval_s: float = 2.0  # how often the free space is looked at

    # storage, Redis
    redis_timeout_s: float = 0.25  # how long one command may take
    redis_probe_interval_s: float = 1.0  # how often a Redis that failed is tried again

    # history
    query_deadline_s: float = 10.0  # how long all queries of an operation wait for their providers
    query_finish_s: float = 2.0  # how long after that they may still read and fold what is stored
    forming_ttl_s: float = 2.0  # how long forming candles serve further queries
    listing_ttl_s: float = 3_600.0  # how old a symbol list may be before it is read again
    listing_retry_s: float = 30.0  # how soon a list that could not be read is tried again
    listing_timeout_s: float = 60.0  # how long the read of a list may take
    listing_deadline_s: float = 10.0  # how long a caller waits for a list; the read goes on
    unknown_symbol_ttl_s: float = 60.0  # the age at which a list without a requested symbol is read again
    backfill_poll_interval_s: float = 1.0  # how often workers look for work
    backfill_follow_interval_s: float = 0.5  # how often a follower reads the state of a job
    backfill_claim_ttl_s: float = 10.0  # how long the claim of a dead worker blocks a part
    backfill_renewal_interval_s: float = 2.5  # how often workers renew their claims
    backfill_max_backoff_s: float = 300.0  # before the next try of a part that failed
    tracking_poll_interval_s: float = 1.0  # how often a process looks for tracked series that are due
    upgrade_lease_ttl_s: float = 10.0  # how long the checks after an upgrade of a dead process block others
    upgrade_retry_s: float = (
        5.0  # how long a provider that is not available is left alone by the checks after an upgrade
    )
    tracking_interval_s: float = 30.0  # how often each tracked series is checked

    # realtime
    feed_poll_interval_s: float = 5.0  # how often the forming minute is read where there is no stream
    feed_stream_poll_interval_s: float = 60.0  # and where there is one: when the minute closes
    feed_late_retries_s: tuple[float, ...] = (3.0, 10.0)  # when a minute that was due and missing is read again
    feed_spread_s: float = 2.0  # over which the reads of all symbols are spread when a minute settles
    feed_retry_s: float = 1.0  # how soon after a failure a feed with waiting listeners tries again
    feed_max_backoff_s: float = 60.0  # between two tries of a feed that fails
    leader_interval_s: float = 1.0  # how often the leases are renewed and taken
    leader_sweep_interval_s: float = 60.0  # how often rows without further use are deleted
    warm_up_retry_s: float = 10.0  # how soon a provider that could not be warmed up is tried again
    hub_interval_s: float = 1.0  # how often the hub looks for what it missed
    hub_heartbeat_interval_s: float = 15.0  # how long a listener gets no event before a heartbeat
    follow_renewal_interval_s: float = 4.0  # how often a process renews the topics it follows
    message_timeout_s: float = 0.5  # how long a message may be on its way before it counts as lost
    topic_linger_s: float = 60.0  # how long a topic stays after its last listener, but no longer than it had listeners
    topic_min_linger_s: float = 5.0  # how long even a topic stays that had listeners only briefly
    topic_turn_s: float = 0.5  # how long a listener that joins may delay those behind it
    topic_ready_timeout_s: float = 10.0  # how long a leader may take to send the position of a topic
    topic_ask_interval_s: float = 1.0  # how often it is asked again
    topic_adoption_delay_s: float = 5.0  # after which a topic begins as the store has it: the bus may be down
    redis_channel_timeout_s: float = 1.0  # how long connecting or publishing may take
    redis_channel_retry_s: float = 1.0  # how soon a lost subscription is made again

    # accounts
    account_freshness_s: float = 0.5  # how old a cached account may be

    # transport
    readiness_interval_s: float = 1.0  # how often the database and Redis are checked for /readyz
    first_byte_timeout_s: float = 10.0  # how long a new connection may be silent
    head_timeout_s: float = 10.0  # how long the head of a request may take from its first byte
    body_timeout_s: float = 20.0  # how long its body may take after that
    socket_init_timeout_s: float = 5.0  # how long a new socket may take to send `connection_init`
    socket_finish_timeout_s: float = 5.0  # how long an answer may take when the server stops
    stream_comment_interval_s: float = 12.0  # how often a quiet event stream sends a comment
    stalled_peer_timeout_s: float = 10.0  # how long a peer may take no byte of its buffered data
    farewell_timeout_s: float = 5.0  # how long after that it may still read the reason of the close
    export_turn_s: float = 300.0  # how long an export keeps its place while another one waits for it
    import_timeout_s: float = 600.0  # how long the import of an uploaded file may take
    unread_timeout_s: float = 30.0  # how long the network keeps unread data after a close
