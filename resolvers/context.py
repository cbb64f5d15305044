"""What a resolver may use: the services of the process, and loaders made for one operation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
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
from history.fetch_limits import NO_LIMITS, FetchAllowance, FetchLimits
from history.orchestrator import History
from realtime.hub import Hub
from resolvers.accounts.accounts import Accounts, network


@dataclass(frozen=True, slots=True)
class Services:
    """The machine below the API, wired once a process, and the limits it keeps."""

    history: History
    providers: Providers
    hub: Hub
    backfills: BackfillJobs
    tracking: Tracking
    default_points: int
    max_points: int
    accounts: Accounts
    fetch_limits: FetchLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from."""

    address: str = "here"
    trusted: bool = False  # this machine, in development: its owner may do everything until somebody has an account


class Loaders:
    """The loaders of one operation: they gather the keys of a tick, ask for equal ones once, and fail a key alone.

    They dispatch after one tick, so a resolver calls ``load`` before its first ``await``.
    """

    def __init__(self, services: Services, allowance: FetchAllowance) -> None:
        """Make them fresh: what one operation loaded, another must not see."""
        # An item may be the exception of its key alone, which the loader's type does not know.
        answer = partial(services.history.answer, allowance=allowance)
        self.answer_by_ask: DataLoader[CandleRequest, Answer] = DataLoader(answer)  # type: ignore[arg-type]
        self.record_by_instrument: DataLoader[Instrument, InstrumentRecord] = DataLoader(services.history.listings.find)  # type: ignore[arg-type]
        self._services = services

    @cached_property
    def fetched_at_by_span(self) -> DataLoader[tuple[int, Timeframe, Span], int | None]:
        """When spans of series were last fetched; few operations ask."""
        return DataLoader(self._services.history.store.fetched_at)

    @cached_property
    def config_by_user(self) -> DataLoader[User, UserConfig]:
        """What is kept for each user; few operations ask."""
        return DataLoader(self._services.accounts.configs)


@dataclass
class Context:
    """One operation's surroundings. On a WebSocket the transport shares one among operations: see `for_operation`."""

    services: Services
    request_id: str
    connection_params: Mapping[str, Any] | None = None
    viewer: Viewer = field(default_factory=Viewer)
    origin: Origin = Origin()
    deadline: float | None = None  # of a query or a mutation, on the event loop's clock

    @cached_property
    def loaders(self) -> Loaders:
        """The loaders of this operation."""
        return Loaders(self.services, self.allowance)

    @property
    def allowance(self) -> FetchAllowance:
        """What this operation may have fetched."""
        user = self.viewer.user
        address = network(self.origin.address)
        return self.services.fetch_limits.allowance(user.id if user else None, address, self.deadline)

    @property
    def scope(self) -> Hashable:
        """What the viewer may see; who it is shows in no event of a subscription."""
        return self.viewer.roles, self.origin.trusted

    def for_broadcast(self) -> Context:
        """Surroundings of everybody with the same scope: there is nothing in them that is one's own."""
        origin = Origin(trusted=self.origin.trusted)
        return replace(self, viewer=Viewer(roles=self.viewer.roles), origin=origin, connection_params=None)

    def for_operation(self) -> Context:
        """The same surroundings with loaders of its own."""
        return replace(self)
