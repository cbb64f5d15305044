"""Who still is what a token says: asked of the database at most twice a second, so that a closed account is out at once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from cachetools import TTLCache

from candlegraph.errors import CandlegraphError
from candlegraph.viewer import User
from storage.users import Users

log = logging.getLogger(__name__)

FRESH_S = 0.5
MAX_KEPT = 10_000


class Standing:
    """What is known of the accounts that tokens are shown for."""

    def __init__(self, users: Users) -> None:
        """Know nothing yet."""
        self._users = users
        self._known: TTLCache[int, asyncio.Task[User | None]] = TTLCache(MAX_KEPT, FRESH_S)
        self._waiting: dict[asyncio.Future[None], User] = {}
        self._watch: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Watch no more."""
        if self._watch:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    async def user(self, user_id: int) -> User | None:
        """The account as it is now, half a second old at most; None where it is closed or gone. Unavailable."""
        known = self._known.get(user_id)
        if known is None:
            # A task, so that those who ask at the same time share one statement, and one who leaves does not end it.
            known = self._known[user_id] = asyncio.create_task(self._look_up(user_id))
        return await asyncio.shield(known)

    async def ended(self, user: User) -> None:
        """Wait until the account is closed, or is in any way not what ``user`` says any more."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_all())
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

    async def _watch_all(self) -> None:
        """One statement for all who wait, however many they are."""
        while True:
            await asyncio.sleep(FRESH_S)
            if not self._waiting:
                continue
            try:
                found = await self._users.find({user.id for user in self._waiting.values()})
            except CandlegraphError:
                continue  # nobody can close an account while the database is away
            except Exception:
                log.exception("accounts could not be looked up")
                continue
            for over, user in self._waiting.items():
                if found.get(user.id) != user and not over.done():
                    self._known.pop(user.id, None)
                    over.set_result(None)
