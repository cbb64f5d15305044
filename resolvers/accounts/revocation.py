"""Checks that an account is still what its token says, with at most two database reads a second."""

from __future__ import annotations

import asyncio

from cachetools import TTLCache

from candlegraph.errors import CandlegraphError
from candlegraph.outage import Outage
from candlegraph.viewer import User
from storage.users import UserStore

MAX_ENTRIES = 10_000


class RevocationWatch:
    """The state of the accounts whose tokens are in use."""

    def __init__(self, users: UserStore, freshness_s: float, max_kept: int = MAX_ENTRIES) -> None:
        """Start empty; the caller runs `run`."""
        self._users = users
        self._freshness_s = freshness_s
        self._known: TTLCache[int, asyncio.Task[User | None]] = TTLCache(max_kept, freshness_s)
        self._waiting: dict[asyncio.Future[None], User] = {}
        self.outage = Outage("looking up the accounts of open connections")

    async def user(self, user_id: int) -> User | None:
        """The account, half a second old at most; None if it is disabled or gone. Unavailable."""
        known = self._known.get(user_id)
        if known is None:
            # A task, so that concurrent callers share one statement, and a caller that leaves does not end it.
            known = self._known[user_id] = asyncio.create_task(self._look_up(user_id))
        return await asyncio.shield(known)

    async def ended(self, user: User) -> None:
        """Wait until the account is disabled, or differs in any way from ``user``."""
        over = asyncio.get_running_loop().create_future()
        self._waiting[over] = user
        try:
            await over
        finally:
            del self._waiting[over]

    async def _look_up(self, user_id: int) -> User | None:
        try:
            user = (await self._users.find([user_id])).get(user_id)
        except CandlegraphError:
            self._known.pop(user_id, None)  # the next caller reads it again
            raise
        return user if user and not user.disabled else None

    async def run(self) -> None:
        """Check twice a second the accounts that callers wait for, until cancelled."""
        while True:
            await asyncio.sleep(self._freshness_s)
            with self.outage.recording():  # no account can change while the database is unavailable
                await self._poll()

    async def _poll(self) -> None:
        """Run one statement for all waiting callers."""
        if not self._waiting:
            return
        found = await self._users.find({user.id for user in self._waiting.values()})
        for over, user in self._waiting.items():
            if found.get(user.id) != user and not over.done():
                self._known.pop(user.id, None)
                over.set_result(None)
