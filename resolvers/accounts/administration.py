"""User administration for the command line: create accounts, disable them, change their passwords."""

from __future__ import annotations

import re

from candlegraph.errors import BadUserInput, Conflict, NotFound
from candlegraph.viewer import Role, User
from resolvers.accounts.passwords import Passwords
from storage.users import UserStore

# Only ASCII, so that no two names look alike; and short, because it is shown beside the user's actions.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class UserAdministration:
    """The operations of the command line on accounts."""

    def __init__(self, users: UserStore) -> None:
        """Use the relation."""
        self._users = users
        self._passwords = Passwords()

    async def add(self, name: str, password: str, role: Role) -> User:
        """Create an account. BadUserInput for an invalid name or password, Conflict if the name is taken."""
        if not _NAME.fullmatch(name):
            raise BadUserInput(
                "A user name is 1 to 64 letters, digits or . _ @ + - and begins with a letter or a digit."
            )
        made = await self._users.add(name, await self._passwords.hash(password), role)
        if made is None:
            raise Conflict(f"There is a user {name} already.")
        return made

    async def disable(self, name: str, *, disabled: bool) -> User:
        """Disable an account, or enable it again."""
        return _found(name, await self._users.disable(name, disabled=disabled))

    async def change_password(self, name: str, password: str) -> User:
        """Change a password."""
        return _found(name, await self._users.change_password(name, await self._passwords.hash(password)))


def _found(name: str, user: User | None) -> User:
    if user is None:
        raise NotFound(f"There is no user {name[:64]!r}.")
    return user
