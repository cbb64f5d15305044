"""A nearly full disk is named by /readyz, and the limits of the settings reach what answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from candlegraph.viewer import Role, User, Viewer
from history import free_space
from resolvers.context import Context, Origin
from schema.build import build_schema
from server.settings import Settings
from server.transport.app import _readiness
from server.transport.proxies import TrustedProxies
from server.wiring import open_runtime
from tests.timings import PATIENT

ASK = """{ candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", since: 1704067200000, limit: 5) { nodes { close } } }"""


class Usage(NamedTuple):
    """As shutil says it."""

    total: int
    used: int
    free: int


async def test_a_server_whose_disk_is_nearly_full_is_degraded_and_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = list[Path]()

    def usage(directory: Path) -> Usage:
        looked_at.append(directory)
        return Usage(1 << 40, 0, 7 << 20)

    monkeypatch.setattr(free_space.shutil, "disk_usage", usage)
    async with open_runtime(Settings.read(data_dir=tmp_path / "data"), create=True, timings=PATIENT) as running:
        assert looked_at[0] == tmp_path / "data"
        ready = json.loads(bytes((_readiness(running, TrustedProxies())).body))
        assert ready["status"] == "degraded"
        assert "free disk space: Only 7 MB are free" in ready["detail"]
        answer = await build_schema().execute(ASK, context_value=Context(running.services, "1"))
        assert [error.extensions["code"] for error in answer.errors or () if error.extensions] == ["UNAVAILABLE"]


async def test_rows_are_counted_for_an_address_by_its_network_and_for_an_account(
    new_database: Callable[..., Awaitable[str]], migrated_template: str
) -> None:
    """The free space of this database cannot be read from here, which is no fault."""
    settings = Settings.read(
        db_connection_string=SecretStr(await new_database(migrated_template)),
        fetch_rows_per_hour=4,
        fetch_rows_per_hour_signed_in=None,
    )
    user = User(1, "alice", Role.VIEWER, disabled=False, version=1)
    async with open_runtime(settings, timings=PATIENT) as running:
        schema = build_schema()

        async def codes(address: str, symbol: str, viewer: Viewer = Viewer()) -> list[str]:  # noqa: B008 - frozen
            context = Context(running.services, "1", viewer=viewer, origin=Origin(address))
            answer = await schema.execute(ASK.replace("BTC/USD", symbol), context_value=context)
            return [error.extensions["code"] for error in answer.errors or () if error.extensions]

        assert await codes("2001:db8::1", "BTC/USD") == []
        assert await codes("2001:db8::1", "BTC/USD") == []  # it is stored
        assert await codes("2001:db8::2", "ETH/USD") == ["RATE_LIMITED"]
        assert await codes("2001:db8:0:1::1", "ETH/USD") == []
        assert await codes("2001:db8::2", "SOL/USD", Viewer(user)) == []
