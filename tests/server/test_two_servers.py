"""Two servers over one database follow an exchange by one connection; the one that does it is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from candlegraph.clock import MINUTE_MS
from candlegraph.timeframe import MINUTE
from tests.server.cluster import Cluster, all_received, following
from tests.waiting import eventually


async def test_two_servers_follow_by_one_connection_and_two_deaths_lose_and_repeat_nothing(
    new_database: Callable[..., Any], migrated_template: str, tmp_path: Path
) -> None:
    dsn = await new_database(migrated_template)
    async with Cluster(dsn, tmp_path) as cluster:
        await asyncio.gather(cluster.start(), cluster.start())
        async with following(cluster, 40) as followers:
            assert len(cluster.exchange.sockets.lines) == 1
            assert cluster.exchange.sockets.opened == 1
            for _ in range(2):
                await cluster.kill(cluster.leader())
                await eventually(lambda: len(cluster.exchange.sockets.lines) == 1)
            end = MINUTE.floor(cluster.exchange.now) + 2 * MINUTE_MS
            await all_received(followers, end)
            assert [follower.missing(end) for follower in followers] == [0] * 40
            assert [follower.repeats for follower in followers] == [0] * 40
    for server in cluster.servers:
        assert "Traceback" not in server.log.read_text(encoding="utf-8")
