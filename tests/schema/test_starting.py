"""What the API answers while a provider takes long to start: what is stored, when to ask again, and never a second start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Capabilities, LiveMode
from candlegraph.timeframe import MINUTE
from history.orchestrator import History
from providers.registry import Registry
from resolvers.context import Context, Services
from schema.build import Schema, build_schema
from storage.database import Database
from tests.fakes.clocks import set_clock
from tests.fakes.services import services_over
from tests.fakes.starting import Starting, of, registry
from tests.fakes.upstream import UNLIMITED, minutes
from tests.timings import PATIENT

T0 = 1_709_856_000_000
TRAITS = Capabilities((MINUTE,), live=LiveMode.POLL, settle_ms=0, budget=UNLIMITED)
STATE = '{ providers(market: "fake") { state stateReason } }'
LIVE = 'subscription { candles(market: "fake", provider: "upstream", symbol: "X", since: %d) { kind } }' % T0


def query(since: int, until: int) -> str:
    span = f"since: {T0 + since * MINUTE_MS}, until: {T0 + until * MINUTE_MS}"
    return f'{{ candles(market: "fake", provider: "upstream", symbol: "X", {span}) {{ nodes {{ timestamp }} gaps {{ reason }} }} }}'


@dataclass
class Server:
    """One process over a database, whose only provider starts when it is released."""

    schema: Schema
    database: Database
    provider: Starting = field(init=False)
    registry: Registry = field(init=False)
    services: Services = field(init=False)

    def __post_init__(self) -> None:
        """Begin as a new process does."""
        self.provider = Starting(truth={"X": minutes(T0, 300)}, capabilities=TRAITS, slow=asyncio.Event())
        self.registry = registry(of(self.provider))
        self.services = services_over(History.create(self.database, self.registry))

    async def ask(self, text: str) -> dict[str, Any]:
        """The answer as JSON."""
        result = await self.schema.execute(text, context_value=Context(self.services, "test"))
        errors = [error.formatted for error in result.errors or ()]
        return json.loads(json.dumps({"data": result.data, "errors": errors}))  # type: ignore[no-any-return]

    async def close(self) -> None:
        await self.services.history.listings.close()
        await self.services.history.fetcher.close()
        await self.registry.close()


HASTY = replace(PATIENT, query_deadline_s=0.01, listing_deadline_s=0.01, topic_ready_timeout_s=0.01)
Begin = Callable[[], Server]


@pytest.fixture
async def begin(
    new_database: Callable[..., Awaitable[str]], migrated_template: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Begin]:
    """Begin a process; all of them have one database, and no query waits for long."""
    set_clock(monkeypatch, lambda: T0 + 400 * MINUTE_MS)
    opened, schema, begun = Database(await new_database(migrated_template), timings=HASTY), build_schema(), []
    await opened.open()

    def start() -> Server:
        begun.append(Server(schema, opened))
        return begun[-1]

    yield start
    for server in begun:
        await server.close()
    await opened.close()


def codes(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(error["extensions"]["code"], error["extensions"]["retryAfter"]) for error in answer["errors"]]


async def test_who_asks_during_a_long_start_learns_when_to_come_back_and_is_answered_after_it(begin: Begin) -> None:
    server = begin()
    for _ in range(4):
        for answer in await asyncio.gather(*(server.ask(query(0, 60)) for _ in range(2))):
            assert codes(answer) == [("PROVIDER_UNAVAILABLE", 5)]
    (shown,) = (await server.ask(STATE))["data"]["providers"]
    assert shown == {"state": "DEGRADED", "stateReason": "Upstream is starting."}
    assert (server.provider.starts, server.provider.ended) == (1, [])

    server.provider.slow.set()
    server.database.timings = PATIENT
    answer = await server.ask(query(0, 60))
    assert answer["errors"] == []
    assert (len(answer["data"]["candles"]["nodes"]), answer["data"]["candles"]["gaps"]) == (60, [])
    assert (server.provider.starts, server.provider.ended) == (1, ["started"])
    (shown,) = (await server.ask(STATE))["data"]["providers"]
    assert shown == {"state": "READY", "stateReason": None}


async def test_what_is_stored_is_answered_during_a_long_start_and_the_rest_is_pending(begin: Begin) -> None:
    before = begin()
    before.database.timings = PATIENT
    before.provider.slow.set()
    assert (await before.ask(query(0, 50)))["errors"] == []
    await before.close()

    server = begin()
    server.database.timings = HASTY
    some, none = await asyncio.gather(server.ask(query(0, 60)), server.ask(query(60, 70)))
    assert (len(some["data"]["candles"]["nodes"]), some["data"]["candles"]["gaps"]) == (50, [{"reason": "PENDING"}])
    assert codes(none) == [("PROVIDER_UNAVAILABLE", 5)]
    stream = await server.schema.open(LIVE, None, None, Context(server.services, "test"))
    (refused,) = [json.loads(payload) async for payload in stream]
    assert codes(refused) == [("PROVIDER_UNAVAILABLE", 5)]
    assert (server.provider.starts, server.provider.ended) == (1, [])
