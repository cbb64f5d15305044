"""Accounts, their configurations and their refresh tokens: `migrations/0002_users.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from candlegraph.errors import Conflict
from candlegraph.viewer import Role, User, UserConfig
from storage.database import SQL, Database


@dataclass(frozen=True, slots=True)
class TokenMisuse:
    """A refresh token that was used before; ``recent`` if that was a moment ago, so that two tabs may have raced."""

    family: int
    user_id: int
    recent: bool


class UserStore:
    """The relations of accounts. Raises Unavailable while the database is away."""

    def __init__(self, database: Database) -> None:
        """Use a database."""
        self._database = database

    async def any_exist(self) -> bool:
        """Whether there is any account."""
        return bool((await self._database.read("users_exist"))[0]["exist"])

    async def all(self) -> list[User]:
        """All accounts, by name."""
        return [_user(row) for row in await self._database.read("users_all")]

    async def find(self, ids: Iterable[int]) -> dict[int, User]:
        """The existing accounts among ``ids``."""
        return {row["id"]: _user(row) for row in await self._database.read("users_by_id", list(ids))}

    async def credentials(self, name: str) -> tuple[User, str] | None:
        """The account of a name, in any case, and its password hash."""
        rows = await self._database.read("user_by_name", name)
        return (_user(rows[0]), rows[0]["password_hash"]) if rows else None

    async def add(self, name: str, password_hash: str, role: Role) -> User | None:
        """Create an account; None if the name is taken."""
        return _user_or_none(await self._write("user_add", name, password_hash, role.value))

    async def disable(self, name: str, *, disabled: bool) -> User | None:
        """Disable an account, or enable it again; None if it does not exist."""
        return _user_or_none(await self._write("user_disable", name, disabled))

    async def change_password(self, name: str, password_hash: str) -> User | None:
        """Change a password, which ends every session; None if the account does not exist."""
        return _user_or_none(await self._write("user_password", name, password_hash))

    async def rehash(self, user: User, old: str, new: str) -> None:
        """Store a better hash of the same password, unless the password was changed meanwhile."""
        await self._write("user_rehash", user.id, old, new)

    async def configs(self, ids: Sequence[int]) -> list[UserConfig]:
        """The configuration of each user, in the given order."""
        rows = await self._database.read("configs_by_user", list(ids))
        kept = {row["user_id"]: UserConfig(orjson.loads(row["config"]), row["updated_at"]) for row in rows}
        return [kept.get(id_) or UserConfig({}, None) for id_ in ids]

    async def save_config(self, user: User, config: str, if_updated_at: datetime | None) -> UserConfig:
        """Store ``config`` (the text of a JSON object); Conflict if the last save was not at ``if_updated_at``."""
        row = await self._write("config_save", user.id, config, if_updated_at)
        if row is None:
            raise Conflict("The configuration was saved elsewhere meanwhile: read it again.")
        return UserConfig(orjson.loads(config), row["updated_at"])

    async def begin_session(self, user: User, token_hash: bytes, lifetime_s: float) -> bool:
        """Begin a family of refresh tokens; False if the account was disabled or changed meanwhile."""
        return await self._write("refresh_begin", user.id, user.version, token_hash, lifetime_s) is not None

    async def rotate_token(self, token_hash: bytes, successor: bytes) -> User | None:
        """Mark a refresh token as used and store its ``successor``; None if it is not valid, or no longer."""
        return _user_or_none(await self._write("refresh_rotate", token_hash, successor))

    async def classify_misuse(self, token_hash: bytes, grace_s: float) -> TokenMisuse | None:
        """Return the misuse of a token that was not rotated; if it was used more than ``grace_s`` ago, end its family."""
        row = await self._write("refresh_refuse", token_hash, grace_s)
        return row and TokenMisuse(row["id"], row["user_id"], row["recent"])

    async def end_session(self, token_hash: bytes) -> bool:
        """End the family of a refresh token; False if it has no valid one."""
        return await self._write("refresh_end", token_hash) is not None

    async def _write(self, statement: str, *arguments: object) -> Any:
        async with self._database.connection() as connection:
            return await connection.fetchrow(SQL[statement], *arguments)


def _user(row: Any) -> User:
    return User(row["id"], row["name"], Role(row["role"]), row["disabled"], row["version"])


def _user_or_none(row: Any) -> User | None:
    return _user(row) if row else None
