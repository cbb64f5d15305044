"""No endless loop of the server dies in silence: whatever it meets, it is named by /readyz, and runs again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from candlegraph import MINUTE, Instrument, Series
from candlegraph.event import Event, EventKind
from candlegraph.supervision import RestartPolicy
from server.settings import Settings
from server.transport.app import create_app
from server.wiring import Runtime, open_runtime
from tests.fakes.disturbing import Disturbing
from tests.fakes.valkey import Valkey
from tests.realtime.world import eventually
from tests.timings import PATIENT
from tests.waiting import HANG_S

LOOPS = (
    "embedded PostgreSQL",
    "readiness",
    "changes",
    "claims",
    "accounts",
    "backfill claims",
    "backfills",
    "live messages over Redis",
    "live messages over PostgreSQL",
    "leases",
    "followed series",
    "tracked series",
    "upgrade checks",
    "aggregates",
    "Redis probe",
    "free disk space",
    "trading calendars",
)


@dataclass
class Server:
    """A wired server, and a listener to one of its series."""

    machine: Runtime
    supervisor: Disturbing
    valkey: Valkey
    events: list[Event] = field(default_factory=list)

    async def listen(self) -> None:
        series = Series(Instrument("demo", "synthetic", "BTC/USD"), MINUTE)
        async for event in self.machine.services.hub.subscribe(series, None, None):
            self.events.append(event)

    async def ready(self) -> tuple[int, dict[str, str]]:
        """What /readyz says."""
        (route,) = (route for route in create_app(self.machine).routes if getattr(route, "path", "") == "/readyz")
        response = await route.endpoint(None)  # type: ignore[attr-defined]
        return response.status_code, orjson.loads(response.body)

    async def says(self, status: str) -> dict[str, str]:
        """Wait until /readyz says so, with HTTP 200."""
        async with asyncio.timeout(HANG_S):
            while (found := await self.ready())[1]["status"] != status:
                await asyncio.sleep(0.02)
        assert found[0] == 200
        return found[1]

    async def moved(self) -> None:
        """Wait until the listener has received the forming candle twice: the second one has moved since."""
        before = self.moves
        await eventually(lambda: self.moves >= before + 2)
        assert self.moves >= before + 2

    @property
    def moves(self) -> int:
        return sum(event.kind in {EventKind.UPDATE, EventKind.CLOSE} for event in self.events)

    async def lose_redis(self) -> None:
        """Kill Valkey, and have that noticed."""
        self.valkey.signal(signal.SIGKILL)
        assert await self.machine.redis.check()

    async def restore_redis(self) -> None:
        self.valkey.server.stop()
        self.valkey = await asyncio.to_thread(Valkey, self.valkey.port)


@asynccontextmanager
async def serving(folder: Any) -> AsyncIterator[Server]:
    valkey = Valkey()
    supervisor = Disturbing(RestartPolicy(first_s=0.02, longest_s=0.1, healthy_s=0.5))
    settings = Settings.read(data_dir=folder, redis_url=SecretStr(valkey.url), retention_days=3650)
    async with open_runtime(settings, serving=True, supervisor=supervisor, timings=PATIENT) as running:
        server = Server(running, supervisor, valkey)
        listening = asyncio.create_task(server.listen())
        try:
            yield server
            assert not listening.done(), "a subscription ends by its client alone"
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            server.valkey.server.stop()


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("data")) as server:
        await server.lose_redis()  # the probe begins with the first failure
        await server.restore_redis()
        await server.says("ready")
        await server.moved()
        yield server


async def test_every_loop_of_the_wiring_is_among_those_that_are_disturbed_here(server: Server) -> None:
    assert set(server.supervisor.names) == set(LOOPS)


def test_every_loop_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "live.md").read_text(encoding="utf-8")
    assert [name for name in LOOPS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", LOOPS)
async def test_a_loop_that_fails_is_named_by_readyz_and_runs_again_and_listeners_go_on(
    name: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await server.says("ready")
    runs = server.supervisor.runs[name]
    server.supervisor.disturb(name)
    degraded = await server.says("degraded")
    assert f"{name}: It failed (RuntimeError)." in degraded["detail"]
    failures = [record for record in caplog.records if record.exc_info and repr(name) in record.getMessage()]
    assert len(failures) == 1, "its traceback, once"
    assert await server.says("ready") == {"status": "ready"}
    assert server.supervisor.runs[name] == runs + 1
    await server.moved()


async def test_redis_killed_in_the_middle_of_a_stream_is_a_detail_and_no_end(server: Server) -> None:
    await server.moved()
    await server.lose_redis()
    async with asyncio.timeout(HANG_S):
        while "Redis does not answer" not in (detail := (await server.says("degraded"))["detail"]) or (
            "each process works alone" not in detail
        ):
            await asyncio.sleep(0.02)
    await server.moved()
    await server.restore_redis()
    assert await server.says("ready") == {"status": "ready"}
    await server.moved()
