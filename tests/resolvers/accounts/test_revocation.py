"""The account behind a token is looked up at most twice a second, and remembered up to a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest

from candlegraph.errors import Unavailable
from candlegraph.viewer import Role, User
from resolvers.accounts.revocation import RevocationWatch


class Accounts:
    """Everybody has one; each look-up is noted."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.away = False

    async def find(self, ids: Iterable[int]) -> dict[int, User]:
        self.asked += ids
        if self.away:
            raise Unavailable
        return {i: User(i, f"user{i}", Role.VIEWER, disabled=False, version=1) for i in ids}


def standing_over(accounts: Accounts, freshness_s: float = 60.0, max_kept: int = 10) -> RevocationWatch:
    """Looks accounts up; what is known of one stays fresh for longer than a test takes."""
    return RevocationWatch(cast("Any", cast("Any", accounts)), freshness_s, max_kept)


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


async def test_requests_at_one_time_share_one_look_up(accounts: Accounts) -> None:
    standing = standing_over(accounts)
    found = await asyncio.gather(*(standing.user(1) for _ in range(5)))
    assert {user and user.name for user in found} == {"user1"}
    assert accounts.asked == [1]


async def test_an_account_is_looked_up_again_once_it_is_old(accounts: Accounts) -> None:
    standing = standing_over(accounts, freshness_s=0)
    await standing.user(1)
    await standing.user(1)
    assert accounts.asked == [1, 1]


async def test_a_failed_look_up_is_not_remembered(accounts: Accounts) -> None:
    standing = standing_over(accounts)
    accounts.away = True
    with pytest.raises(Unavailable):
        await standing.user(1)
    accounts.away = False
    assert await standing.user(1)


async def test_at_the_limit_one_account_goes_and_not_all(accounts: Accounts) -> None:
    standing = standing_over(accounts, max_kept=3)
    for number in range(4):
        await standing.user(number)
    accounts.asked.clear()
    for number in (3, 2, 1, 0):
        await standing.user(number)
    assert accounts.asked == [0]
