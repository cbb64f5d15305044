"""The context of a resolver: the services of the process, and loaders made for one operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from typing import Any

from aiodataloader import DataLoader

from candlegraph.answer import Answer, CandleRequest
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.upstream import Providers
from candlegraph.viewer import User, UserConfig, Viewer
from history.backfill.jobs import BackfillJobs
from history.backfill.tracking import Tracking
from history.fetch_limits import NO_LIMITS, FetchBudget, FetchLimits
from history.orchestrator import History
from realtime.hub import Hub
from realtime.topic_limits import Caller
from resolvers.accounts.accounts import Accounts, network
from resolvers.cost_budget import CostBudget, Reservation
from resolvers.turns import Turn, Turns


class Introspection(StrEnum):
    """Who may read the schema through the API."""

    ON = "on"
    SIGNED_IN = "signed-in"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Services:
    """The services below the API, wired once a process, and its limits."""

    history: History
    providers: Providers
    hub: Hub
    backfills: BackfillJobs
    tracking: Tracking
    default_points: int
    max_points: int
    accounts: Accounts
    budget: CostBudget = field(default_factory=CostBudget)
    introspection: Introspection = Introspection.ON
    fetch_limits: FetchLimits = NO_LIMITS
    turns: Turns = field(default_factory=Turns)


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a request."""

    address: str = "here"
    trusted: bool = False  # this machine, in development: its owner may do everything until there is an account


class Loaders:
    """The loaders of one operation: they gather the keys of a tick, load equal ones once, and fail a key alone.

    They dispatch after one tick, so a resolver calls ``load`` before its first ``await``.
    """

    def __init__(self, services: Services, fetch_budget: FetchBudget) -> None:
        """Create them for one operation: another must not see what it loaded."""
        # An item may be the exception of its key alone, which the loader's type does not include.
        answer = partial(services.history.answer, fetch_budget=fetch_budget)
        self.answer_by_request: DataLoader[CandleRequest, Answer] = DataLoader(answer)  # type: ignore[arg-type]
        self.record_by_instrument: DataLoader[Instrument, InstrumentRecord] = DataLoader(services.history.listings.find)  # type: ignore[arg-type]
        self._services = services

    @cached_property
    def fetched_at_by_span(self) -> DataLoader[tuple[int, Timeframe, Span], int | None]:
        """When spans of series were last fetched; few operations need it."""
        return DataLoader(self._services.history.store.fetched_at)

    @cached_property
    def listener_counts(self) -> Counter[tuple[str, str]]:
        """The listeners of this process by market and provider, counted once."""
        counts: Counter[tuple[str, str]] = Counter()
        for topic in self._services.hub.topics:
            name = topic.record.instrument
            counts[name.market, name.provider] += len(topic.listeners)
        return counts

    @cached_property
    def config_by_user(self) -> DataLoader[User, UserConfig]:
        """The configuration of each user; few operations need it."""
        return DataLoader(self._services.accounts.configs)


@dataclass
class Context:
    """The context of one operation. On a WebSocket the transport shares one among operations: see `for_operation`."""

    services: Services
    request_id: str
    connection_params: Mapping[str, Any] | None = None
    viewer: Viewer = field(default_factory=Viewer)
    origin: Origin = Origin()
    reservation: Reservation | None = None  # what its answer holds of the budget of the process
    turn: Turn | None = None  # until it is executed
    cost: int = 0  # of a query or a mutation, as `schema.cost` estimates it
    histories: int = 1  # of a subscription: those of its series that have not been sent yet
    deadline: float | None = None  # of a query or a mutation, on the event loop's clock

    @property
    def may_introspect(self) -> bool:
        """Whether the viewer may read the schema."""
        allowed = self.services.introspection
        is_known = self.viewer.user is not None or self.origin.trusted
        return allowed is Introspection.ON or (allowed is Introspection.SIGNED_IN and is_known)

    def history_sent(self) -> None:
        """Give back what the operation holds of the budget, once the histories of all series have been sent."""
        self.histories -= 1
        if self.reservation and self.histories <= 0:
            self.reservation.release()

    @cached_property
    def loaders(self) -> Loaders:
        """The loaders of this operation."""
        return Loaders(self.services, self.fetch_budget)

    @property
    def fetch_budget(self) -> FetchBudget:
        """The rows that may be fetched for this operation."""
        user = self.viewer.user
        address = network(self.origin.address)
        return self.services.fetch_limits.fetch_budget(user.id if user else None, address, self.deadline)

    @property
    def caller(self) -> Caller:
        """The client, as a subscription counts it."""
        return Caller(network(self.origin.address), self.fetch_budget)

    @property
    def scope(self) -> Hashable:
        """What the viewer may see; the events of a subscription do not depend on the viewer's identity."""
        return self.viewer.roles, self.origin.trusted

    def for_broadcast(self) -> Context:
        """A context for all viewers of the same scope: it holds nothing personal."""
        origin = Origin(trusted=self.origin.trusted)
        return replace(
            self, viewer=Viewer(roles=self.viewer.roles), origin=origin, connection_params=None, reservation=None
        )

    def for_operation(self) -> Context:
        """The same context with loaders of its own."""
        return replace(self)
