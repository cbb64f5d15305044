"""Who still is what a token says: asked of the database at most twice a second, so that a closed account is out at once."""

from __future__ import annotations

import asyncio

from cachetools import TTLCache

from candlegraph.errors import CandlegraphError
from candlegraph.outage import Outage
from candlegraph.viewer import User
from storage.users import UserStore

MAX_ENTRIES = 10_000


class RevocationWatch:
    """What is known of the accounts that tokens are shown for."""

    def __init__(self, users: UserStore, freshness_s: float, max_kept: int = MAX_ENTRIES) -> None:
        """Know nothing yet; `watch` is for the caller to run."""
        self._users = users
        self._freshness_s = freshness_s
        self._known: TTLCache[int, asyncio.Task[User | None]] = TTLCache(max_kept, freshness_s)
        self._waiting: dict[asyncio.Future[None], User] = {}
        self.outage = Outage("looking up the accounts of open connections")

    async def user(self, user_id: int) -> User | None:
        """The account as it is now, half a second old at most; None where it is closed or gone. Unavailable."""
        known = self._known.get(user_id)
        if known is None:
            # A task, so that those who ask at the same time share one statement, and one who leaves does not end it.
            known = self._known[user_id] = asyncio.create_task(self._look_up(user_id))
        return await asyncio.shield(known)

    async def ended(self, user: User) -> None:
        """Wait until the account is closed, or is in any way not what ``user`` says any more."""
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
            self._known.pop(user_id, None)  # the next one asks again
            raise
        return user if user and not user.disabled else None

    async def run(self) -> None:
        """Look twice a second whether what anybody waits for has happened, until cancelled."""
        while True:
            await asyncio.sleep(self._freshness_s)
            with self.outage.recording():  # nobody can close an account while the database is away
                await self._poll()

    async def _poll(self) -> None:
        """Run one statement for all who wait, however many they are."""
        if not self._waiting:
            return
        found = await self._users.find({user.id for user in self._waiting.values()})
        for over, user in self._waiting.items():
            if found.get(user.id) != user and not over.done():
                self._known.pop(user.id, None)
                over.set_result(None)
