"""The services of a process over a history, as the server wires them; nothing of it runs by itself."""

from __future__ import annotations

from history.backfill.jobs import BackfillJobs
from history.backfill.tracking import Tracking
from history.orchestrator import History
from realtime.cluster import Cluster
from resolvers.accounts.accounts import Accounts
from resolvers.accounts.tokens import Tokens
from resolvers.context import Services
from storage.rate_limits import RateLimiter
from storage.users import UserStore


def services_over(history: History, cluster: Cluster | None = None) -> Services:
    accounts = Accounts(UserStore(history.store.database), Tokens(list), RateLimiter())
    cluster = cluster or Cluster(history)
    backfills = BackfillJobs(history)
    tracking = Tracking(backfills)
    return Services(history, history.providers, cluster.hub, backfills, tracking, 500, 5_000, accounts)
