"""The accounts, for whoever runs the server: make them, close them, change their passwords."""

from __future__ import annotations

import re

from candlegraph.errors import BadUserInput, Conflict, NotFound
from candlegraph.viewer import Role, User
from resolvers.accounts.passwords import Passwords
from storage.users import UserStore

# Only ASCII, so that no two names look alike; and short, for it is shown beside what somebody did.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class UserAdministration:
    """What the command line does about accounts."""

    def __init__(self, users: UserStore) -> None:
        """Over the relation."""
        self._users = users
        self._passwords = Passwords()

    async def add(self, name: str, password: str, role: Role) -> User:
        """Make an account. BadUserInput for a name or a password that cannot be one, Conflict where the name is taken."""
        if not _NAME.fullmatch(name):
            raise BadUserInput(
                "A user name is 1 to 64 letters, digits or . _ @ + - and begins with a letter or a digit."
            )
        made = await self._users.add(name, await self._passwords.hash(password), role)
        if made is None:
            raise Conflict(f"There is a user {name} already.")
        return made

    async def disable(self, name: str, *, disabled: bool) -> User:
        """Close an account, or open it again."""
        return _found(name, await self._users.disable(name, disabled=disabled))

    async def change_password(self, name: str, password: str) -> User:
        """Change a password."""
        return _found(name, await self._users.change_password(name, await self._passwords.hash(password)))


def _found(name: str, user: User | None) -> User:
    if user is None:
        raise NotFound(f"There is no user {name[:64]!r}.")
    return user
