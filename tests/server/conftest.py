"""One server process a module, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from tests.server.running import Running, serving
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
async def server(
    new_database: Callable[..., object], migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """A server over a fresh database."""
    dsn = await new_database(migrated_template)
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(log, DB_CONNECTION_STRING=str(dsn), DATA_DIR="/nonexistent") as running:
        yield running


@pytest.fixture
async def http(server: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the server."""
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(HANG_S)) as session:
        yield session
